"""A client for the application in this process, and the service as a process of its own."""

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import jsonschema
import pytest

from app.examples import REQUEST_EXAMPLES
from app.main import create_app
from app.problems import PROBLEM_TYPES
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PATH = "/v1/recommendations"
ANALYSES = "/v1/estimators/analyses"
MOST_PROBLEM_BYTES = 8_000
HANG = 60  # seconds; only ever reached when something hangs

T = TypeVar("T")


def strict_json(text: str | bytes) -> Any:
    """JSON, where NaN and Infinity are none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


class Client:
    """The application without sockets. A handler's exception gives what a server would send."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.app = create_app(settings or Settings())
        self._runner = asyncio.Runner()
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://test")

    def run(self, work: Awaitable[T]) -> T:
        async def guarded() -> T:
            return await asyncio.wait_for(work, HANG)

        return self._runner.run(guarded())

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(self.http.request(method, path, **options))

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.request("GET", path, headers=headers)

    def ask(self, body: Any, headers: dict[str, str] | None = None, path: str = PATH) -> httpx.Response:
        """POST a question: bytes and text as they are, anything else as JSON."""
        content = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.request(
            "POST", path, content=content, headers={"Content-Type": "application/json"} | (headers or {})
        )

    def analyze(self, body: Any) -> httpx.Response:
        """POST for an analysis."""
        return self.ask(body, path=ANALYSES)

    def put(self, run: str, index: int, window: Any) -> httpx.Response:
        """PUT a window of a run; a list is the successes of groups of 8."""
        body = {"num_rollouts": 8, "num_successes": window} if isinstance(window, list) else window
        path = f"/v1/runs/{run}/windows/{index}"
        return self.request("PUT", path, content=json.dumps(body), headers={"Content-Type": "application/json"})

    def solve_here(self) -> "Client":
        """As if long jobs held the pool: windows are solved in this process, and no child has to be started."""
        self.app.state.pool._jobs = self.app.state.settings.pool_workers
        return self

    def id_of(self, body: Any) -> str:
        response = self.ask(body)
        assert response.status_code == 200, response.text
        return strict_json(response.content)["id"]

    def close(self) -> None:
        self.run(self.http.aclose())
        self.run(self.app.state.recommendations.saved())
        self.app.state.pool.close()
        self.app.state.store.close()
        self._runner.close()


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Default settings, whatever the environment says."""
    made = Client(Settings(host="127.0.0.1", port=8000))
    yield made
    made.close()


@pytest.fixture
def client_with() -> Iterator[Callable[..., Client]]:
    """A client with settings of its own."""
    made: list[Client] = []

    def make(**settings: Any) -> Client:
        made.append(Client(Settings(**settings)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def question() -> dict[str, Any]:
    """A small valid request that is solved at once, to be changed at will."""
    return json.loads(json.dumps(REQUEST_EXAMPLES["histogram"]["value"])) | {"search": {"criterion": "rms_gain"}}


@pytest.fixture
def unsolvable(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on a solve is a failure: what is refused must be refused before."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("solved what should have been refused")

    for solve in ("recommend", "recommend_groups", "analyze"):
        monkeypatch.setattr(f"rl2ml_core.{solve}", fail)


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    """The OpenAPI document, as served."""
    made = Client()
    try:
        return strict_json(made.get("/openapi.json").content)
    finally:
        made.close()


def template_of(path: str, paths: Iterable[str]) -> str:
    """The documented path that an address is of; one without parameters first."""
    for template in sorted(paths, key=lambda one: one.count("{")):
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)), path):
            return template
    raise AssertionError(f"{path} is not documented")


@pytest.fixture(scope="session")
def conforms(document: dict[str, Any]) -> Callable[[httpx.Response], Any]:
    """Check a response against the document, and give its content."""
    validators: dict[tuple[str, ...], Any] = {}

    def check(response: httpx.Response) -> Any:
        media_type = response.headers["content-type"].partition(";")[0]
        method, path = response.request.method.lower(), response.request.url.path
        path = template_of(path, document["paths"])
        described = document["paths"][path][method]["responses"][str(response.status_code)]["content"]
        schema = described[media_type]["schema"]
        validator = validators.setdefault(
            (method, path, str(response.status_code), media_type),
            jsonschema.Draft202012Validator({**schema, "components": document["components"]}),
        )
        content = strict_json(response.content)
        validator.validate(content)
        return content

    return check


@pytest.fixture(scope="session")
def refused() -> Callable[..., dict[str, Any]]:
    """Check that a response is a well-formed problem of a name, and give its content."""

    def check(response: httpx.Response, *names: str) -> dict[str, Any]:
        assert response.headers["content-type"] == "application/problem+json"
        assert len(response.content) <= MOST_PROBLEM_BYTES
        content = strict_json(response.content)
        name = content["type"].removeprefix("urn:rl2ml:problem:")
        assert name in names, content
        assert (response.status_code, content["title"]) == PROBLEM_TYPES[name]
        assert content["status"] == response.status_code
        own = {"expected_index"} if name == "window-conflict" else set()
        assert content.keys() - {"detail", "errors"} == {"type", "title", "status"} | own
        errors = content.get("errors", [])
        assert len(errors) <= 20
        for error in errors:
            assert error.keys() == {"pointer", "detail"}
            assert re.fullmatch(r"#(/[a-z0-9_]+)*", error["pointer"])
            assert error["detail"]
        return content

    return check


# --- stores -----------------------------------------------------------------------------------------------------------


class Cluster:
    """A PostgreSQL of our own, on a socket in a temporary folder."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="rl2ml-pg-"))
        # It refuses to run as root; Debian's package brings a user for it.
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._user = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(self._folder, "postgres", "postgres")
        self._run("initdb", "-D", str(self._folder / "data"), "-U", "rl2ml", "-A", "trust", "-E", "UTF8", "--no-locale")
        self._databases = itertools.count()
        self._is_running = False

    def start(self) -> None:
        """Until it answers; nothing where it does."""
        if self._is_running:
            return
        options = f"-k {self._folder} -c listen_addresses='' -c max_connections=60 -c fsync=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-l", log, "-o", options, "start")
        self._is_running = True

    def stop(self) -> None:
        """At once, as if the machine was lost."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-w", "-m", "immediate", "stop")
        self._is_running = False

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test{next(self._databases)}"
        self._run("createdb", "-h", str(self._folder), "-U", "rl2ml", name)
        return f"postgresql://rl2ml@/{name}?host={self._folder}"

    def _run(self, command: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / command, *arguments],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if command != "pg_ctl" else subprocess.DEVNULL,  # the server would keep a pipe open
            stderr=subprocess.STDOUT,
            text=True,
            timeout=HANG,
            **self._user,
        )
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running PostgreSQL."""
    folders = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        Path(shutil.which("initdb") or "/").parent,
    ]
    binaries = next((folder for folder in folders if (folder / "initdb").exists()), None)
    if binaries is None:
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    made = Cluster(binaries)
    made.start()
    yield made
    made.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Settings of a store that lasts, empty: each kind in turn."""
    if request.param == "sqlite":
        return {"data_folder": tmp_path / "data"}
    return {"database_url": request.getfixturevalue("cluster").database()}


class Server:
    """`python -m app` on a free loopback port."""

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self.process, self.address = process, address
        self.port = int(address.rpartition(":")[2])
        self.http = httpx.Client(base_url=address, timeout=HANG, trust_env=False)

    def ask(self, content: Any, path: str = PATH) -> httpx.Response:
        return self.http.post(path, content=content, headers={"Content-Type": "application/json"})

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal; the exit code and what was written since the address."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=HANG)
        return self.process.returncode, out, err


def environment(**variables: str) -> dict[str, str]:
    """The environment without settings of the service, and with these."""
    kept = {
        name: value for name, value in os.environ.items() if not name.upper().startswith(("RL2ML_", "HOST", "PORT"))
    }
    return kept | {"PYTHONPATH": str(ROOT)} | variables


@pytest.fixture(scope="session")
def run_app() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m app` (or other arguments of python) to its end."""

    def run(*arguments: str, python: tuple[str, ...] = ("-m", "app"), **variables: str) -> Any:
        return subprocess.run(
            [sys.executable, *python, *arguments],
            cwd=ROOT,
            env=environment(**variables),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=HANG,
        )

    return run


@pytest.fixture(scope="session")
def serve() -> Callable[..., Any]:
    """Start the service; it has printed its address, and ends with the block whatever happens."""

    @contextmanager
    def start(*arguments: str, **variables: str) -> Iterator[Server]:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", *arguments],
            cwd=ROOT,
            env=environment(**{"PORT": "0", **variables}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        server = None
        try:
            line = process.stdout.readline() if process.stdout else ""
            found = re.match(r"RL2ML serves (http://\S+:\d+) ", line)
            assert found, line + (process.stderr.read() if process.stderr and process.poll() is not None else "")
            host, _, port = found[1].removeprefix("http://").rpartition(":")
            socket.create_connection((host, int(port)), HANG).close()  # the address is good from the moment it is read
            server = Server(process, found[1])
            yield server
        finally:
            if server is not None:
                server.http.close()
            if process.poll() is None:
                process.kill()
            process.communicate()

    return start
