"""A network, a loss and a loader small enough to train in a test."""

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events
from PIL import Image
from torch import nn

from medshadow.data import CaseTable, ham10k_cases, write_phantoms
from medshadow.losses import ShadowLoss
from medshadow.networks import Backbone, Embedder
from medshadow.training import MetricTrainer, Probe, adamw, training_loader
from medshadow.transforms import dermatology_transforms


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


class ProxyLoss(nn.Module):
    """A loss with parameters of its own."""

    def __init__(self, classes=3):
        super().__init__()
        self.proxies = nn.Parameter(torch.linspace(-1, 1, classes * 8).reshape(classes, 8).sin())
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, embeddings, labels):
        return nn.functional.cross_entropy(5 * embeddings @ self.proxies.T, labels)


@pytest.fixture(scope="session")
def make_proxy_loss():
    return ProxyLoss


@pytest.fixture(scope="session")
def lesion_cases(tmp_path_factory):
    """Drawn lesions of seven classes, all in the training section."""
    root = write_phantoms(tmp_path_factory.mktemp("lesions"), lesions=100, progress=False)
    table = ham10k_cases(root)
    return CaseTable(table.frame.assign(section="training"), name="lesions")


@pytest.fixture(scope="module")
def lesion_probe(lesion_cases):
    """Forget what it measured before each training: steps are counted anew."""
    return Probe(lesion_cases, section="training", images_per_class=12)


@pytest.fixture(scope="session")
def make_lesion_trainer(make_embedder, lesion_cases, tmp_path_factory):
    """A training without warm-up; with ``batch_hard`` and this rate it collapses."""
    root = tmp_path_factory.mktemp("runs")

    def make(
        folder, *, epochs=8, rate=0.1, loss=None, schedule=None, K=12, batches=10, cases=None,
        embedder=None, **settings
    ):  # fmt: skip
        embedder = embedder or make_embedder()
        loader = training_loader(
            lesion_cases if cases is None else cases,
            dermatology_transforms(32, train=False),
            images_per_class=K,
            batches_per_epoch=batches,
            progress=False,
        )
        optimizer = adamw(embedder, rate, rate)
        trainer = MetricTrainer(
            embedder,
            ShadowLoss(mining="batch_hard") if loss is None else loss,
            loader,
            optimizer,
            scheduler=schedule and schedule(optimizer, 30),
            max_epochs=epochs,
            checkpoints=root / folder,
            progress=False,
            precision="float32",
            **settings,
        )
        trainer.losses, trainer.curves, trainer.rates, trainer.minings = [], [], [], []

        def before(_):
            trainer.rates.append([group["lr"] for group in optimizer.param_groups])

        def after(engine):
            trainer.losses.append(engine.state.output["loss"])
            trainer.minings.append(
                getattr(getattr(trainer.loss, "loss", trainer.loss), "mining", None)
            )

        trainer.engine.add_event_handler(Events.ITERATION_STARTED, before)
        trainer.engine.add_event_handler(Events.ITERATION_COMPLETED, after)
        trainer.engine.add_event_handler(
            Events.EPOCH_COMPLETED, lambda e: trainer.curves.append(dict(e.state.metrics))
        )
        return trainer

    return make
