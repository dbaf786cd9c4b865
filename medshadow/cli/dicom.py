"""``medshadow index add-study``: the images of a DICOM study, straight from their server."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from medshadow.cli.index_record import COMMAND_LINE, By, Cases, Json


def add_study_command(
    dicomweb: Annotated[str, typer.Option(help="Root URL of the DICOMweb server.")],
    study: Annotated[str, typer.Option(help="Study Instance UID; - reads it from standard input.")],
    label: Annotated[
        str, typer.Option(help="DICOM attribute that tells the label, such as StudyDescription.")
    ],
    class_of: Annotated[
        list[str],
        typer.Option("--class", help="FOUND=LABEL: the label that a text found is given."),
    ],
    model: Annotated[Path, typer.Option("--model", help="Model folder.")],
    cases: Cases,
    group: Annotated[
        str, typer.Option(help="DICOM attribute of what belongs together.")
    ] = "PatientID",
    metadata: Annotated[
        list[str] | None,
        typer.Option(help="DICOM attribute to keep beside age, sex and eye; may be repeated."),
    ] = None,
    by: By = COMMAND_LINE,
    as_json: Json = False,
) -> None:
    """Add the images of a study to a store, one after another, straight from a DICOMweb server.

    Stopped, or run again, it goes on with what is missing. Images that cannot be used, and those
    withdrawn before, stay out. Case and patient ids become keyed hashes (MEDSHADOW_SITE_KEY); the
    server's credentials are read from MEDSHADOW_DICOMWEB_CREDENTIALS, as user:password or as a
    bearer token. Given as -, the study stays out of the shell's history.

    Example: medshadow index add-study --dicomweb https://pacs.example/dicom-web --study 1.2.840.99
    --label AdmittingDiagnosesDescription --class "malignant melanoma=mel" --class naevus=nv
    --model model --cases cases.db
    """
    from medshadow.networks import Embedder
    from medshadow.retrieval import CaseStore
    from medshadow.service.dicomweb import DicomWeb
    from medshadow.workflows.dicomweb import index_study

    uid = sys.stdin.readline().strip() if study == "-" else study
    with CaseStore(cases) as store:
        found = index_study(
            DicomWeb(dicomweb),
            uid,
            store,
            Embedder.load(model),
            label=label,
            classes=dict(map(_pair, class_of)),
            group=group,
            metadata=tuple(metadata or ()),
            on_error="skip",
            by=by,
            progress=not as_json,
        )
        count = len(store)
    if as_json:
        print(json.dumps({**asdict(found), "cases": count}, indent=2))
        return
    words = [f"{found.added} cases added", f"{found.known} were there"]
    for number, what in (
        (found.withdrawn, "withdrawn before stay out"),
        (found.without_image, "without an image passed over"),
        (len(found.left_out), "cannot be used"),
    ):
        words += [f"{number} {what}"] if number else []
    typer.echo(f"{', '.join(words)}; {count} in all")
    for gone in found.left_out:
        typer.echo(f"{gone.case_id}: {gone.reason}")


def _pair(text: str) -> tuple[str, str]:
    found, equals, label = text.rpartition("=")
    if not (found and equals and label):
        raise typer.BadParameter(f"{text!r}: expected FOUND=LABEL", param_hint="--class")
    return found, label
