"""Drawn data sets in the real ones' own file layouts, for the demo and the tests.

Phantoms show that the way from files to lookup works; they say nothing about patients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from medshadow.data.phantom_odir import jpeg, write_fundi
from medshadow.data.phantom_scenes import photograph_lesion
from medshadow.errors import DataError

KINDS = {"lesions": "ham10000", "fundi": "odir5k"}
"""What can be drawn, and the data set whose layout it is written in."""

# Share of lesions: the order and skew of HAM10000, but 6 : 1 where the real one is 74 : 1.
_SHARE = {
    "nv": 0.36, "mel": 0.16, "bkl": 0.15, "bcc": 0.11, "akiec": 0.09, "vasc": 0.07, "df": 0.06,
}  # fmt: skip
_FEWEST = 3  # lesions of a class, so that each of three sections can hold one
_MIN_LESIONS = _FEWEST * len(_SHARE) + 1

_AGE = {  # mean and deviation in years
    "nv": (46, 15), "mel": (61, 15), "bkl": (64, 14), "bcc": (67, 13),
    "akiec": (67, 11), "vasc": (51, 20), "df": (53, 13),
}  # fmt: skip
_ESTABLISHED = {  # how the diagnosis was made
    "nv": {"histo": 0.37, "follow_up": 0.56, "consensus": 0.07},
    "bkl": {"histo": 0.70, "consensus": 0.24, "confocal": 0.06},
    "vasc": {"histo": 0.47, "consensus": 0.53},
    "df": {"histo": 0.48, "consensus": 0.52},
}
_PLACES = (
    "back", "lower extremity", "trunk", "upper extremity", "abdomen", "face", "chest", "foot",
    "neck", "scalp", "hand", "unknown",
)  # fmt: skip
_PLACE_WEIGHTS = {
    "sun": (16, 12, 2, 12, 3, 30, 8, 1, 5, 5, 4, 2),
    "any": (22, 22, 16, 11, 12, 3, 5, 4, 2, 1, 1, 1),
    "legs": (2, 72, 0, 21, 3, 0, 0, 2, 0, 0, 0, 0),
}
_PLACE_OF = {"akiec": "sun", "bcc": "sun", "bkl": "sun", "df": "legs"}


def write_phantoms(
    root: str | Path,
    kind: str = "lesions",
    lesions: int = 640,
    seed: int = 0,
    progress: bool = True,
    patients: int = 480,
) -> Path:
    """Draw a data set and write it in the real one's file layout.

    ``kind="lesions"`` writes ``HAM10000_images_part_1/``, ``HAM10000_images_part_2/`` (JPEG,
    300 x 225) and ``HAM10000_metadata.csv`` with HAM10000's columns. Ids say what they are:
    ``ISIC_PHANTOM00001`` and ``HAM_PHANTOM00001`` (plain numbers are no sign: the ISIC archive
    uses the whole range). Lesions have 1 to 4 images, 1.6 on average. As in the real set, some
    ages are missing, and one image stands there twice, byte for byte, under two lesion ids: the
    last lesion is a copy, for an audit to find.

    ``kind="fundi"`` writes ODIR-5K's workbook of annotations (its 15 columns, the organisers'
    keywords between full-width commas, patients' letters by their rules) and ``Training Images/``
    with two photographs a patient (JPEG, 272 high, 272 to 360 wide with black borders). Ids begin
    at 900000, far above the real ones, and are ordered by disease as the real ones are. Eyes may
    carry several diseases; some photographs are dusty or too poor to judge. Of each 160 patients
    one is there again byte for byte under another id, and one photographed again.

    The same arguments give the same bytes; no global random generator is read or changed. Phantoms
    already in the folder are replaced, anything else there is refused.

    Args:
        root: folder to write into; made if absent.
        kind: "lesions" or "fundi"; the data sets' names, "ham10000" and "odir5k", serve as well.
        lesions: how many lesion ids, at least 22.
        seed: decides every drawing.
        progress: show a progress bar.
        patients: how many patient ids, at least 24.

    Returns:
        The folder written.

    Raises:
        ValueError: unknown kind, too few lesions or patients.
        DataError: the folder holds images or metadata that are no phantoms.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_phantoms(folder, lesions=22, progress=False)
        ...     sorted(path.name for path in root.iterdir())
        ['HAM10000_images_part_1', 'HAM10000_images_part_2', 'HAM10000_metadata.csv']
    """
    if kind in ("fundi", KINDS["fundi"]):
        return write_fundi(Path(root), patients, seed, progress)
    if kind in ("lesions", KINDS["lesions"]):
        return _write_lesions(Path(root), lesions, seed, progress)
    raise ValueError(f"kind must be one of {list(KINDS)}; found {kind!r}")


def _write_lesions(root: Path, lesions: int, seed: int, progress: bool) -> Path:
    if lesions < _MIN_LESIONS:
        raise ValueError(f"lesions must be at least {_MIN_LESIONS}; found {lesions}")
    parts = [root / "HAM10000_images_part_1", root / "HAM10000_images_part_2"]
    table = root / "HAM10000_metadata.csv"
    _clear(parts, table)
    for part in parts:
        part.mkdir(parents=True, exist_ok=True)

    rng = np.random.default_rng([seed, 0])
    rows = _metadata(rng, lesions)
    first_part = set(rows["image_id"].sort_values().iloc[: (len(rows) + 1) // 2])
    copied: bytes = b""
    groups = rows.groupby("lesion_id", sort=True)
    for number, (_, images) in enumerate(tqdm(groups, "drawing lesions", disable=not progress)):
        if number == lesions - 1:
            drawn = [copied]
        else:
            own = np.random.default_rng([seed, 1, number])
            pictures = photograph_lesion(own, images["dx"].iloc[0], len(images))
            drawn = [jpeg(picture) for picture in pictures]
        if not copied and images["dx"].iloc[0] == "nv":
            copied = drawn[0]
        for image_id, data in zip(images["image_id"], drawn, strict=True):
            part = parts[0] if image_id in first_part else parts[1]
            (part / f"{image_id}.jpg").write_bytes(data)
    rows.sort_values("image_id").to_csv(table, index=False)
    return root


def _metadata(rng: np.random.Generator, lesions: int) -> pd.DataFrame:
    """One row an image, lesion by lesion; the last lesion is the copied nevus."""
    counts = _quota(lesions - 1)
    diagnoses = np.array([dx for dx, count in counts.items() for _ in range(count)])
    rng.shuffle(diagnoses)
    aged_unknown = set(rng.choice(lesions, max(1, lesions // 100), replace=False).tolist())
    rows = []
    for number, dx in enumerate([*diagnoses.tolist(), "nv"]):
        mean, deviation = _AGE[dx]
        age = float(np.clip(5 * round(rng.normal(mean, deviation) / 5), 5, 85))
        ways = _ESTABLISHED.get(dx, {"histo": 1.0})
        weights = np.array(_PLACE_WEIGHTS[_PLACE_OF.get(dx, "any")], float)
        row = {
            "lesion_id": f"HAM_PHANTOM{number:05d}",
            "dx": dx,
            "dx_type": str(rng.choice(list(ways), p=list(ways.values()))),
            "age": np.nan if number in aged_unknown else age,
            "sex": str(rng.choice(["male", "female", "unknown"], p=[0.54, 0.45, 0.01])),
            "localization": str(rng.choice(_PLACES, p=weights / weights.sum())),
        }
        images = int(rng.choice([1, 2, 3, 4], p=[0.54, 0.33, 0.09, 0.04]))
        rows += [row] * (1 if number == lesions - 1 else images)
    frame = pd.DataFrame(rows)
    numbers = rng.permutation(len(frame))
    frame.insert(1, "image_id", [f"ISIC_PHANTOM{n:05d}" for n in numbers])
    return frame


def _quota(lesions: int) -> dict[str, int]:
    counts = {dx: max(_FEWEST, int(share * lesions)) for dx, share in _SHARE.items()}
    counts["nv"] += lesions - sum(counts.values())
    while counts["nv"] < _FEWEST:
        counts["nv"] += 1
        counts[max(counts, key=lambda dx: counts[dx])] -= 1
    return counts


def _clear(parts: list[Path], table: Path) -> None:
    """Remove an earlier set of phantoms; refuse to touch anything else."""
    images = [path for part in parts if part.is_dir() for path in part.iterdir()]
    foreign = [p.name for p in images if not p.name.startswith("ISIC_PHANTOM")]
    if not foreign and table.exists():
        ids = pd.read_csv(table, usecols=["image_id"], dtype=str)["image_id"]
        foreign = ids[~ids.str.startswith("ISIC_PHANTOM", na=False)].tolist()
    if foreign:
        raise DataError(
            f"{table.parent}: holds cases that are no phantoms, for example {sorted(foreign)[:3]}; "
            "expected an empty folder or phantoms"
        )
    for path in images:
        path.unlink()
    table.unlink(missing_ok=True)
