"""Running a MONAI bundle configuration, with values of it set from outside."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from medshadow.errors import DataError
from medshadow.training.distributed import process_group


def run_config(config: str | Path, **values: Any) -> Any:
    """Read a configuration, set values in it, and evaluate its ``initialize`` and its ``run``.

    A configuration can run code: only ever load your own. Started by ``torchrun``, it joins the
    other ranks first (:func:`~medshadow.training.distributed.process_group`).

    Args:
        config: path of the YAML file, or the name of one that comes with MedShadow: "dermatology".
        values: top-level keys to set, or nested ones joined by ``#`` (MONAI's way), such as
            ``{"loss#margin": 0.3}``; None leaves the file's value.

    Returns:
        The value of the last expression of ``run``.

    Raises:
        FileNotFoundError: no such file.
        DataError: the file is no configuration, or a key to set is not in it.
    """
    from monai.bundle import ConfigParser

    path = find_config(config)
    parser = ConfigParser()
    try:
        parser.read_config(str(path))
    except yaml.YAMLError as error:
        raise DataError(f"{path}: not YAML: {error}") from error
    _set_values(parser, path, values)
    with process_group():
        try:
            parser.get_parsed_content("output")  # refuses another run's folder before any work
            if "initialize" in parser:
                parser.get_parsed_content("initialize")
            return parser.get_parsed_content("run")[-1]
        except RuntimeError as error:
            raise _first_cause(error) from None


def find_config(config: str | Path) -> Path:
    """The path of a configuration file, given as a path or by the name of a packaged one."""
    path = Path(config)
    if path.is_file():
        return path
    packaged = {p.stem: p for p in configs_folder().glob("*.yaml")}
    if str(config) in packaged:
        return packaged[str(config)]
    raise FileNotFoundError(
        f"no configuration {config}: expected a file, or one of {sorted(packaged)}"
    )


def configs_folder() -> Path:
    """Where the configurations that come with MedShadow lie: in the wheel, or in the checkout."""
    here = Path(__file__).resolve().parents[1]
    packaged = here / "configs"
    return packaged if packaged.is_dir() else here.parent / "configs"


def _set_values(parser: Any, path: Path, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if value is None:
            continue
        if key not in parser:
            known = ", ".join(k for k in parser.config if not k.startswith("_"))
            raise DataError(f"{path}: no key {key!r} to set; top-level keys: {known}")
        parser[key] = value


def _first_cause(error: BaseException) -> BaseException:
    """What went wrong inside: MONAI wraps it once for every level of the configuration."""
    while isinstance(error, RuntimeError) and error.__cause__ is not None:
        error = error.__cause__
    return error
