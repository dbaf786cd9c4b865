import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medshadow.losses import ShadowLoss
from medshadow.training import cached_backward, mixed_chunks

SIZE, CHUNK = 26, 4


class WithUnusedPart(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network
        self.unused = nn.Linear(2, 2)

    def forward(self, images):
        return self.network(images)


class InFullPrecision(nn.Module):
    """The embedder's layers without its last step to float32."""

    def __init__(self, embedder):
        super().__init__()
        self.embedder = embedder

    def forward(self, images):
        pooled = self.embedder.backbone(images).mean((2, 3))
        return nn.functional.normalize(self.embedder.head(pooled), dim=1)


def batch(size=SIZE, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(size, 3, 12, 12, generator=generator, dtype=torch.float64)
    return images.to(dtype), torch.arange(size) % 3


def chunkwise(network, loss, images, labels, chunk_size):
    """A plain step with one graph, in which dropout and batch norm see the chunks."""
    order = mixed_chunks(labels, chunk_size)
    embeddings = torch.cat([network(images[rows]) for rows in order])
    value = loss(embeddings[torch.cat(order).argsort()], labels)
    value.backward()
    return value.detach()


def gradients(*modules):
    return [None if p.grad is None else p.grad.clone() for m in modules for p in m.parameters()]


def assert_close(found, expected, tolerance):
    assert len(found) == len(expected)
    largest = max(g.abs().max() for g in expected if g is not None)
    assert largest > 1e-3
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            assert (ours - theirs).abs().max() <= tolerance * largest


LOSSES = {
    "all triplets": (ShadowLoss(0.3), False),
    "label sets": (ShadowLoss(0.3, reduction="mean_active"), True),
    "own parameters": (None, False),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_the_plain_batch(
    make_embedder, make_proxy_loss, name, dtype, tolerance
):
    (loss, as_sets), (images, labels) = LOSSES[name], batch(dtype=dtype)
    loss = copy.deepcopy(loss or make_proxy_loss()).to(dtype)
    labels = nn.functional.one_hot(labels) if as_sets else labels
    network = InFullPrecision(make_embedder()).to(dtype).eval()
    expected_value = loss(network(images), labels)
    expected_value.backward()
    expected = gradients(network, loss)
    network.zero_grad(), loss.zero_grad()
    value = cached_backward(network, loss, images, labels, CHUNK)
    assert not value.requires_grad
    assert value.item() == pytest.approx(expected_value.item(), rel=tolerance)
    assert_close(gradients(network, loss), expected, tolerance)


@pytest.mark.parametrize("chunk_size", [1, 2, CHUNK, 13, SIZE, 1000])
def test_dropout_is_replayed(make_embedder, chunk_size):
    images, labels = batch()
    plain = make_embedder().train()
    cached = copy.deepcopy(plain)
    torch.manual_seed(5)
    expected = chunkwise(plain, ShadowLoss(), images, labels, chunk_size)
    torch.manual_seed(5)
    value = cached_backward(cached, ShadowLoss(), images, labels, chunk_size)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert_close(gradients(cached), gradients(plain), 1e-5)


def test_parts_without_gradient_stay_without(make_embedder):
    images, labels = batch()
    network = WithUnusedPart(make_embedder()).eval()
    network.network.backbone.features.layers[0].requires_grad_(False)
    network.network.head.weight.grad = torch.ones_like(network.network.head.weight)
    cached_backward(network, ShadowLoss(), images, labels, CHUNK)
    assert network.unused.weight.grad is None
    assert network.network.backbone.features.layers[0].weight.grad is None
    once = make_embedder().eval()
    cached_backward(once, ShadowLoss(), images, labels, CHUNK)
    added = network.network.head.weight.grad - 1
    assert torch.allclose(added, once.head.weight.grad, atol=1e-6)


def test_a_frozen_network_still_trains_the_losss_own_parameters(make_embedder, make_proxy_loss):
    images, labels = batch()
    network, loss = make_embedder().eval().requires_grad_(False), make_proxy_loss()
    cached_backward(network, loss, images, labels, CHUNK)
    found = gradients(loss)
    loss.zero_grad()
    loss(network(images), labels).backward()
    assert_close(found, gradients(loss), 1e-6)


class Regularizer(nn.Module):
    """A loss in which the embeddings have no part."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, embeddings, labels):
        return self.weight.square().sum()


def test_a_loss_without_embeddings_leaves_the_network_without_gradient(make_embedder):
    network, loss = make_embedder(), Regularizer()
    cached_backward(network, loss, *batch(), CHUNK)
    assert all(p.grad is None for p in network.parameters())
    assert torch.equal(loss.weight.grad, torch.full((3,), 2.0))


def test_only_a_chunk_is_encoded_at_a_time_and_its_graph_is_freed(make_embedder):
    network, alive, most, seen = make_embedder(), 0, 0, []

    class Kept:
        """A tensor that a graph keeps, counted while it lives."""

        def __init__(self, tensor):
            nonlocal alive, most
            self.tensor = tensor
            alive += tensor.numel()
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= self.tensor.numel()

    def encode(images):
        seen.append(len(images))
        return network(images)

    def most_kept(images, labels, chunk_size):
        nonlocal most
        most = 0
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            cached_backward(
                network,
                lambda e, _: e.square().sum(),
                images,
                labels,
                chunk_size,
                encode=encode,
            )
        return most

    images, labels = batch(48)
    of_chunk = most_kept(images[:4], labels[:4], 4)
    seen.clear()
    assert most_kept(images, labels, 4) <= 1.05 * of_chunk
    assert seen == [4] * 24
    assert most_kept(images, labels, 48) > 8 * of_chunk


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 12))
def test_chunks_share_size_and_classes_out_evenly(labels, chunk_size):
    labels = torch.tensor(labels)
    chunks = mixed_chunks(labels, chunk_size)
    assert torch.equal(torch.cat(chunks).sort().values, torch.arange(len(labels)))
    assert len(chunks) == math.ceil(len(labels) / chunk_size)
    assert all(torch.equal(rows, rows.sort().values) for rows in chunks)
    sizes = [len(rows) for rows in chunks]
    assert max(sizes) <= chunk_size
    assert max(sizes) - min(sizes) <= 1
    for label in labels.unique():
        shares = [int((labels[rows] == label).sum()) for rows in chunks]
        assert max(shares) - min(shares) <= 1


def test_chunks_of_label_sets_and_of_nothing():
    sets = torch.tensor([[1, 0]] * 4 + [[1, 1]] * 4)
    assert [rows.tolist() for rows in mixed_chunks(sets, 4)] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [rows.tolist() for rows in mixed_chunks(torch.zeros(0, dtype=torch.long), 4)] == [[]]
    with pytest.raises(ValueError, match="chunk_size must be at least 1 image, or None; found 0"):
        mixed_chunks(sets, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_dropout_is_replayed_on_a_gpu_from_images_on_the_cpu(make_embedder):
    images, labels = batch()
    plain = make_embedder().train().cuda()
    cached = copy.deepcopy(plain)
    torch.manual_seed(5)
    chunkwise(plain, ShadowLoss(), images.cuda(), labels.cuda(), CHUNK)
    torch.manual_seed(5)
    cached_backward(
        cached,
        ShadowLoss(),
        images,
        labels.cuda(),
        CHUNK,
        encode=lambda some: cached(some.cuda()),
    )
    assert_close(gradients(cached), gradients(plain), 1e-4)
