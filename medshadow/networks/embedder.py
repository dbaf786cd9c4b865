"""The embedder: backbone, pooling, linear head, unit sphere; saved without pickled code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from medshadow.errors import ModelFolderError
from medshadow.networks.backbones import Backbone, backbone
from medshadow.networks.whitening import Whitening

FORMAT = "medshadow-embedder/1"
POOLINGS = ("average", "gem")
QUERY_VIEWS = (1, 2, 4, 8)
# What model.json calls the head.
_HEADS = {nn.Identity: None, nn.Linear: "linear", Whitening: "whitening"}
DEFAULT_PREPROCESS = {"preset": "dermatology", "size": 160}


class Embedder(nn.Module):
    """Images to unit vectors: backbone, pooling, linear head, L2 normalisation.

    Args:
        backbone: a name for :func:`medshadow.networks.backbone` (ImageNet weights where there are
            any), or a :class:`~medshadow.networks.Backbone`.
        embedding_dim: D, or None for the pooled features themselves, without a head: the frozen
            baseline.
        pooling: "average", or "gem": the generalised mean with power 3 (Radenovic et al. 2018).
        preprocess: the transform preset that images must go through, its size in pixels and,
            where lesions have no up, ``query_views``: over how many of its eight flips and quarter
            turns (1, 2, 4 or 8) a query is averaged. Known cases are encoded once.
        seed: decides the head's first weights, and a named backbone's where it is not pretrained;
            the global generator is left as it was.
        free_length: leave out the normalisation in training mode, for objectives that are about
            lengths too, such as ``shadow_unnormalized``. Concerns training alone: in evaluation
            mode the vectors have length 1 all the same, and a model folder does not keep it.

    Raises:
        ValueError: the pooling or the preprocess setting is not known.

    Example:
        >>> import torch
        >>> from medshadow.networks import backbone
        >>> embedder = Embedder(backbone("efficientnet-lite0", pretrained=False), embedding_dim=32)
        >>> vectors = embedder.eval()(torch.rand(2, 3, 64, 64))
        >>> vectors.shape, bool(torch.allclose(vectors.norm(dim=1), torch.ones(2)))
        (torch.Size([2, 32]), True)
    """

    def __init__(
        self,
        backbone: str | Backbone = "efficientnet-lite0",
        embedding_dim: int | None = 128,
        pooling: str = "average",
        preprocess: Mapping[str, Any] = DEFAULT_PREPROCESS,
        seed: int = 0,
        free_length: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling {pooling!r} is not known; expected one of {POOLINGS}")
        if embedding_dim is not None and embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1 or None; found {embedding_dim}")
        self.pooling = pooling
        self.free_length = free_length
        self.preprocess = _checked_preprocess(preprocess)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.backbone = _named(backbone) if isinstance(backbone, str) else backbone
            channels = self.backbone.channels
            self.head: nn.Module = (
                nn.Identity() if embedding_dim is None else nn.Linear(channels, embedding_dim)
            )
        self.embedding_dim = channels if embedding_dim is None else embedding_dim

    def forward(self, images: Tensor) -> Tensor:
        """N x 3 x H x W RGB in [0, 1] to N x D float32 vectors of length 1 (or of free length)."""
        return self.embed(self.pool(self.backbone(images)))

    def pool(self, feature_map: Tensor) -> Tensor:
        """The backbone's N x C x h x w feature map to its N x C pooled features."""
        if self.pooling == "gem":
            return feature_map.float().clamp_min(1e-6).pow(3).mean((2, 3)).pow(1 / 3)
        return feature_map.mean((2, 3))

    def embed(self, pooled: Tensor) -> Tensor:
        """N x C pooled features to N x D float32 vectors of length 1 (or of free length)."""
        vectors: Tensor = self.head(pooled).float()
        return vectors if self.free_length and self.training else F.normalize(vectors, dim=1)

    def without_head(self) -> Embedder:
        """The same network up to its pooled features: gives them as unit vectors, N x C."""
        return Embedder(self.backbone, None, pooling=self.pooling, preprocess=self.preprocess)

    def end_with(self, head: Whitening) -> None:
        """Put another last layer in the place of the trained head; it decides D from now on.

        Args:
            head: takes the pooled features, of C channels.

        Raises:
            ValueError: the layer takes another number of channels.
        """
        dim, channels = head.projection.shape
        if channels != self.backbone.channels:
            raise ValueError(
                f"the head takes {channels} channels; the backbone gives {self.backbone.channels}"
            )
        device = next(self.backbone.parameters()).device
        self.head, self.embedding_dim = head.to(device), dim

    @property
    def query_views(self) -> int:
        """Over how many flips and quarter turns a query is averaged."""
        return int(self.preprocess.get("query_views", 1))

    @property
    def digest(self) -> str:
        """SHA-256 of weights, architecture and preprocessing: vectors of equal digest compare."""
        hasher = hashlib.sha256(json.dumps(self._description(), sort_keys=True).encode())
        for name, tensor in sorted(self.state_dict().items()):
            hasher.update(name.encode())
            hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Write the model folder: ``model.safetensors`` and ``model.json``.

        Returns:
            The folder.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        description = {"format": FORMAT, **self._description(), "digest": self.digest}
        (folder / "model.json").write_text(json.dumps(description, indent=2) + "\n")
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> Embedder:
        """Read a model folder. Runs no code from it: JSON and safetensors only.

        Raises:
            ModelFolderError: a file is absent or damaged, or the weights are not those that
                ``model.json`` was written with.
        """
        folder = Path(folder)
        description = _read_description(folder / "model.json")
        try:
            kind = description["head"]
            if kind not in _HEADS.values():
                raise ModelFolderError(f"{folder / 'model.json'}: unknown head {kind!r}")
            dim = None if kind is None else description["embedding_dim"]
            embedder = cls(
                backbone(description["backbone"], pretrained=False),
                embedding_dim=dim,
                pooling=description["pooling"],
                preprocess=description["preprocess"],
            )
            if kind == "whitening":
                embedder.head = Whitening(embedder.backbone.channels, embedder.embedding_dim)
            embedder.load_state_dict(load_file(folder / "model.safetensors"))
        except FileNotFoundError as error:
            raise ModelFolderError(f"{folder}: model.safetensors is missing") from error
        except KeyError as error:
            raise ModelFolderError(f"{folder / 'model.json'}: key {error} is missing") from error
        except (SafetensorError, RuntimeError, TypeError, ValueError) as error:
            raise ModelFolderError(f"{folder}: the model cannot be built: {error}") from error
        if embedder.digest != description.get("digest"):
            raise ModelFolderError(
                f"{folder}: the weights are not those model.json was written with "
                f"(digest {embedder.digest[:12]}, expected {str(description.get('digest'))[:12]})"
            )
        return embedder.eval()

    def _description(self) -> dict[str, Any]:
        return {
            "backbone": self.backbone.name,
            "embedding_dim": self.embedding_dim,
            "head": _HEADS[type(self.head)],
            "pooling": self.pooling,
            "preprocess": self.preprocess,
        }


def _named(name: str) -> Backbone:
    from medshadow.networks.backbones import MONAI_NETS

    return backbone(name, pretrained=name not in MONAI_NETS)


def _checked_preprocess(preprocess: Mapping[str, Any]) -> dict[str, Any]:
    size = preprocess.get("size")
    if not isinstance(preprocess.get("preset"), str) or not isinstance(size, int) or size < 32:
        raise ValueError(
            "preprocess must name a preset and a size of at least 32 pixels, such as "
            f"{DEFAULT_PREPROCESS}; found {dict(preprocess)}"
        )
    if preprocess.get("query_views", 1) not in QUERY_VIEWS:
        raise ValueError(
            f"preprocess: query_views must be one of {QUERY_VIEWS}; "
            f"found {preprocess['query_views']!r}"
        )
    unknown = sorted(set(preprocess) - {"preset", "size", "query_views"})
    if unknown:
        raise ValueError(f"preprocess: unknown keys {unknown}")
    return dict(preprocess)


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelFolderError(
            f"{path.parent}: not a model folder: model.json is missing"
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelFolderError(f"{path}: not JSON: {error}") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        found = description.get("format") if isinstance(description, dict) else type(description)
        raise ModelFolderError(f"{path}: format {found!r} found, {FORMAT!r} expected")
    return description
