"""Validation between epochs of a table of label sets."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medshadow.data import CaseTable
from medshadow.evaluation import EmbeddedCases, diagnose
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import encode_cases
from medshadow.workflows import RetrievalValidation


@pytest.fixture
def table(tmp_path):
    """Eight eyes of four patients in two sections."""
    sets = [{"D"}, {"D", "H"}, {"N"}, {"N"}, {"O"}, {"H"}, {"D"}, {"N"}]
    rng = np.random.default_rng(0)
    rows = []
    for at, labels in enumerate(sets):
        path = tmp_path / f"{at}.png"
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
        rows.append(
            {
                "case_id": f"c{at}",
                "image": str(path),
                "group": str(at // 2),
                "label": max(labels),
                "labels": labels,
                "findings": {"O: scar"} if labels == {"O"} else labels,
                "section": "training" if at > 5 else "validation",
            }
        )
    triage = {"malignant": frozenset({"D"}), "healthy": frozenset({"N"})}
    return CaseTable(pd.DataFrame(rows), **triage)


def test_metrics_are_those_of_the_validation_section_with_its_label_sets(table):
    torch.manual_seed(0)
    embedder = Embedder(
        Backbone("small", torch.nn.Conv2d(3, 4, 3)),
        embedding_dim=6,
        preprocess={"preset": "dermatology", "size": 32},
    ).eval()
    found = RetrievalValidation(table)(embedder)
    section = table.section("validation")
    cases = EmbeddedCases(encode_cases(embedder, section, progress=False), section.frame)
    expected = diagnose(cases, cases, malignant={"D"}, healthy={"N"}, bootstrap=0).metrics
    assert found == pytest.approx(expected, abs=1e-6)
    wanted = {"map_at_r", "map_at_r_macro", "diseased_recall_at_1", "exact_set_at_1",
              "recall_at_1_H", "malignancy_auc_16"}  # fmt: skip
    assert wanted <= set(found)
