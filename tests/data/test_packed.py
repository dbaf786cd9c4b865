"""Images read out of zip files, whole, damaged and made to do harm."""

import io
import multiprocessing
import os
import shutil
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medshadow.data.image_files import MAX_BYTES
from medshadow.data.looks import content_digest
from medshadow.data.packed import file_state, inside_zip, open_file, packed_folders
from medshadow.data.readers import read_image
from medshadow.errors import ImageReadError


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def png(seed):
    file = io.BytesIO()
    Image.fromarray(picture(seed)).save(file, "PNG")
    return file.getvalue()


def pack(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


@pytest.fixture
def images(tmp_path):
    """A zip file of eight pictures in a folder."""
    return pack(tmp_path / "images.zip", {f"part/{i}.png": png(i) for i in range(8)})


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
@pytest.mark.parametrize("name", ["images.zip", "IMAGES.ZIP"])
def test_a_member_is_read_as_a_file_is(tmp_path, method, name):
    pack(tmp_path / name, {"part/0.png": png(0)}, method)
    np.testing.assert_array_equal(read_image(tmp_path / name / "part" / "0.png"), picture(0))
    np.testing.assert_array_equal(read_image(f"{tmp_path}/{name}/part/0.png"), picture(0))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_may_be_called_a_zip_file(tmp_path):
    folder = tmp_path / "lesions.zip"
    folder.mkdir()
    (folder / "0.png").write_bytes(png(0))
    pack(folder / "more.zip", {"1.png": png(1)})
    assert inside_zip(folder / "0.png") is None
    np.testing.assert_array_equal(read_image(folder / "0.png"), picture(0))
    np.testing.assert_array_equal(read_image(folder / "more.zip" / "1.png"), picture(1))


def test_a_member_that_is_not_there_is_named(images):
    for name in ("part/9.png", "part", "../images.zip", "../../../etc/passwd"):
        with pytest.raises(ImageReadError, match=rf"images\.zip/{name}: cannot.*no such file in"):
            read_image(f"{images}/{name}")
    with pytest.raises(ImageReadError, match=r"gone\.zip/0\.png: cannot be opened \(No such"):
        read_image(images.with_name("gone.zip") / "0.png")


def test_an_empty_member_is_named(tmp_path):
    pack(tmp_path / "a.zip", {"0.png": b""})
    with pytest.raises(ImageReadError, match=r"a\.zip/0\.png: empty file \(0 bytes\)"):
        read_image(tmp_path / "a.zip" / "0.png")


def place_of(content, name):
    """Where a member's bytes begin: behind its local header."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        start = file.getinfo(name).header_offset
    name_length, extra = struct.unpack("<HH", content[start + 26 : start + 30])
    return start + 30 + name_length + extra


def test_a_damaged_member_is_named_and_the_others_are_read(tmp_path, images):
    content = bytearray(images.read_bytes())
    content[place_of(bytes(content), "part/3.png") + 100] ^= 255
    (tmp_path / "damaged.zip").write_bytes(content)
    with pytest.raises(ImageReadError, match=r"damaged\.zip/part/3\.png: cannot be opened \(dama"):
        read_image(tmp_path / "damaged.zip/part/3.png")
    np.testing.assert_array_equal(read_image(tmp_path / "damaged.zip/part/4.png"), picture(4))


@pytest.mark.parametrize("kept", [0, 2, 300, -30])
def test_a_zip_file_cut_off_is_named(tmp_path, images, kept):
    cut = tmp_path / "cut.zip"
    cut.write_bytes(images.read_bytes()[:kept])
    with pytest.raises(ImageReadError, match=r"cut\.zip/part/0\.png: .*damaged in its zip"):
        read_image(cut / "part/0.png")
    with pytest.raises(OSError, match="damaged or incomplete zip file"):
        packed_folders(cut)


def test_a_password_is_not_guessed(tmp_path, images):
    content = bytearray(images.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "secret.zip").write_bytes(content)
    with pytest.raises(ImageReadError, match=r"part/0\.png: .*password required"):
        read_image(tmp_path / "secret.zip/part/0.png")


def with_size(content, size):
    """The same zip file, its first member said to be of this size when unpacked."""
    at = content.index(b"PK\x01\x02") + 24
    return content[:at] + struct.pack("<L", size) + content[at + 4 :]


def test_a_bomb_is_refused_by_the_size_it_says(tmp_path, images):
    (tmp_path / "bomb.zip").write_bytes(with_size(images.read_bytes(), MAX_BYTES + 1))
    with pytest.raises(ImageReadError, match=rf"{MAX_BYTES + 1} bytes; expected at most"):
        read_image(tmp_path / "bomb.zip/part/0.png")


def test_a_bomb_that_says_it_is_small_is_not_unpacked(tmp_path):
    bomb = pack(tmp_path / "plain.zip", {"0.png": bytes(2**27)}).read_bytes()
    (tmp_path / "bomb.zip").write_bytes(with_size(bomb, 1000))
    used = tracked_memory(lambda: refuse(tmp_path / "bomb.zip/0.png"))
    assert used < 2**23


def refuse(path):
    with pytest.raises(ImageReadError, match="damaged in its zip"):
        read_image(path)


def tracked_memory(work):
    import tracemalloc

    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_member_that_says_it_is_larger_is_refused(tmp_path, images):
    content = images.read_bytes()
    (tmp_path / "long.zip").write_bytes(with_size(content, len(png(0)) + 1))
    refuse(tmp_path / "long.zip/part/0.png")


def test_names_that_lead_out_or_are_hidden_are_passed_over(tmp_path):
    names = ["a/1.png", "2.png", "../3.png", "a/../../4.png", "/5.png", "a//6.png", ".7.png",
             ".a/8.png", "__MACOSX/a/._1.png", "__MACOSX/9.png", "a/", "empty/"]  # fmt: skip
    archive = pack(tmp_path / "odd.zip", dict.fromkeys(names, b"x"))
    assert packed_folders(archive) == {archive: ["2.png"], archive / "a": ["1.png"]}
    assert list(tmp_path.iterdir()) == [archive]


def test_a_zip_file_that_was_replaced_is_read_anew(images):
    assert (read_image(images / "part/0.png") == picture(0)).all()
    before = file_state(images / "part/0.png")
    other = pack(images.with_name("other.zip"), {"part/0.png": png(77)})
    shutil.move(other, images)
    assert (read_image(images / "part/0.png") == picture(77)).all()
    assert file_state(images / "part/0.png") != before


def read_many(folder, times=40):
    order = np.random.default_rng(os.getpid()).integers(0, 8, times)
    return all((read_image(f"{folder}/part/{i}.png") == picture(i)).all() for i in order)


def test_threads_share_a_zip_file(images):
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read_many, [images] * 16))


# Python 3.12 warns of any fork beside threads; what is forked here reads files and ends.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_read_beside_their_parent(images, method):
    assert read_many(images)
    with multiprocessing.get_context(method).Pool(3) as pool:
        reading = pool.map_async(read_many, [images] * 6)
        while not reading.ready():
            assert read_many(images, 4)
        assert all(reading.get())


def test_contents_count_as_those_of_plain_files(tmp_path, images):
    with zipfile.ZipFile(images) as file:
        file.extractall(tmp_path / "plain")
    packed = [(str(i), f"{images}/part/{i}.png") for i in range(8)]
    plain = [(str(i), f"{tmp_path}/plain/part/{i}.png") for i in range(8)]
    assert content_digest(packed) == content_digest(plain)
    assert content_digest(packed) != content_digest(packed[1:])


def tried(function, *arguments):
    try:
        return function(*arguments)
    except OSError as error:
        return None if error.strerror else pytest.fail("no reason given")


CHANGES = st.lists(st.tuples(st.integers(0, 2**20), st.binary(max_size=4)), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(changes=CHANGES)
def test_damaged_zip_files_are_read_or_refused(tmp_path_factory, changes):
    """Nothing but an OSError, whatever stands in the file."""
    path = tmp_path_factory.getbasetemp() / "mutated.zip"
    content = pack(path, {f"part/{i}.png": png(i) for i in range(3)}).read_bytes()
    for place, new in changes:
        place %= len(content)
        content = content[:place] + new + content[place + len(new) // 2 + 1 :]
    path.write_bytes(content)
    folders = tried(packed_folders, path) or {path / "part": ["0.png"]}
    for folder, names in folders.items():
        for name in names:
            tried(open_file, folder / name, 2**20)
