"""Depthwise convolutions that pad by TensorFlow's SAME rule and train fast in bfloat16 on a CPU.

oneDNN has no fast bfloat16 backward for strided or 5 x 5 depthwise convolutions: they fall back to
reference code, up to twenty times slower than float32, and take over half of a training step. Here
such a convolution runs forward in bfloat16 and backward in float32 (``benchmarks/train_step.py``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, for any input size: ceil(size / stride) out.

    Built from an existing convolution, whose weight it shares. Square kernels, no dilation.

    Args:
        conv: the convolution to take weight, bias, stride and groups from; its padding is ignored.

    Example:
        >>> conv = SameConv2d(nn.Conv2d(4, 4, 3, stride=2, groups=4, bias=False))
        >>> conv(torch.zeros(1, 4, 15, 20)).shape
        torch.Size([1, 4, 8, 10])
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            groups=conv.groups,
            bias=conv.bias is not None,
        )
        self.weight, self.bias = conv.weight, conv.bias
        # Stride 1 pads both sides alike, whatever the input size, so the convolution can do it.
        if self.stride[0] == 1:
            self.padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        self._slow_in_bfloat16 = self.groups == self.in_channels and (
            self.stride[0] > 1 or self.kernel_size[0] > 3
        )

    def forward(self, images: Tensor) -> Tensor:
        """N x C x H x W to N x C' x ceil(H / stride) x ceil(W / stride)."""
        if self.stride[0] > 1:
            images = F.pad(images, self._same_padding(images.shape[-2], images.shape[-1]))
        if self._slow_in_bfloat16 and torch.is_grad_enabled() and _bfloat16_on_cpu(images):
            weight = self.weight.to(torch.bfloat16)
            with torch.autocast("cpu", enabled=False):
                output: Tensor = _Float32Backward.apply(
                    images.to(torch.bfloat16), weight, self.stride, self.padding, self.groups
                )
            return output
        return self._conv_forward(images, self.weight, self.bias)

    def _same_padding(self, height: int, width: int) -> tuple[int, int, int, int]:
        def total(size: int, kernel: int, stride: int) -> int:
            return max((-(-size // stride) - 1) * stride + kernel - size, 0)

        down = total(height, self.kernel_size[0], self.stride[0])
        across = total(width, self.kernel_size[1], self.stride[1])
        return across // 2, across - across // 2, down // 2, down - down // 2


def _bfloat16_on_cpu(images: Tensor) -> bool:
    if images.device.type != "cpu":
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") == torch.bfloat16
    return images.dtype == torch.bfloat16


class _Float32Backward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        groups: int,
    ) -> Tensor:
        ctx.save_for_backward(images, weight)
        ctx.settings = (stride, padding, groups)
        return F.conv2d(images, weight, None, stride, padding, 1, groups)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, weight = ctx.saved_tensors
        stride, padding, groups = ctx.settings
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        grads = torch.ops.aten.convolution_backward(
            grad.float(), images.float(), weight.float(), None,
            stride, padding, [1, 1], False, [0, 0], groups, wanted,
        )  # fmt: skip
        return *(None if g is None else g.to(images.dtype) for g in grads[:2]), None, None, None


def use_same_convolutions(network: nn.Module) -> None:
    """Replace every convolution that pads to a size fixed when it was built, in place."""
    for name, child in network.named_children():
        if isinstance(child, nn.Conv2d) and hasattr(child, "static_padding"):
            setattr(network, name, SameConv2d(child))
        else:
            use_same_convolutions(child)
