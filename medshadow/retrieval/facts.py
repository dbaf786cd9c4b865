"""What is known of a case, under the same names whatever data set it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Each fact, and the names that columns holding it go by, first come first served: HAM10000's,
# ODIR-5K's, ISIC's, then the plain words of an own archive.
_COLUMNS = {
    "established": ("established", "dx_type", "diagnosis_confirm_type"),
    "age": ("age", "age_approx"),
    "sex": ("sex",),
    "site": ("site", "localization", "anatom_site_general"),
    "laterality": ("laterality", "eye"),
    "keywords": ("keywords",),
}
_ESTABLISHED = {
    "histo": "histology",
    "histopathology": "histology",
    "follow_up": "follow-up",
    "serial imaging showing no change": "follow-up",
    "consensus": "consensus",
    "single image expert consensus": "consensus",
    "confocal": "confocal microscopy",
}
_NOTHING = frozenset({"", "unknown", "nan", "none"})


def facts_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """How a case was established, age, sex, site, laterality and keywords, from its metadata.

    Args:
        metadata: a case's metadata columns.

    Returns:
        ``established`` ("histology", "follow-up", "consensus", "confocal microscopy", or the
        archive's own word), ``age``, ``sex``, ``site``, ``laterality``, ``keywords``; None where
        the archive does not tell or says "unknown".

    Example:
        >>> facts = facts_of({"dx_type": "histo", "age": 60.0, "sex": "unknown"})
        >>> facts["established"], facts["age"], facts["sex"], facts["site"]
        ('histology', 60.0, None, None)
    """
    facts = {name: _first(metadata, columns) for name, columns in _COLUMNS.items()}
    said = facts["established"]
    if isinstance(said, str):
        facts["established"] = _ESTABLISHED.get(said.strip().lower(), said)
    return facts


def metadata_in_words(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as it is shown to people.

    What is missing is left out, and of the columns that hold true or false those that are true are
    named together, as ``flags``. How the case was established is said in words, as
    ``established``.

    Example:
        >>> metadata_in_words({"age": 50, "sex": None, "lens_dust": True, "low_quality": False})
        {'age': 50, 'flags': 'lens dust'}
        >>> metadata_in_words({"dx_type": "histo"})
        {'established': 'histology'}
    """
    shown = {k: v for k, v in metadata.items() if v is not None and not isinstance(v, bool)}
    told = next((name for name in _COLUMNS["established"] if name in shown), None)
    if told is not None:
        words = facts_of(shown)["established"]
        shown = {("established" if k == told else k): v for k, v in shown.items()}
        shown["established"] = words or "unknown"
    raised = [str(key).replace("_", " ") for key, value in metadata.items() if value is True]
    return {**shown, "flags": ", ".join(raised)} if raised else shown


def _first(metadata: Mapping[str, Any], columns: tuple[str, ...]) -> Any:
    for column in columns:
        value = metadata.get(column)
        if value is not None and str(value).strip().lower() not in _NOTHING:
            return value
    return None
