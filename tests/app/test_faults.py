"""What breaks around the service: processes, disks, databases and clients. Nothing acknowledged is lost or doubled."""

import itertools
import json
import os
import signal
import socket
import sqlite3
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import rl2ml_core as rl2ml
from app.store import FILE
from benchmarks.loopback import children

RUNS = "/v1/runs"
#: By the fast criterion: what is tested here is the same under every one.
RUN = {
    "metric": "pass@8",
    "budget": {"num_rollouts": 8},
    "search": {"criterion": "rms_gain"},
    "uncertainty": {"bootstrap": 0},
}
CLIENTS, NUM_RUNS, PUTS = 8, 4, 200
HANG = 60
TLS = ssl.create_default_context()  # unused, but a client of its own would take a tenth of a second to make one


def variables(kept: dict[str, Any]) -> dict[str, str]:
    return {f"RL2ML_{name.upper()}": str(value) for name, value in kept.items()}


class Trainers:
    """Clients that put windows, two to a run: whichever is first; what was answered with success is acknowledged."""

    def __init__(self, address: str) -> None:
        self.address = address
        with httpx.Client(base_url=address, timeout=HANG, trust_env=False, verify=TLS) as client:
            made = [client.post(RUNS, json=RUN) for _ in range(NUM_RUNS)]
        assert {response.status_code for response in made} == {201}
        self.runs: list[str] = [response.json()["id"] for response in made]
        self.acknowledged: dict[tuple[str, int], list[int]] = {}
        self.unexpected: list[tuple[int, str]] = []
        self.longest = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._train, args=(i,), daemon=True) for i in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def wait(self, count: int) -> None:
        """Until so many windows were acknowledged."""
        deadline = time.monotonic() + HANG
        while len(self.acknowledged) < count:
            assert time.monotonic() < deadline, (len(self.acknowledged), self.unexpected)
            time.sleep(0.005)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(HANG)

    def _train(self, place: int) -> None:
        run, index = self.runs[place % NUM_RUNS], 0
        numbers = itertools.count(place * 10_000)
        content = window(next(numbers))
        client = self._connect()
        while not self._stop.is_set():
            start = time.monotonic()
            try:
                response = client.put(f"{RUNS}/{run}/windows/{index}", json=window_body(content))
            except httpx.TransportError:
                client.close()
                time.sleep(0.1)
                client = self._connect()  # wherever the service is now: and the same window again
                continue
            self.longest = max(self.longest, time.monotonic() - start)
            if response.status_code in (200, 201):
                self.acknowledged[run, index] = content
                index += 1
            elif response.status_code == 409:
                index = response.json()["expected_index"]
            elif response.status_code == 503:
                time.sleep(0.05)
                continue
            else:
                self.unexpected.append((response.status_code, response.text))
                return
            content = window(next(numbers))
        client.close()

    def _connect(self) -> httpx.Client:
        return httpx.Client(base_url=self.address, timeout=HANG, trust_env=False, verify=TLS)


def window(number: int) -> list[int]:
    """Success counts that no other number has."""
    return [1 + (number // 8**digit) % 8 for digit in range(6)] + [0, 0, 8]


def window_body(successes: list[int]) -> dict[str, Any]:
    return {"num_rollouts": 8, "num_successes": successes}


def check(ask: Callable[[str], Any], trainers: Trainers) -> int:
    """Every acknowledged window is there once, as it was put, and the decisions are those of the library."""
    assert trainers.unexpected == []
    total = 0
    for run in trainers.runs:
        items, cursor = [], ""
        while cursor is not None:
            content = ask(f"{RUNS}/{run}/windows?limit=100" + (f"&cursor={cursor}" if cursor else ""))
            items, cursor = items + content["items"], content["next_cursor"]
        assert [item["index"] for item in items] == list(range(len(items))), "one window of every number, none missing"
        assert not any(item["superseded"] for item in items)
        known = {index: successes for (owner, index), successes in trainers.acknowledged.items() if owner == run}
        assert set(known) <= set(range(len(items)))
        for index, successes in known.items():
            expected = rl2ml.PilotHistogram.from_counts(successes, 8)
            assert rl2ml.PilotHistogram.from_cells(items[index]["cells"]) == expected
        histograms = [rl2ml.PilotHistogram.from_cells(item["cells"]) for item in items]
        state = rl2ml.replay_controller(
            rl2ml.ControllerSettings("pass@8", 8, criterion="rms_gain", bootstrap=0), None, histograms
        )[-1]
        now = ask(f"{RUNS}/{run}")
        assert (now["index"], now["decision"]) == (len(items), json.loads(json.dumps(state.decision.to_dict())))
        total += len(items)
    return total


# --- processes --------------------------------------------------------------------------------------------------------


def test_killed_in_the_middle(serve, kept):
    """`kill -9` twice during 200 windows by 8 clients, and started again."""
    trainers = None
    for puts in (PUTS // 3, 2 * PUTS // 3, PUTS):
        with serve(**variables(kept)) as server:
            trainers = trainers or Trainers(server.address)
            trainers.address = server.address
            trainers.wait(puts)
            if puts < PUTS:
                server.process.kill()
                server.process.wait(HANG)
            else:
                trainers.stop()
                total = check(lambda path: server.http.get(path).json(), trainers)
    assert total >= PUTS
    # What was done but not answered may be there, too: at most one window for every client and kill.
    assert total <= len(trainers.acknowledged) + 2 * CLIENTS


def test_asked_to_stop_under_load(serve, kept):
    with serve(**variables(kept)) as server:
        trainers = Trainers(server.address)
        trainers.wait(40)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        code = server.process.wait(HANG)
        assert time.monotonic() - began < 30
        assert code == 0
    with serve(**variables(kept)) as server:
        trainers.address = server.address
        trainers.wait(80)
        trainers.stop()
        check(lambda path: server.http.get(path).json(), trainers)


def test_killed_pool_child(serve):
    """While clients ask what the pool solves: at most one of them is let down, and the service is ready again."""
    with serve(RL2ML_POOL_WORKERS="1", RL2ML_REQUESTS_PER_SECOND="0") as server:
        body = {"metric": "pass@8", "budget": {"num_rollouts": 8}, "uncertainty": {"bootstrap": 0}}
        statuses: list[int] = []
        numbers, stop = itertools.count(1), threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=server.address, timeout=HANG, trust_env=False, verify=TLS) as client:
                while not stop.is_set():
                    cells = [{"num_rollouts": 8, "num_successes": k, "num_prompts": next(numbers)} for k in (0, 1, 8)]
                    statuses.append(
                        client.post("/v1/recommendations", json=body | {"pilot": {"cells": cells}}).status_code
                    )

        threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        for kill in range(3):
            before, deadline = len(statuses), time.monotonic() + HANG
            while len(statuses) < before + 8:
                assert time.monotonic() < deadline, statuses
                time.sleep(0.01)
            (child,) = [one for one in children(server.process.pid) if "spawn_main" in command_of(one)]
            os.kill(child, signal.SIGKILL)
            deadline = time.monotonic() + 10  # 2 s where nothing else runs
            while server.http.get("/readyz").status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert len([status for status in statuses if status != 200]) <= kill + 1, statuses
        stop.set()
        for thread in threads:
            thread.join(HANG)
        assert child not in children(server.process.pid)


def command_of(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")


# --- disks and databases ----------------------------------------------------------------------------------------------


def test_full_disk(client_with, refused, tmp_path):
    """A full store takes nothing more, gives what it has, and goes on once there is room."""
    settings = {"data_folder": tmp_path, "store_bytes": 512 << 10}
    client = client_with(**settings)
    runs = [client.ask(RUN, path=RUNS).json()["id"] for _ in range(2)]
    acknowledged = []
    for index in range(2_000):
        response = client.put(runs[index % 2], index // 2, window(index))
        if response.status_code != 201:
            break
        acknowledged.append(response.content)
    refused(response, "storage-full")
    assert int(response.headers["retry-after"]) >= 1
    assert len(acknowledged) > 50
    refused(client.put(runs[len(acknowledged) % 2], len(acknowledged) // 2, window(len(acknowledged))), "storage-full")
    for index, content in enumerate(acknowledged):
        again = client.put(runs[index % 2], index // 2, window(index))
        assert (again.status_code, again.content) == (200, content)
    connection = sqlite3.connect(tmp_path / FILE)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    assert client.get("/healthz").status_code == 200
    # Without the limit, as after the disk was enlarged; and with it, once something was deleted.
    larger = client_with(data_folder=tmp_path)
    assert larger.put(runs[len(acknowledged) % 2], len(acknowledged) // 2, window(1)).status_code == 201
    assert client.request("DELETE", f"{RUNS}/{runs[0]}").status_code == 204
    index = client.get(f"{RUNS}/{runs[1]}").json()["index"]
    assert client.put(runs[1], index, window(0)).status_code == 201


def test_database_gone_and_back(client_with, refused, cluster):
    client = client_with(database_url=cluster.database(), store_seconds=1)
    run = client.ask(RUN, path=RUNS).json()["id"]
    assert client.put(run, 0, window(0)).status_code == 201
    cluster.stop()
    try:
        for _ in range(2):
            response = client.put(run, 1, window(1))
            refused(response, "store-unavailable")
            assert int(response.headers["retry-after"]) >= 1
            refused(client.get(f"{RUNS}/{run}"), "store-unavailable")
        assert client.get("/healthz").status_code == 200
        assert client.get("/readyz").status_code == 503
        # What needs no store is answered all the same.
        assert client.ask(RUN | {"pilot": {"num_rollouts": 8, "num_successes": [1, 2, 3]}}).status_code in (200, 422)
    finally:
        cluster.start()
    assert client.put(run, 1, window(1)).status_code == 201
    assert client.put(run, 1, window(1)).status_code == 200
    assert len(client.get(f"{RUNS}/{run}/windows").json()["items"]) == 2


def test_database_away_at_the_start(serve, cluster):
    url = cluster.database()
    cluster.stop()
    try:
        with serve(RL2ML_DATABASE_URL=url, RL2ML_STORE_SECONDS="1") as server:
            assert server.http.get("/healthz").status_code == 200
            assert server.http.post(RUNS, json=RUN).status_code == 503
            cluster.start()
            deadline = time.monotonic() + 10
            while (response := server.http.post(RUNS, json=RUN)).status_code == 503 and time.monotonic() < deadline:
                time.sleep(0.2)
            assert response.status_code == 201
            assert "The store cannot be reached. Until it can be used" in server.stop()[2]
    finally:
        cluster.start()


# --- clients ----------------------------------------------------------------------------------------------------------


def test_slow_and_vanishing_clients(serve, tmp_path):
    with serve(RL2ML_DATA_FOLDER=str(tmp_path), RL2ML_GRACEFUL_SECONDS="2") as server:
        run = server.http.post(RUNS, json=RUN).json()["id"]
        body = json.dumps(window_body(window(7))).encode()
        path = f"{RUNS}/{run}/windows/0"
        head = (
            f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        for place, connection in enumerate(held):
            connection.sendall(head.encode() + body[: place % len(body)])  # never all of it
        start = time.monotonic()
        assert server.http.get(f"{RUNS}/{run}").json()["index"] == 0
        assert time.monotonic() - start < 2
        for connection in held[::2]:
            connection.close()
        # Those that sent everything and left before they were answered: the window is there, once.
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", server.port)) as leaving:
                leaving.sendall(head.encode() + body)
        deadline = time.monotonic() + HANG
        while server.http.get(f"{RUNS}/{run}").json()["index"] == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.http.put(path, content=body, headers={"Content-Type": "application/json"}).status_code == 200
        assert [item["index"] for item in server.http.get(f"{RUNS}/{run}/windows").json()["items"]] == [0]
        began = time.monotonic()
        code, _, err = server.stop()
        assert time.monotonic() - began < 30, "those that never finish do not keep it from stopping"
        assert code == 0
        assert "Traceback" not in err
        for connection in held[1::2]:
            connection.close()


@pytest.mark.parametrize("kind", ["text/csv", "application/vnd.apache.parquet"])
def test_uploads_that_end_early_leave_nothing(serve, tmp_path, kind):
    with serve(RL2ML_DATA_FOLDER=str(tmp_path / "data"), TMPDIR=str(tmp_path)) as server:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port)) as leaving:
                head = f"POST /v1/pilots HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 9999\r\n\r\n"
                leaving.sendall(head.encode() + b"num_successes,num_rollouts\n1,8\n")
                time.sleep(0.05)
        deadline = time.monotonic() + HANG
        while list(tmp_path.glob("rl2ml-pilot-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(tmp_path.glob("rl2ml-pilot-*")) == []
        small = b"num_successes,num_rollouts\n1,8\n"
        answer = server.http.post("/v1/pilots", content=small, headers={"Content-Type": "text/csv"})
        assert answer.status_code == 201, "the places of those that left are free again"
