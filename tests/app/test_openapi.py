"""The OpenAPI document: true to itself and to what is answered."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from app.examples import ANALYSIS_EXAMPLES, REQUEST_EXAMPLES, REWIND_EXAMPLES, RUN_EXAMPLES, WINDOW_EXAMPLES
from app.schemas.estimators import AnalysisRequest
from app.schemas.recommendations import RecommendationRequest
from app.schemas.runs import RewindRequest, RunRequest

PATH = "/v1/recommendations"
ANALYSES = "/v1/estimators/analyses"


def walk(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_version_and_paths(document):
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == "RL2ML"
    assert {(path, method) for path, method, _ in operations(document)} == {
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
        (PATH, "post"),
        (PATH + "/{identity}", "get"),
        ("/v1/pilots", "post"),
        ("/v1/runs", "post"),
        ("/v1/runs", "get"),
        ("/v1/runs/{identity}", "get"),
        ("/v1/runs/{identity}", "delete"),
        ("/v1/runs/{identity}/windows", "get"),
        ("/v1/runs/{identity}/windows/{index}", "put"),
        ("/v1/runs/{identity}/rewinds", "post"),
        ("/v1/estimators", "get"),
        (ANALYSES, "post"),
        ("/v1/plans", "post"),
    }


def test_every_reference_resolves(document):
    references = [node["$ref"] for node in walk(document) if "$ref" in node]
    assert len(references) > 20
    for reference in references:
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
        assert isinstance(target, dict)


def test_every_schema_is_used_and_is_json_schema(document):
    schemas = document["components"]["schemas"]
    used = {node["$ref"].rpartition("/")[2] for node in walk(document) if "$ref" in node}
    assert used == set(schemas)
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_documented_window_is_what_is_taken(document):
    content = document["paths"]["/v1/runs/{identity}/windows/{index}"]["put"]["requestBody"]["content"]
    schema = {"$ref": "#/components/schemas/WindowRequest", "components": document["components"]}
    for example in WINDOW_EXAMPLES.values():
        jsonschema.Draft202012Validator(schema).validate(example["value"])
    assert content["application/json"]["examples"] == json.loads(json.dumps(WINDOW_EXAMPLES))
    for wrong in ({}, [], {"cells": [], "surprise": 1}, {"num_rollouts": 8}, {"num_rollouts": 0, "num_successes": []}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema).validate(wrong)


def test_errors_are_documented_as_the_problems_they_are(document):
    # The framework would add its own error schema to every operation with a parameter.
    assert "HTTPValidationError" not in json.dumps(document)
    seen = 0
    for _, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                seen += 1
                assert response["content"] == {
                    "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
                }
    assert seen >= 14


def test_operations_have_names_and_summaries(document):
    identifiers = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(identifiers)) == len(identifiers)
    assert all(operation["summary"] for _, _, operation in operations(document))


@pytest.mark.parametrize(
    ("path", "model", "examples", "required"),
    [
        (PATH, RecommendationRequest, REQUEST_EXAMPLES, ["pilot", "metric", "budget"]),
        (ANALYSES, AnalysisRequest, ANALYSIS_EXAMPLES, ["estimator"]),
        ("/v1/runs", RunRequest, RUN_EXAMPLES, ["metric", "budget"]),
        ("/v1/runs/{identity}/rewinds", RewindRequest, REWIND_EXAMPLES, ["to_index"]),
    ],
)
def test_documented_body_is_what_is_validated(document, path, model, examples, required):
    body = document["paths"][path]["post"]["requestBody"]
    assert body["required"] is True
    content = body["content"]["application/json"]
    assert content["schema"] == {"$ref": f"#/components/schemas/{model.__name__}"}
    assert content["examples"] == json.loads(json.dumps(examples))
    documented = document["components"]["schemas"][model.__name__]
    assert documented["required"] == required
    assert documented["additionalProperties"] is False
    assert list(documented["properties"]) == list(model.model_fields)


@pytest.mark.parametrize("name", REQUEST_EXAMPLES)
def test_every_example_fits_its_schema_and_is_answered(name, document, client, conforms):
    example = REQUEST_EXAMPLES[name]["value"]
    request_schema = {"$ref": "#/components/schemas/RecommendationRequest", "components": document["components"]}
    jsonschema.Draft202012Validator(request_schema).validate(example)
    response = client.ask(example)
    assert response.status_code == 200, response.text
    posted = conforms(response)
    got = client.get(f"{PATH}/{posted['id']}")
    assert got.status_code == 200
    assert conforms(got) == posted


@pytest.mark.parametrize("name", ANALYSIS_EXAMPLES)
def test_every_example_of_an_analysis_fits_its_schema_and_is_answered(name, document, client, conforms):
    example = ANALYSIS_EXAMPLES[name]["value"]
    request_schema = {"$ref": "#/components/schemas/AnalysisRequest", "components": document["components"]}
    jsonschema.Draft202012Validator(request_schema).validate(example)
    response = client.analyze(example)
    assert response.status_code == 200, response.text
    conforms(response)


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        ("AnalysisRequest", {"estimator": "ppo"}),
        ("AnalysisRequest", {"estimator": {"name": "pkpo", "parameters": {"k": [4]}}}),
        ("AnalysisRequest", {"estimator": {"name": "pkpo", "parameters": {"k": True}}}),
        ("AnalysisRequest", {"estimator": {"gamma": 1, "name": "grpo"}}),
        ("AnalysisRequest", {"estimator": "grpo", "pilot": {"groups": {"a": {"cells": []}}}}),
        ("GroupsPilot", {"groups": {}}),
        ("GroupsPilot", {"groups": {"": {"cells": [{"num_rollouts": 1, "num_successes": 0, "num_prompts": 1}]}}}),
        ("RecommendationRequest", {"pilot": {}, "metric": "pass@8", "budget": {"num_rollouts": 8}}),
        ("ConditionsChoice", {"temperature": -1}),
        ("BetaPriorChoice", {}),
    ],
)
def test_document_refuses_what_the_service_refuses(document, model, wrong):
    schema = {"$ref": f"#/components/schemas/{model}", "components": document["components"]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema).validate(wrong)


def test_documented_identifier_pattern(document, client):
    pattern = document["components"]["schemas"]["RecommendationAnswer"]["properties"]["id"]["pattern"]
    assert re.fullmatch(pattern, client.id_of(REQUEST_EXAMPLES["histogram"]["value"]))


def test_names_in_the_schema_are_the_libraries(document):
    import rl2ml_core as rl2ml

    schemas = document["components"]["schemas"]
    current = schemas["RecommendationRequest"]["properties"]["current"]
    named = [option["enum"] for option in walk(current) if "enum" in option]
    assert named == [list(rl2ml.KNOWN_TRAINERS)]
    assert schemas["Estimator"]["properties"]["baseline"]["enum"] == list(rl2ml.BASELINES)
    assert schemas["TrainerChoice"]["properties"]["name"]["enum"] == list(rl2ml.KNOWN_TRAINERS)
    named = [option["enum"] for option in walk(schemas["FamilyChoice"]["properties"]["baseline"]) if "enum" in option]
    assert named == [list(rl2ml.BASELINES)]


def test_service_documents_need_no_other_server(client):
    # The framework's pages load scripts from elsewhere; ours is in test_docs_page.py.
    assert client.get("/redoc").status_code == 404
    assert "cdn" not in client.get("/docs").text
