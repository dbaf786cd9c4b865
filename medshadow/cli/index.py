"""``medshadow index``: making the case store that lookups search, and keeping it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medshadow.cli import dicom, index_record
from medshadow.cli.index_record import COMMAND_LINE, By, Cases, Json
from medshadow.errors import DataError

if TYPE_CHECKING:
    from medshadow.data import CaseTable

app = typer.Typer(help="Make and keep a case store.", no_args_is_help=True)

Data = Annotated[Path, typer.Option("--data", help="HAM10000, ODIR-5K or an own archive.")]
Model = Annotated[Path, typer.Option("--model", help="Model folder.")]
Splits = Annotated[
    Path | None,
    typer.Option("--splits", help="Take only the training section of this split."),
]
Setting = Annotated[
    list[str] | None,
    typer.Option("--set", help="Of an own archive: KEY=VALUE, such as label=diagnosis."),
]


@app.callback()
def _index() -> None:
    """Make and keep a case store."""


@app.command("build")
def build_command(
    data: Data,
    model: Model,
    cases: Cases,
    splits: Splits = None,
    setting: Setting = None,
    by: By = COMMAND_LINE,
    as_json: Json = False,
) -> None:
    """Make a case store: vectors, diagnoses and small pictures of every case of a data set.

    Stopped with Ctrl-C or by a power cut, the same command goes on with what is missing. From the
    validation section of --splits it learns what lookups warn of and how sure they are.

    Example: medshadow index build --data HAM10000 --model runs/d/model --cases cases.db

    Example: medshadow index build --data cases.csv --set label=diagnosis --set group=patient
    --model model --cases postgresql+psycopg://medshadow@db/cases
    """
    from medshadow.networks import Embedder
    from medshadow.workflows.building import build_store, names_of_diagnoses

    table = _table(data, setting)
    sections = _sections(table, splits)
    with build_store(
        Embedder.load(model),
        sections["training"],
        cases,
        diagnosis_names=names_of_diagnoses(table),
        validation=sections.get("validation"),
        by=by,
        progress=not as_json,
    ) as store:
        _tell(as_json, {"cases": len(store)}, f"{len(store)} cases in {_shown(cases)}")


@app.command("add")
def add_command(
    data: Data,
    model: Model,
    cases: Cases,
    splits: Splits = None,
    setting: Setting = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Replace cases whose content differs, and take withdrawn ones back.",
        ),
    ] = False,
    by: By = COMMAND_LINE,
    as_json: Json = False,
) -> None:
    """Add the cases of a data set that a store does not have yet.

    Stopped, or run again, it goes on with what is missing. A case that is there with another label,
    group or metadata is an error that names it, unless --replace is given.

    Example: medshadow index add --data new.csv --set label=diagnosis --model model --cases cases.db
    """
    from medshadow.networks import Embedder
    from medshadow.retrieval import CaseStore
    from medshadow.workflows.additions import add_cases

    table = _sections(_table(data, setting), splits)["training"]
    with CaseStore(cases) as store:
        found = add_cases(
            store,
            Embedder.load(model),
            table,
            replace_changed=replace,
            by=by,
            progress=not as_json,
        )
        words = f"{found.added} cases added, {found.known} were there"
        words += f", {found.withdrawn} withdrawn before stay out" if found.withdrawn else ""
        _tell(
            as_json,
            {**asdict(found), "cases": len(store)},
            f"{words}; {len(store)} in {_shown(cases)}",
        )


@app.command("calibrate")
def calibrate_command(
    data: Data,
    model: Model,
    cases: Cases,
    splits: Annotated[
        Path, typer.Option("--splits", help="The split whose training section the store holds.")
    ],
    setting: Setting = None,
    as_json: Json = False,
) -> None:
    """Learn anew, from a split's validation section, what lookups warn of and how sure they are.

    For a store that was upgraded, or has grown much since it was built.

    Example: medshadow index calibrate --data HAM10000 --model runs/d/model --cases cases.db
    --splits runs/d/splits.csv
    """
    from medshadow.networks import Embedder
    from medshadow.retrieval import CaseStore, calibrate

    sections = _sections(_table(data, setting), splits)
    if "validation" not in sections:
        raise DataError(f"{splits}: no validation cases; expected some to learn from")
    with CaseStore(cases) as store:
        calibrate(
            store,
            Embedder.load(model),
            sections["training"],
            sections["validation"],
            progress=not as_json,
        )
    count = len(sections["validation"])
    _tell(as_json, {"validation": count}, f"{_shown(cases)} calibrated on {count} cases")


@app.command("verify")
def verify_command(cases: Cases, as_json: Json = False) -> None:
    """Check a whole store: database, vectors, models, trail and tombstones.

    Ends with 1 where anything is wrong.

    Example: medshadow index verify --cases cases.db
    """
    from medshadow.retrieval import CaseStore

    with CaseStore(cases) as store:
        problems, count = store.verify(), len(store)
    lines = [*problems, f"{len(problems)} problems among {count} cases"]
    _tell(as_json, {"cases": count, "problems": problems}, "\n".join(lines))
    if problems:
        raise typer.Exit(1)


@app.command("backup")
def backup_command(
    target: Annotated[Path, typer.Argument(help="The file to write; there must be none yet.")],
    cases: Cases,
    as_json: Json = False,
) -> None:
    """Copy a store while it is in use, as of one moment, and check the copy.

    The copy holds what was not withdrawn by then: delete it when a case that is in it is withdrawn.

    Example: medshadow index backup backups/monday.db --cases cases.db
    """
    from medshadow.retrieval import CaseStore

    with CaseStore(cases) as store:
        store.backup(target)
    with CaseStore(target) as copy:
        problems, count = copy.verify(), len(copy)
    lines = [*problems, f"{count} cases in {target}"]
    _tell(as_json, {"cases": count, "problems": problems}, "\n".join(lines))
    if problems:
        raise typer.Exit(1)


@app.command("rebuild")
def rebuild_command(cases: Cases, as_json: Json = False) -> None:
    """Make the file of vectors that searches read anew, from the store.

    Searches make it by themselves where it is missing or stale; this is for one that is suspected.
    For another model, build another store.

    Example: medshadow index rebuild --cases cases.db
    """
    from medshadow.retrieval import CaseStore, ExactSearch

    with CaseStore(cases) as store:
        if store.vectors_path is not None:
            store.vectors_path.unlink(missing_ok=True)
        ExactSearch(store)
        count = len(store)
    _tell(as_json, {"cases": count}, f"{count} cases in {_shown(cases)}, ready to be searched")


@app.command("upgrade")
def upgrade_command(cases: Cases, as_json: Json = False) -> None:
    """Bring a store of an earlier MedShadow to this one's tables; a file is backed up first.

    Example: medshadow index upgrade --cases cases.db
    """
    from medshadow.retrieval import CaseStore, upgrade_store

    copy = upgrade_store(cases)
    with CaseStore(cases) as store:
        count = len(store)
    kept = f"; the store as it was is in {copy}: remove it when all is well" if copy else ""
    _tell(
        as_json,
        {"cases": count, "copy": copy and str(copy)},
        f"{count} cases in {_shown(cases)}, ready{kept}",
    )


app.command("add-study")(dicom.add_study_command)
app.command("withdraw")(index_record.withdraw_command)
app.command("consent")(index_record.consent_command)
app.command("trail")(index_record.trail_command)


def _table(data: Path, setting: list[str] | None) -> CaseTable:
    from medshadow.cli.train import parse_setting
    from medshadow.data.recognise import recognised_cases

    return recognised_cases(data, on_error="skip", **dict(map(parse_setting, setting or ())))


def _sections(table: CaseTable, splits: Path | None) -> dict[str, CaseTable]:
    """The sections that a split has cases in; all cases are the training section without one."""
    from medshadow.data.splits import load_split

    if splits is None:
        return {"training": table}
    table = load_split(table, splits)
    return {name: table.section(name) for name in dict.fromkeys(table.frame["section"]) if name}


def _shown(cases: str) -> str:
    """A store's place without a password."""
    from sqlalchemy import make_url

    return make_url(cases).render_as_string(hide_password=True) if "://" in cases else cases


def _tell(as_json: bool, facts: Mapping[str, Any], words: str) -> None:
    print(json.dumps(facts, indent=2) if as_json else words)
