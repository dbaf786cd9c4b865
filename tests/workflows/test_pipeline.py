"""What the whole way leaves behind, on phantoms; every test here reads one run's output folder."""

import json
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from medshadow.data import ham10k_cases
from medshadow.data.splits import leakage, load_split
from medshadow.errors import DataError, MedShadowError, TrackingError
from medshadow.evaluation import EmbeddedCases, diagnose
from medshadow.networks import Embedder
from medshadow.retrieval import CaseStore, encode_cases
from medshadow.workflows import OutputFolder, run_config

pytestmark = pytest.mark.slow


def test_output_folder_holds_what_is_promised(finished_run):
    out, _ = finished_run
    promised = {
        "model",
        "splits.csv",
        "metrics.json",
        "figures",
        "cases.db",
        "mlflow.db",
        "audit.json",
    }
    assert promised <= {p.name for p in out.iterdir()}
    assert {"tsne.png", "confusion.png", "contact_sheet.png", "lookup.png", "training.png"} <= {
        p.name for p in (out / "figures").iterdir()
    }


def test_split_is_lesion_disjoint_with_duplicates_merged(finished_run, phantoms):
    out, _ = finished_run
    frame = pd.read_csv(out / "splits.csv", keep_default_na=False)
    assert list(frame.columns) == ["case_id", "group", "label", "section"]
    assert frame.groupby("group")["section"].nunique().max() == 1
    same = json.loads((out / "audit.json").read_text())["same_file"]
    assert len(same) == 1
    pair = frame[frame["case_id"].isin(same[0])]
    assert pair["group"].nunique() == 1
    assert leakage(load_split(ham10k_cases(phantoms), out / "splits.csv")).empty


def test_metrics_are_those_of_the_saved_model_and_split(finished_run, phantoms):
    out, _ = finished_run
    table = load_split(ham10k_cases(phantoms), out / "splits.csv")
    embedder = Embedder.load(out / "model")
    gallery, queries = (
        EmbeddedCases(encode_cases(embedder, cases, views=views, progress=False), cases.frame)
        for cases, views in ((table.section("training"), 1), (table.section("test"), 4))
    )
    expected = diagnose(gallery, queries, malignant=table.malignant, bootstrap=0).metrics
    stored = json.loads((out / "metrics.json").read_text())
    for name, value in expected.items():
        assert stored[f"test/{name}"] == pytest.approx(value, abs=1e-4), name
    for who in ("test", "frozen", "majority"):
        for name in ("recall_at_1", "knn16_balanced_accuracy", "malignancy_auc_16"):
            assert 0 <= stored[f"{who}/{name}"] <= 1
    assert stored["test/recall_at_1_low"] <= stored["test/recall_at_1"]
    assert "test/knn16_sensitivity_mel" in stored


def test_store_holds_the_training_section_and_its_vectors(finished_run, phantoms):
    out, _ = finished_run
    frame = pd.read_csv(out / "splits.csv", keep_default_na=False)
    with CaseStore(out / "cases.db") as store:
        assert set(store.frame()["case_id"]) == set(
            frame[frame["section"] == "training"]["case_id"]
        )
        assert store.verify() == []
        assert store.model_digest == Embedder.load(out / "model").digest


def test_example_lookup_shows_a_malignant_case_and_never_its_own_lesion(finished_run):
    out, summary = finished_run
    frame = pd.read_csv(out / "splits.csv", keep_default_na=False).set_index("case_id")
    answer = summary.answer
    assert len(answer.hits) == 16
    assert len({hit.group for hit in answer.hits}) == 16
    assert answer.nearest_malignant is not None
    assert all(frame.loc[hit.case_id, "section"] == "training" for hit in answer.hits)


def test_mlflow_holds_the_run(finished_run):
    out, summary = finished_run
    client = mlflow.MlflowClient(summary.tracking_uri)
    run = client.get_run(summary.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["data/name"] == "phantoms"
    assert len(run.data.params["data/digest"]) == 64
    assert run.data.params["seed"] == "1"
    assert run.data.params["final_heads"] == "1"
    assert len(run.data.tags["medshadow.commit"]) >= 12
    assert [m.step for m in client.get_metric_history(summary.run_id, "train/loss")] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    for name in ("train/active_fraction", "train/learning_rate", "train/gradient_norm"):
        assert len(client.get_metric_history(summary.run_id, name)) == 6
    assert len(client.get_metric_history(summary.run_id, "validation/map_at_r")) == 2
    stored = json.loads((out / "metrics.json").read_text())
    assert run.data.metrics["test/recall_at_1"] == pytest.approx(
        stored["test/recall_at_1"], abs=1e-5
    )
    kept = {f.path for f in client.list_artifacts(summary.run_id)}
    assert {
        "splits.csv",
        "audit.json",
        "config.yaml",
        "versions.json",
        "metrics.json",
        "figures",
        "model",
    } <= kept
    figures = {f.path for f in client.list_artifacts(summary.run_id, "figures")}
    assert "figures/training.png" in figures
    assert (out / "mlartifacts").is_dir()


def test_configuration_is_recorded_resolved_and_without_places(finished_run, phantoms, tmp_path):
    out, summary = finished_run
    text = (out / "config.yaml").read_text()
    assert str(phantoms) not in text
    assert str(out) not in text
    recorded = yaml.safe_load(text)
    assert recorded["max_epochs"] == recorded["trainer"]["max_epochs"] == 2
    assert recorded["scheduler"]["steps"] == 6
    assert recorded["loader"]["transform"]["size"] == 64
    assert recorded["pipeline"]["parameters"]["final_whitening"] == 1.0
    assert recorded["pipeline"]["diagnosis_names"]["mel"] == "melanoma"
    assert recorded["trainer"]["embedder"] == "@embedder"
    assert recorded["embedder"]["_target_"] == "medshadow.networks.Embedder"
    logged = mlflow.MlflowClient(summary.tracking_uri).download_artifacts(
        summary.run_id, "config.yaml", tmp_path
    )
    assert Path(logged).read_text() == text


def test_no_file_path_reaches_the_tracking_database_or_the_store(finished_run, phantoms):
    out, _ = finished_run
    for name in ("mlflow.db", "cases.db"):
        assert str(phantoms).encode() not in (out / name).read_bytes(), name


def test_second_run_asks_first(finished_run, small):
    out, _ = finished_run
    with pytest.raises(MedShadowError, match="--resume"):
        run_config("dermatology", output_dir=str(out), **small)
    with pytest.raises(MedShadowError, match="exclude"):
        OutputFolder(out, resume=True, overwrite=True)


def test_resuming_a_finished_run_gives_the_same_figures(finished_run, phantoms, tmp_path, small):
    out, _ = finished_run
    copy = tmp_path / "copy"
    shutil.copytree(out, copy, ignore=shutil.ignore_patterns("mlflow*", "mlartifacts"))
    run_config("dermatology", data_dir=str(phantoms), output_dir=str(copy), resume=True, **small)
    before, after = (json.loads((p / "metrics.json").read_text()) for p in (out, copy))
    assert before == pytest.approx(after, abs=1e-6, nan_ok=True)


def test_overwrite_replaces_results_and_leaves_other_files(finished_run, tmp_path):
    out, _ = finished_run
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "notes.txt").write_text("mine")
    OutputFolder(copy, overwrite=True)
    assert {p.name for p in copy.iterdir()} == {"notes.txt", "mlflow.db", "mlartifacts"}


# MONAI warns that a configuration runs code; this one is ours.
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_monai_runs_the_same_configuration(phantoms, tmp_path, small, finished_run, capsys):
    from monai.bundle import run

    from medshadow.workflows.configuration import _first_cause, find_config

    out = tmp_path / "bundle"
    how = {"run_id": "run", "config_file": str(find_config("dermatology")), **small}
    run(data_dir=str(phantoms), output_dir=str(out), **how)
    expected = json.loads((finished_run[0] / "metrics.json").read_text())
    found = json.loads((out / "metrics.json").read_text())
    assert found == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert (out / "config.yaml").read_text() == (finished_run[0] / "config.yaml").read_text()
    shown = capsys.readouterr().out
    assert "silhouette" in shown
    assert "medshadow serve" in shown.replace("\n", "")
    with pytest.raises(RuntimeError) as caught:  # before it looks for the data
        run(data_dir=str(tmp_path / "nowhere"), output_dir=str(out), **how)
    assert "pass --resume to go on" in str(_first_cause(caught.value))


def test_a_start_that_fails_on_its_data_leaves_nothing_to_overwrite(tmp_path, small):
    for _ in range(2):
        with pytest.raises(DataError, match="nowhere"):
            run_config(
                "dermatology",
                data_dir=str(tmp_path / "nowhere"),
                output_dir=str(tmp_path / "out"),
                **small,
            )


def test_tracking_server_is_checked_before_any_work(phantoms, tmp_path, small, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
        run_config("dermatology", data_dir=str(phantoms), output_dir=str(tmp_path / "out"), **small)
    assert not (tmp_path / "out" / "audit.json").exists()


def test_unreadable_image_is_named_or_left_out_by_name(phantoms, tmp_path, small):
    from medshadow.workflows import prepare_cases

    data = tmp_path / "data"
    shutil.copytree(phantoms, data)
    victim = next(data.glob("*/ISIC_PHANTOM00007.jpg"))
    victim.write_bytes(victim.read_bytes()[:500])
    cases = ham10k_cases(data)
    with pytest.raises(DataError, match="ISIC_PHANTOM00007"):
        prepare_cases(cases, OutputFolder(tmp_path / "a"), small["fractions"], progress=False)
    table = prepare_cases(
        cases, OutputFolder(tmp_path / "b"), small["fractions"], on_error="skip", progress=False
    )
    assert "ISIC_PHANTOM00007" not in set(table.frame["case_id"])
    assert [gone.case_id for gone in table.left_out] == ["ISIC_PHANTOM00007"]


def test_keys_that_are_not_there_cannot_be_set(tmp_path):
    with pytest.raises(DataError, match="'epochs'"):
        run_config("dermatology", output_dir=str(tmp_path), epochs=3)
    with pytest.raises(FileNotFoundError, match="dermatology"):
        run_config("no-such-config")


def test_figures_are_pictures_with_content(finished_run):
    out, _ = finished_run
    for path in (out / "figures").glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert min(pixels.shape) > 200, path.name
        assert pixels.std() > 5, path.name


def test_the_store_is_calibrated_on_the_validation_section(finished_run):
    out, summary = finished_run
    split = pd.read_csv(out / "splits.csv", keep_default_na=False)
    with CaseStore(out / "cases.db") as store:
        assert not set(split[split["section"] == "validation"]["group"]) & set(
            store.frame()["group"]
        )
        assert store.calibration["model_digest"] == store.model_digest
        assert store.calibration["quality"]["shorter_side"] > 0
    assert summary.answer.to_dict()["archive"]["source"] == store.source
