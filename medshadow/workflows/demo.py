"""The demo: the whole way on drawn lesions in a few minutes, or on real HAM10000 images."""

from __future__ import annotations

import logging
from pathlib import Path

from medshadow.data.phantoms import write_phantoms
from medshadow.workflows.configuration import run_config
from medshadow.workflows.summary import Summary

logger = logging.getLogger(__name__)

# Small enough for four minutes on two cores, large enough that training beats frozen features.
PHANTOM_SETTINGS = {
    "train_size": 96,
    "embedder#preprocess#size": 128,
    "max_epochs": 4,
    "batches_per_epoch": 30,
    "images_per_class": 12,
    "fractions": {"training": 0.6, "validation": 0.1, "test": 0.3},
}
PHANTOM_LESIONS = 480


def run_demo(output_dir: str | Path, data: str | Path | None = None) -> Summary:
    """Run the dermatology configuration.

    Args:
        output_dir: where to write. A demo on phantoms replaces an earlier one in the same folder;
            one on real data goes on with it.
        data: folder of HAM10000; phantoms are drawn into ``phantoms`` of the output folder
            when None.
    """
    if data is not None:
        logger.info("real data: the whole configuration, about half an hour on two cores")
        return _run(output_dir, data, {"resume": True})
    logger.info("drawing %d lesions", PHANTOM_LESIONS)
    phantoms = write_phantoms(Path(output_dir) / "phantoms", lesions=PHANTOM_LESIONS)
    return _run(output_dir, phantoms, {"overwrite": True, **PHANTOM_SETTINGS})


def _run(output_dir: str | Path, data: str | Path, settings: dict[str, object]) -> Summary:
    summary: Summary = run_config(
        "dermatology",
        data_dir=str(data),
        output_dir=str(output_dir),
        **settings,
    )
    return summary
