"""The loss within torch: it needs nothing else, and runs in models that are compiled."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest
import torch
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
