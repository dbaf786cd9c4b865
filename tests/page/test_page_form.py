"""The form: filters from an archive's columns, and what was filled in."""

import pytest
from starlette.datastructures import FormData

pytest.importorskip("fastapi")
from medshadow.retrieval import parse_where
from medshadow.service.page_form import read_form
from medshadow.service.problems import Problem

COLUMNS = {
    "label": {"kind": "choice", "values": ["nv", "mel"]},
    "age": {"kind": "number", "least": 15.0, "most": 85.0},
    "localization": {"kind": "choice", "values": ["back", "lower extremity", 'the "knee"']},
    "low_quality": {"kind": "choice", "values": ["False", "True"]},
    "keywords": {"kind": "text"},
}
NAMES = {"mel": "melanoma"}


def form_of(*fields):
    return read_form(COLUMNS, NAMES, calibrated=True, data=FormData(fields))


def test_columns_of_free_text_are_no_filter_and_diagnoses_go_by_name():
    form = read_form(COLUMNS, NAMES, calibrated=False)
    assert [one.name for one in form.filters] == ["labels", "age", "localization", "low_quality"]
    assert form.filters[0].values == (("mel", "melanoma"), ("nv", "nv"))
    assert (form.filters[1].least, form.filters[1].most) == ("15", "85")
    assert form.filters[3].values == (("False", "no"), ("True", "yes"))
    assert form.shown == 3
    assert form.where is None
    assert not form.asks_eye


def test_what_is_chosen_reads_as_a_filter():
    form = form_of(
        ("is:labels", "mel"),
        ("min:age", "49,5"),
        ("max:age", ""),
        ("is:localization", 'the "knee"'),
    )
    read = [(one.key, one.operator, one.value) for one in parse_where(form.where)]
    assert read == [
        ("labels", "=", "mel"),
        ("age", ">=", "49.5"),
        ("localization", "=", 'the "knee"'),
    ]
    assert form.filtered == {"labels", "age", "localization"}
    assert form.narrowed == ("diagnosis melanoma", "age from 49.5", 'site the "knee"')
    assert form_of(("min:age", "50"), ("max:age", "60")).narrowed == ("age from 50 to 60",)
    assert form_of().narrowed == ()


def test_what_is_carried_makes_the_same_form_again():
    form = form_of(
        ("is:labels", "mel"), ("max:age", "70"), ("k", "32"), ("prevalence", "2.5"),
        ("exclude", "lesion1"), ("exclude", "lesion1"), ("exclude", "lesion2"),
    )  # fmt: skip
    assert form.excluded == ("lesion1", "lesion2")
    assert form.share == pytest.approx(0.025)
    assert form_of(*form.carried) == form


def test_marks_name_cases():
    form = form_of(
        ("mark:a", "relevant"), ("mark:b", "not"), ("mark:c", ""), ("mark:a", "relevant")
    )
    assert (form.relevant, form.not_relevant) == (("a",), ("b",))


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("min:age", "old", "Age"),
        ("is:localization", "nowhere", "Site"),
        ("k", "7", "k"),
        ("laterality", "both", "laterality"),
        ("prevalence", "100", "Prevalence"),
        ("prevalence", "some", "Prevalence"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(field, value, named):
    with pytest.raises(Problem, match=named) as refused:
        form_of((field, value))
    assert refused.value.status_code == 422
    assert value not in str(refused.value.detail) or field == "prevalence"
