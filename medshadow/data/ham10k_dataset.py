"""HAM10000 as a MONAI data set, in the shape of MONAI's own ``MedNISTDataset``."""

from __future__ import annotations

from medshadow.data.ham10k import ham10k_cases
from medshadow.data.section_dataset import SectionDataset


class HAM10KDataset(SectionDataset):
    """One section of HAM10000, split by lesion with duplicates merged first.

    Making the first section reads every image once, to find damaged files, duplicates, and lesions
    that were photographed under several ids: some minutes for the whole data set. The other
    sections of the same files reuse what was found. The split is the one that ``split_cases`` makes
    of the cleaned case table with the same seed.

    Args:
        root_dir: where HAM10000 lies, in any layout that ``ham10k_cases`` knows.
        section: "training", "validation" or "test".
        transform: MONAI transforms from ``{"image": path, "label": int, "case_id": str}``. By
            default the image is loaded: float32 of 3 x height x width, 0 to 255.
        seed: seed of the split, and of the augmentations (see ``CaseDataset``).
        val_frac: share of images in the validation section, in [0, 1).
        test_frac: share of images in the test section, in [0, 1).
        cache_rate: share of the section kept in memory, in [0, 1].
        num_workers: threads that read images.
        progress: whether to show progress bars.
        on_error: "raise" or "skip", for missing and for unreadable images.

    Attributes:
        table: the section's ``CaseTable``; a label's code is its position in ``table.classes``.

    Raises:
        DataError: no such section, or see ``ham10k_cases``, ``clean`` and ``split_cases``.
    """

    _find = staticmethod(ham10k_cases)
