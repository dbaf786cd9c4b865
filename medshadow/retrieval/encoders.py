"""From one image in memory to its vector, with everything that does not change made ready before.

:func:`~medshadow.retrieval.encode_cases` is for archives; an encoder is for queries, one by one,
from several threads of a service.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from medshadow.errors import OnnxExportError, OptionalDependencyError
from medshadow.retrieval.encode import check_pixels, pixel_preset, views_of

if TYPE_CHECKING:
    from medshadow.networks import Embedder

# How far from 1 the cosine between ONNX Runtime's vector and PyTorch's may be.
LARGEST_GAP = 1e-4

logger = logging.getLogger(__name__)


class Encoded(NamedTuple):
    """What a network makes of an image.

    Attributes:
        vector: float32 D, of length 1: the mean over the model's query views.
        pooled: float32 C, the network's pooled features before its head, of free length, of the
            image as it stands: known cases are encoded without turns, and theirs compare with it.
    """

    vector: np.ndarray
    pooled: np.ndarray


class Encoder(Protocol):
    """Pixels (uint8 H x W x 3, RGB) and laterality ("left", "right" or "") to :class:`Encoded`."""

    name: str

    def __call__(self, pixels: np.ndarray, laterality: str = "") -> Encoded:
        """Encode one image."""


class QueryViews:
    """An image through a model's own preset, in as many views as the model averages queries over.

    Args:
        embedder: a trained model.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._transform = pixel_preset(embedder)
        self._views = embedder.query_views

    def __call__(self, pixels: np.ndarray, laterality: str = "") -> Tensor:
        """Pixels to V x 3 x S x S, float32 in [0, 1]; the image as it stands comes first.

        Args:
            pixels: uint8 H x W x 3, RGB.
            laterality: "left" or "right" for an image of such an eye, "" where unknown.

        Raises:
            ValueError: the array is no uint8 H x W x 3, or the laterality is another word.
        """
        check_pixels(pixels)
        if laterality not in ("left", "right", ""):
            raise ValueError(f'laterality must be "left", "right" or ""; found {laterality!r}')
        image: Tensor = self._transform({"image": pixels, "laterality": laterality})["image"]
        return torch.cat(list(islice(views_of(image[None]), self._views)))


class TorchEncoder:
    """Encode queries with PyTorch, in float32; safe to call from several threads.

    Args:
        embedder: a trained model; it is put into evaluation mode and must stay in it.

    Example:
        >>> encoder = TorchEncoder(embedder)  # doctest: +SKIP
        >>> encoder(read_image("lesion.jpg")).vector.shape  # doctest: +SKIP
        (256,)
    """

    name = "torch"

    def __init__(self, embedder: Embedder) -> None:
        self._network = _Network(embedder.eval()).eval()
        self._views_of = QueryViews(embedder)
        self._device = next(embedder.parameters()).device

    def __call__(self, pixels: np.ndarray, laterality: str = "") -> Encoded:
        """Encode one image; arguments and errors are those of :class:`QueryViews`."""
        views = self._views_of(pixels, laterality).to(self._device)
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False):
            views = views.contiguous(memory_format=torch.channels_last)
            vectors, pooled = self._network(views)
        return _encoded(vectors.cpu().numpy(), pooled.cpu().numpy())


class OnnxEncoder:
    """Encode queries with ONNX Runtime on the CPU; safe to call from several threads.

    The network is exported in memory, as it is at the moment, which takes some seconds, and gives
    what PyTorch gives: this is tried on drawn images before the encoder can be used.

    Args:
        embedder: a trained model; it is put into evaluation mode.
        threads: threads for one image. 1 is right for a pool of workers, each with an image of its
            own; a single user waits less with as many as there are cores.

    Raises:
        OptionalDependencyError: ONNX Runtime, or what the export needs, is not installed.
        OnnxExportError: the network cannot be exported, or a vector is not PyTorch's to within
            1e-4 of cosine.
    """

    name = "onnxruntime"

    def __init__(self, embedder: Embedder, threads: int = 1) -> None:
        self._views_of = QueryViews(embedder)
        graph = _exported(embedder)
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        # A thread that waits must not burn the core that another worker's image needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._check(TorchEncoder(embedder))

    def __call__(self, pixels: np.ndarray, laterality: str = "") -> Encoded:
        """Encode one image; arguments and errors are those of :class:`QueryViews`."""
        views = self._views_of(pixels, laterality).numpy()
        return _encoded(*self._session.run(["vectors", "pooled"], {"images": views}))

    def _check(self, torch_encoder: TorchEncoder) -> None:
        for at, picture in enumerate(_drawn_images()):
            found, wanted = self(picture), torch_encoder(picture)
            cosine = float(found.vector @ wanted.vector)
            apart = float(np.abs(found.pooled - wanted.pooled).max())
            largest = float(np.abs(wanted.pooled).max())
            if not (cosine >= 1 - LARGEST_GAP and apart <= LARGEST_GAP * (1 + largest)):
                raise OnnxExportError(
                    f"drawn image {at}: ONNX Runtime's vector has cosine {cosine:.6f} with "
                    f"PyTorch's, at least {1 - LARGEST_GAP} expected; pooled features of up to "
                    f"{largest:.3g} are {apart:.2g} apart"
                )


def best_encoder(embedder: Embedder, threads: int = 1) -> Encoder:
    """ONNX Runtime's encoder where it is installed and equal to PyTorch's, else PyTorch's.

    Why it is PyTorch's is logged as a warning; ``.name`` says which it is.

    Args:
        embedder: a trained model; it is put into evaluation mode.
        threads: threads for one image; see :class:`OnnxEncoder`. PyTorch's are set for a whole
            process, by ``torch.set_num_threads``.
    """
    try:
        return OnnxEncoder(embedder, threads)
    except (OptionalDependencyError, OnnxExportError) as error:
        logger.warning("images are encoded by PyTorch, more slowly: %s", error)
        return TorchEncoder(embedder)


class _Network(nn.Module):
    """Images to both of what an encoder gives, with float32 pooled features."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.embedder.pool(self.embedder.backbone(images))
        return self.embedder.embed(pooled), pooled.float()


def _encoded(vectors: np.ndarray, pooled: np.ndarray) -> Encoded:
    """V x D vectors and V x C features of an image's views to what stands for the image."""
    mean = vectors.mean(axis=0)
    # PyTorch's normalize, to the same smallest length.
    return Encoded(mean / max(float(np.linalg.norm(mean)), 1e-12), pooled[0].copy())


def _exported(embedder: Embedder) -> bytes:
    """The network from V views to V vectors and V pooled features, as ONNX."""
    missing = [name for name in ("onnxruntime", "onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise OptionalDependencyError(
            f"ONNX Runtime's encoder needs {', '.join(missing)}: pip install 'medshadow[service]'"
        )
    size, device = embedder.preprocess["size"], next(embedder.parameters()).device
    images = torch.zeros(embedder.query_views, 3, size, size, device=device)
    network = _Network(embedder.eval()).eval()
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)  # else it reports that torchvision, not needed, is not there
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # PyTorch's exporter warns of PyTorch's own old names
            program: Any = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=["images"],
                output_names=["vectors", "pooled"],
            )
    except torch.onnx.OnnxExporterError as error:
        first_line = str(error).strip().splitlines()[0]
        raise OnnxExportError(f"{embedder.backbone.name}: no ONNX export: {first_line}") from error
    finally:
        log.setLevel(before)
    graph: bytes = program.model_proto.SerializeToString()
    return graph


def _drawn_images() -> Iterator[np.ndarray]:
    """Images for a comparison: dark blots on lighter ground in a round field, noise, and black."""
    rng = np.random.default_rng(0)
    down, across = np.mgrid[:150, :200]
    field = np.hypot(down - 75, across - 100) < 72
    for ground in ((225, 170, 150), (170, 80, 40)):
        picture = np.full((150, 200, 3), ground, dtype=np.float64)
        for y, x, radius in rng.uniform((30, 50, 8), (120, 150, 30), (4, 3)):
            blot = np.hypot(down - y, across - x) < radius
            picture[blot] *= rng.uniform(0.3, 0.9, 3)
        picture += rng.normal(scale=6, size=picture.shape)
        yield np.clip(picture * field[..., None], 0, 255).astype(np.uint8)
    yield rng.integers(0, 256, (90, 120, 3), dtype=np.uint8)
    yield np.zeros((100, 100, 3), dtype=np.uint8)
