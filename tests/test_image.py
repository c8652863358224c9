"""The container image: built from this checkout, configured as promised, and answering as its own unprivileged user.

`../shared/tools/build-image` builds and runs images where no Docker engine runs; it needs root.
"""

import json
import math
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILDER = ROOT.parent / "shared" / "tools" / "build-image"
TAG = "rl2ml:test"

# One worker runs them all: the group shares one build.
pytestmark = [pytest.mark.image, pytest.mark.timeout(900), pytest.mark.xdist_group("image")]


def run_builder(*arguments: str, timeout: float = 600) -> str:
    """The builder's standard output; its last lines of complaint if it fails."""
    done = subprocess.run(
        [BUILDER, *arguments], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"build-image {arguments} ended with {done.returncode}:\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    if not BUILDER.exists():
        pytest.skip("../shared/tools/build-image is absent")
    if os.geteuid() != 0:
        pytest.skip("building an image needs root")
    if shutil.which("buildah") is None:
        try:
            run_builder("--clean")  # installs what it needs first
        except AssertionError as error:
            pytest.skip(f"buildah cannot be installed: {error}")
    run_builder(TAG)
    yield TAG
    run_builder("--clean")


@pytest.fixture(scope="module")
def config(image: str) -> dict[str, Any]:
    return json.loads(run_builder("--config", image))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_inside(
    image: str, *command: str, port: int = 1, volume: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `command` in a fresh copy of the image, as its user; never raises on its status."""
    return subprocess.run(
        [BUILDER, "--run", image, *mounted(volume), "--env", f"PORT={port}", *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )


def mounted(volume: Path | None) -> list[str]:
    return [] if volume is None else ["--volume", f"{volume}:/data"]


@contextmanager
def service(
    image: str, log: Path, volume: Path | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client, int]]:
    """The image's own command on a free port, once it says that it is ready."""
    port = free_port()
    arguments = [BUILDER, "--run", image, *mounted(volume), "--env", f"PORT={port}", "--env", "HOST=127.0.0.1"]
    with (
        log.open("wb") as output,
        subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as client,
    ):
        try:
            wait_until_ready(process, client, log)
            yield process, client, port
        finally:
            if process.poll() is None:
                process.kill()


def wait_until_ready(process: subprocess.Popen[bytes], client: httpx.Client, log: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the service ended with {process.returncode}:\n{log.read_text()}"
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail(f"not ready after {seconds} s:\n{log.read_text()}")


def test_configuration(config: dict[str, Any]) -> None:
    user = config["User"].partition(":")[0]
    assert user.isdigit(), "an orchestrator can only tell that a number is not root"
    assert int(user) > 0
    assert config["Healthcheck"]["Test"][0] == "CMD"  # exec form: no shell needed
    assert config["Cmd"] == ["python", "-m", "app"]  # exec form: signals reach the service, not a shell
    assert not config.get("Entrypoint")
    assert config["StopSignal"] == "SIGTERM"
    assert config["WorkingDir"] == "/srv/rl2ml"
    assert list(config["ExposedPorts"]) == ["8000/tcp"]
    assert list(config["Volumes"]) == ["/data"]
    assert {
        "HOST=0.0.0.0",
        "PORT=8000",
        "RL2ML_DATA_FOLDER=/data",
        "PYTHONUNBUFFERED=1",
        "OPENBLAS_NUM_THREADS=1",
    } <= set(config["Env"])


def test_contents(image: str) -> None:
    script = """
import importlib.util, json, os, pathlib, shutil
here = pathlib.Path.cwd()
print(json.dumps({
    "modules": [m for m in ("torch", "pytest", "mypy") if importlib.util.find_spec(m)],
    "compilers": [c for c in ("cc", "c++", "gcc", "g++", "clang", "tcc", "ld", "make") if shutil.which(c)],
    "user": os.getuid(),
    "writable": [d for d in (".", "app", "rl2ml_core", "/opt/venv") if os.access(d, os.W_OK)],
    "uncompiled": [d for d in ("app", "rl2ml_core") if not list((here / d / "__pycache__").glob("*.pyc"))],
    "stray": [p.name for p in here.iterdir() if p.name not in ("LICENSE", "app", "examples", "rl2ml_core")],
}))
"""
    done = run_inside(image, "python", "-c", script)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("user") != 0
    assert found == {"modules": [], "compilers": [], "writable": [], "uncompiled": [], "stray": []}


def test_serves_and_stops(image: str, config: dict[str, Any], tmp_path: Path) -> None:
    health_check = config["Healthcheck"]["Test"][1:]
    log = tmp_path / "service.log"
    with service(image, log) as (process, client, port):
        health = run_inside(image, *health_check, port=port)
        assert health.returncode == 0, health.stderr

        cells = [
            {"num_rollouts": 8, "num_successes": successes, "num_prompts": prompts}
            for successes, prompts in ((0, 30), (2, 20), (6, 14))
        ]
        metric = {"name": "pass_at_k", "k": 8}
        question = {"pilot": {"cells": cells}, "metric": metric, "budget": {"num_rollouts": 4}}
        answer = client.post("/v1/recommendations", json=question)
        assert answer.status_code == 200, answer.text
        recommendation = answer.json()
        assert math.isfinite(recommendation["gamma"])
        assert recommendation["id"].startswith("rec_")

        process.terminate()
        try:
            status = process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running 15 s after TERM:\n{log.read_text()}")
        assert status == 0, log.read_text()

    # The same check must notice that nobody answers any more.
    assert run_inside(image, *health_check, port=port).returncode == 1


def test_a_run_survives_its_container(image: str, tmp_path: Path) -> None:
    volume = tmp_path / "data"
    volume.mkdir()
    volume.chmod(0o777)  # a volume of the engine's has the image's owner
    refused = run_inside(image, "python", "-m", "app", port=free_port(), volume=volume)
    assert refused.returncode == 1
    assert "without an API key" in refused.stderr, "it listens on every address"
    made = run_inside(image, "python", "-m", "app", "keys", "create", "test", volume=volume)
    assert made.returncode == 0, made.stderr
    authorized = {"Authorization": f"Bearer {made.stdout.strip()}"}

    window = {"num_rollouts": 8, "num_successes": [0, 1, 5, 8] * 8}
    with service(image, tmp_path / "first.log", volume) as (process, client, _):
        assert client.get("/v1/runs").status_code == 401
        created = client.post("/v1/runs", json={"metric": "pass@8", "budget": {"num_rollouts": 8}}, headers=authorized)
        assert created.status_code == 201, created.text
        run = f"/v1/runs/{created.json()['id']}"
        put = client.put(f"{run}/windows/0", json=window, headers=authorized)
        assert put.status_code == 201, put.text
        process.kill()  # as a machine that is lost
        process.wait()
    with service(image, tmp_path / "second.log", volume) as (process, client, _):
        again = client.put(f"{run}/windows/0", json=window, headers=authorized)
        assert (again.status_code, again.content) == (200, put.content)
        assert client.get(run, headers=authorized).json()["index"] == 1
        process.terminate()
        assert process.wait(timeout=30) == 0
