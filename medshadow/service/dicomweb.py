"""A hospital's image archive over DICOMweb: find, fetch and store instances, on one server only.

Identifiers of patients and studies pass through to and from that server. They enter no log and no
message: what the libraries below say of them goes nowhere, and errors name no instance.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import numpy as np

from medshadow.data.in_memory import read_image_bytes
from medshadow.errors import DataError
from medshadow.service.dicomweb_line import (
    CREDENTIALS,
    DicomWebError,
    InstanceNotFoundError,
    Line,
)

if TYPE_CHECKING:
    from dicomweb_client import DICOMwebClient
    from pydicom.dataset import Dataset

_UID = r"[0-9]+(?:\.[0-9]+)*"
_INSTANCE = re.compile(
    rf"/?studies/({_UID})/series/({_UID})/instances/({_UID})(?:/frames/([1-9][0-9]{{0,5}}))?/?"
)
_SERIES, _INSTANCE_UID = "0020000E", "00080018"  # as DICOM's JSON names them
_SIDES: dict[str, Literal["left", "right"]] = {"L": "left", "R": "right"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Reference:
    """Which instance, and which frame of it. As text, the path below the server's address.

    Args:
        study: Study Instance UID.
        series: Series Instance UID.
        instance: SOP Instance UID.
        frame: counted from 1, or None.
    """

    study: str
    series: str
    instance: str
    frame: int | None = None

    def __str__(self) -> str:
        path = f"studies/{self.study}/series/{self.series}/instances/{self.instance}"
        return path if self.frame is None else f"{path}/frames/{self.frame}"


@dataclass(frozen=True)
class Instance:
    """An image that was fetched.

    Args:
        header: its attributes but the pixel data. They tell who the patient is.
        pixels: uint8 H x W x 3, RGB.
        laterality: which eye an ophthalmic image shows; empty where unknown.
        frame: which of several frames it is, from 1; None where there is one.
    """

    header: Dataset = field(repr=False)
    pixels: np.ndarray = field(repr=False)
    laterality: Literal["left", "right", ""]
    frame: int | None = None


class DicomWeb:
    """A client of one DICOMweb server; no other is ever asked.

    It follows no redirect, and takes neither proxy nor password from the environment or ``.netrc``:
    requests for a patient's images must not leave by a way that nobody chose. Certificates are
    checked, against the file in ``REQUESTS_CA_BUNDLE`` where that is set. Safe in several threads.

    Args:
        url: the address below which ``studies`` lies, such as
            "https://pacs.example/dicom-web".
        credentials: "user:password", or a bearer token (RFC 6750: it has no colon); from the
            environment variable MEDSHADOW_DICOMWEB_CREDENTIALS unless given. None are sent where
            both are empty.

    Raises:
        DataError: the address is none of http or https, or holds a password or a query.

    Example:
        >>> server = DicomWeb("https://pacs.example/dicom-web")
        >>> str(server.reference("/studies/1.2/series/1.2.3/instances/1.2.3.4"))
        'studies/1.2/series/1.2.3/instances/1.2.3.4'
        >>> server.reference("https://elsewhere.example/studies/1/series/2/instances/3")
        Traceback (most recent call last):
        medshadow.errors.DataError: reference: names another server; expected \
https://pacs.example/dicom-web
    """

    def __init__(self, url: str, *, credentials: str | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DataError("DICOMweb address: expected http(s)://host[:port]/path")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise DataError(
                "DICOMweb address: expected one without user, password, query or fragment; "
                f"credentials go into {CREDENTIALS}"
            )
        self.url = url.rstrip("/")
        self._line = Line(self.url, (credentials or os.environ.get(CREDENTIALS, "")).strip())
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            _log.warning("%s: images and credentials travel unencrypted; use https", self.url)

    def __repr__(self) -> str:
        return f"DicomWeb({self.url!r})"

    def reference(self, text: str) -> Reference:
        """Read a reference: a path below the server's address, or a whole URL of this server.

        Nothing but the three identifiers and the frame is taken from it.

        Raises:
            DataError: it names another server, or is no reference to an instance.
        """
        path = text.strip()
        if "://" in path:
            if not path.startswith(f"{self.url}/"):
                raise DataError(f"reference: names another server; expected {self.url}")
            path = path.removeprefix(f"{self.url}/")
        found = _INSTANCE.fullmatch(path)
        if found is None or max(map(len, found.groups()[:3])) > 64:
            raise DataError(
                "reference: expected studies/UID/series/UID/instances/UID, for one of several "
                "frames followed by /frames/NUMBER"
            )
        study, series, instance, frame = found.groups()
        return Reference(study, series, instance, int(frame) if frame else None)

    def instances(self, study: str) -> list[str]:
        """The instances of a study by QIDO-RS, as references, in no order that means anything.

        Raises:
            DataError: the study is no UID.
            InstanceNotFoundError: the server holds no such study.
            DicomWebError: the server does not answer as it should.
        """
        if not re.fullmatch(_UID, study) or len(study) > 64:
            raise DataError("study: expected a Study Instance UID: digits and dots, 64 at most")

        def ask(client: DICOMwebClient) -> list[str]:
            found: dict[str, None] = {}
            # Servers may send a part, and some send the same whatever the offset.
            while new := set(self._listed(client, study, len(found))) - set(found):
                found.update(dict.fromkeys(new))
            return list(found)

        found = self._line.ask("search", ask)
        if not found:
            raise InstanceNotFoundError(f"{self.url}: holds no instance of that study")
        return found

    def _listed(self, client: DICOMwebClient, study: str, offset: int) -> list[str]:
        items: Any = client.search_for_instances(study, offset=offset)
        uids = [[str(item[tag]["Value"][0]) for tag in (_SERIES, _INSTANCE_UID)] for item in items]
        if not all(re.fullmatch(_UID, uid) for pair in uids for uid in pair):
            raise ValueError
        return [str(Reference(study, series, instance)) for series, instance in uids]

    def header(self, reference: str, keywords: Sequence[str]) -> Dataset:
        """Some attributes of an instance by WADO-RS metadata; no others are looked at.

        One whose value breaks the standard is left out, as if the instance had none.

        Raises:
            DataError: no reference to an instance of this server.
            InstanceNotFoundError: the server holds no such instance.
            DicomWebError: the server does not answer as it should.
        """
        from pydicom.datadict import tag_for_keyword
        from pydicom.dataset import Dataset

        wanted = {f"{tag_for_keyword(keyword):08X}" for keyword in keywords}
        at = self.reference(reference)

        def ask(client: DICOMwebClient) -> Dataset:
            found: Any = client.retrieve_instance_metadata(at.study, at.series, at.instance)
            found = found[0] if isinstance(found, list) else found
            header = Dataset()
            for tag in wanted & set(found):
                # pydicom raises whatever a wrong value leads it into.
                with suppress(Exception):
                    header.update(Dataset.from_json({tag: found[tag]}))
            return header

        return self._line.ask("metadata", ask)

    def instance(self, reference: str) -> Instance:
        """Fetch an image by WADO-RS, as it was stored, and decode it.

        Raises:
            DataError: no reference to an instance of this server.
            InstanceNotFoundError: the server holds no such instance.
            DicomWebError: the server does not answer as it should.
            ImageReadError: the instance is no image that can be read, holds several frames and none
                was named, or has text burned in (see ``read_image``).
        """
        from medshadow.data.dicom_attributes import allowed_values

        at = self.reference(reference)

        def ask(client: DICOMwebClient) -> tuple[Dataset, bytes]:
            whole = client.retrieve_instance(at.study, at.series, at.instance)
            if str(whole.SOPInstanceUID) != at.instance:
                raise DicomWebError(f"{self.url}: sent another instance than the one asked for")
            file = io.BytesIO()
            whole.save_as(file, enforce_file_format=True)
            for element in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
                if element in whole:
                    delattr(whole, element)
            return whole, file.getvalue()

        header, content = self._line.ask("retrieve", ask)
        pixels = read_image_bytes(content, None if at.frame is None else at.frame - 1)
        known = allowed_values(header)
        side = known.get("ImageLaterality") or known.get("Laterality") or ""
        ophthalmic = known.get("Modality", "").startswith("OP")
        return Instance(header, pixels, _SIDES.get(side, "") if ophthalmic else "", at.frame)

    def pixels(self, reference: str) -> np.ndarray:
        """The picture alone: uint8 H x W x 3, RGB; see :meth:`instance`."""
        return self.instance(reference).pixels

    def store(self, dataset: Dataset) -> str:
        """Store an instance by STOW-RS.

        Returns:
            The reference to it.

        Raises:
            DicomWebError: the server does not answer, or did not take it.
        """
        # Without one, dicomweb-client sends what is no DICOM file, and servers keep it.
        dataset.preamble = dataset.preamble if hasattr(dataset, "preamble") else b"\0" * 128
        answer = self._line.ask("store", lambda client: client.store_instances([dataset]))
        taken = [
            str(item.ReferencedSOPInstanceUID) for item in answer.get("ReferencedSOPSequence", ())
        ]
        if str(dataset.SOPInstanceUID) not in taken:
            raise DicomWebError(f"{self.url}: did not store the instance")
        uids = (dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID)
        study, series, instance = map(str, uids)
        return str(Reference(study, series, instance))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
