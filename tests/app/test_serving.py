"""`python -m app` as a process of its own: start, demonstration, stop, and what a flood costs."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATH = "/v1/recommendations"
PILOT = ROOT / "examples" / "addition" / "pilot.csv"
HANG = 60

HEAVY = {
    "pilot": {"num_rollouts": 8, "num_successes": [0, 1, 2, 3, 4, 5]},
    "metric": "pass@8",
    "budget": {"num_rollouts": 65_536},
    "search": {"gamma_max": 5},
}


def test_starts_answers_and_stops(serve, question):
    # TERM has to find a server in use.
    with serve() as server:
        assert server.http.get("/healthz").json() == {"status": "ok"}
        assert server.http.get("/readyz").json()["status"] == "ready"
        index = server.http.get("/").json()
        assert server.http.get(f"/{index['openapi']}").json()["openapi"].startswith("3.1")
        posted = server.ask(json.dumps(question))
        assert posted.status_code == 200
        assert server.http.get(posted.headers["content-location"]).content == posted.content
        assert "server" not in posted.headers
        code, out, err = server.stop()
    assert code == 0
    assert out == ""
    assert err == "", "nothing unusual happened, so nothing is logged"


def test_interrupt_is_a_stop_too(serve):
    with serve() as server:
        assert server.stop(signal.SIGINT) == (0, "", "")


def test_access_log_when_asked(serve):
    with serve(RL2ML_ACCESS_LOG="1") as server:
        server.http.get("/healthz")
        code, out, err = server.stop()
    assert code == 0
    assert "GET /healthz" in out + err


def test_prefix_of_a_proxy(serve, question):
    with serve(RL2ML_ROOT_PATH="/tools/rl2ml") as server:
        posted = server.ask(json.dumps(question))
        location = posted.headers["content-location"]
        assert location == f"/tools/rl2ml{PATH}/{posted.json()['id']}"
        assert server.http.get(location.removeprefix("/tools/rl2ml")).content == posted.content
        assert server.http.get("/openapi.json").json()["servers"] == [{"url": "/tools/rl2ml"}]
        assert server.stop() == (0, "", "")


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


def test_demonstration_without_its_file(run_app):
    done = run_app("--demo", "/nonexistent/pilot.csv", PORT="0")
    assert done.returncode == 2
    assert "no such file: /nonexistent/pilot.csv" in done.stderr
    assert done.stdout == ""


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
def test_wrong_settings_are_one_clear_line(run_app, variables, start):
    done = run_app(**variables)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(start)


def test_usage(run_app):
    done = run_app("--help")
    assert done.returncode == 0
    assert "--demo" in done.stdout
    assert run_app("--nonsense").returncode == 2


def test_nothing_heavy_is_imported_and_blas_has_one_thread(run_app):
    lines = (
        "import app.__main__, app.main, os, sys",
        "print([name for name in ('torch', 'scipy.stats', 'scipy.optimize', 'typer', 'pyarrow') if name in sys.modules])",
        "print([os.environ[name] for name in ('OPENBLAS_NUM_THREADS', 'OMP_NUM_THREADS', 'MKL_NUM_THREADS')])",
        "print('numpy' in sys.modules)",
    )
    wanted = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "3"}
    done = run_app(python=("-c", "import os\ndel os.environ['OPENBLAS_NUM_THREADS']\n" + "\n".join(lines)), **wanted)
    assert done.returncode == 0, done.stderr
    # What the operator chose stays.
    assert done.stdout.splitlines() == ["[]", "['1', '3', '1']", "True"]


def test_blas_threads_are_set_before_numpy_loads(run_app):
    script = (
        "import sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'numpy':\n"
        "            import os\n"
        "            print(os.environ.get('OPENBLAS_NUM_THREADS'))\n"
        "import os\n"
        "os.environ.pop('OPENBLAS_NUM_THREADS', None)\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import app.main\n"
    )
    assert run_app(python=("-c", script)).stdout.splitlines() == ["1"]


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


def test_stop_in_the_middle_of_a_solve_leaves_no_one_behind(serve, refused):
    with serve(RL2ML_GRACEFUL_SECONDS="1", RL2ML_POOL_WORKERS="1") as server:
        answers = []
        asking = threading.Thread(target=lambda: answers.append(server.ask(json.dumps(HEAVY))))
        asking.start()
        deadline = time.monotonic() + HANG
        while not (children := children_of(server.process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert children
        time.sleep(0.5)
        assert server.http.get("/healthz").status_code == 200
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


def test_client_that_leaves_in_the_middle_is_no_failure(serve):
    with serve() as server:
        with socket.create_connection(("127.0.0.1", server.port)) as leaving:
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
            leaving.sendall(head.encode() + b'{"pilot')
        assert server.http.get("/healthz").status_code == 200
        assert server.stop() == (0, "", "")


# --- floods -----------------------------------------------------------------------------------------------------------

LIMIT = 2 << 20
HEAD = '{"metric":"pass@8","budget":{"num_rollouts":4},"pilot":'


def many(item: str, size: int = LIMIT - 200) -> str:
    return "[" + ",".join([item] * (size // (len(item) + 1))) + "]"


def names(size: int = LIMIT - 200) -> str:
    """Distinct fields; about 200,000 of them."""
    return ",".join(f'"{i:x}":0' for i in range(size // 9))


FLOODS = {
    "cells of numbers": HEAD + f'{{"cells":{many("0")}}}}}',
    "cells of nothing": HEAD + f'{{"cells":{many("{}")}}}}}',
    "cells of lists": HEAD + f'{{"cells":{many("[]")}}}}}',
    "cells of nulls": HEAD + f'{{"cells":{many("null")}}}}}',
    "counts of text": HEAD + f'{{"num_rollouts":8,"num_successes":{many(chr(34) * 2)}}}}}',
    "counts of fractions": HEAD + f'{{"num_rollouts":8,"num_successes":{many(".5".rjust(3, "0"))}}}}}',
    "counts, last one bad": HEAD + f'{{"num_rollouts":8,"num_successes":{many("1")[:-1]},9]}}}}',
    "rollouts of booleans": HEAD + f'{{"num_successes":[1],"num_rollouts":{many("true")}}}}}',
    "rates of NaN": HEAD + f'{{"pass_rates":{many("NaN")}}}}}',
    "rates beyond one": HEAD + f'{{"pass_rates":{many("2")}}}}}',
    "rates in plenty": HEAD + f'{{"pass_rates":{many("0")}}}}}',
    "names at the top": "{" + names() + "}",
    "names in the pilot": HEAD + f'{{"cells":[],{names()}}}}}',
    "names in a cell": HEAD + f'{{"cells":[{{{names()}}}]}}}}',
    "names in a cell, as many as pass": HEAD + f'{{"cells":[{{{names(540_000)}}}]}}}}',
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
    "deep": "[" * (LIMIT - 100),
    "more than the limit": many("0", LIMIT + 1000),
}


def peak_megabytes(process: int) -> float:
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(kilobytes) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
def test_floods_are_refused_shortly_and_in_little_memory(serve, refused, question):
    with serve() as server:
        assert server.ask(json.dumps(question)).status_code == 200  # everything is loaded
        before = peak_megabytes(server.process.pid)
        for name, body in FLOODS.items():
            response = server.ask(body)
            content = refused(response, "invalid-request", "limit-exceeded", "malformed-json", "body-too-large")
            assert "aaaa" not in response.text, name
            assert content["status"] == (413 if "more than" in name else 400 if "number" == name[7:] else 422), name
            # The peak never falls, so the first to exceed is the one named.
            grown = peak_megabytes(server.process.pid) - before
            assert grown <= 100, f"{name} took {grown:.0f} MB"
        assert server.ask(json.dumps(question)).status_code == 200
        assert server.stop() == (0, "", "")


@pytest.mark.parametrize("framing", ["Content-Length: 999999999", "Transfer-Encoding: chunked"])
def test_too_large_bodies_are_refused_before_they_are_read(serve, framing):
    with serve(RL2ML_MAX_BODY_BYTES="1000") as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=HANG) as sending:
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
            sending.sendall(head.encode())
            if "chunked" in framing:
                sending.sendall(b"400\r\n" + b" " * 1024 + b"\r\n")  # and no last chunk
            answer = b""
            while received := sending.recv(65536):  # until the server closes
                answer += received
        assert answer.startswith(b"HTTP/1.1 413 ")
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"application/problem+json" in head
        assert json.loads(body)["type"] == "urn:rl2ml:problem:body-too-large"
        assert server.stop() == (0, "", "")


def test_port_zero_is_a_free_one(serve):
    with serve() as one, serve() as other:
        assert one.port != other.port
        assert {one.http.get("/healthz").status_code, other.http.get("/healthz").status_code} == {200}
        assert (one.stop()[0], other.stop()[0]) == (0, 0)


def test_uvicorn_finds_the_application(run_app):
    script = "import uvicorn.importer\nprint(type(uvicorn.importer.import_from_string('app.main:app')).__name__)"
    assert run_app(python=("-c", script)).stdout == "FastAPI\n"


def test_children_are_no_copies_of_the_server(serve):
    # A spawned child imports the solver, not the web framework's application.
    with serve(RL2ML_INLINE_MILLISECONDS="0", RL2ML_POOL_WORKERS="1") as server:
        response = server.ask(json.dumps(HEAVY | {"budget": {"num_rollouts": 8}}))
        assert response.status_code == 200
        children = children_of(server.process.pid)
        assert children
        listening = subprocess.run(
            ["ls", "-l", *(f"/proc/{child}/fd" for child in children)], capture_output=True, text=True, timeout=HANG
        ).stdout
        sockets = {os.readlink(path) for path in Path(f"/proc/{server.process.pid}/fd").iterdir() if is_socket(path)}
        assert sockets
        assert not any(name in listening for name in sockets), "a child holds the server's port open"
        assert server.stop() == (0, "", "")


def is_socket(path: Path) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except FileNotFoundError:
        return False
