"""Everything refused: the status, the shape, and nothing of what was sent."""

import json
import random

import numpy as np
import pytest

import rl2ml_core as rl2ml
from app.examples import REQUEST_EXAMPLES
from app.problems import MAX_ERRORS, PROBLEM_TYPES
from app.routes.health import SELF_SOLVE_GAMMA
from rl2ml_core.selection.criteria import RmsGain

PATH = "/v1/recommendations"
QUESTION = REQUEST_EXAMPLES["histogram"]["value"]
#: No name of ours: it must never come back.
MARKER = "<Script>sEcReT-7f3a</Script>"
MARKS = ("sEcReT", "script", "Script", "\\ud8", "7f3a")


def with_raw(place: str, raw: str) -> str:
    """The valid question with a piece of raw JSON at a place such as `budget.num_rollouts`."""
    content = json.loads(json.dumps(QUESTION))
    *path, last = place.split(".")
    target = content
    for name in path:
        target = target.setdefault(name, {}) if isinstance(target, dict) else target[int(name)]
    target[int(last) if isinstance(target, list) else last] = "@@"
    if isinstance(search := content.get("search", {}), dict):
        search.setdefault("criterion", "rms_gain")  # solved at once
        content["search"] = search
    return json.dumps(content).replace('"@@"', raw)


def test_published_types():
    assert {status for status, _ in PROBLEM_TYPES.values()} == {
        *(400, 401, 404, 405, 408, 409, 413, 415, 422, 429, 500, 503, 507)
    }
    assert all(title and title.isascii() for _, title in PROBLEM_TYPES.values())


# --- 400 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"pilot": }',
        b"{'pilot': 1}",
        b"\xef\xbb\xbf" + json.dumps(QUESTION).encode(),  # RFC 8259: no byte order mark
        json.dumps(QUESTION).encode("utf-16"),
        b"\xff\xfe",
        b'{"metric": "\xff' + MARKER.encode() + b'"}',
        json.dumps(QUESTION).encode() + b"{}",
        b"[" * 20_000,
        b'{"pilot":' * 20_000,
        b'{"pilot":{"cells":' + b"[" * 20_000 + b"]" * 20_000 + b"}}",
        b"1" * 10_000,
        b'{"\\ud800' + MARKER.encode() + b'": 1}',
        b'{"metric": "\\ud800' + MARKER.encode() + b'"}',
        b"infinity",
        b"NaN",
        b"-Infinity",
        MARKER.encode(),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_no_json(client, refused, unsolvable, body):
    content = refused(client.ask(body), "malformed-json")
    assert not any(mark in json.dumps(content) for mark in MARKS)


@pytest.mark.parametrize(
    "body",
    [b"[" * 100_000, b'{"pilot":' * 100_000, b'{"pilot":{"cells":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"],
    ids=lambda body: repr(body[:24]),
)
def test_endless_nesting(client, refused, unsolvable, body):
    refused(client.ask(body), "limit-exceeded")


# --- 404, 405 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/v1", "/v2/recommendations", f"/{MARKER}", "/v1/recommendation", f"{PATH}/a/b", "//v1/recommendations"]
)
def test_no_such_resource(client, refused, path):
    content = refused(client.get(path), "not-found")
    assert content.keys() == {"type", "title", "status"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", PATH, "POST"),
        ("PUT", PATH, "POST"),
        ("DELETE", f"{PATH}/rec_1", "GET"),
        ("POST", f"{PATH}/rec_1", "GET"),
        ("POST", "/healthz", "GET"),
        ("BREW", PATH, "POST"),
    ],
)
def test_no_such_method(client, refused, method, path, allowed):
    response = client.request(method, path)
    refused(response, "method-not-allowed")
    assert response.headers["allow"] == allowed


# --- 413, 415 ---------------------------------------------------------------------------------------------------------


def test_body_of_exactly_the_limit_is_taken(client_with, refused):
    body = json.dumps(QUESTION).encode()
    client = client_with(max_body_bytes=len(body))
    assert client.ask(body).status_code == 200
    response = client.ask(body + b" ")
    content = refused(response, "body-too-large")
    assert str(len(body)) in content["detail"]
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("headers", [{}, {"Transfer-Encoding": "chunked"}])
def test_undeclared_length_is_refused_when_exceeded(client_with, refused, headers):
    client = client_with(max_body_bytes=1000)
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(1000):
            sent += 100
            yield b" " * 100

    request = client.http.build_request(
        "POST", PATH, content=chunks(), headers={"Content-Type": "application/json"} | headers
    )
    request.headers.pop("content-length", None)
    refused(client.run(client.http.send(request)), "body-too-large")
    assert sent <= 2000, "the rest should stay unread"


@pytest.mark.parametrize(
    "media_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json", "application/",
     "application/jsonp", "text/json", "application/xml+json2", ""],
)  # fmt: skip
def test_other_media_types(client, refused, unsolvable, media_type):
    headers = {} if media_type is None else {"Content-Type": media_type}
    response = client.request("POST", PATH, content=json.dumps(QUESTION), headers=headers)
    assert "application/json" in refused(response, "unsupported-media-type")["detail"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "gzip, identity", MARKER])
def test_compressed_bodies(client, refused, unsolvable, encoding):
    content = refused(client.ask(QUESTION, {"Content-Encoding": encoding}), "unsupported-media-type")
    assert MARKER not in json.dumps(content)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "Application/JSON"},
        {"Content-Type": "application/vnd.rl2ml+json"},
        {"Content-Encoding": "identity"},
    ],
)
def test_ways_to_say_json(client, headers):
    assert client.ask(QUESTION, headers).status_code == 200


# --- 422 --------------------------------------------------------------------------------------------------------------

WRONG_VALUES = [
    # place, raw JSON, pointer
    ("budget.num_rollouts", "true", "#/budget/num_rollouts"),
    ("budget.num_rollouts", '"8"', "#/budget/num_rollouts"),
    ("budget.num_rollouts", "8.0", "#/budget/num_rollouts"),
    ("budget.num_rollouts", "8.5", "#/budget/num_rollouts"),
    ("budget.num_rollouts", "0", "#/budget/num_rollouts"),
    ("budget.num_rollouts", "-1", "#/budget/num_rollouts"),
    ("budget.num_rollouts", "65537", "#/budget/num_rollouts"),
    ("budget.num_rollouts", "1" + "0" * 400, "#/budget/num_rollouts"),
    ("budget.num_rollouts", "null", "#/budget/num_rollouts"),
    ("budget.num_rollouts", "1e999", "#/budget/num_rollouts"),
    ("budget", "4", "#/budget"),
    ("budget.MARKER", "4", "#/budget"),
    ("budget.rollouts", "4", "#/budget/rollouts"),
    ("pilot", "[]", "#/pilot"),
    ("pilot", "null", "#/pilot"),
    ("pilot", "{}", "#/pilot/num_rollouts"),
    ("pilot.cells", "[]", "#/pilot/cells"),
    ("pilot.cells", "{}", "#/pilot/cells"),
    ("pilot.cells", "null", "#/pilot/cells"),
    ("pilot.num_rollouts", "8", "#/pilot/num_rollouts"),  # two forms at once
    ("pilot.cells.1", "[8, 2, 1]", "#/pilot/cells/1"),
    ("pilot.cells.1.num_successes", "-1", "#/pilot/cells/1/num_successes"),
    ("pilot.cells.1.num_successes", "true", "#/pilot/cells/1/num_successes"),
    ("pilot.cells.1.num_successes", "9", "#/pilot/cells/1"),
    ("pilot.cells.1.num_rollouts", "0", "#/pilot/cells/1/num_rollouts"),
    ("pilot.cells.1.num_rollouts", "10000001", "#/pilot/cells/1/num_rollouts"),
    ("pilot.cells.1.num_prompts", "-1", "#/pilot/cells/1/num_prompts"),
    ("pilot.cells.1.num_prompts", "1e999", "#/pilot/cells/1/num_prompts"),
    ("pilot.cells.1.num_prompts", "9" * 400, "#/pilot/cells/1/num_prompts"),
    ("pilot.cells.1.num_prompts", '"1"', "#/pilot/cells/1/num_prompts"),
    ("pilot.cells.1.weight", "1", "#/pilot/cells/1/weight"),
    ("pilot", '{"num_rollouts": 8, "num_successes": []}', "#/pilot/num_successes"),
    ("pilot", '{"num_rollouts": 8, "num_successes": [1, 9]}', "#/pilot/num_successes/1"),
    ("pilot", '{"num_rollouts": [8, 4], "num_successes": [1, 5]}', "#/pilot/num_successes/1"),
    ("pilot", '{"num_rollouts": [8], "num_successes": [1, 5]}', "#/pilot/num_rollouts"),
    ("pilot", '{"num_rollouts": [8, 0], "num_successes": [1, 0]}', "#/pilot/num_rollouts/1"),
    ("pilot", '{"num_rollouts": 8, "num_successes": [1, 2.5]}', "#/pilot/num_successes/1"),
    ("pilot", '{"pass_rates": []}', "#/pilot/pass_rates"),
    ("pilot", '{"pass_rates": [0.5, 1.1]}', "#/pilot/pass_rates/1"),
    ("pilot", '{"pass_rates": [0.5, -1e999]}', "#/pilot/pass_rates/1"),
    ("pilot", '{"pass_rates": [0.5, 0.33], "num_rollouts": 8}', "#/pilot/pass_rates/1"),
    ("pilot", '{"pass_rates": [0.5, 0.125], "num_rollouts": 1000000}', None),  # exact, and so not ambiguous
    ("pilot", '{"pass_rates": [0.5, 0.1234567], "num_rollouts": 1000}', "#/pilot/pass_rates/1"),
    ("metric", "null", "#/metric"),
    ("metric", "8", "#/metric"),
    ("metric", "[]", "#/metric"),
    ("metric", "{}", "#/metric"),
    ("metric", '{"name": "metric:text"}', "#/metric"),
    ("metric", '"pass@0"', "#/metric"),
    ("metric", '"pass@1000001"', "#/metric"),
    ("metric", '"pass@"', "#/metric"),
    ("metric", '""', "#/metric"),
    ("metric", '"-1*pass@8"', "#/metric"),
    ("metric", '"1e999*pass@8"', "#/metric"),
    ("metric", '"nan*pass@8"', "#/metric"),
    ("metric", '"0*pass@8"', "#/metric"),
    ("metric", '"log:0"', "#/metric"),
    ("metric", '"log:nan"', "#/metric"),
    ("metric", '"log:inf"', "#/metric"),
    ("metric", '"pass@8' + " " * 1000 + '"', "#/metric"),
    ("metric", '{"name": "pass_at_k"}', "#/metric/k"),
    ("metric", '{"name": "pass_at_k", "k": "8"}', "#/metric/k"),
    ("metric", '{"name": "pass_at_k", "k": 8, "tau": 1}', "#/metric/tau"),
    ("metric", '{"name": "log_success", "tau": 0}', "#/metric/tau"),
    ("metric", '{"name": "mixture", "parts": []}', "#/metric/parts"),
    ("metric", '{"name": "mixture", "parts": [{"weight": 0, "metric": {"name": "pass_at_k", "k": 1}}]}', "#/metric"),
    ("metric", '{"name": "mixture", "parts": [{"weight": -1, "metric": {"name": "pass_at_k", "k": 1}}]}',
     "#/metric/parts/0/weight"),
    ("metric", '{"name": "mixture", "parts": [{"weight": 1, "metric": {"name": "mixture", "parts": []}}]}',
     "#/metric/parts/0/metric"),
    ("current", "null", "#/current"),
    ("current", "true", "#/current"),
    ("current", "-1", "#/current"),
    ("current", "21", "#/current"),
    ("current", '"GRPO"', "#/current"),
    ("current", '"ppo"', "#/current"),
    ("current", '{"name": "pkpo"}', "#/current/success"),
    ("current", '{"success": [null, 1]}', "#/current/failure"),
    ("current", '{"success": [null, 1], "failure": [0, null]}', "#/current"),  # a table for another group size
    ("current", '{"success": [null, 1, 1, 1, 1], "failure": [0, null]}', "#/current"),
    ("current", '{"success": [1, 1, 1, 1, 1], "failure": [0, 0, 0, 0, null]}', "#/current"),
    ("current", '{"success": [null, 1, 1, 1, 1e101], "failure": [0, 0, 0, 0, null]}', "#/current/success/4"),
    ("search.gamma_min", "-0.1", "#/search/gamma_min"),
    ("search.gamma_min", "2.1", "#/search/gamma_min"),  # above gamma_max
    ("search.gamma_max", "20.1", "#/search/gamma_max"),
    ("search.criterion", '"look_ahead"', "#/search/criterion"),
    ("search", '{"criterion": "rms_gain", "judged_on": "training"}', "#/search/judged_on"),  # of another criterion
    ("search.judged_on", '"test"', "#/search/judged_on"),
    ("search.look_ahead", "1", "#/search/look_ahead"),
    ("search.variance_penalty", "0.1", "#/search/variance_penalty"),  # belongs to the other criterion
    ("estimator.baseline", '"mean"', "#/estimator/baseline"),
    ("estimator.baseline", "null", "#/estimator/baseline"),
    ("estimator.order", "0", "#/estimator/order"),
    ("estimator.order", "5", "#/estimator/order"),  # above N
    ("estimator.order", "65537", "#/estimator/order"),
    ("estimator.order", "2.0", "#/estimator/order"),
    ("estimator.order", "true", "#/estimator/order"),
    ("estimator.filter_groups", "0", "#/estimator/filter_groups"),
    ("estimator.filter_groups", '"true"', "#/estimator/filter_groups"),
    ("estimator.filter_groups", "null", "#/estimator/filter_groups"),
    ("sampled", "[]", "#/sampled"),
    ("sampled", '"sft-3"', "#/sampled"),
    ("sampled.temperature", "-0.1", "#/sampled/temperature"),
    ("sampled.temperature", "1e7", "#/sampled/temperature"),
    ("sampled.temperature", "1e999", "#/sampled/temperature"),
    ("sampled.temperature", '"hot"', "#/sampled/temperature"),
    ("sampled.policy", '""', "#/sampled/policy"),
    ("sampled.policy", '"  "', "#/sampled/policy"),
    ("sampled.policy", '"a\\u202eb"', "#/sampled/policy"),  # turns what follows around
    ("sampled.policy", '"' + "a" * 201 + '"', "#/sampled/policy"),
    ("sampled.policy", "3", "#/sampled/policy"),
    ("sampled.step", "-1", "#/sampled/step"),
    ("sampled.step", "0.5", "#/sampled/step"),
    ("sampled.step", "9007199254740993", "#/sampled/step"),
    ("sampled.top_p", "1", "#/sampled/top_p"),
    ("training.temperature", "-0.1", "#/training/temperature"),
    ("training.policy", '"a\\nb"', "#/training/policy"),
    ("training.step", "true", "#/training/step"),
    ("score_model.kappa", "0", "#/score_model/kappa"),
    ("score_model.kappa", "9e-10", "#/score_model/kappa"),
    ("score_model.kappa", "1.1", "#/score_model/kappa"),
    ("score_model", "{}", "#/score_model/kappa"),
    ("prior.alpha", "0", "#/prior/alpha"),
    ("prior.alpha", "9e-10", "#/prior/alpha"),
    ("prior.beta", "1.1e8", "#/prior/beta"),
    ("prior.beta", "1e999", "#/prior/beta"),
    ("prior.name", '"jeffreys"', "#/prior"),
    ("prior", "{}", "#/prior/alpha"),  # Beta(1, 1) is no default
    ("prior", '{"name": "beta", "alpha": 1}', "#/prior/beta"),
    ("prior", '"empirical_bayes"', "#/prior"),
    ("prior", '{"name": "empirical_bayes", "alpha": 1}', "#/prior/alpha"),
    ("prior", '{"name": "plug_in", "alpha": 1}', "#/prior/alpha"),
    ("prior", "null", "#/prior"),
    ("uncertainty.bootstrap", "-1", "#/uncertainty/bootstrap"),
    ("uncertainty.bootstrap", "100001", "#/uncertainty/bootstrap"),
    ("uncertainty.seed", "-1", "#/uncertainty/seed"),
    ("uncertainty.seed", "9223372036854775808", "#/uncertainty/seed"),
    ("uncertainty.level", "0.49", "#/uncertainty/level"),
    ("uncertainty.level", "1", "#/uncertainty/level"),
    ("method_version", "1", "#/method_version"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "raw", "pointer"), WRONG_VALUES, ids=lambda value: str(value)[:60])
def test_wrong_values_are_named_by_pointer(client, refused, place, raw, pointer):
    response = client.ask(with_raw(place, raw))
    if pointer is None:
        assert response.status_code == 200
        return
    errors = refused(response, "invalid-request")["errors"]
    assert pointer in [error["pointer"] for error in errors]
    assert not any(word in response.text for word in ("dictionary", "instance", "Cell", "metric:", "prior:"))


@pytest.mark.parametrize("raw", [f'"{MARKER}"', f'{{"{MARKER}": 1}}', f'["{MARKER}"]', f'{{"name": "{MARKER}"}}'])
@pytest.mark.parametrize(
    "place",
    ["pilot", "pilot.cells", "pilot.cells.0", "pilot.cells.0.num_rollouts", "pilot.num_successes", "pilot.pass_rates",
     "metric", "metric.name", "metric.k", "budget", "budget.num_rollouts", "current", "search", "search.criterion",
     "search.judged_on", "search.look_ahead",
     "pilot.groups", "estimator.baseline", "estimator.order", "estimator.filter_groups", "score_model", "prior",
     "prior.name", "uncertainty.seed", "sampled", "sampled.temperature", "sampled.step", "training.temperature",
     MARKER],
)  # fmt: skip
def test_nothing_sent_comes_back(client, refused, unsolvable, place, raw):
    response = client.ask(with_raw(place, raw))
    content = json.dumps(refused(response, "invalid-request"))
    assert not any(mark in content + str(response.headers) for mark in MARKS)


@pytest.mark.parametrize(
    ("name", "pointer"),
    [
        ("pilott", "#/pilott"),  # such a name helps to find a typo, and harms no one
        ("Secret", "#"),
        ("7f3a", "#"),
        ("secret-7f3a", "#"),
        ("secret/7f3a", "#"),
        ("geheimnis_über_alles", "#"),
        ("s" * 40, "#/" + "s" * 40),
        ("s" * 41, "#"),
        ("", "#"),
    ],
)
def test_unknown_names_come_back_only_when_they_could_be_ours(client, refused, name, pointer):
    (error,) = refused(client.ask(QUESTION | {name: 1}), "invalid-request")["errors"]
    assert error == {"pointer": pointer, "detail": "unknown field"}


@pytest.mark.parametrize("text", [f"pass@8+{MARKER}", f"{MARKER}*pass@8", f"log:{MARKER}", f"{MARKER}@8"])
def test_text_of_a_metric_does_not_come_back(client, refused, text):
    content = refused(client.ask(QUESTION | {"metric": text}), "invalid-request")
    assert not any(mark in json.dumps(content) for mark in MARKS)
    assert content["errors"][0]["pointer"] == "#/metric"


@pytest.mark.parametrize("body", [b"null", b"[]", b"1", b'"a"', b"true", b"1e999", b"{}"])
def test_json_of_another_kind(client, refused, body):
    refused(client.ask(body), "invalid-request")


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("place", ["pilot.cells.1.num_prompts", "budget.num_rollouts", "search.gamma_max", "unknown"])
def test_constants_that_are_no_json(client, refused, place, constant):
    refused(client.ask(with_raw(place, constant)), "malformed-json")


def test_missing_fields_are_all_named(client, refused):
    errors = refused(client.ask(b"{}"), "invalid-request")["errors"]
    assert [error["pointer"] for error in errors] == ["#/pilot", "#/metric", "#/budget"]


def test_wrong_names_say_which_are_right(client, refused):
    def detail(change):
        return refused(client.ask(QUESTION | change), "invalid-request")["errors"][0]["detail"]

    assert detail({"metric": {"name": "pass@8"}}) == "name must be one of 'pass_at_k', 'log_success', 'mixture'"
    assert "grpo" in detail({"current": "ppo"})
    assert "leave_one_out" in detail({"estimator": {"baseline": "mean"}})
    assert "plug_in" in detail({"prior": {"name": "jeffreys"}})
    assert "'rms_gain', 'paper' or 'lookahead'" in detail({"search": {"criterion": "gain"}})


def test_last_of_equal_names_counts(client, question):
    text = json.dumps(question)
    twice = text.replace('"budget": {', '"budget": {"num_rollouts": 2}, "budget": {')
    assert twice.count('"budget"') == 2
    assert client.ask(twice).content == client.ask(question).content


def test_at_most_twenty_errors(client, refused):
    unknown = {f"field_{i}": i for i in range(500)}
    assert len(refused(client.ask(QUESTION | unknown), "invalid-request")["errors"]) == MAX_ERRORS


def test_thousands_of_errors_are_counted_only(client, refused):
    unknown = {f"{MARKER}{i}": i for i in range(4000)}
    content = refused(client.ask(QUESTION | unknown), "invalid-request")
    assert "errors" not in content
    assert content["detail"].startswith("4000 ")
    assert MARKER not in json.dumps(content)


def test_longest_problem_is_short(client, refused):
    # As deep and as long names as a pointer may repeat.
    unknown = {f"n{i:02}_{'x' * 36}": i for i in range(60)}
    parts = [{"weight": 1, "metric": {"name": "pass_at_k", "k": 1} | unknown}]
    response = client.ask(QUESTION | {"metric": {"name": "mixture", "parts": parts}})
    assert len(refused(response, "invalid-request")["errors"]) == MAX_ERRORS
    assert "x" * 30 in response.text, "the case has become harmless"


def test_random_damage_never_breaks_the_service(client, refused):
    body = json.dumps(REQUEST_EXAMPLES["everything"]["value"] | {"uncertainty": {"bootstrap": 0}}).encode()
    rng = random.Random(5)
    alphabet = b'{}[]",:0123456789-+.eE\\u\x00\xff nulltrfasNI'
    statuses = set()
    for _ in range(400):
        damaged = bytearray(body)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(damaged))
            if rng.random() < 0.5:
                damaged[at] = rng.choice(alphabet)
            else:
                del damaged[at : at + rng.randint(1, 20)]
        response = client.ask(bytes(damaged))
        statuses.add(response.status_code)
        if response.status_code != 200:
            refused(response, "malformed-json", "invalid-request", "limit-exceeded")
    assert statuses == {200, 400, 422}


# --- 500 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError, ZeroDivisionError, MemoryError, ValueError, KeyError])
def test_unexpected_failures_say_nothing(client_with, refused, question, monkeypatch, error):
    def fail(*_, **__):
        raise error(MARKER)

    client = client_with()
    monkeypatch.setattr("rl2ml_core.recommend", fail)
    response = client.ask(question)
    content = refused(response, "internal-error")
    assert content.keys() == {"type", "title", "status"}
    assert not any(word in response.text for word in (*MARKS, "Traceback", "File", error.__name__))
    monkeypatch.undo()
    assert client.ask(question).status_code == 200


def test_nan_in_an_answer_is_a_failure_not_an_answer(client_with, refused, question, monkeypatch):
    class Broken:
        def to_dict(self):
            return {"gamma": float("nan")}

    client = client_with()
    monkeypatch.setattr("rl2ml_core.recommend", lambda *_, **__: Broken())
    refused(client.ask(question), "internal-error")
    monkeypatch.undo()
    assert client.ask(question).json()["gamma"] > 1, "the failure must not be kept"


def test_known_answer_of_readiness_is_the_maximum():
    pilot = rl2ml.PilotHistogram.from_cells([(8, 0, 30), (8, 2, 20), (8, 6, 14)])
    people = pilot.population("empirical_bayes")
    criterion = RmsGain(people, rl2ml.PassAtK(8), 4)

    def values(gammas):
        tables = [rl2ml.rl2ml_table(gamma, 4, "bayes", people) for gamma in gammas]
        terms = criterion.totals(np.array([t.success for t in tables]), np.array([t.failure for t in tables]))
        return criterion.combine(terms, 0.1)

    # Flat to 1e-14 around the maximum, so it is where a parabola through the whole grid has its vertex.
    near = np.linspace(-2e-4, 2e-4, 41)
    heights = values(SELF_SOLVE_GAMMA + near)
    square, slope, _ = np.polyfit(near, heights / heights.max() - 1, 2)
    assert square < 0
    assert abs(slope / (2 * square)) < 1e-6
    assert values(np.linspace(0, 2, 101)).max() <= heights.max()


def test_not_ready_when_the_known_answer_is_another(client_with, refused, monkeypatch):
    client = client_with(pool_workers=1)
    assert client.get("/readyz").json()["status"] == "ready"
    monkeypatch.setattr("app.routes.health._COUNTS", 0.0)
    client.app.state.readiness._until = 0.0
    monkeypatch.setattr("app.routes.health.SELF_SOLVE_GAMMA", 1.0)
    refused(client.get("/readyz"), "not-ready")
    assert client.get("/healthz").json() == {"status": "ok"}
