"""How surely another kind of image is told from an archive's own: fundi, lesions, photographs.

Two trained models, each with the data set it was trained on, as a pipeline's output folder holds
them. For each, the familiarity score is fitted to images of the training section and its limits set
on the validation section; then come the test section, the other data set's test section, the
photographs that scikit-image and scikit-learn ship, pieces of these, and drawn pictures.

Example:
    python benchmarks/wrong_images.py --lesions HAM10000 --lesion-run runs/dermatology \
        --fundi ODIR-5K --fundus-run runs/fundus
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from sklearn.metrics import roc_auc_score

from medshadow.data import CaseTable, ham10k_cases, odir5k_cases, read_image
from medshadow.networks import Embedder
from medshadow.retrieval.encoders import Encoder, best_encoder
from medshadow.retrieval.familiarity import Familiarity, Look, colours_of
from medshadow.retrieval.image_quality import Quality, QualityLimits, quality_of

# Medical images among scikit-image's: of an eye, and of cells under a microscope.
MEDICAL = ("retina", "microaneurysms", "ihc", "cell", "phantom")


def main() -> None:
    """Print a table for each archive."""
    options = parsed()
    tables = {
        "lesions": with_sections(ham10k_cases(options.lesions), options.lesion_run),
        "fundi": with_sections(odir5k_cases(options.fundi), options.fundus_run),
    }
    photographs = {name: image for name, image in shipped().items() if name not in MEDICAL}
    rng = np.random.default_rng(0)
    strange = {
        "photographs": list(photographs.values()),
        "pieces of photographs": [piece for p in photographs.values() for piece in pieces(p, rng)],
        "drawn pictures": list(drawn(40, rng)),
    }
    runs = {"lesions": options.lesion_run, "fundi": options.fundus_run}
    for own, other in (("lesions", "fundi"), ("fundi", "lesions")):
        encoder = best_encoder(Embedder.load(runs[own] / "model"), threads=options.threads)
        foreign = {other: images(tables[other], "test", options.images)}
        print(report(own, tables[own], encoder, foreign, strange, options.images))


def parsed() -> argparse.Namespace:
    """What the script is told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lesions", type=Path, required=True, help="HAM10000's folder")
    parser.add_argument("--fundi", type=Path, required=True, help="ODIR-5K's folder")
    parser.add_argument("--lesion-run", type=Path, required=True, help="with model/, splits.csv")
    parser.add_argument("--fundus-run", type=Path, required=True, help="with model/, splits.csv")
    parser.add_argument("--images", type=int, default=300, help="of each section, at most")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    return parser.parse_args()


def report(
    own: str,
    table: CaseTable,
    encoder: Encoder,
    foreign: dict[str, Iterator[tuple[np.ndarray, str]]],
    strange: dict[str, list[np.ndarray]],
    most: int,
) -> str:
    """The table of one archive."""
    archive, known_quality = looked_at(encoder, images(table, "training", 2 * most))
    held_out, quality = looked_at(encoder, images(table, "validation", most))
    known = Familiarity.fit(archive, held_out)
    if known is None:
        raise SystemExit(f"{own}: too few training or validation images")
    limits = QualityLimits.fit([*known_quality, *quality], model_size=0)
    tests, quality = looked_at(encoder, images(table, "test", most))
    own_scores = np.array([known.score(look) for look in tests])
    started = time.perf_counter()
    poor = np.mean([bool(limits.problems(one)) for one in quality])
    lines = [
        f"archive of {own}: {len(archive)} images, limits from {len(held_out)} others",
        f"{'':24}{'images':>8}{'AUROC':>8}{'unlike':>9}{'wrong kind':>12}",
        row(f"{own}, test section", own_scores, None, known),
    ]
    queries = {**foreign, **{name: ((i, "") for i in found) for name, found in strange.items()}}
    for name, found in queries.items():
        looks, _ = looked_at(encoder, found)
        scores = np.array([known.score(look) for look in looks])
        lines.append(row(name, scores, own_scores, known))
    lines.append(f"called poor images, of the test section: {poor:.1%}")
    lines.append(f"{time.perf_counter() - started:.0f} s for the images of other kinds\n")
    return "\n".join(lines)


def row(name: str, scores: np.ndarray, own: np.ndarray | None, known: Familiarity) -> str:
    """One line: how many score above each limit, and the AUROC against the test section."""
    auc = ""
    if own is not None:
        truth = np.repeat([0, 1], [len(own), len(scores)])
        auc = f"{roc_auc_score(truth, np.concatenate([own, scores])):.4f}"
    unlike, wrong = np.mean(scores > known.unlike), np.mean(scores > known.wrong_kind)
    return f"{name:24}{len(scores):8}{auc:>8}{unlike:9.1%}{wrong:12.1%}"


def with_sections(table: CaseTable, run: Path) -> CaseTable:
    """A table's cases that a run's split holds, with their sections and groups."""
    split = pd.read_csv(run / "splits.csv", dtype=str).set_index("case_id")
    frame = table.frame[table.frame["case_id"].isin(split.index)].reset_index(drop=True)
    known = split.loc[frame["case_id"]]
    frame = frame.assign(section=known["section"].to_numpy(), group=known["group"].to_numpy())
    return CaseTable(frame, table.name)


def images(table: CaseTable, section: str, most: int) -> Iterator[tuple[np.ndarray, str]]:
    """Pixels and eye of some cases of a section, always the same ones."""
    frame = table.section(section).frame
    for case in frame.sample(min(most, len(frame)), random_state=1).itertuples():
        yield read_image(case.image), getattr(case, "eye", "")


def looked_at(
    encoder: Encoder, found: Iterator[tuple[np.ndarray, str]]
) -> tuple[list[Look], list[Quality]]:
    """What familiarity and quality are judged by, for each image."""
    looks, quality = [], []
    for pixels, side in found:
        looks.append(Look(encoder(pixels, side).pooled, colours_of(pixels)))
        quality.append(quality_of(pixels))
    return looks, quality


def shipped() -> dict[str, np.ndarray]:
    """The pictures inside scikit-image's and scikit-learn's packages, as RGB."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    found = {}
    for path in sorted(Path(skimage.data.__file__).parent.iterdir()):
        if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff"):
            try:
                found[path.stem] = np.array(Image.open(path).convert("RGB"))
            except OSError:  # not a picture that Pillow reads
                print(f"left out: {path.name}")
    samples = load_sample_images()
    for name, image in zip(samples.filenames, samples.images, strict=True):
        found[Path(name).stem] = np.array(image)
    return found


def pieces(image: np.ndarray, rng: np.random.Generator, many: int = 5) -> Iterator[np.ndarray]:
    """Square pieces of 40 to 80 % of the shorter side; none of a tiny image."""
    height, width = image.shape[:2]
    for _ in range(many if min(height, width) >= 128 else 0):
        side = int(rng.uniform(0.4, 0.8) * min(height, width))
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        yield np.ascontiguousarray(image[y : y + side, x : x + side])


def drawn(many: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Shapes and words in random colours: what a screen or a slide shows."""
    for _ in range(many):
        picture = Image.new("RGB", (480, 360), tuple(int(v) for v in rng.integers(0, 256, 3)))
        pen = ImageDraw.Draw(picture)
        for _ in range(int(rng.integers(3, 12))):
            colour = tuple(int(v) for v in rng.integers(0, 256, 3))
            x0, y0, x1, y1 = (int(v) for v in rng.integers(0, 360, 4))
            box = [min(x0, x1), min(y0, y1), max(x0, x1) + 1, max(y0, y1) + 1]
            kind = rng.integers(4)
            if kind == 0:
                pen.rectangle(box, fill=colour)
            elif kind == 1:
                pen.ellipse(box, fill=colour)
            elif kind == 2:
                pen.line([x0, y0, x1, y1], fill=colour, width=int(rng.integers(2, 12)))
            else:
                pen.text((x0, y0), "Report of 3 March", fill=colour, font_size=28)
        yield np.array(picture)


if __name__ == "__main__":
    main()
