"""Mutated files by the thousand: nothing but the documented errors, no hang, bounded memory.

python benchmarks/fuzz_reading.py [--files 10000] [--seed 0] [--families raster dicom ...]

Families: ``raster`` (JPEG, PNG, TIFF, BMP, WebP), ``dicom`` (nine kinds), ``jpegls`` (DICOM in
JPEG-LS, apart since CharLS may search a damaged frame for seconds), ``nifti``, ``ham10k`` and
``odir5k`` (the annotation files). Every file is a sound one with up to eight changed, cut or
doubled places. They are read in child processes of 200 files under a limit of memory and of CPU
time a file; a child that dies counts as a failure too. The exit status is 1 where anything but the
documented error came.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import io
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from medshadow.errors import DataError, ImageReadError

BATCH = 200
SECONDS = 20
GIGABYTES = 4
Sound = list[tuple[str, bytes]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="for each family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--batch", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.batch:
        print(json.dumps(read_batch(options.batch[0], int(options.batch[1]), options.files)))
        return
    failed = False
    print(f"{'family':10} {'files':>7} {'read':>7} {'refused':>8} {'failed':>7} {'slowest':>9} MB")
    for family in options.families:
        failed |= run_family(family, options.files, options.seed)
    sys.exit(int(failed))


def run_family(family: str, files: int, seed: int) -> bool:
    counts: collections.Counter[str] = collections.Counter()
    slowest, most, failures = 0.0, 0.0, []
    for number in range(-(-files // BATCH)):
        size = min(BATCH, files - number * BATCH)
        command = [sys.executable, __file__, "--files", str(size), "--batch", family]
        command.append(str(seed * 1_000_000 + number))
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            counts["failed"] += size
            failures.append(f"batch {number}: status {done.returncode}: {done.stderr[-500:]}")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        counts.update(found["counts"])
        failures += found["failures"]
        slowest, most = max(slowest, found["slowest"]), max(most, found["megabytes"])
    print(
        f"{family:10} {counts.total():7} {counts['read']:7} {counts['refused']:8} "
        f"{counts['failed']:7} {slowest:7.2f} s {most:.0f}",
        flush=True,
    )
    for failure in failures[:10]:
        print("   ", failure)
    return bool(failures)


def read_batch(family: str, seed: int, files: int) -> dict[str, object]:
    """Read one child's share; what came of it, the slowest file, the memory at its height."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES * 2**30,) * 2)
    rng = random.Random(seed)
    make, read = FAMILIES[family]
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    counts: collections.Counter[str] = collections.Counter()
    failures, slowest = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        sound = make(Path(folder))
        for number in range(files):
            name, data = rng.choice(sound)
            damaged = mutated(data, rng)
            _limit_cpu(SECONDS)
            started = time.process_time()
            outcome = read(Path(folder), name, damaged)
            slowest = max(slowest, time.process_time() - started)
            kind = outcome if outcome in ("read", "refused") else "failed"
            counts[kind] += 1
            if kind == "failed":
                failures.append(f"{name}, batch {seed}, file {number}: {outcome}")
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"counts": counts, "failures": failures, "slowest": slowest, "megabytes": megabytes}


def _limit_cpu(seconds: int) -> None:
    """End this process if the next file takes longer: a hang must not wait for anyone."""
    spent = int(time.process_time()) + 1
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (spent + seconds, hard))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Up to eight changes, more of them in the first kilobyte, where the headers are."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        end = len(damaged) if rng.random() < 0.5 else min(1024, len(damaged))
        at = rng.randrange(max(1, end))
        length = rng.choice((1, 1, 1, 2, 4, 16))
        change = rng.randrange(6)
        if change <= 1:
            damaged[at : at + length] = rng.randbytes(length)
        elif change == 2:
            damaged[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f")) * length
        elif change == 3:
            damaged[at:at] = damaged[at : at + length]
        elif change == 4:
            del damaged[at : at + length]
        elif rng.random() < 0.3:
            del damaged[at:]
    return bytes(damaged) or b"\0"


def read_one(folder: Path, name: str, data: bytes) -> str:
    from medshadow.data import read_image

    path = folder / name
    path.write_bytes(data)
    try:
        for frame in (0, 1):
            pixels = read_image(path, frame)
            if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
                return f"gave {pixels.dtype} of {pixels.shape}"
    except ImageReadError as error:
        said = str(error)
        if frame == 1 and "no frame 1" in said:
            return "read"
        return "refused" if said.startswith(f"{path}: ") else f"unnamed: {said}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def picture() -> np.ndarray:
    y, x = np.mgrid[0:33, 0:40]
    return np.stack([x * 6, y * 7, x + 3 * y], -1).astype(np.uint8)


def raster(folder: Path) -> Sound:
    sound = []
    for kind, options in (
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("WEBP", {}),
    ):  # fmt: skip
        held = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(picture()).save(
            held, kind, **options, **({} if kind == "BMP" else {"exif": exif})
        )
        sound.append((f"a.{kind.lower()}", held.getvalue()))
    return sound


def dicom(folder: Path, names: tuple[str, ...] = ()) -> Sound:
    from pydicom.data import get_testdata_file

    names = names or (
        "SC_rgb_small_odd_jpeg.dcm", "MR_small_jp2klossless.dcm", "SC_rgb_rle_2frame.dcm",
        "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "SC_rgb_small_odd.dcm",
        "rtdose_rle.dcm", "liver_1frame.dcm", "SC_ybr_full_422_uncompressed.dcm",
    )  # fmt: skip
    return [(name, Path(str(get_testdata_file(name))).read_bytes()) for name in names]


def jpegls(folder: Path) -> Sound:
    return dicom(folder, ("MR_small_jpeg_ls_lossless.dcm", "SC_rgb_jls_lossy_line.dcm"))


def nifti(folder: Path) -> Sound:
    import nibabel

    color = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    first = nibabel.Nifti1Image(picture().view(color)[..., 0], np.eye(4)).to_bytes()
    second = nibabel.Nifti2Image(picture()[..., None, :2].astype("f4"), np.eye(4)).to_bytes()
    return [
        ("a.nii", first), ("b.nii", second),
        ("a.nii.gz", gzip.compress(first)), ("b.nii.gz", gzip.compress(second)),
    ]  # fmt: skip


def ham10k(folder: Path) -> Sound:
    from medshadow.data import write_phantoms

    root = write_phantoms(folder / "lesions", lesions=22, progress=False)
    return [(str(path.relative_to(folder)), path.read_bytes()) for path in root.rglob("*.csv")]


def odir5k(folder: Path) -> Sound:
    from medshadow.data import write_phantoms

    root = write_phantoms(folder / "eyes", kind="fundi", patients=24, progress=False)
    table = shutil.copytree(root, folder / "eyes_table", ignore=shutil.ignore_patterns("*.xlsx"))
    files = [*root.rglob("*.xlsx"), *table.rglob("*.csv")]  # the workbook would be preferred
    return [(str(path.relative_to(folder)), path.read_bytes()) for path in files]


def read_annotations(folder: Path, name: str, data: bytes) -> str:
    from medshadow.data import ham10k_cases, odir5k_cases

    path = folder / name
    kept = path.with_name(path.name + ".kept")
    shutil.copy(path, kept)
    path.write_bytes(data)
    root = folder / Path(name).parts[0]
    try:
        (ham10k_cases if root.name == "lesions" else odir5k_cases)(root)
    except DataError:
        return "refused"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.move(kept, path)
    return "read"


FAMILIES: dict[str, tuple[Callable[[Path], Sound], Callable[[Path, str, bytes], str]]] = {
    "raster": (raster, read_one),
    "dicom": (dicom, read_one),
    "jpegls": (jpegls, read_one),
    "nifti": (nifti, read_one),
    "ham10k": (ham10k, read_annotations),
    "odir5k": (odir5k, read_annotations),
}

if __name__ == "__main__":
    main()
