"""``medshadow index withdraw``, ``consent``, ``trail``: what patients decide, who did what."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medshadow.errors import StoreError

if TYPE_CHECKING:
    import pandas as pd

    from medshadow.retrieval import CaseStore

COMMAND_LINE = "command line"

Named = Annotated[
    list[str],
    typer.Argument(metavar="ID...", help="Case ids; - reads them from standard input, one a line."),
]
Cases = Annotated[str, typer.Option("--cases", help="Case store: a file, or a database's URL.")]
Groups = Annotated[
    bool, typer.Option("--groups", help="The ids are of lesions or patients: all their cases.")
]
Own = Annotated[
    bool,
    typer.Option(
        "--own-ids", help="The ids are an own archive's, before MEDSHADOW_SITE_KEY hashed them."
    ),
]
Milvus = Annotated[
    str | None,
    typer.Option(
        "--milvus",
        help="URI of the Milvus server that holds the vectors; its token in "
        "MEDSHADOW_MILVUS_TOKEN.",
    ),
]
By = Annotated[str, typer.Option("--by", help="Who does it, for the trail.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def withdraw_command(
    ids: Named,
    cases: Cases,
    groups: Groups = False,
    own_ids: Own = False,
    reason: Annotated[
        Literal["consent", "error", "duplicate", "other"], typer.Option(help="Why.")
    ] = "consent",
    milvus: Milvus = None,
    by: By = COMMAND_LINE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Erase cases for good, at once: row, vector, picture and index entry.

    What stays says only that a case was withdrawn, when, by whom and why. Backups are yours to
    delete. Vectors in Milvus go when a search in that server is next opened, and with --milvus now.

    Example: medshadow index withdraw ISIC_0027419 --cases cases.db

    All of a patient, in an own archive: medshadow index withdraw 4711 --groups --own-ids
    --cases cases.db
    """
    from medshadow.retrieval import CaseStore

    with CaseStore(cases) as store:
        chosen = _chosen(store.frame(), ids, groups, own_ids)
        if not yes:
            question = f"Erase {len(chosen)} of {len(store)} cases of {store.name} for good?"
            typer.confirm(question, abort=True, err=True)
        store.withdraw(chosen, by=by, reason=reason)
        left = len(store)
        if milvus is not None:
            _erase_from_milvus(store, milvus)
    if as_json:
        print(json.dumps({"withdrawn": len(chosen), "cases": left}, indent=2))
    else:
        print(f"{len(chosen)} cases erased, {left} left")


def _erase_from_milvus(store: CaseStore, uri: str) -> None:
    from medshadow.retrieval import MilvusSearch
    from medshadow.service.settings import read_token

    try:
        # Opened, it fills a collection without them, and drops the one that they are in.
        MilvusSearch(store, uri, read_token(None, "MEDSHADOW_MILVUS_TOKEN")).close()
    except StoreError as error:
        raise StoreError(
            f"the cases are withdrawn and found no longer, but their vectors stay in Milvus until "
            f"a search is opened there: {error}"
        ) from error


def consent_command(
    state: Annotated[
        Literal["given", "suspended"],
        typer.Argument(help="Whether the cases may be shown; suspended ones are kept, not found."),
    ],
    ids: Named,
    cases: Cases,
    groups: Groups = False,
    own_ids: Own = False,
    by: By = COMMAND_LINE,
    as_json: Json = False,
) -> None:
    """Suspend cases, so that no lookup finds them, or give them free again.

    Example: medshadow index consent suspended ISIC_0027419 --cases cases.db
    """
    from medshadow.retrieval import CaseStore

    with CaseStore(cases) as store:
        chosen = _chosen(store.frame(), ids, groups, own_ids)
        store.set_consent(chosen, state, by=by)
    if as_json:
        print(json.dumps({"cases": len(chosen), "consent": state}, indent=2))
    else:
        print(f"consent of {len(chosen)} cases: {state}")


def trail_command(
    cases: Cases,
    last: Annotated[int, typer.Option("--last", min=1, help="How many, the newest.")] = 20,
    as_json: Json = False,
) -> None:
    """Show who looked up, added, changed and withdrew what, and when; the newest last.

    Example: medshadow index trail --cases cases.db --last 100
    """
    from rich.console import Console

    from medshadow.retrieval import CaseStore
    from medshadow.workflows.tables import frame_table

    with CaseStore(cases) as store:
        trail = store.trail(last)
    if as_json:
        print(trail.to_json(orient="records", date_format="iso", indent=2))
        return
    Console().print(frame_table(_in_short(trail), f"Trail of {store.name}, the newest last"))


def _chosen(frame: pd.DataFrame, ids: list[str], groups: bool, own_ids: bool) -> list[str]:
    """The case ids that are meant, in the store's order.

    Raises:
        StoreError: an id is none of the store's, or none is given.
    """
    wanted = list(dict.fromkeys(_read(ids)))
    if not wanted:
        raise StoreError("no ids given; expected one or more case ids")
    kind = "group" if groups else "case"
    if own_ids:
        from medshadow.data.site_key import read_site_key

        key = read_site_key()
        wanted = [key.hashed(kind, name) for name in wanted]
    column = frame["group" if groups else "case_id"]
    unknown = sorted(set(wanted) - set(column))
    if unknown:
        what = "lesions or patients" if groups else "cases"
        raise StoreError(f"no {what} {unknown[:5]} in the store")
    chosen: list[str] = frame.loc[column.isin(wanted), "case_id"].tolist()
    return chosen


def _read(ids: list[str]) -> list[str]:
    if ids != ["-"]:
        return ids
    return [line.strip() for line in sys.stdin if line.strip()]


def _in_short(trail: pd.DataFrame) -> pd.DataFrame:
    """The trail as it fits a terminal: seconds, digests cut, the first cases of many."""
    shown = trail.copy()
    shown["when"] = shown["when"].map(lambda when: f"{when:%Y-%m-%d %H:%M:%S}")
    shown["query_digest"] = shown["query_digest"].fillna("").str[:12]
    shown["cases"] = [_first_few(cases) for cases in shown["cases"]]
    return shown


def _first_few(cases: list[str], few: int = 3) -> str:
    more = len(cases) - few
    return ", ".join(cases[:few]) + (f" and {more} more" if more > 0 else "")
