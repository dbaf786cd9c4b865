import pytest
import torch
from torch import nn

from medshadow.networks.backbones import backbone
from medshadow.networks.depthwise import SameConv2d


def tensorflow_same(images, conv):
    """SAME padding written out from TensorFlow's own definition."""
    pads = []
    for size, kernel, stride in zip(images.shape[-2:], conv.kernel_size, conv.stride, strict=True):
        out = -(-size // stride)
        total = max((out - 1) * stride + kernel - size, 0)
        pads.append((total // 2, total - total // 2))
    padded = nn.functional.pad(images, (*pads[1], *pads[0]))
    return nn.functional.conv2d(padded, conv.weight, None, conv.stride, 0, 1, conv.groups)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(15, 16), (16, 17), (7, 9)])
def test_pads_as_tensorflow_does_for_every_input_size(kernel, stride, size):
    conv = nn.Conv2d(6, 6, kernel, stride, groups=6, bias=False)
    images = torch.randn(2, 6, *size)
    torch.testing.assert_close(SameConv2d(conv)(images), tensorflow_same(images, conv))


@pytest.mark.parametrize(("kernel", "stride"), [(5, 1), (3, 2), (5, 2)])
def test_bfloat16_backward_is_as_close_to_float64_as_bfloat16_allows(kernel, stride):
    conv = SameConv2d(nn.Conv2d(8, 8, kernel, stride, groups=8, bias=False))
    images = torch.randn(4, 8, 12, 12, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(images)
    assert out.dtype == torch.bfloat16
    assert type(out.grad_fn).__name__ == "_Float32BackwardBackward"
    grads = torch.autograd.grad(out.float().square().sum(), (images, conv.weight))

    twin = images.detach().double().requires_grad_()
    weight = conv.weight.detach().double().requires_grad_()
    exact = SameConv2d(conv)
    exact.weight = nn.Parameter(weight)
    expected = torch.autograd.grad(exact(twin).square().sum(), (twin, exact.weight))
    for grad, true in zip(grads, expected, strict=True):
        assert (grad.double() - true).norm() < 0.01 * true.norm()


def test_efficientnet_lite_matches_the_package_it_comes_from():
    from efficientnet_lite_pytorch import EfficientNet

    ours = backbone("efficientnet-lite0", pretrained=True).eval()
    theirs = EfficientNet.from_name("efficientnet-lite0", image_size=96).eval()
    theirs._fc = nn.Identity()
    theirs.load_state_dict(ours.features.net.state_dict())
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        expected = theirs.extract_features((images * 255 - 127) / 128)
        torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)
