import numpy as np
import pytest
import torch

from medshadow.networks import Embedder
from medshadow.retrieval.encode import pixel_preset
from medshadow.retrieval.frame import Frame, frame_of
from medshadow.transforms.presets import _PRESETS

SIZE = 60


def _model(embedder, preset):
    return Embedder(embedder.backbone, 16, preprocess={"preset": preset, "size": SIZE}).eval()


def _picture(shape, center, radius):
    """A round field of even colour on black: a fundus, and for other presets just a picture."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    inside = np.hypot(x - center[0], y - center[1]) < radius
    return np.where(inside[..., None], np.uint8((120, 70, 40)), np.uint8(0)).astype(np.uint8)


@pytest.mark.parametrize("laterality", ["", "left"])
@pytest.mark.parametrize("shape", [(120, 200), (200, 130), (150, 150)])
@pytest.mark.parametrize("preset", sorted(_PRESETS))
def test_a_mark_s_cell_is_spread_over_the_mark(embedder, preset, shape, laterality):
    """Wherever a preset puts a mark, the frame leads back from there to where the mark was."""
    model = _model(embedder, preset)
    transform = pixel_preset(model)
    height, width = shape
    center, radius = (0.52 * width, 0.48 * height), 0.45 * min(shape)
    plain = _picture(shape, center, radius)
    for across, down in ((-0.5, -0.3), (0.4, 0.5), (0.1, -0.6)):
        at = (round(center[0] + across * radius), round(center[1] + down * radius))
        marked = plain.copy()
        marked[at[1] - 3 : at[1] + 3, at[0] - 3 : at[0] + 3] = (60, 240, 240)
        seen = [
            transform({"image": image, "laterality": laterality})["image"]
            for image in (plain, marked)
        ]
        change = (seen[1] - seen[0]).abs().sum(0)
        change[change < 0.5 * change.max()] = 0
        frame = frame_of(model, marked, laterality)
        found = frame.spread(change.numpy(), shape)
        y, x = np.mgrid[:height, :width] + 0.5
        where = ((x * found).sum() / found.sum(), (y * found).sum() / found.sum())
        assert np.hypot(where[0] - at[0], where[1] - at[1]) < 3, (preset, at, where)
        assert frame.seen(shape)[at[1], at[0]]


def test_what_is_cut_off_is_not_seen(embedder):
    frame = frame_of(_model(embedder, "dermatology"), np.zeros((100, 160, 3), np.uint8))
    seen = frame.seen((100, 160))
    assert not seen[:, :30].any()
    assert not seen[:, 130:].any()
    assert seen[:, 30:130].all()
    eye = _picture((100, 160), (80, 50), 45)
    seen = frame_of(_model(embedder, "fundus"), eye).seen((100, 160))
    lit = eye.max(axis=2) > 0
    assert (seen != lit).mean() < 0.03
    assert lit.mean() < 0.5


def test_an_image_without_a_field_is_seen_as_its_middle_square(embedder):
    flat = np.full((90, 120, 3), 130, np.uint8)
    assert frame_of(_model(embedder, "fundus"), flat) == Frame(15, 0, 90, 90)


def test_cells_of_a_mirrored_square_change_sides():
    cells = np.array([[1.0, 0.0], [0.0, 0.0]])
    shown = Frame(0, 0, 40, 40, mirrored=True).spread(cells, (40, 40))
    assert shown.dtype == np.float32
    assert shown[5, 35] == 1
    assert shown[5, 5] == shown[35, 35] == 0
    assert torch.from_numpy(shown).shape == (40, 40)
