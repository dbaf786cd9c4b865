"""ODIR-5K as a MONAI data set, in the shape of MONAI's own ``MedNISTDataset``."""

from __future__ import annotations

from medshadow.data.odir5k import odir5k_cases
from medshadow.data.section_dataset import SectionDataset


class ODIR5KDataset(SectionDataset):
    """One section of ODIR-5K's eyes, split by patient with duplicates merged first.

    Making the first section reads every image once, to find damaged files and the same eye under
    several ids, which takes some minutes; the other sections of the same files reuse what was
    found. The split is the one that ``split_cases`` makes of the cleaned case table with the same
    seed.

    Args:
        root_dir: where ODIR-5K lies, in any layout that ``odir5k_cases`` knows.
        section: "training", "validation" or "test".
        transform: MONAI transforms from ``{"image": path, "label": float32 vector, "case_id": str,
            "laterality": "left" or "right"}``; the vector holds 1 for each finding of the eye. By
            default the image is loaded: float32 of 3 x height x width, 0 to 255.
        seed: seed of the split, and of the augmentations (see ``CaseDataset``).
        val_frac: share of images in the validation section, in [0, 1).
        test_frac: share of images in the test section, in [0, 1).
        cache_rate: share of the section kept in memory, in [0, 1].
        num_workers: threads that read images.
        progress: whether to show progress bars.
        on_error: "raise" or "skip", for unknown keywords and for unreadable images; eyes without an
            image are left out in any case.

    Attributes:
        table: the section's ``CaseTable``; a finding's place is its position in
            ``table.finding_names``.

    Raises:
        DataError: no such section, or see ``odir5k_cases``, ``clean`` and ``split_cases``.
    """

    _find = staticmethod(odir5k_cases)
