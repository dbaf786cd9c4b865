"""The engine and its miners on a CUDA device give what they give on the CPU."""

import pytest
import torch

from medshadow.losses import CrossBatchMemory, ShadowLoss, batch_hard, semihard

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
SINGLE = ("semihard", "hardest_negative", "batch_hard")  # a soft margin goes with these alone
WAYS = [("batch_all", False), *((mining, soft) for mining in SINGLE for soft in (False, True))]


@pytest.fixture
def batch():
    rows = torch.randn(300, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(300) % 7
    sets = torch.nn.functional.one_hot(labels, 8)
    sets[::5, 7] = 1
    return rows, {"labels": labels, "sets": sets}


def value_and_gradients(loss, device, *tensors):
    rows, *others = (tensor.to(device) for tensor in tensors)
    rows.requires_grad_()
    value = loss(rows, *others)
    value.backward()
    return value.detach().cpu(), rows.grad.cpu()


@pytest.mark.parametrize("kind", ["labels", "sets"])
@pytest.mark.parametrize(("mining", "soft"), WAYS)
def test_value_and_gradient(batch, mining, soft, kind):
    rows, kinds = batch
    loss = ShadowLoss(mining=mining, soft=soft)
    found = value_and_gradients(loss, "cuda", rows, kinds[kind])
    torch.testing.assert_close(
        found, value_and_gradients(loss, "cpu", rows, kinds[kind]), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_is_computed_in_float32(batch, dtype):
    rows, kinds = batch
    loss = ShadowLoss()
    found = value_and_gradients(loss, "cuda", rows.to(dtype), kinds["labels"])
    expected = value_and_gradients(loss, "cpu", rows.to(dtype), kinds["labels"])
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=0)


def test_references_from_a_memory(batch):
    rows, kinds = batch

    def twice(device):
        memory = CrossBatchMemory(ShadowLoss(), size=200)
        memory(rows[:150].to(device), kinds["labels"][:150].to(device))
        return value_and_gradients(memory, device, rows[150:], kinds["labels"][150:])

    torch.testing.assert_close(twice("cuda"), twice("cpu"), rtol=1e-9, atol=1e-12)


def test_miners_choose_the_same_triplets(batch):
    rows, kinds = batch
    for mine in (batch_hard, lambda *given: semihard(*given, margin=0.2)):
        found = mine(rows.cuda(), kinds["labels"].cuda())
        expected = mine(rows, kinds["labels"])
        assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))
