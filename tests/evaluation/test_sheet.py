"""The contact sheet of the diagnostics: what it shows, and in what frame."""

import numpy as np
import pandas as pd

from medshadow.evaluation import EmbeddedCases, nearest_groups
from medshadow.evaluation.sheet import contact_sheet

MALIGNANT = frozenset({"mel", "bcc"})


def cases(embeddings, groups, labels, prefix):
    ids = [f"{prefix}{i}" for i in range(len(groups))]
    frame = pd.DataFrame({"case_id": ids, "group": [str(g) for g in groups], "label": labels})
    return EmbeddedCases(np.asarray(embeddings), frame)


def image_of(case_id):
    return np.full((6, 8, 3), 200, dtype=np.uint8)


def texts(figure):
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text)]


def test_contact_sheet_tells_diagnoses_apart_without_colour():
    gallery = cases(np.array([[1, 0], [1, 0.1], [0, 1.0]]), "abc", ["mel", "nv", "nv"], "g")
    queries = cases(np.array([[1, 0.0]]), "z", ["mel"], "q")
    asked = []

    def remember(case_id):
        asked.append(case_id)
        return image_of(case_id)

    neighbours = nearest_groups(queries, gallery, 5)
    figure = contact_sheet(queries, gallery, neighbours, remember, malignant=MALIGNANT)
    assert asked == ["q0", "g0", "g1", "g2"]
    labelled = {a.get_xlabel(): a.spines["top"].get_linestyle() for a in figure.axes}
    labelled.pop("")
    assert labelled == {
        "mel ▲": "solid",
        "mel ▲  1.00": "solid",
        "nv  1.00": "dashed",
        "nv  0.00": "dashed",
    }


def test_long_names_are_cut_under_pictures():
    long = "age-related macular degeneration"
    some = cases(np.eye(2), "ab", [long, long], "g")
    figure = contact_sheet(some, some, nearest_groups(some, some, 1), image_of)
    assert {"age-related m…", "age-related m…  0.00"} <= set(texts(figure))


def test_a_hit_is_what_shares_a_finding(eyes):
    from matplotlib.colors import to_hex

    known = [{"C", "D"}, {"O"}, {"C"}]
    findings = [{"C", "D"}, {"O: scar"}, {"C"}]
    gallery = eyes(np.array([[1, 0], [1, 0.1], [0, 1.0]]), "abc", known, findings, "g")
    queries = eyes(np.array([[1, 0.0]]), "z", [{"D", "O"}], [{"D", "O: drusen"}], "q")
    neighbours = nearest_groups(queries, gallery, 5)
    figure = contact_sheet(queries, gallery, neighbours, image_of, malignant={"D"})
    drawn = {
        axes.get_xlabel(): (axes.spines["top"].get_linestyle(), axes.spines["top"].get_edgecolor())
        for axes in figure.axes
        if axes.get_xlabel()
    }
    frames = {words: (style, to_hex(colour)) for words, (style, colour) in drawn.items()}
    assert frames == {
        "D + O ▲": ("solid", "#222222"),
        "C + D ▲  1.00": ("solid", "#009e73"),
        "O  1.00": ("dashed", "#e69f00"),
        "C  0.00": ("dashed", "#e69f00"),
    }
    legend = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {"shares a finding", "shares no finding"} <= legend
