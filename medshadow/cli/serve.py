"""``medshadow serve``: the lookup as a service for browsers and programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve_command(
    cases: Annotated[
        str, typer.Option("--cases", help="Case store: a SQLite file or an SQLAlchemy URL.")
    ] = "cases.db",
    model: Annotated[Path, typer.Option("--model", help="Model folder.")] = Path("model"),
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=1, max=65535)] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the readers' token (else MEDSHADOW_TOKEN).")
    ] = None,
    curator_token_file: Annotated[
        Path | None,
        typer.Option(help="File with the curators' token (else MEDSHADOW_CURATOR_TOKEN)."),
    ] = None,
    identity_header: Annotated[
        str | None, typer.Option(help="Header in which a proxy names who it has let in.")
    ] = None,
    trusted_proxy: Annotated[
        list[str] | None, typer.Option(help="Address or network of that proxy; may be repeated.")
    ] = None,
    insecure_local: Annotated[
        bool, typer.Option("--insecure-local", help="No token, for this machine alone.")
    ] = False,
    dicomweb: Annotated[
        str | None, typer.Option(help="Root URL of the DICOMweb server to fetch images from.")
    ] = None,
    milvus: Annotated[
        str | None,
        typer.Option(
            envvar="MEDSHADOW_MILVUS", help="URI of the Milvus server that holds the vectors."
        ),
    ] = None,
    milvus_token_file: Annotated[
        Path | None,
        typer.Option(help="File with that server's token (else MEDSHADOW_MILVUS_TOKEN)."),
    ] = None,
) -> None:
    """Serve lookups to browsers and programs: REST below /api, for people a page.

    Nobody gets in without a token or an identity proxy, unless the service listens on this machine
    alone and --insecure-local says so.

    Example: medshadow serve --cases runs/d/cases.db --model runs/d/model --token-file token.txt
    """
    from medshadow.service.server import run_server
    from medshadow.service.settings import ServiceSettings, read_token

    settings = ServiceSettings(
        cases=cases,
        model=model,
        host=host,
        port=port,
        reader_token=read_token(token_file, "MEDSHADOW_TOKEN"),
        curator_token=read_token(curator_token_file, "MEDSHADOW_CURATOR_TOKEN"),
        identity_header=identity_header,
        trusted_proxies=tuple(trusted_proxy or ()),
        insecure_local=insecure_local,
        dicomweb=dicomweb,
        milvus=milvus,
        milvus_token=read_token(milvus_token_file, "MEDSHADOW_MILVUS_TOKEN"),
    )
    run_server(settings, started=typer.echo)
