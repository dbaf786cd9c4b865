"""Batch norm's running statistics: one update a batch, that of the plain batch."""

import copy

import pytest
import torch
from torch import nn

from medshadow.losses import ShadowLoss
from medshadow.training import cached_backward

SIZE = 26


def batches(count, size=SIZE):
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        images = 5 + 3 * torch.randn(size, 3, 12, 12, generator=generator)
        yield images, torch.arange(size) % 3


class TwoNorms(nn.Module):
    """Batch norm, a layer between, and batch norm again."""

    def __init__(self, first=None):
        super().__init__()
        self.first = first or nn.BatchNorm2d(3)
        self.between = nn.Conv2d(3, 4, 3)
        self.second = nn.BatchNorm2d(4)

    def forward(self, images):
        return self.second(self.between(self.first(images)).relu()).mean((2, 3))


def statistics(norm):
    return norm.running_mean, norm.running_var, norm.num_batches_tracked


@pytest.mark.parametrize("momentum", [0.1, 0.01, 1.0, None])
@pytest.mark.parametrize("chunk_size", [1, 4, 13, SIZE])
def test_the_first_layers_are_those_of_the_plain_batches(chunk_size, momentum):
    plain = TwoNorms(nn.BatchNorm2d(3, momentum=momentum)).train()
    cached = copy.deepcopy(plain)
    for images, labels in batches(3):
        plain(images)
        cached_backward(cached, ShadowLoss(), images, labels, chunk_size)
    ours, theirs = statistics(cached.first), statistics(plain.first)
    assert ours[2] == theirs[2] == 3
    for found, expected in zip(ours[:2], theirs[:2], strict=True):
        assert not torch.allclose(expected, torch.ones(3), atol=0.1)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert cached.first.momentum == momentum
    assert cached.first.track_running_stats
    assert cached.second.num_batches_tracked == 3


def test_deeper_layers_see_what_chunks_made_of_the_layers_before():
    plain = TwoNorms().train()
    cached, exact = copy.deepcopy(plain), copy.deepcopy(plain)
    images, labels = next(batches(1))
    exact.first.eval(), plain.first.eval()
    plain(images)
    cached_backward(exact, ShadowLoss(), images, labels, 4)
    torch.testing.assert_close(exact.second.running_var, plain.second.running_var, rtol=1e-5,
                               atol=1e-6)  # fmt: skip
    assert torch.equal(exact.first.running_mean, torch.zeros(3))
    plain.first.train(), plain.second.reset_running_stats()
    plain(images)
    cached_backward(cached, ShadowLoss(), images, labels, 4)
    found, expected = cached.second.running_var, plain.second.running_var
    assert not torch.allclose(found, expected, rtol=1e-5)
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.0)


class Shared(nn.Module):
    """One layer that every forward pass calls twice."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, images):
        self.norm(images)
        return self.norm(2 * images + 1).mean((2, 3)) + images.mean((2, 3))


def test_a_layer_that_is_called_twice_is_updated_twice():
    plain = Shared().train()
    cached = copy.deepcopy(plain)
    images, labels = next(batches(1))
    plain(images)
    cached_backward(cached, lambda e, _: e.sum(), images, labels, 4)
    for found, expected in zip(statistics(cached.norm), statistics(plain.norm), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert cached.norm.num_batches_tracked == 2


def test_layers_in_evaluation_mode_or_without_statistics_are_left_alone():
    network = TwoNorms(nn.BatchNorm2d(3, track_running_stats=False)).train()
    network.second.eval()
    before = copy.deepcopy(network.state_dict())
    cached_backward(network, ShadowLoss(), *next(batches(1)), 4)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.first.track_running_stats
    assert network.first.running_mean is None


def test_an_error_leaves_the_layers_as_they_were():
    network = TwoNorms().train()
    before = copy.deepcopy(network.state_dict())

    def broken(images):
        network(images)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        cached_backward(network, ShadowLoss(), *next(batches(1)), 4, encode=broken)
    assert network.first.momentum == 0.1
    assert network.first.track_running_stats
    assert not network.first._forward_hooks
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "norm", [nn.SyncBatchNorm(3), nn.InstanceNorm2d(3, track_running_stats=True)]
)
def test_statistics_that_cannot_be_pooled_are_refused_by_name(norm):
    network = TwoNorms(norm).train()
    with pytest.raises(ValueError, match=f"{type(norm).__name__} with running statistics"):
        cached_backward(network, ShadowLoss(), *next(batches(1)), 4)
    norm.eval()
    cached_backward(network, ShadowLoss(), *next(batches(1)), 4)


def test_instance_norm_without_running_statistics_is_trained():
    network = TwoNorms(nn.InstanceNorm2d(3, affine=True)).train()
    cached_backward(network, ShadowLoss(), *next(batches(1)), 4)
    assert network.first.weight.grad is not None
