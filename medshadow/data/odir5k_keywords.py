"""ODIR-5K's diagnostic keywords: which of the eight letters each stands for, and what is quality.

The letters are the organisers': normal only where nothing else is found, "suspected X" counts as X,
keywords on the quality of the photograph decide nothing. With this table the keywords of both eyes
give the official letters of 3,499 of the 3,500 patients; the other one, 4149, is marked normal on
two photographs of low quality.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from medshadow.errors import DataError

DIAGNOSES = {
    "N": "normal fundus",
    "D": "diabetic retinopathy",
    "G": "glaucoma",
    "C": "cataract",
    "A": "age-related macular degeneration",
    "H": "hypertensive retinopathy",
    "M": "pathological myopia",
    "O": "other finding",
}
LETTERS = tuple(DIAGNOSES)
PRIORITY = ("H", "M", "A", "C", "G", "O", "D", "N")
"""Which letter stands for an eye where a single one is needed: the rarest in the data set first
(193, 268, 280, 313, 326, 1200 and 1801 eyes), normal last."""

QUALITY = (
    "lens dust",
    "low image quality",
    "optic disk photographically invisible",
    "anterior segment image",
    "image offset",
    "no fundus image",
)
"""Keywords on the photograph, which decide no letter."""

_KEYWORDS_OF = {
    "N": ("normal fundus",),
    "D": (
        "diabetic retinopathy",
        "mild nonproliferative retinopathy",
        "moderate non proliferative retinopathy",
        "proliferative diabetic retinopathy",
        "severe nonproliferative retinopathy",
        "severe proliferative diabetic retinopathy",
    ),
    "G": ("glaucoma",),
    "C": ("cataract",),
    "A": (
        "age-related macular degeneration",
        "dry age-related macular degeneration",
        "wet age-related macular degeneration",
    ),
    "H": ("hypertensive retinopathy",),
    "M": ("myopia retinopathy", "myopic maculopathy", "myopic retinopathy", "pathological myopia"),
    "O": (
        "abnormal color of optic disc",
        "abnormal pigment",
        "arteriosclerosis",
        "asteroid hyalosis",
        "atrophic change",
        "atrophy",
        "branch retinal artery occlusion",
        "branch retinal vein occlusion",
        "central retinal artery occlusion",
        "central retinal vein occlusion",
        "central serous chorioretinopathy",
        "chorioretinal atrophy",
        "chorioretinal atrophy with pigmentation proliferation",
        "choroidal nevus",
        "congenital choroidal coloboma",
        "depigmentation of the retinal pigment epithelium",
        "diffuse chorioretinal atrophy",
        "diffuse retinal atrophy",
        "drusen",
        "epiretinal membrane",
        "epiretinal membrane over the macula",
        "fundus laser photocoagulation spots",
        "glial remnants anterior to the optic disc",
        "idiopathic choroidal neovascularization",
        "intraretinal hemorrhage",
        "intraretinal microvascular abnormality",
        "laser spot",
        "macular coloboma",
        "macular epimacular membrane",
        "macular epiretinal membrane",
        "macular hole",
        "macular pigmentation disorder",
        "maculopathy",
        "microvascular anomalies",
        "morning glory syndrome",
        "myelinated nerve fibers",
        "old branch retinal vein occlusion",
        "old central retinal vein occlusion",
        "old chorioretinopathy",
        "old choroiditis",
        "optic disc edema",
        "optic discitis",
        "optic disk epiretinal membrane",
        "optic nerve atrophy",
        "oval yellow-white atrophy",
        "peripapillary atrophy",
        "pigment epithelium proliferation",
        "pigmentation disorder",
        "post laser photocoagulation",
        "post retinal laser surgery",
        "punctate inner choroidopathy",
        "refractive media opacity",
        "retina fold",
        "retinal artery macroaneurysm",
        "retinal detachment",
        "retinal pigment epithelial hypertrophy",
        "retinal pigment epithelium atrophy",
        "retinal pigmentation",
        "retinal vascular sheathing",
        "retinitis pigmentosa",
        "retinochoroidal coloboma",
        "rhegmatogenous retinal detachment",
        "silicone oil eye",
        "spotted membranous change",
        "tessellated fundus",
        "vascular loops",
        "vessel tortuosity",
        "vitreous degeneration",
        "vitreous opacity",
        "wedge white line change",
        "wedge-shaped change",
        "white vessel",
    ),
}
LETTER_OF = {word: letter for letter, words in _KEYWORDS_OF.items() for word in words}
OTHER = "O: "
"""Before a keyword of the letter O: as a finding, "other" counts by its keyword."""
FINDINGS = (*LETTERS[:-1], *(OTHER + word for word in _KEYWORDS_OF["O"]))
"""All findings that an eye can have, in the order of multi-hot vectors."""

# U+FF0C is the data set's own separator; four eyes have an ASCII comma instead.
_SEPARATORS = re.compile("[,\N{FULLWIDTH COMMA}]")
_SUSPECTED = re.compile("^(?:suspected|suspicious) ")


def keywords_in(text: str) -> tuple[str, ...]:
    """The keywords of one eye, in their order, each once, in lower case and with single blanks.

    "suspected" is kept: it is what a person should read; :func:`meant` takes it off.
    """
    parts = (" ".join(part.lower().split()) for part in _SEPARATORS.split(text))
    return tuple(dict.fromkeys(part for part in parts if part))


def meant(keyword: str) -> str:
    """The keyword without "suspected" or "suspicious": a suspected X counts as X."""
    return _SUSPECTED.sub("", keyword)


def labels_from_keywords(text: str) -> frozenset[str]:
    """The letters of one eye, from its diagnostic keywords.

    Args:
        text: keywords separated by full-width or ASCII commas.

    Returns:
        Some of the letters N, D, G, C, A, H, M, O (see ``DIAGNOSES``); N only alone. Empty where
        the keywords speak of the photograph's quality alone, or there are none.

    Raises:
        DataError: a keyword that the data set does not have; the message names it.

    Example:
        >>> sorted(labels_from_keywords("lens dust\N{FULLWIDTH COMMA}suspected glaucoma, drusen"))
        ['G', 'O']
        >>> sorted(labels_from_keywords("normal fundus, lens dust"))
        ['N']
    """
    words = [meant(word) for word in keywords_in(text)]
    unknown = [word for word in words if word not in LETTER_OF and word not in QUALITY]
    if unknown:
        raise DataError(
            f"unknown keywords {unknown}; expected keywords of ODIR-5K's training annotations"
        )
    letters = frozenset(LETTER_OF[word] for word in words if word in LETTER_OF)
    return without_normal(letters)


def without_normal(letters: frozenset[str]) -> frozenset[str]:
    """N is dropped beside any finding."""
    return letters - {"N"} or letters


def findings_of(words: Iterable[str]) -> frozenset[str]:
    """What makes eyes alike, from one eye's keywords: its letters, O by keyword."""
    known = {word: LETTER_OF[word] for word in map(meant, words) if word in LETTER_OF}
    found = (OTHER + word if letter == "O" else letter for word, letter in known.items())
    return without_normal(frozenset(found))


def primary_letter(letters: frozenset[str]) -> str:
    """The one letter that stands for an eye, by ``PRIORITY``."""
    return next(letter for letter in PRIORITY if letter in letters)
