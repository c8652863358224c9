"""A service in memory that keeps the contract of runs, with faults to be had; and the real one as a process."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import rl2ml_core as rl2ml

httpx = pytest.importorskip("httpx")

from rl2ml_core.client import AsyncClient, Client  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
CELLS = ("num_rollouts", "num_successes", "num_prompts")


def problem(status: int, name: str, **more: Any) -> Any:
    content = {"type": f"urn:rl2ml:problem:{name}", "title": f"It is {name}", "status": status, **more}
    return httpx.Response(status, json=content, headers={"content-type": "application/problem+json"})


def counts_of(content: dict[str, Any]) -> rl2ml.PilotHistogram | None:
    cells = [tuple(cell[name] for name in CELLS) for cell in content["cells"]]
    return rl2ml.PilotHistogram.from_cells(cells) if cells else None


class FakeService:
    """Answers like the service. `faults` are taken one by one first: a response, an exception, or None to answer."""

    def __init__(self) -> None:
        self.faults: list[Any] = []
        self.down = False
        self.drops_answers = 0  # so many are worked out, then lost on the way
        self.requests: list[Any] = []
        self.runs: dict[str, dict[str, Any]] = {}

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        if self.down:
            raise httpx.ConnectError("refused", request=request)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, Exception):
            raise fault
        if fault is not None:
            return fault
        answer = self.answer(request)
        if self.drops_answers:
            self.drops_answers -= 1
            raise httpx.ReadError("reset", request=request)
        return answer

    async def awaited(self, request: Any) -> Any:
        return self(request)

    @property
    def paths(self) -> list[str]:
        return [f"{request.method} {request.url.path}" for request in self.requests]

    def answer(self, request: Any) -> Any:
        parts = request.url.path.strip("/").split("/")
        content = json.loads(request.content) if request.content[:1] == b"{" else None
        match request.method, parts:
            case "POST", ["v1", "recommendations"]:
                asked = content["pilot"]
                found = rl2ml.recommend(counts_of(asked), rl2ml.PassAtK(content["metric"]["k"]), 8, bootstrap=0)
                return httpx.Response(200, json={"id": "rec_1", **found.to_dict(), "new": 1})
            case "POST", ["v1", "pilots"]:
                return httpx.Response(
                    201, json={"id": "pilot_1", "cells": [dict(zip(CELLS, (8, 1, 2), strict=True))], "num_prompts": 2}
                )
            case "POST", ["v1", "runs"]:
                return self.create(content, request.headers["idempotency-key"])
            case "GET", ["v1", "runs"]:
                return httpx.Response(200, json={"items": [{"id": each} for each in self.runs], "next_cursor": "abc"})
        run = self.runs.get(parts[2])
        if run is None:
            return problem(404, "not-found")
        match request.method, parts[3:]:
            case "GET", []:
                return httpx.Response(200, json=self.shown(run))
            case "DELETE", []:
                del self.runs[parts[2]]
                return httpx.Response(204)
            case "GET", ["windows"]:
                return httpx.Response(200, json={"items": [{"index": 0}], "next_cursor": None})
            case "PUT", ["windows", index]:
                return self.put(run, int(index), content)
            case "POST", ["rewinds"]:
                to = content["to_index"]
                if to >= len(run["states"]):
                    return problem(409, "conflict", expected_index=len(run["windows"]))
                del run["states"][to + 1 :], run["windows"][to:]
                return httpx.Response(200, json=self.shown(run))
        return problem(405, "method-not-allowed")

    def create(self, content: dict[str, Any], key: str) -> Any:
        found = [run for run in self.runs.values() if run["key"] == key]
        if found:
            return httpx.Response(200, json=self.shown(found[0]))
        options = content["search"] | content["estimator"] | content["uncertainty"] | content["controller"]
        settings = rl2ml.ControllerSettings(
            rl2ml.PassAtK(content["metric"]["k"]), content["budget"]["num_rollouts"], **options
        )
        pilot = counts_of(content["pilot"]) if "pilot" in content else None
        run = {"id": f"run_{len(self.runs)}", "key": key, "windows": [], "content": content}
        run["states"] = [rl2ml.start_controller(settings, pilot)[0]]
        self.runs[run["id"]] = run
        return httpx.Response(201, json=self.shown(run))

    def put(self, run: dict[str, Any], index: int, content: dict[str, Any]) -> Any:
        windows, states = run["windows"], run["states"]
        if index < len(windows) and windows[index] == content:
            return httpx.Response(200, json={"decision": states[index + 1].decision.to_dict()})
        if index != len(windows):
            return problem(409, "conflict", expected_index=len(windows))
        windows.append(content)
        states.append(rl2ml.step_controller(states[-1], counts_of(content))[0])
        return httpx.Response(201, json={"decision": states[-1].decision.to_dict()})

    def shown(self, run: dict[str, Any]) -> dict[str, Any]:
        return {"id": run["id"], "decision": run["states"][-1].decision.to_dict()}


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits between attempts, none of them waited for; jitter at its longest."""
    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("rl2ml_core.client.blocking.time.sleep", waited.append)
    monkeypatch.setattr("rl2ml_core.client.awaiting.asyncio.sleep", wait)
    monkeypatch.setattr("rl2ml_core.client.policy.random.uniform", lambda _, longest: longest)
    return waited


@pytest.fixture
def client(service: FakeService, waits: list[float]) -> Iterator[Client]:
    with Client("http://test/prefix", transport=httpx.MockTransport(lambda r: service(unprefixed(r)))) as made:
        yield made


@pytest.fixture
def make_async(service: FakeService, waits: list[float]) -> Callable[..., AsyncClient]:
    def make(**options: Any) -> AsyncClient:
        return AsyncClient("http://test", transport=httpx.MockTransport(service.awaited), **options)

    return make


def unprefixed(request: Any) -> Any:
    """What a proxy passes on."""
    path = request.url.path
    assert path.startswith("/prefix/")
    raw = request.url.raw_path.decode().removeprefix("/prefix")
    request.url = request.url.copy_with(raw_path=raw.encode())
    return request


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """The real service on a free port; it ends with the block."""

    @contextmanager
    def start(**variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RL2ML_", "HOST", "PORT"))}
        process = subprocess.Popen(
            [sys.executable, "-m", "app"],
            cwd=ROOT,
            env=kept | {"PYTHONPATH": str(ROOT), "HOST": "127.0.0.1", "PORT": "0"} | variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.match(r"RL2ML serves (http://\S+:\d+) ", line)
            assert found, line
            yield process, found[1]
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    return start
