"""The loss within torch: it needs nothing else, and runs in models that are compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from medshadow.losses import ShadowLoss

# torch.compile itself asks for the gradient of what is no leaf, and hides its own warning.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


def test_the_losses_need_torch_alone():
    code = (
        "import sys, medshadow.losses.shadow\n"
        "found = {'monai', 'pandas', 'sklearn', 'pytorch_metric_learning', 'torch._dynamo'} "
        "& set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.usefixtures("way_of_counting")
@pytest.mark.parametrize("mining", ["batch_all", "semihard"])
@pytest.mark.parametrize("sets", [False, True])
def test_tensors_of_monai_are_taken_like_any(draw, mining, sets):
    labels = torch.arange(12) % 3
    if sets:
        labels = torch.nn.functional.one_hot(labels)
    found = []
    for kind in (Tensor, MetaTensor):
        rows = draw(12, 4).as_subclass(kind).requires_grad_()
        value = ShadowLoss(0.2, mining)(rows, labels.as_subclass(kind))
        value.backward()
        found.append((value.item(), rows.grad.as_subclass(Tensor)))
    assert found[1][0] == found[0][0]
    assert torch.equal(found[1][1], found[0][1])


@pytest.fixture
def network():
    """Return a small network, and labels for a batch of 12."""
    layers = [torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)]
    yield torch.nn.Sequential(*layers), torch.arange(12) % 3
    torch._dynamo.reset()


def test_a_compiled_model_gives_the_same_value_and_gradient(integration, network, draw):
    compiler = os.environ.get("CXX", "g++")
    integration(
        shutil.which(compiler) is not None, f"torch.compile needs a C++ compiler: {compiler}"
    )
    model, labels = network
    rows, loss = draw(12, 4).float(), ShadowLoss(0.2)

    def step(batch: Tensor) -> Tensor:
        return 3 * loss(model(batch) * 2, labels) + 1

    def value_and_gradients(function) -> list[Tensor]:
        leaf = rows.clone().requires_grad_()
        value = function(leaf)
        wanted = [leaf, *model.parameters()]
        return [value.detach(), *torch.autograd.grad(value, wanted)]

    expected = value_and_gradients(step)
    assert all(part.any() for part in expected)
    torch.testing.assert_close(value_and_gradients(torch.compile(step)), expected)


@pytest.mark.parametrize("mining", ["batch_all", "semihard"])
def test_a_compiled_model_breaks_its_graph_once(network, draw, mining):
    # The break is stated in the docstring and in docs/shadow-loss.md.
    model, labels = network
    loss = ShadowLoss(0.2, mining)

    def step(batch: Tensor) -> Tensor:
        return 3 * loss(model(batch) * 2, labels) + 1

    explained = torch._dynamo.explain(step)(draw(12, 4).float())
    assert explained.graph_break_count == 1
    assert explained.graph_count == 2
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(step, backend="eager", fullgraph=True)(draw(12, 4).float())
