"""Diagnostics of a model on a split table: test queries against the training section."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from medshadow.data.cases import CaseTable
from medshadow.data.readers import read_image
from medshadow.evaluation import Diagnostics, EmbeddedCases, diagnose, majority_baseline
from medshadow.evaluation.curves import curves_figure
from medshadow.networks.backbones import MONAI_NETS
from medshadow.retrieval.encode import encode_cases
from medshadow.training.final_head import FinalHead, fit_final_head

if TYPE_CHECKING:
    from medshadow.networks import Embedder
    from medshadow.training import MetricTrainer

logger = logging.getLogger(__name__)


def embed_section(embedder: Embedder, table: CaseTable, section: str) -> EmbeddedCases:
    """Encode one section of a table, with a progress bar; the test section as queries."""
    cases = table.section(section)
    views = embedder.query_views if section == "test" else 1
    return EmbeddedCases(encode_cases(embedder, cases, views=views), cases.frame)


def finished_gallery(
    trainer: MetricTrainer, table: CaseTable, how: FinalHead | None = None
) -> EmbeddedCases:
    """Encode the training section and give a trained embedder its last layer, fitted to it.

    See :func:`~medshadow.training.fit_final_head`. Of several labels of a case the one that stands
    for it is its class.
    """
    embedder, cases = trainer.embedder, table.section("training")
    logger.info("encoding the training section, to fit the last layer to it")
    features = embed_section(embedder.without_head(), table, "training").embeddings
    head = fit_final_head(
        features,
        cases.frame["label"].tolist(),
        torch.from_numpy(np.stack([item["label"] for item in cases.datalist()])),
        trainer.loss,
        trainer.loader.batch_sampler,
        embedder.embedding_dim,
        how,
    )
    embedder.end_with(head)
    with torch.inference_mode():
        pooled = torch.tensor(features, device=trainer.device)
        vectors = embedder.embed(pooled).cpu().numpy()
    return EmbeddedCases(vectors, cases.frame)


def evaluate(embedder: Embedder, table: CaseTable, *, bootstrap: int = 1000) -> Diagnostics:
    """Diagnostics of an embedder: gallery the training section, queries the test section.

    Args:
        embedder: the model.
        table: a table with sections.
        bootstrap: resamples of the query groups for the intervals; 0 for none.
    """
    return diagnose(
        embed_section(embedder, table, "training"),
        embed_section(embedder, table, "test"),
        malignant=table.malignant,
        malignant_word=table.malignant_word,
        healthy=table.healthy,
        bootstrap=bootstrap,
        image_of=image_of(table),
    )


def baselines(embedder: Embedder, table: CaseTable, *, bootstrap: int = 1000) -> dict[str, float]:
    """What any figure must be seen beside: the frozen backbone's and the majority class's.

    Args:
        embedder: the model whose backbone is taken as it comes.
        table: a table with sections.
        bootstrap: as for :func:`evaluate`.

    Returns:
        Flat metrics, ``frozen/...`` with intervals and ``majority/...``; the latter alone for a
        backbone that comes without ImageNet weights.
    """
    untrained = embedder.backbone.name in MONAI_NETS
    twin = embedder if untrained else frozen_twin(embedder)
    gallery = embed_section(twin, table, "training")
    queries = embed_section(twin, table, "test")
    kinds = {"malignant": table.malignant, "healthy": table.healthy}
    majority = majority_baseline(gallery, queries, **kinds)
    metrics = {f"majority/{name}": value for name, value in majority.items()}
    if untrained:
        logger.warning("%s comes without weights: no frozen baseline", embedder.backbone.name)
        return metrics
    return {
        **flat_metrics("frozen", diagnose(gallery, queries, **kinds, bootstrap=bootstrap)),
        **metrics,
    }


def frozen_twin(embedder: Embedder) -> Embedder:
    """The baseline: the backbone as it comes, without a head."""
    from medshadow.networks import Embedder

    twin = Embedder(
        embedder.backbone.name, None, pooling=embedder.pooling, preprocess=embedder.preprocess
    )
    return twin.eval()


def image_of(table: CaseTable) -> Callable[[str], np.ndarray]:
    """A callable from case id to its image, uint8 H x W x 3."""
    paths = table.frame.set_index("case_id")["image"]
    return lambda case_id: read_image(paths[case_id])


def flat_metrics(prefix: str, diagnostics: Diagnostics) -> dict[str, float]:
    """Metrics as ``prefix/name``, their 95 % intervals as ``prefix/name_low`` and ``_high``."""
    flat = {f"{prefix}/{name}": value for name, value in diagnostics.metrics.items()}
    for name, (low, high) in diagnostics.intervals.items():
        flat |= {f"{prefix}/{name}_low": low, f"{prefix}/{name}_high": high}
    return flat


def save_figures(diagnostics: Diagnostics, folder: Path) -> list[Path]:
    """Write every figure of a diagnosis as PNG, and its tables as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in diagnostics.figures().items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120, bbox_inches="tight")
    for name, frame in diagnostics.tables.items():
        paths.append(folder / f"{name}.csv")
        frame.to_csv(paths[-1])
    return paths


def save_curves(trainer: MetricTrainer, folder: Path) -> Path:
    """Write the curves of a training, ``training.png``, into the folder of the figures."""
    folder.mkdir(parents=True, exist_ok=True)
    figure = curves_figure(trainer.history.epochs, trainer.select_by)
    figure.savefig(folder / "training.png", dpi=120, bbox_inches="tight")
    return folder / "training.png"


def write_metrics(path: Path, values: dict[str, float]) -> None:
    """Write flat metrics, an undefined value (nan) as null."""
    plain = {k: None if np.isnan(v) else round(float(v), 6) for k, v in values.items()}
    path.write_text(json.dumps(plain, indent=2) + "\n")


def read_metrics(path: Path) -> dict[str, float]:
    """Read what :func:`write_metrics` wrote."""
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text())
    return {k: float("nan") if v is None else float(v) for k, v in stored.items()}
