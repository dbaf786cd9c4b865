"""Validation between epochs: how well the validation section retrieves itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medshadow.data.cases import CaseTable
from medshadow.evaluation import EmbeddedCases, diagnose
from medshadow.retrieval.encode import encode_cases

if TYPE_CHECKING:
    from medshadow.networks import Embedder


class RetrievalValidation:
    """Retrieval metrics of the validation section against itself, each query's own group excluded.

    The gallery is small, so the figures lie below those of the test section against the training
    section; they serve to compare epochs. Of a multi-label table they are those that
    :func:`medshadow.evaluation.diagnose` gives of label sets.

    Args:
        table: a table with sections.
    """

    def __init__(self, table: CaseTable) -> None:
        self._cases = table.section("validation")

    def __call__(self, embedder: Embedder) -> dict[str, float]:
        """Metrics by name."""
        embeddings = encode_cases(embedder, self._cases, progress=False)
        cases = EmbeddedCases(embeddings, self._cases.frame)
        table = self._cases
        return diagnose(
            cases, cases, malignant=table.malignant, healthy=table.healthy, bootstrap=0
        ).metrics
