"""The output folder: the same names for every data set, never overwritten unasked."""

from __future__ import annotations

import shutil
from pathlib import Path

from medshadow.errors import MedShadowError
from medshadow.tracking import check_tracking, tracking_uri
from medshadow.training.distributed import check_joined, from_first_rank

# What a run leaves behind once it has begun; a start that failed on its data leaves none of it.
RESULTS = (
    *("audit.json", "splits.csv", "config.yaml", "metrics.json", "mlflow_run_id.txt"),
    *("model", "figures", "checkpoints"),
    *("cases.db", "cases.db-wal", "cases.db-shm", "cases.db.vectors", "cases.db.vectors.lock"),
)


class OutputFolder:
    """Where a run writes: opened before any work, so that nothing is lost or begun in vain.

    Of several ranks the first opens it, and it alone writes there.

    Args:
        path: the folder, made if need be.
        resume: go on with the run in it.
        overwrite: delete what an earlier run wrote there; MLflow's history and other files stay.

    Raises:
        MedShadowError: the folder holds an earlier run and neither was asked for, or both were.
        TrackingError: the MLflow server that the run would report to does not answer.
        ValueError: torchrun started several processes that would all write there, as one each.
    """

    def __init__(self, path: str | Path, resume: bool = False, overwrite: bool = False) -> None:
        check_joined()
        self.path = Path(path)
        self.resume = from_first_rank(lambda: self._open(resume, overwrite))

    def _open(self, resume: bool, overwrite: bool) -> bool:
        """Check the folder and make it ready; returns whether there is a run to go on with."""
        if resume and overwrite:
            raise MedShadowError("--resume and --overwrite exclude each other")
        if self.path.exists() and not self.path.is_dir():
            raise MedShadowError(f"{self.path}: the output must be a folder; found a file")
        found = [name for name in RESULTS if (self.path / name).exists()]
        if found and not (resume or overwrite):
            raise MedShadowError(
                f"{self.path} holds an earlier run ({', '.join(found[:4])}): pass --resume to go "
                "on with it, --overwrite to replace it, or another output folder"
            )
        self.path.mkdir(parents=True, exist_ok=True)  # for a database in it
        check_tracking(tracking_uri(self.path))
        if overwrite:
            _delete(self.path, found)
        return resume and bool(found)

    @property
    def audit(self) -> Path:
        """What the audit found."""
        return self.path / "audit.json"

    @property
    def splits(self) -> Path:
        """Case id, group, label and section of every case."""
        return self.path / "splits.csv"

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """Every figure of the run, flat."""
        return self.path / "metrics.json"

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.path / "model"

    @property
    def figures(self) -> Path:
        """Pictures."""
        return self.path / "figures"

    @property
    def checkpoints(self) -> Path:
        """What training resumes from."""
        return self.path / "checkpoints"

    @property
    def cases(self) -> Path:
        """The case store."""
        return self.path / "cases.db"


def _delete(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
