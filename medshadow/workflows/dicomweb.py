"""Adding the images of a DICOM study to a case store, straight from the archive that holds them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from tqdm import tqdm

from medshadow.data.archive import header_cases
from medshadow.data.archive_dicom import header_elements
from medshadow.data.audit import check_policy
from medshadow.data.cases import CaseTable, LeftOut
from medshadow.data.site_key import read_site_key
from medshadow.errors import DataError, ImageReadError, StoreError
from medshadow.retrieval import CaseStore, encode_images, jpeg_thumbnail
from medshadow.workflows.additions import check_model

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from medshadow.networks import Embedder

_log = logging.getLogger(__name__)


class Picture(Protocol):
    """An image that was fetched."""

    @property
    def pixels(self) -> np.ndarray:
        """uint8 H x W x 3, RGB."""

    @property
    def laterality(self) -> str:
        """Which eye it shows, "left" or "right"; empty where unknown."""


class InstanceSource(Protocol):
    """What a study is read from: ``medshadow.service.dicomweb.DicomWeb`` is one."""

    def instances(self, study: str) -> list[str]:
        """References to a study's instances; each ends with the SOP Instance UID."""

    def header(self, reference: str, keywords: Sequence[str]) -> Dataset:
        """Some attributes of an instance."""

    def instance(self, reference: str) -> Picture:
        """The image itself."""


@dataclass(frozen=True)
class StudyAdded:
    """What adding a study came to, in instances.

    Args:
        added: encoded and written now.
        known: in the store already, and not looked at again.
        withdrawn: withdrawn from the store before; they stay out.
        without_image: reports and the like, passed over.
        left_out: images that cannot be used, by their pseudonyms, and why.
    """

    added: int
    known: int
    withdrawn: int
    without_image: int
    left_out: tuple[LeftOut, ...] = ()


def index_study(
    source: InstanceSource,
    study: str,
    store: CaseStore,
    embedder: Embedder,
    *,
    label: str,
    classes: Mapping[str, str],
    group: str = "PatientID",
    metadata: Sequence[str] = (),
    healthy: Collection[str] = (),
    site_key: str | None = None,
    on_error: str = "raise",
    by: str = "",
    progress: bool = True,
) -> StudyAdded:
    """Add a study's images to a case store, one after another.

    Each image is in the store for good before the next is fetched: after a stop at any point the
    same call goes on with what is missing. Nothing is written anywhere else, and cases that were
    withdrawn from the store stay out. Case and group ids are
    the keyed hashes that ``archive_cases`` makes of the same files, so that an archive may be built
    either way; no identifier of the study enters the store or a message.

    Args:
        source: where the study lies.
        study: its Study Instance UID.
        store: where to.
        embedder: the model whose vectors the store keeps.
        label: the DICOM attribute that tells the label; see :func:`medshadow.data.archive_cases`.
        classes: the store's label for each label found.
        group: the attribute of what belongs together.
        metadata: attributes to keep, beside age, sex and, of ophthalmic images, the eye.
        healthy: labels that stand for a case only where it has no other.
        site_key: the file with the site's key; the environment variable MEDSHADOW_SITE_KEY by
            default.
        on_error: "raise" stops at an image that cannot be used; "skip" leaves it out.
        by: who adds, for the trail.
        progress: whether to show a bar.

    Raises:
        DataError: the site's key is missing, or an image cannot be used and ``on_error`` is
            "raise"; those before it are kept.
        StoreError: the store holds another model's vectors.
        ConnectionError: the server does not answer as it should; what was added stays.
    """
    check_policy(on_error)
    check_model(store, embedder)
    references = source.instances(study)
    key = read_site_key(site_key)
    named = {key.hashed("case", r.rsplit("/", 1)[1]): r for r in references}
    known = set(store.frame()["case_id"])
    missing = [case_id for case_id in named if case_id not in known]
    withdrawn = store.withdrawn_among(missing)
    fresh = [named[case_id] for case_id in missing if case_id not in withdrawn]
    passed = (len(named) - len(missing), len(withdrawn))
    wanted = header_elements(label, group)
    headers = [
        (reference, source.header(reference, wanted))
        for reference in tqdm(fresh, desc="headers", unit="image", disable=not progress)
    ]
    images = [(reference, header) for reference, header in headers if header.get("Rows")]
    without = len(headers) - len(images)
    if not images:
        return StudyAdded(0, *passed, without)
    table = header_cases(
        images,
        label=label,
        classes=classes,
        group=group,
        metadata=metadata,
        healthy=healthy,
        site_key=site_key,
        on_error=on_error,
    )
    gone = _add_each(source, table, store, embedder, on_error, by, progress)
    return StudyAdded(len(table) - len(gone), *passed, without, (*table.left_out, *gone))


def _add_each(
    source: InstanceSource,
    table: CaseTable,
    store: CaseStore,
    embedder: Embedder,
    on_error: str,
    by: str,
    progress: bool,
) -> list[LeftOut]:
    gone = []
    for at, row in enumerate(
        tqdm(table.frame.itertuples(), "adding", len(table), unit="image", disable=not progress)
    ):
        case_id = str(row.case_id)
        try:
            picture = source.instance(str(row.image))
            store.add(
                table.frame.iloc[[at]],
                encode_images(embedder, [picture.pixels], laterality=picture.laterality),
                model_digest=embedder.digest,
                thumbnails=[jpeg_thumbnail(picture.pixels)],
                resume=True,
                by=by,
            )
        except (ImageReadError, StoreError) as error:
            if on_error == "raise":
                raise DataError(
                    f"case {case_id}: {error}; on_error='skip' leaves it out"
                ) from error
            gone.append(LeftOut(case_id, str(error)))
    if gone:
        _log.warning("%d images of the study cannot be used and are left out", len(gone))
    return gone
