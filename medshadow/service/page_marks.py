"""How a diagnosis looks on the page: a colour and a shape of its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

# Eight colours of Okabe and Ito's palette, told apart with every common colour blindness, and eight
# shapes, so that nothing hangs on colour. With more diagnoses a colour comes with another shape.
_COLOURS = _SHAPES = 8


@dataclass(frozen=True)
class Mark:
    """How a diagnosis looks wherever it stands: a colour, a shape and its short name.

    Args:
        label: its code, as in the archive.
        name: it in words.
        colour: 0 to 7, or None for a label that the archive does not list.
        shape: 0 to 7.
    """

    label: str
    name: str
    colour: int | None
    shape: int


def diagnosis_marks(names: Mapping[str, str], labels: Collection[str] = ()) -> dict[str, Mark]:
    """A mark for each label of an archive, the same at every lookup in it.

    Args:
        names: label to diagnosis in words, in the archive's order.
        labels: the labels that stand in the archive; those without a name follow by the alphabet.

    Example:
        >>> marks = diagnosis_marks({"mel": "melanoma"}, ["nv", "mel"])
        >>> marks["nv"].name, marks["nv"].colour, marks["nv"].shape
        ('nv', 1, 1)
    """
    order = [*names, *sorted(set(labels) - set(names))]
    return {
        label: Mark(
            label,
            names.get(label, label),
            place % _COLOURS,
            (place + place // _COLOURS) % _SHAPES,
        )
        for place, label in enumerate(order)
    }
