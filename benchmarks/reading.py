"""Does reading as RGB keep up with the bare decoders? Pillow for JPEG, pydicom for DICOM.

python benchmarks/reading.py [--data FOLDER_OF_JPEGS] [--seconds 2]

``read_image`` checks the file, honours EXIF, color and windows, and gives RGB; the peer only
decodes: ``numpy.asarray(Image.open(path).convert("RGB"))``, or ``dcmread(path).pixel_array``. For
grey DICOM the peer that gives the same picture, ``apply_voi_lut(apply_modality_lut(...))``, is
timed too. The sides take turns file by file, so that a slower moment of the machine meets both;
the best turn of each file counts, in CPU time, since each side is one thread and waits for nothing.
Ratio: the peer's time through ours; 1 is as fast, more is faster.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from measuring import add_arguments, heading, settle_device
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from medshadow.data import read_image

SYNTAXES = (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    JPEGLSLossless,
    JPEG2000Lossless,
)
PACKAGES = ["medshadow", "pillow", "pydicom", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls"]

Case = tuple[str, list[Path], str, Callable[[Path], np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.add_argument("--data", type=Path, help="a folder of real JPEG files")
    options = parser.parse_args()
    options.device = "cpu"
    settle_device(options)
    print(heading(options, PACKAGES).splitlines()[0])
    warnings.simplefilter("ignore")
    print(f"{'file':34} {'peer':26} {'peer ms':>8} {'ours ms':>8} {'ratio':>6}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, paths, peer_name, peer in chain(
            jpeg_cases(place, options.data), dicom_cases(place)
        ):
            theirs, ours = compare(paths, peer, options.seconds)
            print(
                f"{name:34} {peer_name:26} {1000 * theirs:8.2f} {1000 * ours:8.2f} "
                f"{theirs / ours:6.2f}"
            )
            sys.stdout.flush()


def compare(
    paths: list[Path], peer: Callable[[Path], np.ndarray], seconds: float
) -> tuple[float, float]:
    """CPU seconds of the peer and of ``read_image``: the best of each file, the median of files."""
    best: dict[Any, dict[Path, float]] = {peer: {}, read_image: {}}
    rounds, spent = 0, 0.0
    while rounds < 6 or spent < seconds:
        for path in paths:
            for function in sorted(best, key=id, reverse=bool(rounds % 2)):
                started = time.process_time()
                function(path)
                took = time.process_time() - started
                spent += took
                best[function][path] = min(took, best[function].get(path, took))
        rounds += 1
    theirs, ours = (statistics.median(best[function].values()) for function in (peer, read_image))
    return theirs, ours


def pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def bare_pydicom(path: Path) -> np.ndarray:
    return pydicom.dcmread(path).pixel_array


def pydicom_shown(path: Path) -> np.ndarray:
    """The same grey picture as ours, of 0 to 255."""
    file = pydicom.dcmread(path)
    shown = apply_voi_lut(apply_modality_lut(file.pixel_array, file), file)
    low, high = shown.min(), shown.max()
    return ((shown - low) / (high - low) * 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def scene(height: int, width: int) -> np.ndarray:
    """Smooth shapes and some grain: neither flat nor noise, which no camera gives."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / width
    waves = [np.sin(9 * x + 5 * y + phase) * 70 + 128 for phase in (0, 1, 2)]
    grain = rng.normal(0, 3, (height, width, 3))
    return np.clip(np.stack(waves, -1) + grain, 0, 255).astype(np.uint8)


def jpeg_cases(folder: Path, data: Path | None) -> Iterator[Case]:
    for height, width in ((120, 160), (450, 600), (1536, 2048)):
        path = folder / f"{width}.jpg"
        Image.fromarray(scene(height, width)).save(path, quality=90)
        yield f"JPEG {width} x {height}", [path], "Pillow", pillow
    if data is not None:
        real = sorted(data.rglob("*.jpg"))[:200]
        yield f"JPEG, {len(real)} real files", real, "Pillow", pillow


def dicom_cases(folder: Path) -> Iterator[Case]:
    color = scene(450, 600)
    for syntax in SYNTAXES:
        path = folder / f"{syntax}.dcm"
        write(path, color, syntax)
        yield f"DICOM {syntax.keyword}", [path], "pydicom", bare_pydicom
    path = folder / "grey.dcm"
    write(path, color[..., 0].astype(np.uint16) * 16, ExplicitVRLittleEndian)
    yield "DICOM, 12-bit grey, window", [path], "pydicom, stored values", bare_pydicom
    yield "DICOM, 12-bit grey, window", [path], "pydicom, as shown", pydicom_shown


def write(path: Path, values: np.ndarray, syntax: UID) -> None:
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.SOPClassUID, file.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.4", "1.2.3"
    file.Rows, file.Columns = values.shape[:2]
    color = values.ndim == 3
    file.SamplesPerPixel = 3 if color else 1
    file.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
    if color:
        file.PlanarConfiguration = 0
    else:
        file.WindowCenter, file.WindowWidth = "2048", "3000"
    file.BitsAllocated = 8 * values.dtype.itemsize
    file.BitsStored = 8 if color else 12
    file.HighBit = file.BitsStored - 1
    file.PixelRepresentation = 0
    file.PixelData = values.tobytes()
    file["PixelData"].VR = "OB" if color else "OW"
    if syntax == JPEGBaseline8Bit:
        jpeg = path.with_suffix(".jpg")
        Image.fromarray(values).save(jpeg, quality=90)
        file.PixelData = encapsulate([jpeg.read_bytes()])
        file["PixelData"].is_undefined_length = True
        file.PhotometricInterpretation = "YBR_FULL_422"
        file.file_meta.TransferSyntaxUID = syntax
    elif syntax != ExplicitVRLittleEndian:
        file.compress(syntax)
    pydicom.dcmwrite(path, file, enforce_file_format=True)


if __name__ == "__main__":
    main()
