import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from PIL import Image

from medshadow.errors import ImageReadError
from medshadow.transforms.ends import ToNetwork, reading


def test_reads_rows_first_and_channels_first(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    image = Compose(reading("image"))({"image": tmp_path / "wide.png"})["image"]
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(np.asarray(image), pixels.transpose(2, 0, 1))


def test_what_our_reader_refuses_is_not_read_by_another(tmp_path):
    path = tmp_path / "array.npy"
    np.save(path, np.zeros((4, 4, 3), dtype=np.uint8))
    with pytest.raises(RuntimeError) as caught:
        Compose(reading("image"))({"image": path})
    assert isinstance(caught.value.__cause__, ImageReadError)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, MetaTensor])
def test_scales_bytes_and_leaves_fractions(kind):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3).transpose(2, 0, 1) * 11
    for image in (kind(pixels.copy()), kind(pixels / 255)):
        found = ToNetwork("image")({"image": image, "label": 1})
        assert type(found["image"]) is torch.Tensor
        assert found["image"].is_contiguous()
        assert found["image"].dtype == torch.float32
        np.testing.assert_allclose(found["image"], pixels / 255, rtol=1e-6)
        assert found["label"] == 1
