"""Gradient caching against the plain step: peak memory of a large batch, and what it costs in time.

A step is a forward and backward pass of an embedder and Shadow Loss over images that are drawn,
without the optimizer. Each row of the table is a fresh process. Its memory is the peak of the
resident memory (``ru_maxrss``; on a GPU ``torch.cuda.max_memory_allocated``) of a few steps above
what the process held before the first. That includes the network and the images (float32, on the
CPU, as a loader gives them), whose size the last column states. The C library's allocator is set as
in training (``keep_freed_memory``), so freed memory that it cannot use again counts. Its time is
the best step.

The first two rows are compared by memory: the plain step of one chunk of images, and a large batch
encoded in such chunks. The last two by time: a batch that both can do, twice in turn.
``python benchmarks/gradient_caching.py --threads 2`` prints one table.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import torch

CLASSES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="efficientnet-lite0")
    parser.add_argument("--pixels", type=int, default=128, help="image size (default 128)")
    parser.add_argument("--batch", type=int, default=1024, help="the large batch (default 1024)")
    parser.add_argument("--both", type=int, default=256, help="batch that both do (default 256)")
    parser.add_argument("--chunk", type=int, default=64, help="images at a time (default 64)")
    parser.add_argument("--steps", type=int, default=4, help="steps of each process (default 4)")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default 2)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--measure", nargs=2, metavar=("S", "CHUNK"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        size, chunk = chosen.measure
        print(json.dumps(measure(chosen, int(size), None if chunk == "all" else int(chunk))))
        return
    if chosen.device == "cpu":
        print("No CUDA device is used: all figures are the CPU's.", flush=True)
    table(chosen)


def table(chosen: argparse.Namespace) -> None:
    small, large = figures(chosen.chunk, "all"), figures(chosen.batch, chosen.chunk)
    plain, cached = figures(chosen.both, "all"), figures(chosen.both, chosen.chunk)
    for found, chunk in ((plain, "all"), (cached, chosen.chunk)):
        found["s"] = min(found["s"], figures(chosen.both, chunk)["s"])
    where = platform.processor() or platform.machine()
    if chosen.device != "cpu":
        where = torch.cuda.get_device_name(chosen.device)
    print(
        f"torch {torch.__version__}, {where}, {chosen.threads} threads; {chosen.backbone}, ", end=""
    )
    print(f"{chosen.pixels} px, {small['dtype']}; memory in MB above images and network")
    columns = ["images", "at a time", "memory", "x plain", "s a step", "x plain", "images hold"]
    print("".join(f"{column:>12}" for column in columns))
    rows = [
        (chosen.chunk, "all", small, "1.00", ""),
        (chosen.batch, chosen.chunk, large, f"{large['mb'] / small['mb']:.2f}", ""),
        (chosen.both, "all", plain, "", "1.00"),
        (chosen.both, chosen.chunk, cached, "", f"{cached['s'] / plain['s']:.2f}"),
    ]
    for size, chunk, found, memory, slower in rows:
        cells = [size, chunk, f"{found['mb']:.0f}", memory, f"{found['s']:.2f}", slower]
        print("".join(f"{cell:>12}" for cell in [*cells, f"{found['images_mb']:.0f}"]))


def figures(size: int, chunk: int | str) -> dict[str, float]:
    command = [sys.executable, __file__, *sys.argv[1:], "--measure", str(size), str(chunk)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(chosen: argparse.Namespace, size: int, chunk: int | None) -> dict[str, float | str]:
    """Time steps over one batch in this process and track its peak memory."""
    from medshadow.networks import Embedder, backbone
    from medshadow.training.precision import keep_freed_memory, training_dtype

    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    if device.type == "cpu":
        keep_freed_memory()
    dtype = training_dtype(chosen.precision, device)
    embedder = Embedder(backbone(chosen.backbone, pretrained=False))
    embedder = embedder.to(device, memory_format=torch.channels_last).train()
    images = torch.rand(size, 3, chosen.pixels, chosen.pixels)
    step = make_step(embedder, images, torch.arange(size) % CLASSES, chunk, dtype)
    before = peak_bytes(device)
    times = [timed(step, device) for _ in range(chosen.steps)]
    return {
        "s": min(times),
        "mb": (peak_bytes(device) - before) / 2**20,
        "images_mb": images.nbytes / 2**20,
        "dtype": str(dtype).removeprefix("torch."),
    }


def make_step(
    embedder: torch.nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    chunk: int | None,
    dtype: torch.dtype,
) -> Callable[[], None]:
    from medshadow.losses import ShadowLoss
    from medshadow.training import cached_backward

    device = next(embedder.parameters()).device
    loss, labels = ShadowLoss(), labels.to(device)

    def encode(some: torch.Tensor) -> torch.Tensor:
        some = some.to(device, memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            embeddings: torch.Tensor = embedder(some)
        return embeddings

    def step() -> None:
        embedder.zero_grad(set_to_none=True)
        if chunk is None:
            loss(encode(images), labels).backward()
        else:
            cached_backward(embedder, loss, images, labels, chunk, encode=encode)

    return step


def peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def timed(step: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
