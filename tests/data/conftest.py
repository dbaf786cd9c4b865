"""Pictures and DICOM files for the tests of reading."""

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

HEIGHT, WIDTH = 6, 10


@pytest.fixture
def pixels():
    """Four flat quadrants, so that lossy formats keep them and a turned image shows."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:3, :5] = (200, 30, 30)
    image[:3, 5:] = (30, 200, 30)
    image[3:, :5] = (30, 30, 200)
    image[3:, 5:] = (220, 220, 30)
    return image


@pytest.fixture
def write_dicom(tmp_path):
    """Write an array of rows x columns (x 3), or with frames in front, as a DICOM file.

    ``data`` replaces the bytes of the pixels, ``attributes`` are set last; None takes one out.
    """

    def write(
        values, name="image.dcm", *, syntax=uid.ExplicitVRLittleEndian, data=None, frames=None,
        preamble=True, **attributes,
    ):  # fmt: skip
        values = np.asarray(values)
        color = values.ndim - (frames is not None) == 3
        file = Dataset()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = syntax
        file.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
        file.SOPInstanceUID = "1.2.3"
        file.Modality = "XC"
        if frames is not None:
            file.NumberOfFrames = frames
        file.Rows, file.Columns = values.shape[1:3] if frames is not None else values.shape[:2]
        file.SamplesPerPixel = 3 if color else 1
        file.PhotometricInterpretation = "RGB" if color else "MONOCHROME2"
        if color:
            file.PlanarConfiguration = 0
        file.BitsAllocated = file.BitsStored = 8 * values.dtype.itemsize
        file.HighBit = file.BitsStored - 1
        file.PixelRepresentation = int(values.dtype.kind == "i")
        big = syntax == uid.ExplicitVRBigEndian
        if data is None:
            data = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
            if big and values.dtype.itemsize == 1:  # samples of 8 bits are written as words of 16
                data = np.frombuffer(data + b"\0" * (len(data) % 2), "<u2").byteswap().tobytes()
        file.PixelData = data + b"\0" * (len(data) % 2)
        file["PixelData"].VR = "OB" if values.dtype.itemsize == 1 and not big else "OW"
        file["PixelData"].is_undefined_length = syntax.is_encapsulated
        for keyword, value in attributes.items():
            if value is None:
                delattr(file, keyword)
            else:
                setattr(file, keyword, value)
        path = tmp_path / name
        pydicom.dcmwrite(path, file, enforce_file_format=preamble)
        return path

    return write
