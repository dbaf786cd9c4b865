"""HAM10000 as a data set in sections, and the real one."""

import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medshadow.data.ham10k import DIAGNOSES, ham10k_cases
from medshadow.errors import DataError


def test_finding_cases_does_not_import_monai():
    code = (
        "import sys; from medshadow.data.ham10k import ham10k_cases; print('monai' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.fixture
def many(tmp_path, ham):
    """Forty lesions of two images; the first images of lesions 0 and 1 are the same file."""
    ids = [f"ISIC_{i:07d}" for i in range(80)]
    ham.draw(tmp_path / "images", ids)
    shutil.copy(tmp_path / "images" / f"{ids[0]}.jpg", tmp_path / "images" / f"{ids[2]}.jpg")
    pd.DataFrame(
        {
            "lesion_id": [f"HAM_{i // 2:07d}" for i in range(80)],
            "image_id": ids,
            "dx": ["nv"] * 60 + ["mel"] * 20,
        }
    ).to_csv(tmp_path / "HAM10000_metadata.csv", index=False)
    return tmp_path


def test_dataset_sections_share_no_lesion_and_hold_everything(many):
    from medshadow.data.ham10k_dataset import HAM10KDataset

    parts = {
        name: HAM10KDataset(many, name, progress=False, seed=3)
        for name in ("training", "validation", "test")
    }
    groups = [set(part.table.frame["group"]) for part in parts.values()]
    assert len(set.union(*groups)) == sum(len(names) for names in groups) == 39
    assert sum(len(part) for part in parts.values()) == 80
    assert len(parts["training"]) == pytest.approx(56, abs=4)
    assert len(parts["test"]) == pytest.approx(16, abs=4)
    merged = pd.concat([part.table.frame for part in parts.values()]).set_index("case_id")
    assert merged.loc["ISIC_0000000", "group"] == merged.loc["ISIC_0000003", "group"]
    for part in parts.values():
        assert part.get_num_classes() == 2
        for position, row in enumerate(part.table.frame.itertuples()):
            assert part[position]["label"] == ["mel", "nv"].index(row.label)
            assert part[position]["case_id"] == row.case_id


def test_dataset_loads_images_channel_first_by_default(many):
    from medshadow.data.ham10k_dataset import HAM10KDataset

    part = HAM10KDataset(many, "test", progress=False, val_frac=0.2, test_frac=0.4)
    assert tuple(part[0]["image"].shape) == (3, 3, 4)
    assert len(part) == pytest.approx(32, abs=4)
    with Image.open(part.table.frame["image"][0]) as image:
        expected = np.asarray(image).transpose(2, 0, 1)
    np.testing.assert_array_equal(part[0]["image"].numpy(), expected)


def test_dataset_leaves_unreadable_images_out_on_request(many):
    from medshadow.data.ham10k_dataset import HAM10KDataset

    (many / "images" / "ISIC_0000010.jpg").write_bytes(b"not an image")
    with pytest.raises(DataError, match="ISIC_0000010"):
        HAM10KDataset(many, "training", progress=False)
    part = HAM10KDataset(many, "training", progress=False, on_error="skip")
    assert [gone.case_id for gone in part.table.left_out] == ["ISIC_0000010"]


def test_dataset_audits_again_only_when_a_file_has_changed(many, ham, monkeypatch):
    from medshadow.data import ham10k_dataset, section_dataset

    calls = []
    plain = section_dataset.audit
    monkeypatch.setattr(section_dataset, "audit", lambda *a, **k: calls.append(1) or plain(*a, **k))
    for section in ("training", "test"):
        ham10k_dataset.HAM10KDataset(many, section, progress=False, cache_rate=0)
    assert len(calls) == 1
    ham.draw(many / "images", ["ISIC_0000002"])
    ham10k_dataset.HAM10KDataset(many, "test", progress=False, cache_rate=0)
    assert len(calls) == 2


def test_dataset_refuses_an_unknown_section(many):
    from medshadow.data.ham10k_dataset import HAM10KDataset

    with pytest.raises(DataError, match="found 'train'; expected one of"):
        HAM10KDataset(many, "train")


@pytest.mark.real_data
def test_real_ham10000_has_the_published_counts(ham10000_root):
    table = ham10k_cases(ham10000_root)
    assert len(table) == 10_015
    assert table.frame["group"].nunique() == 7_470
    assert table.frame["label"].value_counts().to_dict() == {
        "nv": 6705,
        "mel": 1113,
        "bkl": 1099,
        "bcc": 514,
        "akiec": 327,
        "vasc": 142,
        "df": 115,
    }
    assert set(DIAGNOSES) == set(table.classes)
    assert table.frame["age"].isna().sum() == 57
    assert table.frame["dx_type"].value_counts().to_dict() == {
        "histo": 5340,
        "follow_up": 3704,
        "consensus": 902,
        "confocal": 69,
    }
