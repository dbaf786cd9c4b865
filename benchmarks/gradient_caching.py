"""Gradient caching against the plain step: peak memory of a large batch, and what it costs in time.

    python benchmarks/gradient_caching.py                      # the whole table
    python benchmarks/gradient_caching.py --pixels 64 --batch 128 --both 32 --chunk 16 --seconds 1
    python benchmarks/gradient_caching.py --device cuda

A step is a forward and backward pass of an embedder and Shadow Loss over random images, without the
optimizer. Every figure comes from a fresh process: the best time of a step, and the peak memory
above what the process held before the first one. Held before are network, images and the loss's
compiled loops (numba's, some 120 MB; a batch of 64 alone would not load them). Of several processes
(``--rounds``) the best time and the median of the peaks count. Images are float32 on the CPU, as a
loader gives them; the table says how much they hold, and on CUDA the plain step moves them there in
one piece. On the CPU the C library's allocator is set as in training (``keep_freed_memory``): what
was freed but could not be used again counts. The last column is the peak of the whole process,
interpreter, libraries, network and images included, in host memory.

By memory the table compares the plain step of one chunk of images with a large batch encoded in
such chunks; by time, both ways on one batch that both can do.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
from collections.abc import Callable
from typing import Any

import torch
from measuring import add_arguments, best_pass, heading, in_fresh_process, settle_device
from torch import Tensor

CLASSES = 8


def main() -> None:
    options = parse()
    if options.measure:
        print(json.dumps(measure(options)))
        return
    settle_device(options)
    print(heading(options, ["torch"]))
    table(options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--pixels", type=int, default=128, help="size of an image")
    parser.add_argument("--batch", type=int, default=1024, help="images of the large batch")
    parser.add_argument("--both", type=int, default=256, help="images that both ways do")
    parser.add_argument("--chunk", type=int, default=64, help="images encoded at a time")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    add_arguments(parser)
    parser.set_defaults(seconds=20.0)
    return parser.parse_args()


def table(options: argparse.Namespace) -> None:
    def best(size: int, chunk: int | None) -> dict[str, Any]:
        what = [str(size), str(chunk or 0), options.backbone, str(options.pixels)]
        what.append(options.precision)
        rounds = [in_fresh_process(__file__, what, options) for _ in range(options.rounds)]
        fastest = min(rounds, key=lambda found: found.get("ms", 0))
        peaks = [found["mb"] for found in rounds if found]
        return {**fastest, "mb": statistics.median(peaks)} if peaks else fastest

    sizes = [(options.chunk, None), (options.batch, options.chunk)]
    sizes += [(options.both, None), (options.both, options.chunk)]
    found = [best(size, chunk) for size, chunk in sizes]
    dtype = found[0].get("dtype", options.precision)
    print(f"{options.backbone}, {options.pixels} px, {dtype}, training mode")
    columns = ["images", "at a time", "memory", "x plain", "s a step", "x plain"]
    columns += ["images hold", "process"]
    print("".join(f"{column:>12}" for column in columns))
    for (size, chunk), figures in zip(sizes, found, strict=True):
        cells: list[object] = [size, chunk or "all"]
        if figures:
            memory = ratio("mb", figures, found[0]) if size != options.both else ""
            slower = ratio("ms", figures, found[2]) if size == options.both else ""
            cells += [f"{figures['mb']:.0f}", memory, f"{figures['ms'] / 1000:.2f}", slower]
            cells += [f"{figures['images_mb']:.0f}", f"{figures['process_mb']:.0f}"]
        else:
            cells.append("no room")
        print("".join(f"{cell:>12}" for cell in cells), flush=True)


def ratio(figure: str, cached: dict[str, Any], plain: dict[str, Any]) -> str:
    return f"{cached[figure] / plain[figure]:.2f}" if plain else "-"


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One line of the table: the figures of steps over one batch in this process."""
    from medshadow.networks import Embedder, backbone
    from medshadow.training.precision import keep_freed_memory, training_dtype

    size, chunk, name, pixels, precision = options.measure
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    if device.type == "cpu":
        keep_freed_memory()
    dtype = training_dtype(precision, device)
    embedder = Embedder(backbone(name, pretrained=False))
    embedder = embedder.to(device, memory_format=torch.channels_last).train()
    images = torch.rand(int(size), 3, int(pixels), int(pixels))
    figures = best_pass(make_step(embedder, images, int(chunk), dtype), options)
    if figures is None:
        return {}
    return {
        "ms": figures.ms,
        "mb": figures.mb,
        "images_mb": images.nbytes / 2**20,
        "process_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "dtype": str(dtype).removeprefix("torch."),
    }


def load_code(loss: torch.nn.Module, device: torch.device) -> None:
    """Have the loss load what it loads once: small batches do without its compiled loops."""
    rows = torch.randn(1024, 8, device=device, requires_grad=True)
    loss(rows, torch.arange(1024, device=device) % CLASSES).backward()


def make_step(
    embedder: torch.nn.Module, images: Tensor, chunk: int, dtype: torch.dtype
) -> Callable[[], None]:
    from medshadow.losses import ShadowLoss
    from medshadow.training import cached_backward

    device = next(embedder.parameters()).device
    loss, labels = ShadowLoss(), torch.arange(len(images), device=device) % CLASSES
    load_code(loss, device)

    def encode(some: Tensor) -> Tensor:
        some = some.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            embeddings: Tensor = embedder(some)
        return embeddings

    def step() -> None:
        embedder.zero_grad(set_to_none=True)
        if chunk:
            cached_backward(embedder, loss, images, labels, chunk, encode=encode)
        else:
            loss(encode(images), labels).backward()

    return step


if __name__ == "__main__":
    main()
