import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.networks import Whitening


def directions(values):
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def cases(seed, classes=3, each=40, channels=12):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(classes), each)
    spread = rng.uniform(0.2, 2, channels)
    values = rng.normal(size=(classes, channels))[codes] + spread * rng.normal(
        size=(len(codes), channels)
    )
    return directions(values), codes


def twin(features, codes, dim, shrinkage=1.0):
    """The same by scatter of differences within the classes, one case at a time, in float64."""
    means = {c: features[codes == c].mean(0) for c in np.unique(codes)}
    within = sum(np.outer(f - means[c], f - means[c]) for f, c in zip(features, codes, strict=True))
    within = within / len(features)
    channels = features.shape[1]
    within = within + shrinkage * np.trace(within) / channels * np.eye(channels)
    values, axes = np.linalg.eigh(within)
    root = axes @ np.diag(values**-0.5) @ axes.T
    mean = np.mean(list(means.values()), axis=0)
    moved = np.stack([root @ (f - mean) for f in features])
    _, _, principal = np.linalg.svd(moved)
    return moved @ principal[:dim].T


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), dim=st.integers(1, 12))
def test_cosines_equal_those_of_the_definition(seed, dim):
    features, codes = cases(seed)
    found = Whitening.fit(features, codes, dim)(torch.from_numpy(features)).numpy()
    expected = twin(features, codes, dim)
    # Axes are found up to their sign, and up to a turn where two are equally long.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=2e-3, atol=2e-3)


def test_variation_within_the_classes_is_the_same_in_every_direction():
    features, codes = cases(3, each=200)
    whitening = Whitening.fit(features, codes, 12, shrinkage=1e-9)
    embedded = whitening(torch.from_numpy(features)).double().numpy()
    within = embedded - np.stack([embedded[codes == c].mean(0) for c in range(3)])[codes]
    np.testing.assert_allclose(within.T @ within / len(within), np.eye(12), atol=1e-3)


def test_the_length_of_a_feature_does_not_matter():
    features, codes = cases(1)
    whitening = Whitening.fit(features, codes, 4)
    some = torch.from_numpy(features[:5])
    torch.testing.assert_close(whitening(7 * some), whitening(some))


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.eye(4)[:2], ["nv"], "2 features and 1 labels"),
        (np.eye(4)[:2], ["nv", "nv"], "two classes or more"),
        (np.eye(4)[:2], ["nv", "mel"], "all alike"),
        (np.empty((0, 4)), [], "0 features"),
    ],
)
def test_what_cannot_be_whitened_is_refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        Whitening.fit(features, labels, 2)


def test_no_more_dimensions_than_channels():
    features, codes = cases(2)
    with pytest.raises(ValueError, match="from 1 to the 12 channels"):
        Whitening.fit(features, codes, 13)
