"""The configuration that is running, with its references and expressions resolved to values."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

# Folders of this machine, which need not go to a tracking server.
_PLACES = ("data_dir", "output_dir")
_KINDS = ("@", "$")


def running_configuration() -> str | None:
    """The configuration whose expression is being evaluated, as YAML that runs again.

    References and expressions are replaced by what they came to, where that is a plain value
    (numbers, text, booleans, nothing, and lists and mappings of them). What is an object, such as
    a network, keeps its definition, and references to it stay. ``data_dir`` and ``output_dir`` are
    not recorded, nor what is made of them.

    Returns:
        None where no configuration is running: the caller was not called by one.
    """
    parser = _running_parser()
    if parser is None:
        return None
    shown = {key: _resolved(parser, key, value) for key, value in parser.config.items()}
    shown |= {place: "(not recorded)" for place in _PLACES if place in shown}
    if not shown.get(parser.meta_key):
        shown.pop(parser.meta_key, None)
    return str(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True))


def _running_parser() -> ConfigParser | None:
    """MONAI's parser further up the call stack: an expression is given no way to its own."""
    from monai.bundle import ConfigParser

    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigParser):
            return caller
        frame = frame.f_back
    return None


def _resolved(parser: ConfigParser, name: str, config: Any) -> Any:
    """A part of the configuration, called by its full name, with plain values in it."""
    if isinstance(config, dict):
        return {k: _resolved(parser, f"{name}::{k}", v) for k, v in config.items()}
    if isinstance(config, list):
        return [_resolved(parser, f"{name}::{i}", v) for i, v in enumerate(config)]
    references = _references(config)
    if not references and not str(config).startswith("$"):
        return config
    if any(_leads_to_places(parser, reference) for reference in references):
        return config
    if str(config).startswith("@"):
        value = _resolved(parser, references[0], parser[references[0]])
    else:
        # What the run has not evaluated is not evaluated for the record either.
        value = parser.ref_resolver.resolved_content.get(name, config)
    return value if _is_plain(value) else config


def _references(config: Any) -> list[str]:
    """The full names that a text of the configuration refers to."""
    from monai.bundle import ReferenceResolver

    return list(ReferenceResolver.match_refs_pattern(config)) if isinstance(config, str) else []


def _leads_to_places(parser: ConfigParser, name: str) -> bool:
    """Whether what stands under a name is made of this machine's folders."""
    if name in _PLACES:
        return True
    found = (reference for text in _texts(parser[name]) for reference in _references(text))
    return any(_leads_to_places(parser, reference) for reference in found)


def _texts(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict | list):
        for part in config.values() if isinstance(config, dict) else config:
            yield from _texts(part)


def _is_plain(value: Any) -> bool:
    """Whether YAML can hold a value that a configuration does not take for a definition."""
    if isinstance(value, dict):
        return "_target_" not in value and all(map(_is_plain, (*value, *value.values())))
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if type(value) is str:
        return not value.startswith(_KINDS)
    return value is None or type(value) in (bool, int, float)
