"""A network, a loss and a loader small enough to train in a test."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from medshadow.data import CaseTable
from medshadow.networks import Backbone, Embedder


class SmallNet(nn.Module):
    """Convolutions, a batch norm and a dropout: whatever has a state or a chance to resume."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Conv2d(8, 16, 3, 2, 1),
        )

    def forward(self, images):
        return self.layers(images)


@pytest.fixture(scope="session")
def make_embedder():
    def make():
        torch.manual_seed(1)
        return Embedder(
            Backbone("small", SmallNet()), 8, preprocess={"preset": "dermatology", "size": 32}
        )

    return make


@pytest.fixture(scope="session")
def colour_cases(tmp_path_factory):
    """Three classes of noisy colour, two images a lesion, all in the training section."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    rows = []
    for label, colour in {
        "red": (200, 60, 60),
        "green": (60, 200, 60),
        "blue": (60, 60, 200),
    }.items():
        for lesion in range(6):
            for image in range(2):
                name = f"{label}{lesion}{image}"
                pixels = rng.normal(colour, 60, (40, 48, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}.png")
                rows.append(
                    (name, str(folder / f"{name}.png"), f"{label}{lesion}", label, "training")
                )
    frame = pd.DataFrame(rows, columns=["case_id", "image", "group", "label", "section"])
    return CaseTable(frame, name="colours")
