"""Whatever fits /openapi.json, and much that does not, gets an answer that fits it too."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi import checks as openapi

from mmrec.serve.app import make_app
from mmrec.serve.engine import Engine
from tests.serve.clients import make_service

CHECKS = [
    checks.not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
    openapi.negative_data_rejection,
]
PATHS = 11


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_answers_fit_the_description(mode: GenerationMode, engine: Engine) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(make_service(engine)))
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) == PATHS
    asked = 0
    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not (list(operation.iter_parameters()) or operation.body):
            continue  # nothing to get wrong

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=15,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: schemathesis.Case) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(checks=CHECKS)

        ask()
    assert asked > 60
