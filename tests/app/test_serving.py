"""`python -m app` as a process of its own: start, demonstration, stop, and what a flood costs."""

import json
import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import uvicorn.importer
from fastapi import FastAPI

from app.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PATH = "/v1/recommendations"
PILOT = ROOT / "examples" / "addition" / "pilot.csv"
HANG = 60

HEAVY = {
    "pilot": {"num_rollouts": 8, "num_successes": [0, 1, 2, 3, 4, 5]},
    "metric": "pass@8",
    "budget": {"num_rollouts": 65_536},
    "search": {"criterion": "rms_gain", "gamma_max": 5},
}


def test_starts_answers_and_stops(serve, question):
    with serve(RL2ML_ROOT_PATH="/tools/rl2ml") as server:
        assert server.http.get("/healthz").json() == {"status": "ok"}
        assert server.http.get("/readyz").json()["status"] == "ready"
        index = server.http.get("/").json()
        document = server.http.get(f"/{index['openapi']}").json()
        assert document["servers"] == [{"url": "/tools/rl2ml"}]
        posted = server.ask(json.dumps(question))
        assert posted.status_code == 200
        assert "server" not in posted.headers
        location = posted.headers["content-location"]
        assert location == f"/tools/rl2ml{PATH}/{posted.json()['id']}"
        assert server.http.get(location.removeprefix("/tools/rl2ml")).content == posted.content
        # A client that leaves in the middle of its body is no failure.
        with socket.create_connection(("127.0.0.1", server.port)) as leaving:
            leaving.sendall(head_of_a_post("Content-Length: 100") + b'{"pilot')
        assert server.http.get("/healthz").status_code == 200
        code, out, err = server.stop()
    assert code == 0
    assert out == ""
    assert err == "", "nothing unusual happened, so nothing is logged"


def test_port_zero_is_a_free_one_and_interrupt_is_a_stop_too(serve):
    with serve() as quiet, serve(RL2ML_ACCESS_LOG="1") as talking:
        assert quiet.port != talking.port
        assert {server.http.get("/healthz").status_code for server in (quiet, talking)} == {200}
        assert quiet.stop(signal.SIGINT) == (0, "", "")
        code, out, err = talking.stop()
    assert code == 0
    assert out == ""
    (line,) = [json.loads(line) for line in err.splitlines()]
    assert (line["event"], line["method"], line["path"], line["status"]) == ("request", "GET", "/healthz", 200)


def head_of_a_post(framing: str) -> bytes:
    return f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n\r\n".encode()


def test_demonstration(serve):
    with serve("--demo", str(PILOT)) as server:
        lines = []
        while not lines or "curl" not in lines[-1]:
            line = server.process.stdout.readline()
            assert line, "ended before the demonstration did"
            lines.append(line)
        shown = "".join(lines)
        address = lines[-1].split("curl ")[1].strip()
        assert address.startswith(server.address + PATH + "/rec_")
        answer = server.http.get(address).json()
        assert server.stop() == (0, "", "")
    assert f"  {answer['summary']}\n" in shown
    assert "256 prompts" in shown
    table = answer["objective"]["advantages"]
    (success,) = re.findall(r"success:(.*)", shown)
    assert success.split() == ["–", *(f"{value:.2f}" for value in table["success"][1:])]
    (failure,) = re.findall(r"failure:(.*)", shown)
    assert failure.split() == [*(f"{value:.2f}" for value in table["failure"][:-1]), "–"]


def test_taken_port(run_app):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = run_app(PORT=str(port))
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Cannot listen on 127.0.0.1:{port}: Address already in use.")
    assert f"PORT={min(port + 1, 65535)}" in line


def run_here(monkeypatch, capsys, *arguments: str, **variables: str) -> tuple[int | str | None, str]:
    """`python -m app` in this process, as far as it comes before it serves: the exit code and standard error."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["app", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code, capsys.readouterr().err


@pytest.mark.parametrize(
    ("variables", "start"),
    [
        ({"PORT": "eight"}, "Cannot start with PORT=eight: "),
        ({"RL2ML_PORT": "70000"}, "Cannot start with PORT=70000: "),
        ({"RL2ML_MAX_CELLS": "0"}, "Cannot start with RL2ML_MAX_CELLS=0: "),
        ({"RL2ML_SOLVE_SECONDS": "soon"}, "Cannot start with RL2ML_SOLVE_SECONDS=soon: "),
        ({"RL2ML_ROOT_PATH": "tools"}, "Cannot start with RL2ML_ROOT_PATH=tools: "),
        ({"HOST": "nowhere.invalid", "PORT": "0"}, "Cannot listen on nowhere.invalid:0: "),
    ],
)
def test_wrong_settings_are_one_clear_line(monkeypatch, capsys, variables, start):
    line, _ = run_here(monkeypatch, capsys, **variables)
    assert str(line).startswith(start)
    assert "\n" not in str(line)


def test_wrong_settings_end_the_process(run_app):
    done = run_app(RL2ML_MAX_CELLS="0")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Cannot start with RL2ML_MAX_CELLS=0: ")


def test_usage(monkeypatch, capsys):
    assert run_here(monkeypatch, capsys, "--help") == (0, "")
    assert run_here(monkeypatch, capsys, "--nonsense")[0] == 2
    code, said = run_here(monkeypatch, capsys, "--demo", "/nonexistent/pilot.csv")
    assert code == 2
    assert "no such file: /nonexistent/pilot.csv" in said


def test_uvicorn_finds_the_application():
    assert isinstance(uvicorn.importer.import_from_string("app.main:app"), FastAPI)


def test_one_blas_thread_before_numpy_loads_and_nothing_heavy_at_all(run_app):
    script = """
import os, sys

os.environ.pop("OPENBLAS_NUM_THREADS", None)
os.environ.pop("MKL_NUM_THREADS", None)


class Watch:
    def find_spec(self, name, *_):
        if name == "numpy":
            print(*(os.environ.get(f"{kind}_NUM_THREADS") for kind in ("OPENBLAS", "OMP", "MKL")))


sys.meta_path.insert(0, Watch())
import app.__main__, app.main

print([name for name in ("torch", "scipy.stats", "scipy.optimize", "typer", "pyarrow") if name in sys.modules])
"""
    done = run_app(python=("-c", script), OMP_NUM_THREADS="3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["1 3 1", "[]"], "what the operator chose stays"


def children_of(process: int) -> set[int]:
    """Processes whose parent this is."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == process and fields[0] != "Z":
            found.add(int(status.parent.name))
    return found


def is_alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def sockets_of(process: int) -> set[str]:
    found = set()
    for path in Path(f"/proc/{process}/fd").iterdir():
        try:
            found.add(os.readlink(path))
        except FileNotFoundError:
            continue
    return {name for name in found if name.startswith("socket:")}


def test_stop_in_the_middle_of_a_solve_leaves_no_one_behind(serve, refused):
    with serve(RL2ML_GRACEFUL_SECONDS="1", RL2ML_POOL_WORKERS="1") as server:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(server.ask(json.dumps(HEAVY))))
        asking.start()
        deadline = time.monotonic() + HANG
        while not (children := children_of(server.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert children
        assert server.http.get("/healthz").status_code == 200
        # A child that held the port open would outlive its parent as a server that never answers.
        mine = sockets_of(server.process.pid)
        assert mine
        assert not any(mine & sockets_of(child) for child in children)
        code, _, err = server.stop()
        asking.join(HANG)
    assert code == 0
    assert "Traceback" not in err
    if answers[0].status_code != 200:  # a fast machine may have finished
        refused(answers[0], "not-ready")
    deadline = time.monotonic() + HANG
    while any(is_alive(child) for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(child) for child in children)


# --- floods -----------------------------------------------------------------------------------------------------------

LIMIT = 2 << 20
HEAD = '{"metric":"pass@8","budget":{"num_rollouts":4},"pilot":'


def many(item: str, size: int = LIMIT - 200) -> str:
    return "[" + ",".join([item] * (size // (len(item) + 1))) + "]"


def names(size: int = LIMIT - 200) -> str:
    """Distinct fields; about 200,000 of them."""
    return ",".join(f'"{i:05x}":0' for i in range(size // 10))


def groups(content: str, size: int = LIMIT - 200) -> str:
    """Distinct groups of one content."""
    return "{" + ",".join(f'"{i:05x}":{content}' for i in range(size // (len(content) + 9))) + "}"


ONE_CELL = '{"cells":[{"num_rollouts":8,"num_successes":1,"num_prompts":1}]}'

FLOODS = {
    "cells of numbers": HEAD + f'{{"cells":{many("0")}}}}}',
    "cells of nothing": HEAD + f'{{"cells":{many("{}")}}}}}',
    "cells of lists": HEAD + f'{{"cells":{many("[]")}}}}}',
    "cells of nulls": HEAD + f'{{"cells":{many("null")}}}}}',
    "counts of text": HEAD + f'{{"num_rollouts":8,"num_successes":{many(chr(34) * 2)}}}}}',
    "counts of fractions": HEAD + f'{{"num_rollouts":8,"num_successes":{many("0.5")}}}}}',
    "counts, last one bad": HEAD + f'{{"num_rollouts":8,"num_successes":{many("1")[:-1]},9]}}}}',
    "rollouts of booleans": HEAD + f'{{"num_successes":[1],"num_rollouts":{many("true")}}}}}',
    "rates of NaN": HEAD + f'{{"pass_rates":{many("NaN")}}}}}',
    "rates beyond one": HEAD + f'{{"pass_rates":{many("2")}}}}}',
    "rates in plenty": HEAD + f'{{"pass_rates":{many("0")}}}}}',
    "names at the top": "{" + names() + "}",
    "names in the pilot": HEAD + f'{{"cells":[],{names()}}}}}',
    "names in a cell": HEAD + f'{{"cells":[{{{names()}}}]}}}}',
    "names in a cell, as many as pass": HEAD + f'{{"cells":[{{{names(540_000)}}}]}}}}',
    "groups of nothing": HEAD + f'{{"groups":{groups("{}", 400_000)}}}}}',
    "groups of numbers": HEAD + f'{{"groups":{groups("0")}}}}}',
    "groups of one cell": HEAD + f'{{"groups":{groups(ONE_CELL)}}}}}',
    "as many groups of one cell as are read": HEAD + f'{{"groups":{groups(ONE_CELL, 1_000_000)}}}}}',
    "a group of nothings": HEAD + f'{{"groups":{{"a":{{"cells":{many("{}")}}}}}}}}}',
    "groups in groups": HEAD + '{"groups":{"a":' * 2_000 + "{}" + "}}" * 2_000 + "}",
    "a long name of a group": HEAD + f'{{"groups":{{"{"a" * (LIMIT - 1_000)}":{ONE_CELL}}}}}}}',
    "parts of nothing": f'{{"metric":{{"name":"mixture","parts":{many("{}")}}}}}',
    "parts of numbers": f'{{"metric":{{"name":"mixture","parts":{many("0")}}}}}',
    "names in a part": f'{{"metric":{{"name":"mixture","parts":[{{{names()}}}]}}}}',
    "table of text": f'{{"current":{{"success":{many(chr(34) * 2)}}}}}',
    "table of numbers": f'{{"current":{{"success":{many("0")},"failure":[]}}}}',
    "a list as the trainer": f'{{"current":{many("0")}}}',
    "a list as the metric": f'{{"metric":{many("0")}}}',
    "a list as the prior": f'{{"prior":{{"name":{many("0")}}}}}',
    "a list at the top": many("0"),
    "an unknown list": f'{{"unknown":{many("0")}}}',
    "a long text": f'{{"metric":"{"a" * (LIMIT - 100)}"}}',
    "a long name": f'{{"{"a" * (LIMIT - 100)}":1}}',
    "a long number": f'{{"pilot":{"9" * (LIMIT - 100)}}}',
    "rates and nothing else": f'{{"pilot":{{"pass_rates":{many("0.25")}}}}}',
    "large numbers": f'{{"pilot":{{"num_successes":{many("99999999999999999999")}}}}}',
    "deep": "[" * (LIMIT - 100),
    "more than the limit": many("0", LIMIT + 1000),
}


ANALYSES = {
    "table of text": f'{{"estimator":{{"success":{many(chr(34) * 2)},"failure":[]}}}}',
    "table of nulls": f'{{"estimator":{{"success":{many("null")},"failure":[]}}}}',
    "a list as the trainer": f'{{"estimator":{many("0")}}}',
    "parameters": f'{{"estimator":{{"name":"grpo","parameters":{{{names()}}}}}}}',
    "as many parameters as are read": f'{{"estimator":{{"name":"grpo","parameters":{{{names(540_000)}}}}}}}',
    "a long parameter": f'{{"estimator":{{"name":"grpo","parameters":{{"std":"{"a" * (LIMIT - 100)}"}}}}}}',
    "a list as a parameter": f'{{"estimator":{{"name":"grpo","parameters":{{"std":{many("0")}}}}}}}',
}

RUNS = {
    "a list as a setting": HEAD.replace('"pilot":', '"controller":') + f'{{"half_life":{many("0")}}}}}',
    "names of settings": HEAD.replace('"pilot":', '"controller":') + f"{{{names(540_000)}}}}}",
    "a long name of a pilot": HEAD + f'{{"id":"{"a" * (LIMIT - 1_000)}"}}}}',
}

WINDOWS = {
    "cells of nothing": f'{{"cells":{many("{}")}}}',
    "cells of numbers": f'{{"cells":{many("0")}}}',
    "counts of text": f'{{"num_rollouts":8,"num_successes":{many(chr(34) * 2)}}}',
    "counts, last one bad": f'{{"num_rollouts":8,"num_successes":{many("1")[:-1]},9]}}',
    "rollouts of booleans": f'{{"num_successes":[1],"num_rollouts":{many("true")}}}',
    "large numbers": f'{{"num_rollouts":8,"num_successes":{many("99999999999999999999")}}}',
    "names": f"{{{names(540_000)}}}",
    "a list at the top": many("0"),
    "more than the limit": many("0", LIMIT + 1000),
}

REWINDS = {"a list": f'{{"to_index":{many("0")}}}', "a long number": f'{{"to_index":{"9" * (LIMIT - 100)}}}'}


def peak_megabytes(process: int) -> float:
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kilobytes) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_floods_are_refused_shortly_and_in_little_memory(serve, refused, question):
    with serve() as server:
        assert server.ask(json.dumps(question)).status_code == 200  # everything is loaded
        before = peak_megabytes(server.process.pid)
        run = json.loads(
            server.ask(json.dumps({"metric": "pass@8", "budget": {"num_rollouts": 4}}), "/v1/runs").content
        )
        windows = f"/v1/runs/{run['id']}/windows/0"
        kinds = {
            "/v1/recommendations": FLOODS,
            "/v1/estimators/analyses": ANALYSES,
            "/v1/runs": FLOODS | RUNS,
            windows: WINDOWS,
            f"/v1/runs/{run['id']}/rewinds": REWINDS,
        }
        floods = [(path, *flood) for path, kind in kinds.items() for flood in kind.items()]
        for path, name, body in floods:
            method = "PUT" if path == windows else "POST"
            headers = {"Content-Type": "application/json"}
            response = server.http.request(method, path, content=body, headers=headers)
            content = refused(response, "invalid-request", "limit-exceeded", "malformed-json", "body-too-large")
            assert "aaaa" not in response.text, name
            malformed = dict.fromkeys(("rates of NaN", "a long number", "groups in groups"), 400)
            assert content["status"] == (malformed | {"more than the limit": 413}).get(name, 422), name
            # The peak never falls, so the first to exceed is the one named.
            grown = peak_megabytes(server.process.pid) - before
            assert grown <= 100, f"{name} took {grown:.0f} MB"
        assert server.http.get(f"/v1/runs/{run['id']}").json()["index"] == 0
        assert server.ask(json.dumps(question)).status_code == 200
        assert server.stop() == (0, "", "")


def test_too_large_bodies_are_refused_before_they_are_read(serve):
    chunk = b"400\r\n" + b" " * 1024 + b"\r\n"  # and no last one
    with serve(RL2ML_MAX_BODY_BYTES="1000") as server:
        for framing, start in (("Content-Length: 999999999", b""), ("Transfer-Encoding: chunked", chunk)):
            with socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as sending:
                sending.sendall(head_of_a_post(framing) + start)
                answer = b""
                while received := sending.recv(65536):  # until the server closes
                    answer += received
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 413 ")
            assert b"application/problem+json" in head
            assert json.loads(body)["type"] == "urn:rl2ml:problem:body-too-large"
        assert server.stop() == (0, "", "")
