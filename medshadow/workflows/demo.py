"""The demo: the whole way on drawn lesions or fundi in a few minutes, or on the real images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medshadow.data.phantoms import write_phantoms
from medshadow.training.distributed import check_joined
from medshadow.workflows.configuration import run_config
from medshadow.workflows.summary import Summary

logger = logging.getLogger(__name__)

# About three minutes on two cores, five with the set-up of `make demo`; large enough that training
# beats frozen features.
_PHANTOM_SETTINGS = {
    "train_size": 96,
    "embedder#preprocess#size": 128,
    "max_epochs": 4,
    "batches_per_epoch": 30,
    "images_per_class": 12,
    "fractions": {"training": 0.6, "validation": 0.1, "test": 0.3},
}


@dataclass(frozen=True)
class Demo:
    """One kind of demo; its name is that of the configuration it runs.

    Attributes:
        real: the data set that it runs on where its folder is named, and the name of that run.
        phantoms: what to draw instead, as ``write_phantoms`` takes it.
        settings: what of the configuration is set smaller for drawn data.
    """

    real: str
    phantoms: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=lambda: _PHANTOM_SETTINGS)


DEMOS = {
    "dermatology": Demo("ham10000", {"kind": "lesions", "lesions": 480}),
    # Eight letters and two eyes a patient: as many images and as large batches as with lesions.
    "fundus": Demo(
        "odir5k",
        {"kind": "fundi", "patients": 400},
        {**_PHANTOM_SETTINGS, "images_per_class": 10},
    ),
}


def run_demo(
    output_dir: str | Path, data: str | Path | None = None, kind: str = "dermatology"
) -> Summary:
    """Run a packaged configuration on drawn data, or on the real data set.

    Args:
        output_dir: where to write. A demo on phantoms replaces an earlier one in the same folder;
            one on real data goes on with it.
        data: folder of HAM10000 or ODIR-5K; phantoms are drawn into ``phantoms`` of the output
            folder when None.
        kind: "dermatology" or "fundus".

    Raises:
        ValueError: no such kind, or torchrun started several processes.
    """
    check_joined()
    if kind not in DEMOS:
        raise ValueError(f"kind must be one of {list(DEMOS)}; found {kind!r}")
    demo = DEMOS[kind]
    if data is not None:
        logger.info("real data: the whole configuration, about half an hour on two cores")
        return _run(kind, output_dir, data, {"resume": True})
    logger.info("drawing %s", demo.phantoms["kind"])
    phantoms = write_phantoms(Path(output_dir) / "phantoms", **demo.phantoms)
    return _run(kind, output_dir, phantoms, {"overwrite": True, **demo.settings})


def _run(
    kind: str, output_dir: str | Path, data: str | Path, settings: Mapping[str, Any]
) -> Summary:
    summary: Summary = run_config(
        kind,
        data_dir=str(data),
        output_dir=str(output_dir),
        **settings,
    )
    return summary
