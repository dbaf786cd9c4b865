"""One query from pixels to vector: ONNX Runtime against PyTorch, in turn, in one process.

Each time includes the model's own preset. The cosine is that of the two vectors.

``python benchmarks/encoding.py [--model out/model] [--seconds 4]``
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import add_arguments, alternately, heading, settle_device

from medshadow.networks import Embedder
from medshadow.retrieval import OnnxEncoder, TorchEncoder
from medshadow.retrieval.encoders import Encoder, QueryViews


def _vector(encoder: Encoder, picture: np.ndarray) -> np.ndarray:
    return encoder(picture).vector


def _prepared(views: QueryViews, picture: np.ndarray) -> np.ndarray:
    return views(picture).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument("--model", type=Path, help="model folder; ImageNet weights without one")
    options = parser.parse_args()
    options.device = "cpu"
    settle_device(options)
    settings = {"preset": "dermatology", "size": 160, "query_views": 4}
    embedder = Embedder.load(options.model) if options.model else Embedder(preprocess=settings)
    picture = np.random.default_rng(0).integers(0, 256, (450, 600, 3), dtype=np.uint8)
    print(heading(options, ["torch", "onnxruntime"], kind="median"))
    print(f"600 x 450 pixels, {embedder.backbone.name}, {embedder.preprocess}")
    print(f"{'threads':>7}{'preset ms':>11}{'PyTorch ms':>12}{'ONNX ms':>9}{'ratio':>7}  cosine")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        started = time.perf_counter()
        in_onnx, in_torch = OnnxEncoder(embedder, threads), TorchEncoder(embedder)
        export = time.perf_counter() - started
        views = QueryViews(embedder)
        ways: dict[str, Callable[[], np.ndarray]] = {
            "torch": partial(_vector, in_torch, picture),
            "onnx": partial(_vector, in_onnx, picture),
            "preset": partial(_prepared, views, picture),
        }
        found = alternately(ways, options)
        (torch_ms, wanted), (onnx_ms, vector) = found["torch"], found["onnx"]
        print(
            f"{threads:>7}{found['preset'][0]:>11.1f}{torch_ms:>12.1f}{onnx_ms:>9.1f}"
            f"{torch_ms / onnx_ms:>7.2f}  {float(vector @ wanted):.7f}"
            f"  (export and check {export:.0f} s)"
        )


if __name__ == "__main__":
    main()
