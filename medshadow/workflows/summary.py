"""What a pipeline found, as people read it at its end."""

from __future__ import annotations

import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from medshadow.workflows.output import OutputFolder
from medshadow.workflows.tables import print_answer

if TYPE_CHECKING:
    from medshadow.retrieval.lookup import LookupAnswer

HEADLINES = {
    "recall_at_1": "recall@1",
    "precision_at_16": "precision@16",
    "map_at_r": "mAP@R",
    "knn16_accuracy": "16-NN vote, accuracy",
    "knn16_balanced_accuracy": "16-NN vote, balanced accuracy",
    "knn16_sensitivity_mel": "16-NN vote, melanoma sensitivity",
    "malignancy_auc_16": "malignancy AUC, share of 16",
    "silhouette": "silhouette",
    "effective_rank": "effective rank",
}

HEADLINES_OF_LABEL_SETS = {
    "recall_at_1": "recall@1, a finding shared",
    "diseased_recall_at_1": "recall@1 among the diseased",
    "exact_set_at_1": "exact label set at 1",
    "precision_at_16": "precision@16",
    "map_at_r": "mAP@R",
    "map_at_r_macro": "mAP@R, mean over labels",
    "malignancy_auc_16": "triage AUC, share of 16",
    "effective_rank": "effective rank",
}


@dataclass(frozen=True)
class Summary:
    """The end of a pipeline: metrics beside the baselines', a lookup, and where everything is.

    Args:
        output: the output folder.
        metrics: flat, ``test/...``, ``frozen/...`` and ``majority/...``.
        answer: the lookup of one test case.
        tracking_uri: where the MLflow run is.
        run_id: its id.
    """

    output: OutputFolder
    metrics: dict[str, float]
    answer: LookupAnswer
    tracking_uri: str
    run_id: str

    def print(self, console: Console | None = None) -> None:
        """Print it."""
        console = console or Console()
        console.print(self.metrics_table())
        print_answer(self.answer, console)
        console.print(f"MLflow run   {self.run_id}", highlight=False, soft_wrap=True)
        console.print(
            f"             mlflow ui --backend-store-uri {self.tracking_uri}",
            highlight=False,
            soft_wrap=True,
        )
        for what, path in (
            ("figures", self.output.figures),
            ("lookup sheet", self.output.figures / "lookup.png"),
            ("model", self.output.model),
            ("case store", self.output.cases),
            ("metrics", self.output.metrics),
        ):
            console.print(f"{what:<12} {path}", highlight=False, soft_wrap=True)
        console.print(f"look it up   {self.serve_command()}", highlight=False, soft_wrap=True)
        console.print("             then open http://127.0.0.1:8000 in a browser", highlight=False)

    def serve_command(self) -> str:
        """The command line that serves this run's index to a browser on this machine."""
        words = ["serve", "--cases", str(self.output.cases), "--model", str(self.output.model)]
        return shlex.join([_own_command(), *words, "--insecure-local"])

    def metrics_table(self) -> Table:
        """The headline figures: majority class, frozen backbone, trained with 95 % interval.

        The rows follow the table: cases of one label each, or of label sets.
        """
        several = "test/exact_set_at_1" in self.metrics
        own = "patient" if several else "lesion"
        table = Table(title=f"Test queries against the training section, own {own} excluded")
        table.add_column("metric")
        for name in ("majority class", "frozen backbone", "trained", "95 % interval"):
            table.add_column(name, justify="right")
        for name, words in (HEADLINES_OF_LABEL_SETS if several else HEADLINES).items():
            if f"test/{name}" in self.metrics:
                shown = [self._number(f"{who}/{name}") for who in ("majority", "frozen", "test")]
                low, high = self._number(f"test/{name}_low"), self._number(f"test/{name}_high")
                table.add_row(words, *shown, f"{low} to {high}" if low else "")
        return table

    def _number(self, name: str) -> str:
        value = self.metrics.get(name)
        return "" if value is None else f"{value:.3f}"


def _own_command() -> str:
    """How this program was called where it is ``medshadow``; that may be in no searched folder."""
    called = sys.argv[0]
    there = Path(called).name == "medshadow" and shutil.which("medshadow") is None
    return called if there else "medshadow"
