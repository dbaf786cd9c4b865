import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medshadow.data import read_image
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import TorchEncoder, jpeg_thumbnail
from medshadow.retrieval.explain import explain
from medshadow.retrieval.hiding import strongest
from medshadow.retrieval.thumbnails import decode_thumbnail


@pytest.fixture(scope="module")
def color_model():
    """Sees colours alone, in cells of eight pixels: red, green, blue and how dark it is."""
    layer = nn.Conv2d(3, 4, 8, stride=8)
    with torch.no_grad():
        layer.weight.zero_()
        for channel in range(3):
            layer.weight[channel, channel] = 2 / 64
            layer.weight[channel, (channel + 1) % 3] = -2 / 64
        layer.weight[3] = -0.1 / 192
        layer.bias.copy_(torch.tensor([0, 0, 0, 0.1]))
    net = Backbone("colors", nn.Sequential(layer, nn.ReLU()), mean=(0.0,), std=(1.0,))
    return Embedder(net, None, preprocess={"preset": "fundus", "size": 64}).eval()


def _fundus(at=None, color=(40, 60, 240), shape=(120, 160)):
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    picture = np.zeros((*shape, 3), np.uint8)
    picture[np.hypot(x - shape[1] / 2, y - shape[0] / 2) < 0.45 * shape[0]] = (110, 110, 110)
    if at is not None:
        picture[np.hypot(x - at[0], y - at[1]) < 16] = color
    return picture


@pytest.mark.parametrize("laterality", ["", "right", "left"])
def test_what_two_images_share_is_found_in_both(color_model, laterality):
    query, case = _fundus((60, 45)), _fundus((95, 80))
    found = explain(color_model, query, case, laterality, "left")
    for image_map, (x, y) in ((found.query_map, (60, 45)), (found.case_map, (95, 80))):
        assert image_map.dtype == np.float32
        assert image_map.shape == (120, 160)
        assert image_map.min() >= 0
        assert image_map.max() <= 1
        rows, columns = np.mgrid[:120, :160] + 0.5
        middle = ((columns * image_map).sum(), (rows * image_map).sum()) / image_map.sum()
        assert np.hypot(middle[0] - x, middle[1] - y) < 10
        assert image_map[y, x] > 0.6
        assert image_map[int(120 - y), int(160 - x)] == 0
        assert image_map[2, 2] == 0
    row, column = np.unravel_index(found.query_cells.argmax(), found.query_cells.shape)
    assert 1 <= row <= 3
    assert 1 <= column <= 3


@pytest.mark.parametrize("views", [1, 4, 8])
def test_cells_add_up_to_the_similarity_that_a_lookup_finds(embedder, drawn_cases, views):
    settings = {**embedder.preprocess, "size": 48, "query_views": views}
    model = Embedder(embedder.backbone, 16, preprocess=settings, seed=1).eval()
    paths = drawn_cases.frame["image"]
    query, case = read_image(paths.iloc[0]), read_image(paths.iloc[7])
    known = Embedder(embedder.backbone, 16, preprocess={**settings, "query_views": 1}, seed=1)
    found = explain(model, query, case)
    cosine = TorchEncoder(model)(query).vector @ TorchEncoder(known)(case).vector
    assert found.similarity == pytest.approx(cosine, abs=1e-5)
    assert found.query_cells.sum() == pytest.approx(cosine, abs=1e-5)
    assert found.case_cells.sum() == pytest.approx(cosine, abs=1e-5)


def test_cells_of_turned_views_lie_where_the_image_has_them(color_model):
    """Over all eight views a model of colours sees each cell eight times and no other."""
    turned = Embedder(
        color_model.backbone, None, preprocess={**color_model.preprocess, "query_views": 8}
    ).eval()
    query, case = _fundus((60, 45)), _fundus((95, 80))
    once, eight = explain(color_model, query, case), explain(turned, query, case)
    np.testing.assert_allclose(eight.query_cells, once.query_cells, atol=1e-6)
    assert np.ptp(once.query_cells) > 0.01


def test_a_mirrored_left_eye_is_explained_on_its_own_image(color_model):
    query, case = _fundus((60, 45)), _fundus((95, 80))
    right = explain(color_model, query, case, "right", "right")
    left = explain(color_model, query[:, ::-1].copy(), case, "left", "right")
    assert left.similarity == pytest.approx(right.similarity, abs=1e-4)
    np.testing.assert_allclose(left.query_cells, right.query_cells[:, ::-1], atol=1e-3)
    np.testing.assert_allclose(left.query_map, right.query_map[:, ::-1], atol=0.05)


def test_a_thumbnail_of_the_case_is_enough(color_model):
    query, case = _fundus((60, 45)), _fundus((420, 360), shape=(540, 720))
    small = decode_thumbnail(jpeg_thumbnail(case))
    assert small.shape == (144, 192, 3)
    found = explain(color_model, query, small)
    assert found.case_map.shape == (144, 192)
    assert found.case_map[96, 112] > 0.5
    assert strongest(found.case_map, np.ones((144, 192), bool), share=0.05)[80:112, 96:128].any()
    assert found.case_map[48, 80] == 0


def test_overlays_tint_what_is_explained_and_leave_the_rest(color_model):
    query = _fundus((60, 45))
    found = explain(color_model, query, _fundus((95, 80)))
    assert found.query_overlay.dtype == np.uint8
    assert found.query_overlay.shape == query.shape
    change = np.abs(found.query_overlay.astype(int) - query).sum(axis=2)
    assert change[45, 60] > 30
    np.testing.assert_array_equal(found.query_overlay[100:, 100:], query[100:, 100:])


def test_images_that_show_nothing_are_explained_by_nothing_in_particular(color_model):
    for plain in (np.zeros((60, 80, 3), np.uint8), np.full((60, 80, 3), 128, np.uint8)):
        found = explain(color_model, plain, plain)
        assert np.isfinite(found.query_map).all()
        assert found.similarity == pytest.approx(1, abs=1e-4)


def test_what_is_no_image_is_refused(color_model):
    good = _fundus()
    with pytest.raises(ValueError, match="uint8 H x W x 3"):
        explain(color_model, good, good.astype(np.float32))
    with pytest.raises(ValueError, match="'both'"):
        explain(color_model, good, good, "both")


def test_it_fits_the_picture_formats_of_the_page(color_model):
    found = explain(color_model, _fundus((60, 45)), _fundus((95, 80)))
    assert Image.fromarray(found.case_overlay).size == (160, 120)
