"""What a lookup must know of its archive to warn and to give a probability; learned once, kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from medshadow.data.readers import read_image
from medshadow.errors import StoreError
from medshadow.evaluation.calibration import LogOddsCalibration, Probability, share_score
from medshadow.retrieval.ahead import ahead
from medshadow.retrieval.encoders import Encoded, Encoder, TorchEncoder
from medshadow.retrieval.familiarity import Familiarity, Look, colours_of
from medshadow.retrieval.image_quality import Quality, QualityLimits, quality_of
from medshadow.retrieval.search import ExactSearch

if TYPE_CHECKING:
    from medshadow.data.cases import CaseTable
    from medshadow.networks import Embedder
    from medshadow.retrieval.ranking import Ranking
    from medshadow.retrieval.store import CaseStore

VOTERS = 16
"""Distinct cases whose share of malignant ones makes a probability, whatever k was asked for."""

_FORMAT = "medshadow-calibration/1"
# Images read of the archive, and of validation; more change little and take minutes.
_MOST = {"archive": 1000, "validation": 2000}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class ArchiveCalibration:
    """Familiarity, image quality and probability, as fitted to one archive and one model.

    Args:
        quality: what the archive's images keep to.
        familiarity: how far an image lies from them; None where there were too few to tell.
        probability: from the share of malignant neighbours; None likewise.
    """

    quality: QualityLimits
    familiarity: Familiarity | None
    probability: LogOddsCalibration | None

    def probability_of(
        self, ranking: Ranking, malignant: Iterable[str], prevalence: float
    ) -> Probability | None:
        """The probability that the image behind a ranking of the whole archive is malignant.

        Args:
            ranking: the query against every case, without a filter.
            malignant: the labels that count.
            prevalence: their share among images like the query, in (0, 1).

        Raises:
            ValueError: the prevalence is out of range.
        """
        if self.probability is None:
            return None
        score = malignant_score(ranking, frozenset(malignant))
        return None if score is None else self.probability.probability(score, prevalence)

    def to_dict(self, model_digest: str) -> dict[str, Any]:
        """In JSON's own types, for ``CaseStore.set_calibration``."""
        return {
            "format": _FORMAT,
            "model_digest": model_digest,
            "quality": self.quality.to_dict(),
            "familiarity": self.familiarity and self.familiarity.to_dict(),
            "probability": self.probability and self.probability.to_dict(),
        }

    @classmethod
    def of(cls, store: CaseStore) -> ArchiveCalibration | None:
        """What a store keeps; None where it was not calibrated.

        Raises:
            StoreError: it is of another model, or cannot be read.
        """
        kept = store.calibration
        if kept is None:
            return None
        if kept.get("format") != _FORMAT or kept.get("model_digest") != store.model_digest:
            raise StoreError(
                f"the store's calibration is of format {kept.get('format')!r} and model "
                f"{str(kept.get('model_digest'))[:12]}; expected {_FORMAT!r} and "
                f"{store.model_digest[:12]}: calibrate again"
            )
        try:
            familiarity, probability = kept["familiarity"], kept["probability"]
            return cls(
                QualityLimits.from_dict(kept["quality"]),
                familiarity and Familiarity.from_dict(familiarity),
                probability and LogOddsCalibration.from_dict(probability),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"the store's calibration is damaged: {error!r}") from error


def calibrate(
    store: CaseStore,
    embedder: Embedder,
    archive: CaseTable,
    validation: CaseTable,
    *,
    encoder: Encoder | None = None,
    progress: bool = True,
) -> ArchiveCalibration:
    """Learn from held-out cases what a store's lookups can warn of, and keep it in the store.

    Reads up to 1,000 images of the archive and 2,000 of the validation cases. Every figure that is
    kept comes from pixels and labels of many cases together; no case can be found in it.

    Args:
        store: the store, holding the archive's cases.
        embedder: its model.
        archive: the cases that it was made of, whose images can still be read.
        validation: others of the same kind, of no lesion or patient that the archive holds; a model
            that was trained on them makes everything look better than it is. Those that chose an
            epoch of the training are good enough.
        encoder: as for :class:`~medshadow.retrieval.CaseLookup`.
        progress: whether to show a bar.

    Returns:
        What was learned. Where there were fewer than 20 images of either there is no familiarity,
        and where fewer than 20 malignant or other groups, no probability; a log line says so.

    Raises:
        ImageReadError: an image cannot be read; the message names it.
        StoreError: the embedder is not the store's model.
    """
    if embedder.digest != store.model_digest:
        raise StoreError(
            f"the store holds vectors of model {store.model_digest[:12]}; it cannot be calibrated "
            f"for model {embedder.digest[:12]}"
        )
    encode = TorchEncoder(embedder) if encoder is None else encoder
    known = list(_seen(encode, _sample(archive.frame, "archive"), "archive", progress))
    frame = _sample(validation.frame, "validation")
    held_out = list(_seen(encode, frame, "validation", progress))
    calibration = ArchiveCalibration(
        QualityLimits.fit(
            [seen.quality for seen in (*known, *held_out)], int(embedder.preprocess["size"])
        ),
        Familiarity.fit([seen.look for seen in known], [seen.look for seen in held_out]),
        _probability(store, frame, [seen.encoded.vector for seen in held_out]),
    )
    for name in ("familiarity", "probability"):
        if getattr(calibration, name) is None:
            _log.warning(
                "no %s: too few validation cases for it (%d), or they tell nothing",
                name,
                len(frame),
            )
    store.set_calibration(calibration.to_dict(embedder.digest))
    return calibration


def malignant_score(ranking: Ranking, malignant: frozenset[str]) -> float | None:
    """The log-odds of the malignant share among the nearest distinct cases; None without any."""
    hits = ranking.nearest(VOTERS)
    if not hits:
        return None
    chosen = sum(not malignant.isdisjoint(hit.labels) for hit in hits)
    return float(share_score(chosen, len(hits)))


class _Seen(NamedTuple):
    encoded: Encoded
    look: Look
    quality: Quality


def _seen(encode: Encoder, frame: pd.DataFrame, name: str, progress: bool) -> Iterator[_Seen]:
    sides = frame["eye"].tolist() if "eye" in frame else [""] * len(frame)
    images = ahead(read_image, frame["image"].tolist(), workers=2, depth=16)
    shown = tqdm(images, total=len(frame), desc=f"calibrating on {name}", disable=not progress)
    for pixels, side in zip(shown, sides, strict=True):
        encoded = encode(pixels, side)
        yield _Seen(encoded, Look(encoded.pooled, colours_of(pixels)), quality_of(pixels))


def _sample(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """All rows, or as many as are read, drawn with a fixed seed."""
    return frame if len(frame) <= _MOST[name] else frame.sample(_MOST[name], random_state=0)


def _probability(
    store: CaseStore, frame: pd.DataFrame, vectors: list[np.ndarray]
) -> LogOddsCalibration | None:
    search = ExactSearch(store)
    rankings = (
        # Its own group cannot vote, should the archive hold it after all.
        search.rank(vector, exclude_groups=[group])
        for vector, group in zip(vectors, frame["group"], strict=True)
    )
    scores = [malignant_score(ranking, store.malignant) for ranking in rankings]
    if not scores or None in scores:
        return None
    positive = np.array([not store.malignant.isdisjoint(s) for s in frame["labels"]])
    return LogOddsCalibration.fit(
        np.array(scores, dtype=np.float64),
        positive,
        frame["group"].to_numpy(),
        rng=np.random.default_rng(0),
    )
