"""Whether another kind of image scores further than held-out images of the archive's own kind."""

import json

import numpy as np
import pytest

from medshadow.retrieval.familiarity import Familiarity, Gaussian, Look, colours_of


def looks(seed, n=600, features=0.0, colours=0.0):
    """Values that vary in a few directions, and of another kind in all of them."""
    rng = np.random.default_rng(seed)
    base = np.random.default_rng(0)
    found = []
    for dimensions, strange in ((80, features), (42, colours)):
        few = rng.normal(size=(n, 6)) @ base.normal(size=(6, dimensions))
        noise = rng.normal(size=(n, dimensions))
        found.append(5 + few + (0.3 + strange) * noise)
    return [Look(*row) for row in zip(*found, strict=True)]


@pytest.fixture(scope="module")
def known():
    return Familiarity.fit(looks(1), looks(2))


def scores(known, found):
    return np.array([known.score(look) for look in found])


def test_false_alarms_on_its_own_kind_are_as_promised(known):
    own = scores(known, looks(3, n=1000))
    assert 0.01 <= np.mean(own > known.unlike) <= 0.06
    assert np.mean(own > known.wrong_kind) <= 0.02
    assert known.unlike <= known.wrong_kind
    assert abs(np.median(own)) < 0.3


@pytest.mark.parametrize("strange", [{"features": 3.0}, {"colours": 3.0}])
def test_features_and_colours_each_tell_another_kind(known, strange):
    assert (scores(known, looks(4, n=50, **strange)) > known.wrong_kind).all()


def test_the_length_of_the_features_does_not_matter(known):
    for look in looks(5, n=5):
        longer = Look(7 * look.pooled, look.colours)
        assert known.score(longer) == pytest.approx(known.score(look), abs=1e-9)


def test_too_few_images_set_no_limit():
    assert Familiarity.fit(looks(1), looks(2, n=19)) is None
    assert Familiarity.fit(looks(1, n=19), looks(2)) is None


def test_survives_being_kept_as_json(known):
    again = Familiarity.from_dict(json.loads(json.dumps(known.to_dict(), allow_nan=False)))
    np.testing.assert_allclose(scores(again, looks(6)), scores(known, looks(6)), atol=0.01)
    assert (again.unlike, again.wrong_kind, again.images) == (known.unlike, known.wrong_kind, 600)


def test_distance_is_the_gaussian_s_in_full():
    rng = np.random.default_rng(7)
    values = rng.normal(size=(200, 12)) @ rng.normal(size=(12, 12))
    found = Gaussian.fit(values, directions=4)
    covariance = np.cov(values.T, bias=True)
    variance, axes = np.linalg.eigh(covariance)
    variance, axes = variance[::-1], axes[:, ::-1]
    variance[4:] = variance[4:].mean()
    model = (axes * (variance + np.trace(covariance) / 12)) @ axes.T
    apart = rng.normal(size=(5, 12)) * 3 - values.mean(axis=0)
    slow = np.einsum("nd,de,ne->n", apart, np.linalg.inv(model), apart) / 12
    np.testing.assert_allclose(found.distance(apart + values.mean(axis=0)), slow)


def test_images_that_are_all_alike_do_not_divide_by_nothing():
    one = looks(1, n=1)[0]
    known = Familiarity.fit([one] * 30, [one] * 30)
    assert np.isfinite(known.score(one))
    assert known.score(looks(9, n=1, features=2.0)[0]) > known.wrong_kind
    assert known.score(one) <= known.unlike


def test_colours_do_not_depend_on_where_they_are():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(colours_of(pixels), colours_of(pixels[::-1].transpose(1, 0, 2)))
    assert colours_of(pixels).shape == (42,)
