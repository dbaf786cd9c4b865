import logging

import numpy as np
import pandas as pd
import pytest

from medshadow.data import CaseTable, load_published_split, measure_leakage, split_cases
from medshadow.data.splits import leakage
from medshadow.errors import DataError


def lesions(sizes):
    """A table with one lesion of each size, its images in two folders."""
    rows = [
        (f"c{g}{i}", f"part{i % 2}/ISIC_{g}{i}.jpg", f"lesion{g}", "nv" if g % 2 else "mel")
        for g, size in enumerate(sizes)
        for i in range(size)
    ]
    return CaseTable(pd.DataFrame(rows, columns=["case_id", "image", "group", "label"]))


TABLE = lesions([1, 2, 3, 1, 4, 2, 1])


def write(tmp_path, rows, columns=("image_id", "split"), name="published.csv", separator=","):
    path = tmp_path / name
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False, sep=separator)
    return path


def by_image(table, seed, shares=(0.7, 0.1, 0.2)):
    """A split that takes no notice of lesions: (image, word) as such files have them."""
    words = np.random.default_rng(seed).choice(["train", "val", "test"], len(table), p=shares)
    return list(zip(table.frame["case_id"], words, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_leakage_of_a_split_by_image_is_counted(tmp_path, seed):
    published = by_image(TABLE, seed)
    table = load_published_split(TABLE, write(tmp_path, published))
    word = dict(published)
    assert table.frame["section"].tolist() == [
        {"train": "training", "val": "validation", "test": "test"}[word[case]]
        for case in TABLE.frame["case_id"]
    ]
    group_of = dict(zip(TABLE.frame["case_id"], TABLE.frame["group"], strict=True))
    for section, seen_in in (("test", "training"), ("validation", "training"), ("test", "val")):
        words = {"training": "train", "validation": "val"}
        known = {group_of[c] for c, w in published if w == words.get(seen_in, seen_in)}
        own = [group_of[c] for c, w in published if w == words.get(section, section)]
        shared = [group for group in own if group in known]
        found = measure_leakage(table, section, {"val": "validation"}.get(seen_in, seen_in))
        counts = (found.images, found.leaking_images, found.leaking_groups)
        assert counts == (len(own), len(shared), len(set(shared)))
        assert found.share == len(shared) / len(own)
    assert set(leakage(table)["group"]) == {
        g for g in group_of.values() if len({word[c] for c in word if group_of[c] == g}) > 1
    }


def test_a_split_by_group_leaks_nothing():
    split = split_cases(lesions([2] * 20))
    found = measure_leakage(split)
    assert (found.share, found.leaking_images, found.leaking_groups) == (0, 0, 0)


def test_leakage_says_itself():
    frame = TABLE.frame.assign(section=["test", "training", "test", *["training"] * 11])
    found = measure_leakage(CaseTable(frame))
    assert str(found) == "1 of 2 test images (50.0%) share a group with training (1 groups)"


def test_a_section_without_cases_has_no_leakage():
    frame = TABLE.frame.assign(section="training")
    with pytest.raises(DataError, match="no case in section 'test'"):
        measure_leakage(CaseTable(frame))


@pytest.mark.parametrize(
    ("columns", "spell", "name", "separator"),
    [
        (("case_id", "section"), str, "split.csv", ","),
        (("Image_ID", "Partition"), lambda case: f"ISIC_{case[1:]}", "split.tsv", "\t"),
        (("filename", "SET"), lambda case: f"ISIC_{case[1:]}.JPG", "split.txt", "\t"),
        (("image", "subset"), lambda case: f"some/where/ISIC_{case[1:]}.png", "split.csv", ","),
    ],
)
def test_columns_and_spellings_in_use(tmp_path, columns, spell, name, separator):
    words = ["Train", "validation", "valid", "TESTING", "dev", "training", " test "] * 2
    cases = TABLE.frame["case_id"]
    rows = [(spell(case), word) for case, word in zip(cases, words, strict=True)]
    table = load_published_split(TABLE, write(tmp_path, rows, columns, name, separator))
    expected = ["training", *["validation"] * 2, "test", "validation", "training", "test"] * 2
    assert table.frame["section"].tolist() == expected


def test_dotted_identifiers_keep_their_last_part(tmp_path):
    frame = pd.DataFrame({"case_id": ["1.2.3", "1.2.4"], "image": "x.dcm", "group": ["a", "b"],
                          "label": "nv"})  # fmt: skip
    rows = [("1.2.3", "train"), ("1.2.4", "test")]
    table = load_published_split(CaseTable(frame), write(tmp_path, rows))
    assert table.frame["section"].tolist() == ["training", "test"]


def test_other_columns_and_the_files_groups_are_ignored(tmp_path):
    rows = [("HAM_1", case, "nv", word) for case, word in by_image(TABLE, 0)]
    columns = ("lesion_id", "image_id", "dx", "split")
    table = load_published_split(TABLE, write(tmp_path, rows, columns))
    assert table.frame["group"].equals(TABLE.frame["group"])
    assert (table.frame["section"] != "").all()


def test_a_split_of_other_cases_too_is_loaded_and_said(tmp_path, caplog):
    rows = [*by_image(TABLE, 0)[:10], ("ISIC_elsewhere", "train")]
    with caplog.at_level(logging.WARNING):
        table = load_published_split(TABLE, write(tmp_path, rows))
    assert table.frame["section"].eq("").tolist() == [False] * 10 + [True] * 4
    assert caplog.messages == [
        "published.csv: leaves 4 cases of cases without a section, and names 1 images that are "
        "not in it"
    ]


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        ([("c00", "train")], ("lesion", "split"), r"columns \['lesion', 'split'\]; expected one"),
        ([("c00", "train")], ("image_id", "fold"), r"columns \['image_id', 'fold'\]; expected one"),
        ([("c00", "train"), ("c10", "3")], None, "section '3' in row 3; expected train, val"),
        ([("c00", "train"), ("c00", "test")], None, r"1 images in several sections: \['c00'\]"),
        ([("d00", "train")], None, r"names no case of cases; it begins with \['d00'\], the cases"),
    ],
)
def test_a_file_that_is_no_such_split_is_refused(tmp_path, rows, columns, message):
    path = write(tmp_path, rows, columns or ("image_id", "split"))
    with pytest.raises(DataError, match=message):
        load_published_split(TABLE, path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: cannot be read as CSV"):
        load_published_split(TABLE, tmp_path / "gone.csv")


@pytest.mark.real_data
def test_a_real_split_by_image_leaks_about_a_third(ham10000_root, tmp_path):
    """7,007, 1,003 and 2,005 images, the sizes of DermaMNIST's sections, drawn by image."""
    from medshadow.data.ham10k import ham10k_cases

    cases = ham10k_cases(ham10000_root)
    sizes = {"train": 7007, "val": 1003, "test": 2005}
    for seed in range(3):
        words = np.random.default_rng(seed).permutation(
            np.repeat(list(sizes), list(sizes.values()))
        )
        published = write(tmp_path, zip(cases.frame["case_id"], words, strict=True))
        found = measure_leakage(load_published_split(cases, published))
        assert found.images == 2005
        assert 0.335 < found.share < 0.375
