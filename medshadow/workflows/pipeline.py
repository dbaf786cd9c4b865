"""The whole way for one data set: frozen baseline, training, diagnostics, index, one lookup."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pandas as pd

from medshadow.data.cases import CaseTable
from medshadow.evaluation import Diagnostics, EmbeddedCases, diagnose
from medshadow.networks import Embedder
from medshadow.retrieval import CaseLookup, contact_sheet
from medshadow.tracking import TrackedRun
from medshadow.training import FinalHead, MetricTrainer
from medshadow.training.distributed import rank_and_world_size
from medshadow.workflows import evaluation as ev
from medshadow.workflows.building import build_store
from medshadow.workflows.output import OutputFolder
from medshadow.workflows.preparation import data_digest
from medshadow.workflows.resolution import running_configuration
from medshadow.workflows.summary import Summary

logger = logging.getLogger(__name__)


class Pipeline:
    """From prepared cases to a model folder, its figures beside the baselines', and a case store.

    Everything is written to the output folder and told to MLflow. The store holds the training
    section, so that a test case looked up in it is new to the model and to the store alike. Of
    several ranks the others take part in the training alone.

    Args:
        table: cases with sections, as :func:`~medshadow.workflows.prepare_cases` gives them.
        trainer: trains the embedder.
        output: the output folder.
        experiment: name of the MLflow experiment.
        parameters: settings to record with the run.
        diagnosis_names: label to diagnosis in words.
        bootstrap: resamples for the intervals.
        final_head: how the last layer is fitted after training; see
            :func:`~medshadow.training.fit_final_head`.
    """

    def __init__(
        self,
        table: CaseTable,
        trainer: MetricTrainer,
        output: OutputFolder,
        *,
        experiment: str,
        parameters: Mapping[str, Any],
        diagnosis_names: Mapping[str, str] | None = None,
        bootstrap: int = 1000,
        final_head: FinalHead | None = None,
    ) -> None:
        self.table, self.trainer, self.output = table, trainer, output
        self._experiment, self._parameters = experiment, dict(parameters)
        self._diagnosis_names, self._bootstrap = diagnosis_names, bootstrap
        self._final_head = final_head

    def run(self) -> Summary | None:
        """Do the whole way.

        Returns:
            What was found, ready to print; None on all ranks but the first.

        Raises:
            KeyboardInterrupt: stopped by the user; ``--resume`` goes on from there.
        """
        if rank_and_world_size()[0] > 0:
            self.trainer.run(resume=self.output.resume)
            return None
        with TrackedRun(self.output.path, self._experiment, self.output.resume) as tracked:
            self._record_settings(tracked)
            metrics = self._baselines()
            tracked.watch(self.trainer)
            embedder = self.trainer.run(resume=self.output.resume)
            gallery = ev.finished_gallery(self.trainer, self.table, self._final_head)
            embedder.save(self.output.model)
            ev.save_curves(self.trainer, self.output.figures)
            diagnostics = self._diagnose(embedder, gallery)
            metrics |= ev.flat_metrics("test", diagnostics)
            ev.write_metrics(self.output.metrics, metrics)
            tracked.metrics(metrics, step=0)
            ev.save_figures(diagnostics, self.output.figures)
            answer = self._index_and_look_up(embedder, gallery)
            tracked.artifacts([self.output.metrics, self.output.figures, self.output.model])
        return Summary(self.output, metrics, answer, tracked.uri, tracked.run_id)

    def _record_settings(self, tracked: TrackedRun) -> None:
        data = {
            "data/name": self.table.name,
            "data/digest": data_digest(self.table, self.output),
            "data/cases": len(self.table),
            "data/left_out": len(self.table.left_out),
            "precision": str(self.trainer.dtype).removeprefix("torch."),
            "device": str(self.trainer.device),
            "ranks": rank_and_world_size()[1],
        }
        tracked.parameters({**data, **self._parameters})
        written = [self.output.splits, self.output.audit]
        tracked.artifacts([path for path in written if path.is_file()])
        configuration = running_configuration()
        if configuration is not None:
            self.output.config.write_text(configuration)
            tracked.artifacts([self.output.config])

    def _baselines(self) -> dict[str, float]:
        """The frozen backbone's and the majority class's figures, kept for a resumed run."""
        known = ev.read_metrics(self.output.metrics)
        if any(name.startswith("frozen/") for name in known):
            return {k: v for k, v in known.items() if not k.startswith("test/")}
        logger.info("encoding with the frozen backbone, for comparison")
        metrics = ev.baselines(self.trainer.embedder, self.table, bootstrap=self._bootstrap)
        ev.write_metrics(self.output.metrics, metrics)
        return metrics

    def _diagnose(self, embedder: Embedder, gallery: EmbeddedCases) -> Diagnostics:
        return diagnose(
            gallery,
            ev.embed_section(embedder, self.table, "test"),
            malignant=self.table.malignant,
            malignant_word=self.table.malignant_word,
            healthy=self.table.healthy,
            bootstrap=self._bootstrap,
            image_of=ev.image_of(self.table),
        )

    def _index_and_look_up(self, embedder: Embedder, gallery: EmbeddedCases) -> Any:
        for leftover in self.output.path.glob("cases.db*"):
            leftover.unlink()  # of a run that was stopped after training
        store = build_store(
            embedder,
            self.table.section("training"),
            self.output.cases,
            diagnosis_names=self._diagnosis_names,
            embeddings=gallery.embeddings,
            validation=_validation(self.table),
        )
        with store:
            query = _example_query(self.table)
            image = ev.image_of(self.table)(query["case_id"])
            answer = CaseLookup(store, embedder).lookup(image, laterality=query.get("eye"))
            figure = contact_sheet(answer, image, store.image_of)
            figure.savefig(self.output.figures / "lookup.png", dpi=120, bbox_inches="tight")
        return answer


def _validation(table: CaseTable) -> CaseTable | None:
    """The validation section; None where the split has none."""
    if "validation" not in set(table.frame["section"]):
        return None
    return table.section("validation")


def _example_query(table: CaseTable) -> pd.Series:
    """The row of the first test case that carries a malignant label (or of any), by case id."""
    frame = table.section("test").frame.sort_values("case_id")
    malignant = frame[[not table.malignant.isdisjoint(labels) for labels in frame["labels"]]]
    return (malignant if len(malignant) else frame).iloc[0]
