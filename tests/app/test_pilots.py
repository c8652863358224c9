"""`POST /v1/pilots`: tables in, histograms and ids out; hostile ones refused quickly, briefly and in little memory."""

import io
import json
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rl2ml_core as rl2ml
from app.problems import Problem
from app.settings import Settings
from app.uploads import FORMATS, _unquoted, counted

PATH = "/v1/pilots"
CSV = b"prompt_id,num_successes,num_rollouts\nsecret1,0,8\nsecret2,3,8\nsecret3,3,8\n"
CELLS = [(8, 0, 1.0), (8, 3, 2.0)]
QUESTION = {"metric": "pass@8", "budget": {"num_rollouts": 4}}


@pytest.fixture
def lasting(client_with, kept):
    return client_with(**kept)


def upload(client, content: bytes, media_type: str = "text/csv", **headers: str):
    return client.request("POST", PATH, content=content, headers={"Content-Type": media_type, **headers})


def table(kind: str) -> bytes:
    columns = {"num_successes": [3, 0, 3], "num_rollouts": [8, 8, 8]}
    if kind == "csv":
        return CSV
    if kind == "jsonl":
        rows = zip(*columns.values(), strict=True)
        return "\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows).encode()
    sink = io.BytesIO()
    if kind == "parquet":
        pq.write_table(pa.table(columns), sink)
    else:
        with pa.ipc.new_stream(sink, pa.table(columns).schema) as stream:
            stream.write_table(pa.table(columns))
    return sink.getvalue()


def test_every_format_of_a_pilot_is_one(lasting, conforms):
    statuses, contents = [], set()
    for media_type, kind in FORMATS.items():
        response = upload(lasting, table(kind), f"{media_type}; charset=utf-8")
        statuses.append(response.status_code)
        contents.add(response.content)
        conforms(response)
    assert statuses == [201, 200, 200, 200, 200]
    (content,) = map(json.loads, contents)
    assert [tuple(cell.values()) for cell in content["cells"]] == CELLS
    assert content["num_prompts"] == 3


def test_rollouts(client):
    content = upload(client, b"prompt_id,reward\na,0\na,1\nb,1\n").json()
    assert [tuple(cell.values()) for cell in content["cells"]] == [(1, 1, 1.0), (2, 1, 1.0)]


def test_requests_name_it(lasting, conforms, refused):
    uploaded = upload(lasting, CSV).json()
    reference, cells = {"id": uploaded["id"]}, {"cells": uploaded["cells"]}
    named = lasting.ask(QUESTION | {"pilot": reference})
    assert named.status_code == 200
    assert named.content == lasting.ask(QUESTION | {"pilot": cells}).content, "one question, one id"
    runs = [lasting.ask(QUESTION | {"pilot": pilot}, path="/v1/runs").json() for pilot in (reference, cells)]
    assert runs[0]["decision"] == runs[1]["decision"]
    unknown = {"id": "pilot_" + "0" * 32}
    for path in ("/v1/recommendations", "/v1/runs"):
        content = refused(lasting.ask(QUESTION | {"pilot": unknown}, path=path), "invalid-request")
        assert content["errors"] == [{"pointer": "#/pilot/id", "detail": "no such pilot is kept: upload it again"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/estimators/analyses", {"estimator": "grpo", "num_rollouts": 4}),
        ("/v1/plans", {"metric": "pass@8", "budget": {"rollouts_per_step": 64, "choices": [2, 4]}}),
    ],
)
def test_an_uploaded_pilot_serves_other_questions(lasting, refused, path, body):
    uploaded = upload(lasting, CSV).json()
    by_id = lasting.ask(body | {"pilot": {"id": uploaded["id"]}}, path=path)
    assert by_id.status_code == 200, by_id.text
    assert by_id.content == lasting.ask(body | {"pilot": {"cells": uploaded["cells"]}}, path=path).content
    unknown = lasting.ask(body | {"pilot": {"id": f"pilot_{'0' * 32}"}}, path=path)
    assert refused(unknown, "invalid-request")["errors"][0]["pointer"] == "#/pilot/id"


def test_a_pilot_is_there_for_other_processes(client_with, kept):
    uploaded = upload(client_with(**kept), CSV).json()
    assert client_with(**kept).ask(QUESTION | {"pilot": {"id": uploaded["id"]}}).status_code == 200


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(client):
    made = type(client)(Settings(max_pilot_rows=1000, max_pilot_bytes=1 << 20, max_cells=50))
    yield made
    made.close()


@pytest.mark.parametrize("media_type", ["", "application/json", "text/plain", "application/octet-stream", "text/csv2"])
def test_other_media_types(plain, refused, media_type):
    refused(upload(plain, CSV, media_type), "unsupported-media-type")


def test_compressed_bodies(plain, refused):
    refused(upload(plain, CSV, **{"Content-Encoding": "gzip"}), "unsupported-media-type")


def test_limits(plain, refused, client_with):
    head = b"num_successes,num_rollouts\n"
    assert upload(plain, head + b"1,8\n" * 1000).status_code == 201
    content = refused(upload(plain, head + b"1,8\n" * 1001), "invalid-request")
    assert content["errors"] == [{"pointer": "#", "detail": "the table must have at most 1,000 rows"}]
    content = refused(upload(plain, head + b"".join(b"1,%d\n" % n for n in range(1, 52))), "limit-exceeded")
    assert content["errors"] == [{"pointer": "#", "detail": "at most 50 distinct cells"}]
    refused(upload(plain, b" " * ((1 << 20) + 1)), "body-too-large")

    async def chunks():
        for _ in range(2000):
            yield b"x" * 1000

    chunked = plain.request("POST", PATH, content=chunks(), headers={"Content-Type": "text/csv"})
    refused(chunked, "body-too-large")
    unlimited = client_with(max_body_bytes=10)
    assert upload(unlimited, CSV).status_code == 201, "the limit of JSON bodies is another"


@pytest.mark.parametrize("media_type", FORMATS)
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 50, b"secret,secret2\nsecret3,4\n", b'{"secret": 1}', b"PAR1secretPAR1", b"[" * 5000]
)
def test_what_is_no_pilot(plain, refused, media_type, content):
    response = upload(plain, content, media_type)
    refused(response, "invalid-request")
    assert b"secret" not in response.content


EXPECTED = (
    "expected columns num_successes and num_rollouts (one row per prompt), "
    "or prompt_id and reward (one row per rollout)"
)


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"num_successes,num_rollouts\n1,8\n9,8\n", "row 3: num_successes must not exceed num_rollouts"),
        (b"num_successes,num_rollouts\nsecret,8\n", "row 2: num_successes must be a number"),
        (b"num_successes,num_rollouts\n1,8,secret\n", "line 2 has 3 fields; expected 2 as in the header"),
        (b"prompt_id,num_successes,num_rollouts\nsecret,1,8\nsecret,1,8\n", "prompt_id appears twice"),
        (b"prompt_id,num_successes,num_rollouts\n" + b'"se\'cret ""appears",1,8\n' * 2, "prompt_id appears twice"),
        (b"prompt_id,reward\nsecret,secret\n", "row 2: reward must be 0 or 1"),
        (b"prompt_id,reward\nsecret,0.5\n", "row 2: reward must be 0 or 1"),
        (b"secret,weight\n1,2\n", EXPECTED),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_without_what_was_sent(plain, refused, content, detail):
    response = upload(plain, content)
    assert refused(response, "invalid-request")["errors"] == [{"pointer": "#", "detail": detail}]


def test_quotes_of_any_kind_are_left_out():
    for prompt in ("'a'", '"a"', "7", "[{'role': 'user'}]", "(1,)", "a; got b", "True"):
        assert _unquoted(f"prompt_id {prompt} appears twice (again in row 3); a table") == "prompt_id appears twice"
    assert _unquoted("row 3: reward must be 0 or 1; got 'x'; found y") == "row 3: reward must be 0 or 1"


# --- hostile ----------------------------------------------------------------------------------------------------------


def zeros(rows: int, kind: str) -> bytes:
    column, sink = pa.array(np.zeros(rows, np.int8)), io.BytesIO()
    data = pa.table({"num_successes": column, "num_rollouts": column})
    if kind == "parquet":
        pq.write_table(data, sink, compression="zstd")
    else:
        with pa.ipc.new_stream(sink, data.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as stream:
            stream.write_table(data)
    return sink.getvalue()


def texts(size: int, rows: int) -> bytes:
    sink = io.BytesIO()
    column = [f"{i}" + "a" * size for i in range(rows)]
    pq.write_table(
        pa.table({"prompt_id": column, "reward": [0] * rows}), sink, compression="zstd", use_dictionary=False
    )
    return sink.getvalue()


HOSTILE = {
    "a billion rows of Parquet": ("application/vnd.apache.parquet", lambda: zeros(100_000_000, "parquet")),
    "a billion rows of Arrow": ("application/vnd.apache.arrow.stream", lambda: zeros(100_000_000, "arrow")),
    "texts that swell": ("application/vnd.apache.parquet", lambda: texts(20_000_000, 5)),
    "lines without end": ("application/jsonl", lambda: b'{"prompt_id": "' + b"a" * (60 << 20)),
    "nested without end": ("application/jsonl", lambda: b"[" * (60 << 20)),
    "one line of many fields": ("text/csv", lambda: b"a," * (30 << 20)),
    "more lines than rows": ("text/csv", lambda: b"num_successes,num_rollouts\n" + b"1,8\n" * 15_000_000),
    "empty lines": ("text/csv", lambda: b"num_successes,num_rollouts\n" + b"\n" * (60 << 20)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tables_are_refused_in_a_second(client, refused, name):
    """Each ≤ 1 s and ≤ 100 MB more memory, in the service and in the process that reads them."""
    upload(client, table("parquet"), "application/vnd.apache.parquet")  # the process is there, and has pyarrow
    media_type, make = HOSTILE[name]
    content = make()
    (child,) = client.app.state.pool._executor._processes
    forget_peak(child)
    before = megabytes(child, "VmRSS")
    start = time.perf_counter()
    refused(upload(client, content, media_type), "invalid-request", "limit-exceeded")
    assert time.perf_counter() - start < 2  # 1 where nothing else runs
    assert megabytes(child, "VmHWM") - before < 100


def forget_peak(process: int) -> None:
    with open(f"/proc/{process}/clear_refs", "w") as file:
        file.write("5")


def megabytes(process: int, name: str) -> float:
    with open(f"/proc/{process}/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(name))


def test_memory_is_limited_where_pages_lie(tmp_path, monkeypatch):
    def swell(*_, **__):
        return np.ones(1 << 28)  # 2 GB

    monkeypatch.setattr("app.uploads.read_untrusted", swell)
    path = tmp_path / "x"
    path.write_bytes(CSV)
    with pytest.raises(Problem, match="limit-exceeded") as raised:
        counted(path, "csv", 100, 100)
    assert "memory" in raised.value.detail
    monkeypatch.undo()
    assert counted(path, "csv", 100, 100) == CELLS, "and the limit is gone again"


def test_a_million_prompts(client, conforms):
    rng = np.random.default_rng(0)
    successes, sink = rng.binomial(16, 0.3, 1_000_000), io.BytesIO()
    pq.write_table(pa.table({"num_successes": successes, "num_rollouts": np.full(successes.size, 16)}), sink)
    upload(client, table("parquet"), "application/vnd.apache.parquet")
    start = time.perf_counter()
    response = upload(client, sink.getvalue(), "application/vnd.apache.parquet")
    assert time.perf_counter() - start < 2
    content = conforms(response)
    expected = rl2ml.PilotHistogram.from_counts(successes, 16)
    assert [tuple(cell.values()) for cell in content["cells"]] == expected.cells()


def test_only_so_many_uploads_at_once(client_with, refused):
    client = client_with()
    while not client.app.state.uploads.locked():
        client.run(client.app.state.uploads.acquire())
    response = upload(client, CSV)
    refused(response, "overloaded")
    assert response.headers["retry-after"] == "1"


def test_no_room_for_an_upload(client_with, refused, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    response = upload(client_with(), CSV)
    refused(response, "storage-full")
    assert response.headers["retry-after"] == "60"
