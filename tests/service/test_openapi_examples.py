"""The OpenAPI document shows by example what to send and what comes back."""

import jsonschema_rs
import pytest


@pytest.fixture
def schemas(serve):
    """The models of the OpenAPI document, by name."""
    return serve().app.openapi()["components"]["schemas"]


def _named(schemas, reference):
    return schemas[reference.rpartition("/")[2]]


def _shows(schemas, schema):
    """Whether the document shows what such a value looks like; an empty default does not."""
    if schema.keys() & {"example", "examples", "enum", "const"} or schema.get("type") == "null":
        return True
    if schema.get("default") not in (None, "", []) or "contentMediaType" in schema:
        return True
    if "$ref" in schema:
        model = _named(schemas, schema["$ref"])
        return "example" in model or not _unshown(schemas, model)
    if "items" in schema:
        return _shows(schemas, schema["items"])
    return "anyOf" in schema and all(_shows(schemas, choice) for choice in schema["anyOf"])


def _unshown(schemas, model):
    return [name for name, field in model["properties"].items() if not _shows(schemas, field)]


def _models(schemas):
    return {
        name: model
        for name, model in schemas.items()
        if "properties" in model and "example" not in model
    }


def test_every_field_of_every_model_is_shown_by_example(schemas):
    found = {name: _unshown(schemas, model) for name, model in _models(schemas).items()}
    assert {"Refinement", "ReportAsked", "Withdrawal", "Answer"} <= found.keys()
    assert {name: fields for name, fields in found.items() if fields} == {}


def test_every_example_is_what_its_field_takes(schemas):
    tried = 0
    for model in schemas.values():
        shown = [(model, model["example"])] if "example" in model else []
        for field in model.get("properties", {}).values():
            shown += [(field, example) for example in field.get("examples", ())]
        for schema, example in shown:
            whole = {**schema, "components": {"schemas": schemas}}
            jsonschema_rs.Draft202012Validator(whole).validate(example)
            tried += 1
    assert tried > 50
