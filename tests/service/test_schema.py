"""The OpenAPI document, and requests made up from it: none of them brings the service down."""

from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from medshadow.service.settings import Limits

pytestmark = pytest.mark.slow

# Fewer make the suite quicker; the checks are those that hold for any request whatever.
EXAMPLES = 12
HOLDING = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


@pytest.fixture
def app(serve, tokens):
    """A service that is in no hurry, asked by a curator."""
    limits = Limits(requests_per_minute=1_000_000, failed_logins_per_minute=1_000_000)
    return serve(token=tokens.curator, limits=limits).app


@pytest.fixture
def document(app, tokens):
    """The OpenAPI document."""
    return schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=_bearer(tokens))


def _bearer(tokens):
    return {"Authorization": f"Bearer {tokens.curator}"}


def test_the_document_names_everything(app):
    document = app.openapi()
    assert {path: sorted(methods) for path, methods in document["paths"].items()} == {
        "/api/archive": ["get"],
        "/api/cases": ["get"],
        "/api/cases/consent": ["post"],
        "/api/cases/withdraw": ["post"],
        "/api/explain": ["post"],
        "/api/lookup": ["post"],
        "/api/refine": ["post"],
        "/api/report": ["post"],
        "/api/trail": ["get"],
        "/health": ["get"],
        "/login": ["post"],
        "/logout": ["post"],
        "/ready": ["get"],
    }
    for methods in document["paths"].values():
        for operation in methods.values():
            assert operation["summary"]
            assert operation["description"]
            assert "application/problem+json" in operation["responses"]["default"]["content"]
    assert document["paths"]["/api/archive"]["get"]["security"]


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_nothing_that_is_sent_brings_the_service_down(document, tokens, mode):
    checks = [CHECKS.get_one(name) for name in HOLDING]
    tried = []
    for operation in document.get_all_operations():
        # What takes nothing at all can be sent nothing wrong.
        with suppress(Unsatisfiable):
            _send_made_up(operation.ok(), mode, checks, _bearer(tokens), tried)
    assert len(set(tried)) >= 9
    assert len(tried) >= 9 * EXAMPLES / 2


def _send_made_up(operation, mode, checks, headers, tried):
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case):
        tried.append(case.path)
        case.call_and_validate(headers=headers, checks=checks)

    attempt()
