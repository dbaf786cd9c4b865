"""A small HAM10000 of four lesions, two images each."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medshadow.data.ham10k import MALIGNANT

IDS = [f"ISIC_{i:07d}" for i in range(24306, 24306 + 8)]
METADATA = pd.DataFrame(
    {
        "lesion_id": [f"HAM_{i // 2:07d}" for i in range(8)],
        "image_id": IDS,
        "dx": ["nv", "nv", "mel", "mel", "bcc", "bcc", "df", "df"],
        "dx_type": ["histo", "follow_up", "histo", "histo"] * 2,
        "age": ["45.0", "", "0.0", "80"] * 2,
        "sex": ["male", "female", "unknown", ""] * 2,
        "localization": ["back", "face", "unknown", "scalp"] * 2,
    }
)


class SmallHam:
    """Metadata in the layouts of HAM10000, and images of noise."""

    ids = IDS
    metadata = METADATA

    @staticmethod
    def draw(folder, ids):
        folder.mkdir(parents=True, exist_ok=True)
        for image_id in ids:
            shade = np.random.default_rng(int(image_id[5:])).integers(
                0, 255, (3, 4, 3), dtype=np.uint8
            )
            Image.fromarray(shade).save(folder / f"{image_id}.jpg")

    def write_kaggle(self, root, metadata="HAM10000_metadata.csv", separator=","):
        self.draw(root / "HAM10000_images_part_1", IDS[:4])
        self.draw(root / "HAM10000_images_part_2", IDS[4:])
        METADATA.to_csv(root / metadata, index=False, sep=separator)

    def write_isic(self, root, nested=False):
        self.draw(root / "ISIC2018_Task3_Training_Input", IDS)
        truth = pd.DataFrame({"image": IDS})
        for code in ("MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"):
            truth[code] = (METADATA["dx"] == code.lower()).astype(float)
        place = root / "ISIC2018_Task3_Training_GroundTruth" if nested else root
        place.mkdir(exist_ok=True)
        truth.to_csv(place / "ISIC2018_Task3_Training_GroundTruth.csv", index=False)
        words = [
            "histopathology",
            "serial imaging showing no change",
            "single image expert consensus",
            "confocal microscopy with consensus dermoscopy",
        ]
        pd.DataFrame(
            {
                "image": IDS[::-1],
                "lesion_id": METADATA["lesion_id"][::-1],
                "diagnosis_confirm_type": (words * 2)[::-1],
            }
        ).to_csv(root / "ISIC2018_Task3_Training_LesionGroupings.csv", index=False)

    @staticmethod
    def assert_is_in(table):
        frame = table.frame
        assert table.name == "ham10000"
        assert table.source.startswith("HAM10000 (Tschandl")
        assert table.malignant == MALIGNANT == {"mel", "bcc", "akiec"}
        assert table.left_out == ()
        assert frame["case_id"].tolist() == IDS
        assert frame["group"].tolist() == METADATA["lesion_id"].tolist()
        assert frame["label"].tolist() == METADATA["dx"].tolist()
        for case_id, path in zip(frame["case_id"], frame["image"], strict=True):
            assert path.endswith(f"{case_id}.jpg")
            with Image.open(path) as image:
                assert image.size == (4, 3)


@pytest.fixture(scope="session")
def ham():
    """The small HAM10000: what is in it, how it is written, and whether a table holds it."""
    return SmallHam()
