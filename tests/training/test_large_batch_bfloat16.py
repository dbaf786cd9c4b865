"""Gradient caching under autocast: what is equal to the last digit, and where bfloat16 rounds."""

import copy

import pytest
import torch

from medshadow.losses import ShadowLoss
from medshadow.training import cached_backward, mixed_chunks

SIZE = 26
ROUNDING = 2.0**-8  # of a number to bfloat16, relative


@pytest.fixture
def network(make_embedder):
    """Batch norm frozen and no dropout: an image's embedding is its own."""
    network = make_embedder().train()
    network.backbone.features.layers[1].eval().requires_grad_(False)
    network.backbone.features.layers[3].p = 0.0
    return network


def encode(network, images):
    with torch.autocast("cpu", torch.bfloat16):
        return network(images)


def batch():
    images = torch.rand(SIZE, 3, 12, 12, generator=torch.Generator().manual_seed(3))
    return images, torch.arange(SIZE) % 3


class Watched:
    """A loss that keeps the embeddings it was given, and so their gradient."""

    def __call__(self, embeddings, labels):
        self.embeddings = embeddings
        embeddings.retain_grad()
        return ShadowLoss(0.3)(embeddings, labels)


def trained(network):
    return [p for p in network.parameters() if p.requires_grad]


def plain_gradients(network):
    """Gradients of a plain batch, its loss, and its embeddings with theirs."""
    network, loss = copy.deepcopy(network), Watched()
    images, labels = batch()
    value = loss(encode(network, images), labels)
    value.backward()
    return [p.grad for p in trained(network)], value, loss.embeddings


def cached_gradients(network, chunk_size):
    network, loss = copy.deepcopy(network), Watched()
    value = cached_backward(
        network, loss, *batch(), chunk_size, encode=lambda images: encode(network, images)
    )
    return [p.grad for p in trained(network)], value, loss.embeddings


@pytest.mark.parametrize("chunk_size", [1, 4, 13, SIZE])
def test_embeddings_loss_and_gradient_fed_back_are_those_of_the_plain_batch(network, chunk_size):
    _, expected_value, expected = plain_gradients(network)
    _, value, found = cached_gradients(network, chunk_size)
    assert found.dtype == torch.float32
    assert value.item() == pytest.approx(expected_value.item(), rel=1e-6)
    assert (found - expected).abs().max() <= 1e-6
    assert (found.grad - expected.grad).abs().max() <= 1e-5 * expected.grad.abs().max()


@pytest.mark.parametrize("chunk_size", [1, 4, 13])
def test_gradients_of_weights_differ_by_the_rounding_of_each_chunk_alone(network, chunk_size):
    plain, _, embeddings = plain_gradients(network)
    cached, *_ = cached_gradients(network, chunk_size)
    images, labels = batch()
    parts = []
    for rows in mixed_chunks(labels, chunk_size):
        own = encode(network, images[rows])
        parts.append(torch.autograd.grad(own, trained(network), embeddings.grad[rows]))
    differ = 0
    for ours, theirs, *chunks in zip(cached, plain, *parts, strict=True):
        rounded = ROUNDING * (theirs.abs() + sum(chunk.abs() for chunk in chunks))
        assert ((ours - theirs).abs() <= rounded + 1e-6 * theirs.abs().max()).all()
        torch.testing.assert_close(ours, sum(chunks), rtol=1e-5, atol=1e-6 * theirs.abs().max())
        differ += not torch.equal(ours, theirs)
    assert differ  # in float32 they would not


def test_caching_adds_less_than_bfloat16_itself(network):
    exact = copy.deepcopy(network)
    images, labels = batch()
    ShadowLoss(0.3)(exact(images), labels).backward()
    reference = [p.grad for p in trained(exact)]
    plain, cached = plain_gradients(network)[0], cached_gradients(network, 4)[0]

    def apart(ours, theirs):
        return torch.cat([(a - b).flatten() for a, b in zip(ours, theirs, strict=True)]).norm()

    assert apart(cached, plain) < 0.3 * apart(plain, reference)
    assert apart(cached, reference) < 1.1 * apart(plain, reference)
