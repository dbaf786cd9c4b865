"""``medshadow lookup``: the nearest known cases of an image."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Literal

import typer

from medshadow.cli.index_record import Milvus

Laterality = Literal["left", "right"]


def lookup_command(
    image: Annotated[Path, typer.Argument(help="Image file.")],
    cases: Annotated[
        str, typer.Option("--cases", help="Case store: a file, or a database's URL.")
    ] = "cases.db",
    model: Annotated[Path, typer.Option("--model", help="Model folder.")] = Path("model"),
    k: Annotated[int, typer.Option("-k", help="Cases to show, one a lesion.")] = 16,
    where: Annotated[
        str | None, typer.Option(help="Filter before searching: 'sex=female, age>=50'.")
    ] = None,
    laterality: Annotated[
        Laterality | None, typer.Option(help="Which eye a fundus photograph shows.")
    ] = None,
    prevalence: Annotated[
        float | None,
        typer.Option(help="Share of malignant ones among such images, for a probability: 0.05."),
    ] = None,
    milvus: Milvus = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet PNG here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Find the nearest known cases; the nearest malignant one is always shown.

    Which cases were shown is noted in the store's trail, as seen by "command line".

    Example: medshadow lookup lesion.jpg --cases runs/d/cases.db --model runs/d/model -k 16
    --where sex=female

    With a probability, where 5 % of the images that you see are malignant: medshadow lookup
    lesion.jpg --prevalence 0.05

    Of an eye: medshadow lookup fundus.jpg --laterality left --where "age>=60"
    """
    if prevalence is not None and not 0 < prevalence < 1:
        raise typer.BadParameter(
            f"{prevalence:g} is no share between 0 and 1", param_hint="--prevalence"
        )
    from rich.console import Console

    from medshadow.data import read_image
    from medshadow.networks import Embedder
    from medshadow.retrieval import CaseLookup, CaseStore, MilvusSearch, contact_sheet
    from medshadow.service.settings import read_token
    from medshadow.workflows.tables import print_answer

    query = read_image(image)
    with ExitStack() as opened:
        store = opened.enter_context(CaseStore(cases))
        search = None
        if milvus is not None:
            token = read_token(None, "MEDSHADOW_MILVUS_TOKEN")
            search = opened.enter_context(closing(MilvusSearch(store, milvus, token)))
        answer = CaseLookup(store, Embedder.load(model), search=search).lookup(
            query, k=k, where=where, laterality=laterality, prevalence=prevalence
        )
        store.record_lookup(
            by="command line",
            query_digest=store.query_digest(query),
            shown=[hit.case_id for hit in answer.shown()],
        )
        if sheet is not None:
            contact_sheet(answer, query, store.image_of).savefig(
                sheet, dpi=120, bbox_inches="tight"
            )
    if as_json:
        print(json.dumps(answer.to_dict(), indent=2))
    else:
        console = Console()
        print_answer(answer, console)
        if prevalence is not None and answer.why_no_probability:
            console.print(answer.why_no_probability, highlight=False)
