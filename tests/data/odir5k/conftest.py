"""A small ODIR-5K of five patients."""

import csv
import zlib

import numpy as np
import pytest
from openpyxl import Workbook
from PIL import Image

WORKBOOK = "ODIR-5K_Training_Annotations(Updated)_V2.xlsx"
COMMA = "\N{FULLWIDTH COMMA}"
LETTERS = "NDGCAHMO"
HEADER = [
    "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus",
    "Left-Diagnostic Keywords", "Right-Diagnostic Keywords", *LETTERS,
]  # fmt: skip


def patient(number, left, right, letters, age=60, sex="Female"):
    marks = [int(letter in letters) for letter in LETTERS]
    files = [f"{number}_left.jpg", f"{number}_right.jpg"]
    return [number, age, sex, *files, left, right, *marks]


PATIENTS = [
    patient(0, "cataract", "normal fundus", "C", 69),
    patient(1, "normal fundus", "normal fundus", "N", 57, "Male"),
    patient(
        2, f"laser spot{COMMA}diabetic retinopathy", "severe nonproliferative retinopathy", "DO"
    ),
    patient(3, "suspected glaucoma,drusen", f"lens dust{COMMA}normal fundus", "GO", ""),
    patient(4, "low image quality", f"drusen{COMMA}suspected  Retinitis pigmentosa ", "O", 1, ""),
]
# case id: label, labels, findings
EYES = {
    "0_left": ("C", {"C"}, {"C"}),
    "0_right": ("N", {"N"}, {"N"}),
    "1_left": ("N", {"N"}, {"N"}),
    "1_right": ("N", {"N"}, {"N"}),
    "2_left": ("O", {"D", "O"}, {"D", "O: laser spot"}),
    "2_right": ("D", {"D"}, {"D"}),
    "3_left": ("G", {"G", "O"}, {"G", "O: drusen"}),
    "3_right": ("N", {"N"}, {"N"}),
    "4_right": ("O", {"O"}, {"O: drusen", "O: retinitis pigmentosa"}),
}


class SmallOdir:
    """Rows of annotations, the files that hold them, and images of noise."""

    workbook = WORKBOOK
    letters = LETTERS
    header = HEADER
    patients = PATIENTS
    eyes = EYES
    patient = staticmethod(patient)

    @staticmethod
    def write_workbook(path, patients=PATIENTS, header=HEADER):
        book = Workbook()
        for row in [header, *patients]:
            book.active.append(row)
        path.parent.mkdir(parents=True, exist_ok=True)
        book.save(path)

    @staticmethod
    def write_csv(path, patients=PATIENTS, drop=("3_right",)):
        """Kaggle's: a row an eye, some dropped, with one disease an eye and a path of theirs."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*HEADER, "filepath", "labels", "target", "filename"])
            for side in ("right", "left"):
                for row in patients:
                    if f"{row[0]}_{side}" not in drop:
                        name = f"{row[0]}_{side}.jpg"
                        more = [f"../input/odir/{name}", "['D']", "[0, 1, 0, 0, 0, 0, 0, 0]", name]
                        writer.writerow([*row, *more])

    @staticmethod
    def draw(folder, names=None):
        folder.mkdir(parents=True, exist_ok=True)
        for name in names or [f"{i}_{side}" for i in range(5) for side in ("left", "right")]:
            seed = zlib.crc32(name.encode())
            shade = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), dtype=np.uint8)
            Image.fromarray(shade).save(folder / f"{name}.jpg")

    def write(self, root, patients=PATIENTS):
        self.write_workbook(root / WORKBOOK, patients)
        self.draw(root / "Training Images")
        return root

    @staticmethod
    def assert_is_in(table):
        frame = table.frame.set_index("case_id").sort_index()
        assert table.name == "odir5k"
        assert frame.index.tolist() == sorted(EYES)
        for case_id, (label, labels, findings) in EYES.items():
            row = frame.loc[case_id]
            assert (row["label"], row["labels"], row["findings"]) == (label, labels, findings)
            assert case_id == f"{row['group']}_{row['eye']}"
            assert row["image"].endswith(f"{case_id}.jpg")
        assert [(g.case_id, g.reason) for g in table.left_out] == [
            ("4_left", "no label: low image quality")
        ]


@pytest.fixture(scope="session")
def odir():
    """The small ODIR-5K: what is in it, how it is written, and whether a table holds it."""
    return SmallOdir()
