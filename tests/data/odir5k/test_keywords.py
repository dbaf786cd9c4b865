"""Labels and findings of an eye from its diagnostic keywords."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medshadow.data import odir5k_keywords
from medshadow.data.odir5k import labels_from_keywords
from medshadow.errors import DataError

COMMA = "\N{FULLWIDTH COMMA}"


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("normal fundus", "N"),
        (f"lens dust{COMMA}normal fundus", "N"),
        (f"lens dust{COMMA}drusen{COMMA}normal fundus", "O"),
        ("lens dust", ""),
        ("", ""),
        (f" {COMMA}, ", ""),
        ("no fundus image", ""),
        ("suspected glaucoma", "G"),
        ("suspicious diabetic retinopathy", "D"),
        ("suspected abnormal color of  optic disc", "O"),
        ("Dry  Age-related macular degeneration ", "A"),
        ("hypertensive retinopathy,diabetic retinopathy", "HD"),
        (f"cataract{COMMA}suspected cataract", "C"),
        (f"myopic maculopathy{COMMA}maculopathy", "MO"),
        (f"glaucoma{COMMA}post laser photocoagulation, cataract", "GOC"),
    ],
)
def test_labels_from_keywords(text, labels):
    assert labels_from_keywords(text) == set(labels)


def test_unknown_keywords_are_named():
    with pytest.raises(DataError, match=r"unknown keywords \['glaukoma', 'suspectedcataract'\]"):
        labels_from_keywords("glaukoma, cataract, suspectedcataract")


@given(st.lists(st.sampled_from(sorted(odir5k_keywords.LETTER_OF)), min_size=1, max_size=5))
def test_findings_are_the_letters_with_other_by_keyword(words):
    letters, findings = set(), set()
    for word in words:
        letter = odir5k_keywords.LETTER_OF[word]
        letters.add(letter)
        findings.add(f"O: {word}" if letter == "O" else letter)
    if len(letters) > 1:
        letters.discard("N")
        findings.discard("N")
    assert labels_from_keywords(COMMA.join(words)) == letters
    assert odir5k_keywords.findings_of(words) == findings
    assert findings <= set(odir5k_keywords.FINDINGS)
    first = odir5k_keywords.primary_letter(frozenset(letters))
    assert first == min(letters, key="HMACGODN".index)
