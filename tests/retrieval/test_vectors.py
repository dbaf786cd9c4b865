import json
import os
import stat
import zlib
from threading import Thread

import numpy as np
import pandas as pd
import pytest

from medshadow.errors import StoreError
from medshadow.retrieval import vectors as module
from medshadow.retrieval.snapshot import Snapshot
from medshadow.retrieval.vector_layout import VectorFileError
from medshadow.retrieval.vectors import (
    case_marks,
    erase_vectors,
    open_vectors,
    write_vectors,
)

KEYS = np.array([2, 3, 5, 8, 9])


@pytest.fixture
def snapshot():
    vectors = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    added = pd.Timestamp("2024-05-01 12:00:00.000123", tz="UTC")
    return Snapshot(7, pd.DataFrame({"case_id": list("abcde"), "added": added}), vectors, KEYS)


@pytest.fixture
def path(tmp_path, snapshot):
    made = tmp_path / "cases.db.vectors"
    write_vectors(made, snapshot, model_digest="m")
    return made


def unfinished(path):
    return path.with_name(path.name + ".new")


def headed(good, **changes):
    text = json.dumps({**json.loads(good[:4092]), **changes}).encode().ljust(4092)
    return text + zlib.crc32(text).to_bytes(4, "little") + good[4096:]


def test_holds_what_was_written(path, snapshot):
    file = open_vectors(path)
    assert (file.version, file.model_digest) == (7, "m")
    assert file.keys.tolist() == KEYS.tolist()
    assert file.marks.tolist() == case_marks(snapshot.frame).tolist()
    assert file.vectors.tolist() == snapshot.embeddings.tolist()
    assert not file.vectors.flags.writeable
    assert np.abs(np.linalg.norm(file.vectors.astype(float), axis=1) - 1).max() <= file.deviation
    assert file.deviation < 1e-5


def test_only_its_owner_may_read_it(path):
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_of_no_cases(tmp_path, snapshot):
    none = Snapshot(1, snapshot.frame[:0], snapshot.embeddings[:0], KEYS[:0])
    write_vectors(tmp_path / "v", none, model_digest="m")
    assert open_vectors(tmp_path / "v").vectors.shape == (0, 6)


def test_many_blocks_of_rows(tmp_path, snapshot, monkeypatch):
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 2)
    write_vectors(tmp_path / "v", snapshot, model_digest="m")
    assert open_vectors(tmp_path / "v").vectors.tolist() == snapshot.embeddings.tolist()
    erase_vectors(tmp_path / "v", np.array([5]))
    assert open_vectors(tmp_path / "v").keys.tolist() == [2, 3, 0, 8, 9]


def test_any_changed_byte_is_noticed(path):
    good = path.read_bytes()
    used = [*range(200), *range(4092, 4096 + 5 * 20), *range(8192, len(good))]
    for at in used:
        path.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(VectorFileError):
            open_vectors(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda good: good[:-1], r"v: 8311 bytes, expected 8312"),
        (lambda good: good + b"x", r"8313 bytes, expected 8312"),
        (lambda good: b"", "no vector file"),
        (lambda good: b"\x80" * 9000, "no vector file"),
        (lambda good: headed(good, format="other"), "'other', expected 'medshadow vectors 1'"),
        (lambda good: headed(good, more=1), "the header of another kind of file"),
        (lambda good: good[:-24] + bytes(20) + good[-4:], "row 4 of 5 is damaged"),
    ],
)
def test_says_what_is_wrong_with_a_file(path, tmp_path, change, message):
    (tmp_path / "v").write_bytes(change(path.read_bytes()))
    with pytest.raises(VectorFileError, match=message):
        open_vectors(tmp_path / "v")


def test_a_missing_file(tmp_path):
    with pytest.raises(VectorFileError, match="v: No such file"):
        open_vectors(tmp_path / "v")
    erase_vectors(tmp_path / "v", KEYS)


def test_an_erased_row_leaves_no_byte_and_the_others_stay(path, snapshot):
    before = path.read_bytes()
    reader = open_vectors(path)
    erase_vectors(path, np.array([3, 9, 1000]))
    left = path.read_bytes()
    for row, key in enumerate(KEYS):
        vector, mark = snapshot.embeddings[row].tobytes(), case_marks(snapshot.frame)[row].tobytes()
        assert (vector in left) == (mark in left) == (key not in (3, 9))
        assert vector in before
        assert mark in before
    # Who has the file open sees it at once, and who opens it now finds the others.
    assert reader.vectors.any(axis=1).tolist() == [True, False, True, True, False]
    again = open_vectors(path)
    assert again.keys.tolist() == [2, 0, 5, 8, 0]
    assert again.vectors[2].tolist() == snapshot.embeddings[2].tolist()
    erase_vectors(path, np.array([3, 9]))
    assert path.read_bytes() == left


def test_a_row_that_was_being_erased_when_the_power_went_counts_as_erased(path):
    content = bytearray(path.read_bytes())
    content[8192 : 8192 + 24] = bytes(24)
    path.write_bytes(content)
    assert open_vectors(path).keys.tolist() == [0, 3, 5, 8, 9]


def test_erasing_takes_what_a_broken_off_write_left_and_what_cannot_be_read(path):
    unfinished(path).write_bytes(b"vectors")
    erase_vectors(path, KEYS[:1])
    assert not unfinished(path).exists()
    path.write_bytes(b"damaged")
    erase_vectors(path, KEYS[:1])
    assert not path.exists()


def test_a_file_that_cannot_be_erased_is_named(path, monkeypatch):
    def refuse(*_):
        raise OSError(5, "input/output error")

    monkeypatch.setattr(module, "_erase_rows", refuse)
    with pytest.raises(StoreError, match=r"cases.db.vectors still holds 5 withdrawn vectors"):
        erase_vectors(path, KEYS)


def test_a_write_that_fails_leaves_the_file_as_it_was(path, snapshot, monkeypatch):
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_vectors(path, snapshot, model_digest="other")
    assert path.read_bytes() == before
    assert not unfinished(path).exists()


def test_writing_and_erasing_wait_for_the_disk(path, snapshot, monkeypatch):
    synced = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(os.fstat(file)) or fsync(file))
    erase_vectors(path, KEYS[:1])
    assert [file.st_ino for file in synced] == [path.stat().st_ino]
    write_vectors(path, snapshot, model_digest="m")
    assert [file.st_ino for file in synced[1:]] == [path.stat().st_ino, path.parent.stat().st_ino]


def test_what_was_withdrawn_since_is_not_written(tmp_path, snapshot):
    write_vectors(tmp_path / "v", snapshot, model_digest="m", withdrawn=lambda: KEYS[1:3])
    assert open_vectors(tmp_path / "v").keys.tolist() == [2, 8, 9]
    assert snapshot.embeddings[1].tobytes() not in (tmp_path / "v").read_bytes()


def test_a_withdrawal_during_a_write_waits_and_then_erases(path, snapshot):
    eraser = Thread(target=erase_vectors, args=(path, KEYS[:1]))

    def withdrawn():
        eraser.start()
        eraser.join(0.1)
        assert eraser.is_alive()
        return KEYS[:0]

    write_vectors(path, snapshot, model_digest="m", withdrawn=withdrawn)
    eraser.join()
    assert open_vectors(path).keys.tolist() == [0, 3, 5, 8, 9]


def test_marks_tell_cases_and_times_apart(snapshot):
    frame = snapshot.frame
    later = frame.assign(added=frame["added"] + pd.Timedelta("1us"))
    marks = np.concatenate([case_marks(frame), case_marks(later)])
    assert len(set(marks.tolist())) == 10
    assert case_marks(frame[2:]).tolist() == marks[2:5].tolist()
