"""Does hiding the explained region lower the similarity more than hiding a random one?

Queries of the test section against their nearest case of another group, whose picture is the one
that the store keeps. Hidden, in the image itself, is the fifth of what the network sees where the
map is highest, on one side and then on the other; the random regions of the same size are a disc
anywhere and the strongest fifth of a map whose cells are shuffled.

In a hidden part's place is seen one of four things. A blur and the image's mean colour are what
`explain` itself chooses its map by. It never uses the other two, which are the independent proof:
what inpainting makes of the part from its edges (Telea 2004), and a texture of the image's own
colours and spectrum with random phases. The share of pairs in which the explained region wins has a
95 % interval by Wilson's method. The same for the exact decomposition alone.

``python benchmarks/explain.py --run out/ --images shared/data/ham10000 --pairs 200``
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from medshadow.data import read_image
from medshadow.networks import Embedder
from medshadow.retrieval import CaseStore, TorchEncoder
from medshadow.retrieval.encode import tells_eyes_apart
from medshadow.retrieval.explain import Explanation, explain
from medshadow.retrieval.frame import frame_of
from medshadow.retrieval.hiding import FILLS, REGION, strongest

# For a side and what is seen instead: by how much each region of a pair lowers the similarity.
Falls = dict[tuple[str, str], list[dict[str, float]]]


class Pair(NamedTuple):
    """A query and its nearest case: pixels and which eyes they show."""

    query: np.ndarray
    query_eye: str
    case: np.ndarray
    case_eye: str


class OnnxBackbone(nn.Module):
    """A backbone that runs in ONNX Runtime: several times faster on a CPU, the same features."""

    def __init__(self, embedder: Embedder, threads: int) -> None:
        super().__init__()
        import onnxruntime

        self.in_torch, self.channels = embedder.backbone, embedder.backbone.channels
        size, images = embedder.preprocess["size"], torch.export.Dim("images", min=1, max=512)
        program: Any = torch.onnx.export(
            embedder.backbone,
            (torch.zeros(2, 3, size, size),),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            dynamic_shapes=({0: images},),
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        graph = program.model_proto.SerializeToString()
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """N x 3 x S x S to N x C x h x w."""
        return torch.from_numpy(self.session.run(None, {"images": images.numpy()})[0])


def nearest_pairs(
    embedder: Embedder, options: argparse.Namespace, rng: np.random.Generator
) -> Iterator[Pair]:
    """Random images of a run's section with their nearest known cases of other groups."""
    run, wanted = options.run, options.pairs
    encoder, eyes = TorchEncoder(embedder), tells_eyes_apart(embedder)
    files = {path.stem: path for path in options.images.rglob("*.jpg")}
    split = pd.read_csv(run / "splits.csv", dtype=str)
    test = split[(split["section"] == options.section) & split["case_id"].isin(files)]
    with CaseStore(run / "cases.db") as store:
        known = store.snapshot()
        groups = known.frame["group"].to_numpy()
        for at in rng.permutation(len(test))[:wanted]:
            row = test.iloc[at]
            query, eye = read_image(files[row["case_id"]]), _eye(row["case_id"], eyes)
            similarity = known.embeddings @ encoder(query, eye).vector
            similarity[groups == row["group"]] = -2
            case_id = known.frame["case_id"].iloc[int(similarity.argmax())]
            case = store.image_of(case_id)
            if case is not None:
                yield Pair(query, eye, case, _eye(case_id, eyes))


def _eye(case_id: str, wanted: bool) -> str:
    return case_id.rpartition("_")[2] if wanted else ""


def falls_of(
    embedder: Embedder,
    pair: Pair,
    side: str,
    maps: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> dict[str, dict[str, float]]:
    """How much the similarity falls with the strongest region of each map hidden on one side."""
    encoders = {"query": TorchEncoder(embedder), "case": TorchEncoder(_seen_once(embedder))}
    other = "case" if side == "query" else "query"
    pixels, eye = getattr(pair, side), getattr(pair, f"{side}_eye")
    towards = encoders[other](getattr(pair, other), getattr(pair, f"{other}_eye")).vector
    seen = frame_of(embedder, pixels, eye).seen(pixels.shape[:2])
    before = encoders[side](pixels, eye).vector @ towards
    regions = {name: strongest(values, seen) for name, values in maps.items()}

    def falls(instead: Callable[[np.ndarray], np.ndarray]) -> dict[str, float]:
        images = {n: np.where(r[..., None], instead(r), pixels) for n, r in regions.items()}
        return {
            n: float(before - encoders[side](image, eye).vector @ towards)
            for n, image in images.items()
        }

    return {name: falls(instead) for name, instead in replacements(pixels, seen, rng).items()}


def replacements(
    pixels: np.ndarray, seen: np.ndarray, rng: np.random.Generator
) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What may be seen in a hidden region's place: region to uint8 H x W x 3, by name."""
    image = (pixels * seen[..., None]).transpose(2, 0, 1).astype(np.float32) / 255
    known = {fill.__name__: _in_bytes(255 * fill(image).transpose(1, 2, 0)) for fill in FILLS}
    known["texture"] = texture(pixels, seen, rng)
    found = {name: (lambda _, filled=filled: filled) for name, filled in known.items()}
    return {**found, "inpainting": lambda region: inpainted(pixels, region, seen)}


def inpainted(pixels: np.ndarray, region: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """An image whose region is made up from its edges (Telea 2004), not from what is not seen."""
    height, width = region.shape
    scale = min(1.0, 256 / max(height, width))  # it is smooth anyway, and takes seconds at 600
    size = (round(scale * width), round(scale * height))
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    unknown = cv2.resize((region | ~seen).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    filled = cv2.inpaint(small, (unknown > 0).astype(np.uint8), 5, cv2.INPAINT_TELEA)
    return cv2.resize(filled, (width, height), interpolation=cv2.INTER_LINEAR)


def texture(pixels: np.ndarray, seen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise with the colours and the spectrum of what is seen of an image, and none of its shapes.

    Source: Oppenheim and Lim, "The importance of phase in signals", Proc. IEEE 69 (1981).
    """
    mean = pixels[seen].mean(axis=0)
    varying = np.where(seen[..., None], pixels - mean, 0)
    # The phases of white noise are those of a real image, and the same for all three colours.
    noise = np.fft.fft2(rng.normal(size=seen.shape))[..., None]
    mixed = np.fft.ifft2(np.fft.fft2(varying, axes=(0, 1)) * noise / np.abs(noise), axes=(0, 1))
    spread = mixed.real / np.sqrt(seen.mean())  # the unseen part would make it fainter
    return _in_bytes(mean + spread)


def _in_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _seen_once(embedder: Embedder) -> Embedder:
    once = copy(embedder)
    once.preprocess = {**embedder.preprocess, "query_views": 1}
    return once


def maps_of(
    embedder: Embedder, found: Explanation, pair: Pair, side: str, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The explained map of one side, the decomposition alone, and two random ones."""
    pixels, eye = getattr(pair, side), getattr(pair, f"{side}_eye")
    shape, frame = pixels.shape[:2], frame_of(embedder, pixels, eye)
    unturned = frame._replace(mirrored=False)
    cells: np.ndarray = getattr(found, f"{side}_cells")
    rows, columns = np.nonzero(frame.seen(shape))
    at = rng.integers(len(rows))
    y, x = np.ogrid[: shape[0], : shape[1]]
    return {
        "explained": getattr(found, f"{side}_map"),
        "decomposition alone": unturned.spread(cells, shape),
        "disc": -np.hypot(y - rows[at], x - columns[at]),
        "shuffled": unturned.spread(rng.permutation(cells.ravel()).reshape(cells.shape), shape),
    }


def wilson(wins: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, share = 1.959964, wins / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return middle - half, middle + half


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="output folder of a trained run")
    parser.add_argument("--images", type=Path, required=True, help="folder of the data set's JPEGs")
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--section", default="test", help="validation, to choose something by")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    embedder = Embedder.load(options.run / "model")
    embedder.backbone = OnnxBackbone(embedder, options.threads)
    falls: Falls = defaultdict(list)
    pairs = nearest_pairs(embedder, options, rng)
    # Interrupted, it prints what the pairs so far show.
    with suppress(KeyboardInterrupt):
        for pair in tqdm(pairs, total=options.pairs):
            measure(embedder, pair, rng, falls)
    print_table(falls)


def measure(embedder: Embedder, pair: Pair, rng: np.random.Generator, falls: Falls) -> None:
    """Hide every region of one pair, on both sides, behind everything there is to hide it with."""
    found = explain(embedder, pair.query, pair.case, pair.query_eye, pair.case_eye)
    for side in ("query", "case"):
        maps = maps_of(embedder, found, pair, side, rng)
        for fill, lowered in falls_of(embedder, pair, side, maps, rng).items():
            falls[side, fill].append(lowered)


def print_table(falls: Falls) -> None:
    """How much the similarity falls, and how often it falls more than with a random region."""
    print(f"hidden: {REGION:.0%} of what the network sees")
    print(f"{'side':<7}{'behind':<14}{'region':<21}{'falls by':>9}  wins over a random one in")
    for (side, fill_name), rows in falls.items():
        table = pd.DataFrame(rows)
        for region in ("explained", "decomposition alone"):
            shares = []
            for rival in ("disc", "shuffled"):
                wins = int((table[region] > table[rival]).sum())
                low, high = wilson(wins, len(table))
                shares.append(f"{rival} {wins / len(table):.3f} ({low:.3f} to {high:.3f})")
            fall = table[region].mean()
            print(f"{side:<7}{fill_name:<14}{region:<21}{fall:>9.3f}  {', '.join(shares)}")
        rivals = ", ".join(f"{name} {table[name].mean():.3f}" for name in ("disc", "shuffled"))
        print(f"{'':<21}random ones fall by {rivals}; {len(table)} pairs")


if __name__ == "__main__":
    main()
