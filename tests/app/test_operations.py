"""What an operator sees: readiness, numbers, logs, children that die, several workers."""

import asyncio
import gzip
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import logs, metrics
from app.metrics import Metrics
from app.pool import Pool
from app.problems import PROBLEM_TYPES, Problem
from app.serving import serve as serve_here
from app.settings import Settings

PATH = "/v1/recommendations"
HANG = 60
ROOT = Path(__file__).resolve().parents[2]


def numbers(text: str) -> dict[str, float]:
    """Samples by name and labels."""
    rows = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in rows}


def until_ready(client: Any) -> httpx.Response:
    """The first answer that says so: beside other work a child of the pool may take seconds to start."""
    deadline = time.monotonic() + HANG
    while (answer := client.get("/readyz")).status_code != 200:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.1)
    return answer


# --- readiness --------------------------------------------------------------------------------------------------------


def test_ready_is_found_once_a_second_and_says_what_is_missing(client_with, refused, monkeypatch):
    client = client_with(pool_workers=1)
    assert until_ready(client).json()["status"] == "ready"
    monkeypatch.setattr("rl2ml_core.recommend", lambda *_, **__: pytest.fail("solved again within a second"))
    assert client.get("/readyz").status_code == 200
    monkeypatch.undo()
    readiness = client.app.state.readiness

    async def no_store() -> None:
        raise Problem("store-unavailable")

    async def no_pool(_: float) -> None:
        raise Problem("not-ready", "no process of the pool answers")

    for part, name, failing in ((client.app.state.store, "check", no_store), (client.app.state.pool, "ping", no_pool)):
        monkeypatch.setattr(part, name, failing)
        readiness._until = 0.0
        refused(client.get("/readyz"), "store-unavailable", "not-ready")
        refused(client.get("/readyz"), "store-unavailable", "not-ready")
        monkeypatch.undo()
    readiness._until = 0.0
    assert client.get("/readyz").status_code == 200


def test_a_busy_pool_is_ready_and_a_stuck_one_is_not():
    async def scenario() -> None:
        pool = Pool(Settings(pool_workers=1))
        try:
            with pytest.raises(Problem, match="not-ready"):
                await pool.ping(0.001)  # no child starts so fast
            busy = asyncio.create_task(pool.run(time.sleep, 1))
            await asyncio.sleep(0)
            await pool.ping(0.001)
            await busy
            await pool.ping(HANG)
        finally:
            pool.close()

    asyncio.run(scenario())


# --- children that die ------------------------------------------------------------------------------------------------


def children_of(process: int) -> list[int]:
    """Pool processes of a server; the one that watches over shared memory is none of them."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
            command = (status.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == process and b"spawn_main" in command:
            found.append(int(status.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes from /proc")
def test_a_killed_child_fails_one_request_at_most(serve, question):
    with serve(RL2ML_INLINE_MILLISECONDS="0", RL2ML_POOL_WORKERS="1") as server:
        until_ready(server.http)
        answers: list[int] = []
        done = threading.Event()

        def ask(first: int) -> None:
            for seed in range(first, 10_000, 4):
                if done.is_set():
                    return
                answers.append(server.ask(json.dumps(question | {"uncertainty": {"seed": seed}})).status_code)

        asking = [threading.Thread(target=ask, args=(first,)) for first in range(4)]
        for each in asking:
            each.start()
        rebuilt = []
        try:
            for _ in range(3):
                while not (children := children_of(server.process.pid)):
                    time.sleep(0.01)
                time.sleep(0.2)
                before, killed = len(answers), time.monotonic()
                os.kill(children[0], signal.SIGKILL)
                while len(answers) < before + 8:
                    time.sleep(0.005)
                rebuilt.append(time.monotonic() - killed)
                until_ready(server.http)
        finally:
            done.set()
            for each in asking:
                each.join(HANG)
        assert sum(status != 200 for status in answers) <= 3, "one for each kill"
        # Others may be at work on this machine: the shortest, against what a child takes to load now.
        began = time.monotonic()
        subprocess.run([sys.executable, "-c", "import app.pool, app.solving"], cwd=ROOT, check=True)
        assert min(rebuilt) < max(2, 3 * (time.monotonic() - began))
        found = numbers(server.http.get("/metrics").text)
        assert found["rl2ml_pool_rebuilds_total"] == 3
        assert server.stop()[0] == 0


def test_a_job_whose_caller_left_is_not_begun():
    async def scenario() -> None:
        pool = Pool(Settings(pool_workers=1))
        try:
            await pool.run(time.sleep, 0)
            busy = asyncio.create_task(pool.run(time.sleep, 0.5))
            await asyncio.sleep(0.1)
            # One more is handed to the child ahead of its turn; what is behind that can be taken back.
            waiting = [asyncio.create_task(pool.run(time.sleep, HANG)) for _ in range(4)]
            await asyncio.sleep(0.1)
            for task in waiting[1:]:
                task.cancel()
            await asyncio.gather(*waiting[1:], return_exceptions=True)
            assert pool._jobs == 2
            waiting[0].cancel()
            await busy
        finally:
            pool.close()

    asyncio.run(scenario())


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_numbers_have_labels_of_ours_only(client_with, question):
    client = client_with()
    identity = client.id_of(question)
    client.get(f"{PATH}/{identity}")
    client.get(f"{PATH}/rec_nothing")
    client.get("/nowhere/<script>")
    client.request("BREW", "/healthz")
    client.ask("{")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = numbers(answer.text)
    read = 'method="GET",route="/v1/recommendations/{identity}"'
    assert found[f'rl2ml_requests_total{{{read},status="200"}}'] == 1
    assert found[f'rl2ml_requests_total{{{read},status="404"}}'] == 1
    assert found[f"rl2ml_request_seconds_count{{{read}}}"] == 2
    assert found['rl2ml_requests_total{method="GET",route="none",status="404"}'] == 1
    assert found['rl2ml_requests_total{method="other",route="/healthz",status="405"}'] == 1
    assert found['rl2ml_problems_total{type="not-found"}'] == 2
    assert found['rl2ml_problems_total{type="malformed-json"}'] == 1
    assert found['rl2ml_problems_total{type="store-busy"}'] == 0
    assert found["rl2ml_requests_in_progress"] == 1
    assert found['rl2ml_solves_total{outcome="ok",place="inline"}'] == 1
    assert any(name.startswith("rl2ml_info{") for name in found)
    assert "script" not in answer.text
    assert "rec_" not in answer.text
    named = set(re.findall(r'type="([^"]+)"', answer.text))
    assert named == set(PROBLEM_TYPES)


def test_applications_count_apart():
    one, other = Metrics(), Metrics()
    one.solved("pool", "ok", 0.1)
    assert 'rl2ml_solves_total{outcome="ok",place="pool"} 1.0' in one.text().decode()
    assert "rl2ml_solves_total{" not in other.text().decode()


# --- logs -------------------------------------------------------------------------------------------------------------


def test_ids_of_requests(client):
    for good in ("a", "job-7:step_3.1", "x" * 64):
        assert client.get("/healthz", **{"X-Request-ID": good}).headers["x-request-id"] == good
    for bad in ("", "a b", "a\tb", "x" * 65, '"', "<", "a;b"):
        made = client.get("/healthz", **{"X-Request-ID": bad}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{16}", made)
    assert client.get("/nowhere").headers["x-request-id"]


@pytest.fixture
def restored_logging():
    root, ours = logging.getLogger(), logging.getLogger("rl2ml")
    handlers, level, own = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(own)


def test_a_line_for_a_request_is_json_and_has_no_body(client_with, question, capsys, restored_logging):
    logs.configure(requests=True)
    client = client_with()
    secret = question | {"current": "secret-name"}
    client.ask(secret, {"X-Request-ID": "mine", "Authorization": "Bearer rl2ml_secret"})
    client.ask(question, {"X-Request-ID": "other"})
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["request_id"] for line in lines] == ["mine", "other"]
    assert [line["status"] for line in lines] == [401, 200]
    assert lines[1] | {"milliseconds": 0, "timestamp": ""} == {
        "event": "request",
        "level": "info",
        "logger": "rl2ml",
        "method": "POST",
        "milliseconds": 0,
        "owner": None,
        "path": PATH,
        "problem": None,
        "request_id": "other",
        "route": PATH,
        "status": 200,
        "timestamp": "",
    }
    assert "secret" not in json.dumps(lines)


def test_a_failure_is_logged_where_it_happened_without_what_was_sent(
    client_with, refused, question, capsys, restored_logging, monkeypatch
):
    logs.configure(requests=False)
    client = client_with()

    def fail(*_: Any, **__: Any) -> None:
        try:
            raise ValueError("the body was: secret")
        except ValueError as cause:
            raise RuntimeError("also secret") from cause

    monkeypatch.setattr("rl2ml_core.recommend", fail)
    refused(client.ask(question), "internal-error")
    (line,) = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (line["event"], line["level"], line["error"], line["route"]) == ("failed", "error", "RuntimeError", PATH)
    assert [place.partition(" ")[0] for place in line["where"]][-1] == "RuntimeError"
    assert any(place.startswith("ValueError ") and place.endswith(" fail") for place in line["where"])
    assert "secret" not in json.dumps(line)
    found = numbers(client.get("/metrics").text)
    assert found['rl2ml_problems_total{type="internal-error"}'] == 1


def test_lines_of_other_loggers_take_the_same_form(capsys, restored_logging):
    logs.configure(requests=False, json=True)
    try:
        raise ValueError("secret")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.error").info("not this")
    failed, warned = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert (failed["event"], failed["error"], failed["logger"]) == (
        "Exception in ASGI application",
        "ValueError",
        "uvicorn.error",
    )
    assert failed["where"][0].startswith("ValueError ")
    assert "secret" not in json.dumps(failed)
    assert warned["level"] == "warning"


def test_on_a_terminal_lines_are_for_people(capsys, restored_logging):
    logs.configure(requests=False, json=False)
    logging.getLogger("rl2ml").warning("said")
    shown = capsys.readouterr().err
    assert "said" in shown
    assert not shown.startswith("{")


# --- several workers --------------------------------------------------------------------------------------------------


def test_several_workers_need_postgresql(run_app):
    done = run_app("--workers", "2", PORT="0")
    assert done.returncode == 1
    assert done.stderr.startswith("Cannot serve with several workers on SQLite")
    assert run_app("--workers", "0").returncode == 2


def test_several_workers_serve_one_run_and_count_together(serve, cluster, tmp_path, question):
    from app.examples import RUN_EXAMPLES, WINDOW_EXAMPLES

    run = next(iter(RUN_EXAMPLES.values()))["value"]
    window = next(iter(WINDOW_EXAMPLES.values()))["value"]
    variables = {"RL2ML_DATABASE_URL": cluster.database(), "TMPDIR": str(tmp_path)}
    with serve("--workers", "2", RL2ML_POOL_WORKERS="1", **variables) as server:
        created = ask_anew(server, "POST", "/v1/runs", run)
        assert created.status_code == 201, created.text
        address = f"/v1/runs/{created.json()['id']}"
        for index in range(6):
            assert ask_anew(server, "PUT", f"{address}/windows/{index}", window).status_code == 201
        seen = {ask_anew(server, "GET", address).json()["index"] for _ in range(8)}
        assert seen == {6}
        put = 'rl2ml_requests_total{method="PUT",route="/v1/runs/{identity}/windows/{index}",status="201"}'
        assert {numbers(ask_anew(server, "GET", "/metrics").text)[put] for _ in range(6)} == {6}
        workers = children_of(server.process.pid)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        while workers[0] in children_of(server.process.pid) or len(children_of(server.process.pid)) < 2:
            time.sleep(0.05)
        for _ in range(8):
            assert ask_anew(server, "PUT", f"{address}/windows/5", window).status_code == 200
            assert numbers(ask_anew(server, "GET", "/metrics").text)[put] == 6
        code, out, err = server.stop()
    assert (code, out) == (0, ""), err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("rl2ml-numbers-*"))


def test_what_a_killed_worker_had_under_way_is_forgotten(monkeypatch, tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, living = tmp_path / f"gauge_livesum_{gone.pid}.db", tmp_path / f"gauge_livesum_{os.getpid()}.db"
    counted = tmp_path / f"counter_{gone.pid}.db"
    for path in (dead, living, counted):
        path.touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    metrics._forget_the_dead()
    assert not dead.exists()
    assert living.exists()
    assert counted.exists()
    with metrics.shared_numbers():
        assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(tmp_path)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    with metrics.shared_numbers():
        assert Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).is_dir()
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ


def ask_anew(server: Any, method: str, path: str, body: Any = None) -> httpx.Response:
    """On a connection of its own, so that any worker may answer."""
    deadline = time.monotonic() + HANG
    while True:
        try:
            with httpx.Client(base_url=server.address, timeout=HANG, trust_env=False) as client:
                return client.request(method, path, json=body)
        except httpx.TransportError:  # a worker takes a second to start
            assert time.monotonic() < deadline
            time.sleep(0.1)


# --- telemetry --------------------------------------------------------------------------------------------------------


class Collector(BaseHTTPRequestHandler):
    """Takes what is sent; `server.taken` holds it by path."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.taken[self.path] += gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.taken = defaultdict(bytes)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_traces_are_sent_without_bodies(serve, question, collector):
    pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="its exporter is not installed")
    variables = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "RL2ML_TELEMETRY": "1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
    }
    with serve(**variables) as server:
        asked = question | {"pilot": {"groups": {"secret-name": question["pilot"]}}}
        assert server.ask(json.dumps(asked)).status_code == 200
        assert server.ask(json.dumps(question | {"current": "secret-name"})).status_code == 422
        code, out, err = server.stop()
    assert (code, out, err) == (0, "", "")
    assert PATH.encode() in collector.taken["/v1/traces"]
    assert set(collector.taken) == {"/v1/traces", "/v1/metrics"}, "no logs: they would quote requests"
    assert b"secret" not in b"".join(collector.taken.values())


def test_telemetry_says_what_it_needs(monkeypatch):
    monkeypatch.setattr("app.serving.find_spec", lambda _: None)
    with pytest.raises(SystemExit, match=r"pip install 'rl2ml\[otel\]'"):
        serve_here(Settings(telemetry=True), None)
    monkeypatch.setattr("app.serving.find_spec", lambda _: True)
    for name in ("", "TRACES_", "METRICS_"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}ENDPOINT", raising=False)
    with pytest.raises(SystemExit, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        serve_here(Settings(telemetry=True), None)
