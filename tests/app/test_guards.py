"""Keys, rates, requests at once, slow bodies, and the headers of every answer."""

import asyncio
import json
import re
import socket
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app import keys
from app.guards import Buckets, Guards, is_loopback, path_of
from app.main import create_app
from app.problems import Problem
from app.settings import Settings
from app.store import Store

PATH = "/v1/estimators"
NOBODY = "rl2ml_0123456789ab_" + "A" * 43


class Keyed:
    """The application over a store that lasts, as seen from an address."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.app = settings, create_app(settings)
        self.store = Store(settings)

    def get(self, path: str = PATH, *, at: str = "127.0.0.1", by: str = "127.0.0.1", **headers: str) -> httpx.Response:
        """`at`: the address that was connected to; `by`: whose connection it is."""

        async def placed(scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope | {"server": (at, 8000)}, receive, send)

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(app=placed, client=(by, 1), raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.get(
                    path, headers={name.replace("_", "-"): text.encode("latin-1") for name, text in headers.items()}
                )

        return asyncio.run(ask())

    def close(self) -> None:
        self.store.close()
        self.app.state.store.close()
        self.app.state.pool.close()


@pytest.fixture
def keyed(tmp_path) -> Any:
    made: list[Keyed] = []

    def make(**settings: Any) -> Keyed:
        made.append(Keyed(Settings(**{"data_folder": tmp_path, "key_seconds": 0, **settings})))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_keys_are_needed_from_the_first_one_on(keyed, refused):
    service = keyed()
    assert service.get().status_code == 200
    key = keys.create(service.store, "trainer 1")
    response = service.get()
    refused(response, "unauthorized")
    assert response.headers["www-authenticate"] == 'Bearer realm="rl2ml"'
    assert service.get(authorization=f"Bearer {key}").status_code == 200
    assert service.get(authorization=f"bearer  {key} ").status_code == 200
    for wrong in (NOBODY, key[:-1], key + "A", key[:19] + "A" * 43, "", "\x80"):
        refused(service.get(authorization=f"Bearer {wrong}"), "unauthorized")
    refused(service.get(authorization=f"Basic {key}"), "unauthorized")
    refused(service.get(authorization=key), "unauthorized")
    (known,) = keys.listed(service.store)
    assert keys.revoke(service.store, known.id)
    assert not keys.revoke(service.store, known.id)
    refused(service.get(authorization=f"Bearer {key}"), "unauthorized")
    refused(service.get(), "unauthorized")  # one that had keys is not open again for want of them


def test_only_a_hash_is_kept(keyed):
    service = keyed()
    key = keys.create(service.store, "a")
    assert re.fullmatch(r"rl2ml_[0-9a-f]{12}_[\w-]{43}", key)
    (known,) = keys.listed(service.store)
    assert key.split("_")[1] == known.id
    assert key.split("_", 2)[2] not in str(known)
    assert keys.create(service.store, "a") != key


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201])
def test_names_of_keys(keyed, name):
    with pytest.raises(ValueError, match="printable"):
        keys.create(keyed().store, name)


def test_who_comes_from_outside_needs_a_key_however_the_server_was_started(keyed, refused):
    service = keyed()
    for address in ("10.0.0.3", "0.0.0.0", "fd00::1"):
        refused(service.get(at=address), "unauthorized")
    for address in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "/run/rl2ml.sock"):
        assert service.get(at=address).status_code == 200, address
    key = keys.create(service.store, "a")
    assert service.get(at="10.0.0.3", authorization=f"Bearer {key}").status_code == 200


def test_anonymous_requests_may_be_allowed_but_wrong_keys_are_not(keyed, refused):
    service = keyed(allow_anonymous=True)
    keys.create(service.store, "a")
    assert service.get(at="10.0.0.3").status_code == 200
    refused(service.get(authorization=f"Bearer {NOBODY}"), "unauthorized")


def test_what_needs_no_key(keyed, refused):
    service = keyed()
    keys.create(service.store, "a")
    for path in ("/healthz", "/readyz", "/", "/openapi.json"):
        assert service.get(path, at="10.0.0.3", by="10.0.0.9").status_code == 200, path
    refused(service.get("/nowhere", at="10.0.0.3"), "unauthorized")


def test_numbers_need_a_key_from_elsewhere(keyed, refused):
    service = keyed(allow_anonymous=True)
    key = keys.create(service.store, "a")
    assert service.get("/metrics").status_code == 200
    assert service.get("/metrics", by="::1").status_code == 200
    refused(service.get("/metrics", by="10.0.0.9"), "unauthorized")
    refused(service.get("/metrics", x_forwarded_for="10.0.0.9"), "unauthorized")
    assert service.get("/metrics", by="10.0.0.9", authorization=f"Bearer {key}").status_code == 200


def pass_through(guards: Callable[[Any], Guards], **scope: Any) -> list[Any]:
    """Send a request through guards; what the application behind them saw of it, and the statuses that came out."""
    seen: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"]["owner"])
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            seen.append(message["status"])

    async def receive() -> Any:
        return {"type": "http.request"}

    asyncio.run(guards(inner)({"type": "http", "method": "GET", "path": "/x", "headers": (), **scope}, receive, send))
    return seen


def test_the_application_is_told_whose_a_request_is(keyed):
    service = keyed()

    def guards(inner: Any) -> Guards:
        return Guards(inner, service.settings, keys.KeyRing(service.store, 0))

    assert pass_through(guards) == [None, 204]
    key = keys.create(service.store, "a")
    headers = [(b"authorization", f"Bearer {key}".encode())]
    assert pass_through(guards, headers=headers) == [key.split("_")[1], 204]
    assert pass_through(guards) == [401]


def test_a_store_that_fails_lets_in_whoever_was_known(keyed, refused, monkeypatch):
    service = keyed()
    key = keys.create(service.store, "a")
    assert service.get(authorization=f"Bearer {key}").status_code == 200

    async def fail(*_: Any) -> None:
        raise Problem("store-unavailable", headers={"Retry-After": "5"})

    monkeypatch.setattr(Store, "reading", fail)
    assert service.get(authorization=f"Bearer {key}").status_code == 200
    refused(service.get(), "unauthorized")
    never_reached = keyed()
    response = never_reached.get()
    refused(response, "store-unavailable")
    assert response.headers["retry-after"] == "5"


def test_a_temporary_store_has_no_keys_and_is_not_asked(client_with, monkeypatch):
    async def fail(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(Store, "reading", fail)
    assert client_with().get(PATH).status_code == 200


# --- rates ------------------------------------------------------------------------------------------------------------


def test_a_bucket_fills_at_its_rate():
    now = [0.0]
    buckets = Buckets(2, 3, lambda: now[0])
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0, "each caller has its own"
    now[0] = 0.25
    assert buckets.take("a") == 0.25, "asking in vain costs nothing"
    now[0] = 0.5
    assert [buckets.take("a"), buckets.take("a")] == [0, 0.5]
    now[0] = 1e6
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5], "no more than it holds"


def test_no_limit_and_bounded_memory():
    assert [Buckets(0, 1).take("a") for _ in range(5)] == [0] * 5
    buckets = Buckets(1, 1, lambda: 0.0)
    for caller in range(10_050):
        buckets.take(str(caller))
    assert len(buckets._left) == 10_000
    assert buckets.take("10049") == 1


def test_rates_are_of_a_key_or_an_address(keyed, refused):
    service = keyed(requests_per_second=0.01, request_burst=2)
    assert [service.get(by="10.0.0.1").status_code for _ in range(3)] == [200, 200, 429]
    response = service.get(by="10.0.0.1")
    refused(response, "too-many-requests")
    assert 1 <= int(response.headers["retry-after"]) <= 100
    assert service.get(by="10.0.0.2").status_code == 200
    # A household's IPv6 addresses are one caller.
    assert [service.get(by=f"2001:db8::{i}").status_code for i in (1, 2, 3)] == [200, 200, 429]
    assert service.get(by="2001:db8:0:1::1").status_code == 200
    assert [service.get("/healthz", by="10.0.0.1").status_code for _ in range(3)] == [200] * 3
    key = keys.create(service.store, "a")
    authorized = {"authorization": f"Bearer {key}"}
    assert [service.get(by=f"10.1.0.{i}", **authorized).status_code for i in range(3)] == [200, 200, 429]
    # Whoever guesses keys is held to the rate of the address.
    statuses = [service.get(by="10.2.0.1", authorization=f"Bearer {NOBODY}").status_code for _ in range(3)]
    assert statuses == [401, 401, 429]


def test_requests_at_once(client_with, refused, question):
    client = client_with(max_in_flight=2, inline_milliseconds=0, pool_workers=1)

    async def at_once() -> list[httpx.Response]:
        async def ask(seed: int) -> httpx.Response:
            body = json.dumps(question | {"uncertainty": {"seed": seed, "bootstrap": 0}})
            return await client.http.post(
                "/v1/recommendations", content=body, headers={"Content-Type": "application/json"}
            )

        asked = [asyncio.create_task(ask(seed)) for seed in range(4)]
        await asyncio.sleep(0.05)
        assert (await client.http.get("/healthz")).status_code == 200
        return await asyncio.gather(*asked)

    responses = client.run(at_once())
    assert sorted(response.status_code for response in responses) == [200, 200, 429, 429]
    turned_away = next(response for response in responses if response.status_code == 429)
    refused(turned_away, "too-many-requests")
    assert turned_away.headers["retry-after"] == "1"
    assert client.ask(question).status_code == 200, "places are free again"


def test_a_slow_body_does_not_hold_a_place(serve, refused):
    with serve(RL2ML_BODY_SECONDS="0.5", RL2ML_MAX_IN_FLIGHT="1") as server:
        head = "POST /v1/recommendations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as slow:
            slow.sendall(head.encode() + b"Content-Length: 9\r\n\r\n{")
            answer = b""
            while received := slow.recv(65536):  # until the server closes
                answer += received
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"] == "urn:rl2ml:problem:request-timeout"
        assert server.http.get(PATH).status_code == 200
        assert server.stop() == (0, "", "")


# --- headers ----------------------------------------------------------------------------------------------------------

HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.mark.parametrize("path", ["/healthz", "/", "/v1/recommendations/rec_0", "/nowhere", "/openapi.json", "/docs"])
def test_every_answer_has_them(client, path):
    headers = client.get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert headers["permissions-policy"].startswith("camera=()")
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert ("script-src" in policy) == (path == "/docs")


def test_refusals_and_failures_have_them_too(keyed, monkeypatch):
    service = keyed(requests_per_second=0.01, request_burst=1, allow_anonymous=True)
    monkeypatch.setattr("app.routes.estimators.conditional", None)
    failed, limited = service.get(), service.get()
    assert (failed.status_code, limited.status_code) == (500, 429)
    for response in (failed, limited):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-request-id"]


def test_addresses():
    local = ("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "localhost")
    assert all(is_loopback(address) for address in local)
    assert not any(is_loopback(address) for address in ("10.0.0.1", "0.0.0.0", "::", "", None, "example.org"))
    assert path_of({"path": "/tools/docs", "root_path": "/tools"}) == "/docs"
    assert path_of({"path": "/toolsdocs", "root_path": "/tools"}) == "/toolsdocs"
    assert path_of({"path": "/docs"}) == "/docs"


# --- the command ------------------------------------------------------------------------------------------------------


def test_no_bind_for_strangers_without_a_key(run_app, serve, tmp_path):
    refused = run_app(HOST="0.0.0.0", PORT="0")
    assert refused.returncode == 1
    (line,) = refused.stderr.splitlines()
    assert line.startswith("Cannot listen on 0.0.0.0 without an API key: ")
    assert "RL2ML_ALLOW_ANONYMOUS=1" in line
    with serve(HOST="0.0.0.0", RL2ML_ALLOW_ANONYMOUS="1") as server:
        assert httpx.get(f"http://127.0.0.1:{server.port}{PATH}", trust_env=False).status_code == 200
    folder = str(tmp_path)
    made = run_app("-m", "app", "keys", "create", "laptop", python=(), RL2ML_DATA_FOLDER=folder)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    listed = run_app("-m", "app", "keys", "list", python=(), RL2ML_DATA_FOLDER=folder).stdout
    assert re.fullmatch(r"[0-9a-f]{12}  \d{4}-\d\d-\d\d \d\d:\d\d  in force  laptop\n", listed)
    with serve(HOST="0.0.0.0", RL2ML_DATA_FOLDER=folder, RL2ML_KEY_SECONDS="0") as server:
        address = f"http://127.0.0.1:{server.port}{PATH}"
        assert httpx.get(address, trust_env=False).status_code == 401
        authorized = {"Authorization": f"Bearer {key}"}
        assert httpx.get(address, headers=authorized, trust_env=False).status_code == 200
        assert run_app("-m", "app", "keys", "revoke", listed[:12], python=(), RL2ML_DATA_FOLDER=folder).returncode == 0
        assert httpx.get(address, headers=authorized, trust_env=False).status_code == 401
    assert run_app(HOST="0.0.0.0", PORT="0", RL2ML_DATA_FOLDER=folder).returncode == 1, "it is revoked"
    again = run_app("-m", "app", "keys", "revoke", listed[:12], python=(), RL2ML_DATA_FOLDER=folder)
    assert (again.returncode, again.stderr.partition(";")[0]) == (1, "No such key in force")


def test_keys_need_a_store_that_lasts(run_app):
    done = run_app("-m", "app", "keys", "list", python=())
    assert done.returncode == 1
    assert done.stderr.startswith("Keys need a store that lasts")
