"""Tables of strangers: the same histograms as `read_pilot`, and bounds that hold before anything is decoded."""

import io
import json
import struct
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings

import rl2ml_core as rl2ml
from rl2ml_core.errors import InvalidTable
from rl2ml_core.pilot.untrusted import UNTRUSTED_FORMATS, read_untrusted

COUNTS = {"num_successes": [0, 3, 3, 8, 1], "num_rollouts": [8, 8, 8, 8, 6]}
REWARDS = {"prompt_id": ["a", "a", "b", "b", "b", "c"], "reward": [0, 1, 0, 0, 0, 1]}
MOST = 1000


def written(kind: str, columns: dict, **options) -> bytes:
    if kind == "csv":
        rows = zip(*columns.values(), strict=True)
        return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]).encode()
    if kind == "jsonl":
        rows = zip(*columns.values(), strict=True)
        return "\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows).encode()
    table, sink = columns if isinstance(columns, pa.Table) else pa.table(columns), io.BytesIO()
    if kind == "parquet":
        pq.write_table(table, sink, **options)
    else:
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as stream:
            stream.write_table(table)
    return sink.getvalue()


@pytest.fixture
def read(tmp_path):
    def from_bytes(content: bytes, kind: str, most: int = MOST) -> rl2ml.PilotHistogram:
        path = tmp_path / "upload"
        path.write_bytes(content)
        return read_untrusted(path, kind, max_rows=most)

    return from_bytes


# --- the same as from one's own tables --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", UNTRUSTED_FORMATS)
@pytest.mark.parametrize(
    "columns",
    [
        COUNTS,
        COUNTS | {"weight": [1.0, 0.5, 2.0, 1.0, 1.0]},
        COUNTS | {"prompt_id": list("abcde"), "text": ["x", "y", "z", "", "é"]},
        REWARDS,
        REWARDS | {"prompt_id": [1, 1, 2, 2, 2, 3]},
        REWARDS | {"prompt_id": [p * 100 for p in REWARDS["prompt_id"]]},
    ],
)  # fmt: skip
def test_histograms_are_those_of_read_pilot(read, tmp_path, kind, columns):
    reference = tmp_path / "reference.jsonl"
    reference.write_bytes(written("jsonl", columns))
    assert read(written(kind, columns), kind) == rl2ml.read_pilot(reference)


@pytest.mark.parametrize("kind", UNTRUSTED_FORMATS)
def test_many_rows_and_batches(read, kind):
    rng = np.random.default_rng(0)
    successes = rng.binomial(16, 0.3, 200_000)
    content = written(kind, {"num_successes": successes.tolist(), "num_rollouts": [16] * successes.size})
    assert read(content, kind, 200_000) == rl2ml.PilotHistogram.from_counts(successes, 16)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
def test_compressed_streams(read, compression):
    columns = pa.table(COUNTS | {"prompt_id": pa.array(list("abcde")).dictionary_encode()})
    assert read(written("arrow", columns, compression=compression), "arrow").total_prompts == 5


@pytest.mark.parametrize(
    "kind", ["int8", "uint8", "int16", "uint32", "int64", "uint64", "float32", "float64", "string", "large_string"]
)
@pytest.mark.parametrize("form", ["parquet", "arrow"])
def test_types_of_numbers(read, form, kind):
    columns = {name: pa.array(values).cast(getattr(pa, kind)()) for name, values in COUNTS.items()}
    assert read(written(form, columns), form).total_prompts == 5


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", UNTRUSTED_FORMATS)
@pytest.mark.parametrize("columns", [COUNTS, REWARDS])
def test_number_of_rows(read, kind, columns):
    content, rows = written(kind, columns), len(next(iter(columns.values())))
    assert read(content, kind, rows).total_prompts > 0
    if kind in ("csv", "jsonl"):
        assert read(content + b"\n", kind, rows).total_prompts > 0
    with pytest.raises(InvalidTable, match=f"at most {rows - 1} rows"):
        read(content, kind, rows - 1)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_rows_are_counted_before_they_are_decoded(read, kind, monkeypatch):
    monkeypatch.setattr("rl2ml_core.pilot.untrusted._column", lambda _: pytest.fail("decoded"))
    zeros = pa.array(np.zeros(50_000_000, np.int8))
    columns = {"num_successes": zeros, "num_rollouts": zeros}
    content = written(kind, columns, compression="zstd")
    assert len(content) < 1_000_000
    with pytest.raises(InvalidTable, match="at most 1,000 rows"):
        read(content, kind)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("parquet", {"compression": "zstd", "use_dictionary": False}), ("arrow", {"compression": "zstd"})],
)
def test_sizes_are_checked_before_they_are_decoded(read, kind, options, monkeypatch):
    monkeypatch.setattr("rl2ml_core.pilot.untrusted._column", lambda _: pytest.fail("decoded"))
    text = "a" * 5_000_000
    columns = {"prompt_id": [text + str(i) for i in range(8)], "reward": [0] * 8}
    content = written(kind, columns, **options)
    assert len(content) < 200_000
    with pytest.raises(InvalidTable, match="must come to at most 34 MB"):
        read(content, kind)


def test_sizes_that_are_no_one_can_have(read):
    """A buffer that says it will be 2^60 bytes."""
    content = written("arrow", COUNTS, compression="lz4")
    place = content.index(struct.pack("<q", 40))  # five numbers of eight bytes, uncompressed
    with pytest.raises(InvalidTable, match="must come to at most"):
        read(content[:place] + struct.pack("<q", 1 << 60) + content[place + 8 :], "arrow")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_lines_have_an_end(read, kind):
    start = written(kind, COUNTS)
    with pytest.raises(InvalidTable, match="a line must have at most"):
        read(start + b"\n" + b" " * (2 << 20), kind)
    with pytest.raises(InvalidTable, match="a line must have at most"):
        read(b"x" * (2 << 20), kind)


def test_a_long_text_a_million_times(read):
    """Equal texts are compared by a hash: a million of a megabyte each would be a terabyte to compare."""
    prompts = pa.array(["a" * 1_000_000, "b"]).dictionary_encode().take(pa.array([0, 1] * 100_000))
    columns = {"prompt_id": prompts, "reward": pa.array([0, 1] * 100_000)}
    for kind in ("parquet", "arrow"):
        pilot = read(written(kind, columns), kind, 200_000)
        assert pilot.cells() == [(100_000, 0, 1.0), (100_000, 100_000, 1.0)]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize(
    "values",
    [
        pa.array([[1]] * 5),
        pa.array([{"a": 1}] * 5),
        pa.array([b"1"] * 5),
        pa.array([1] * 5).cast(pa.decimal128(20)),
        pa.array([1] * 5).cast(pa.timestamp("s")),
        pa.nulls(5),
    ],
    ids=str,
)
def test_other_types_are_refused(read, kind, values):
    with pytest.raises(InvalidTable, match="column num_successes must be of numbers or text"):
        read(written(kind, COUNTS | {"num_successes": values}), kind)
    # Beside the columns that are read they do not matter.
    assert read(written(kind, COUNTS | {"other": values}), kind).total_prompts == 5


def test_columns_twice(read):
    table = pa.Table.from_arrays(
        [pa.array([1]), pa.array([8]), pa.array([2])], ["num_successes", "num_rollouts", "num_successes"]
    )
    with pytest.raises(InvalidTable, match="num_successes appears twice"):
        read(written("arrow", table), "arrow")


@pytest.mark.parametrize("kind", UNTRUSTED_FORMATS)
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"PAR1", b"PAR1\0\0\0\0PAR1", b"\xff\xff\xff\xff\0\0\0\0", b"\xff" * 100, b"\0" * 64]
)
def test_what_is_no_table(read, kind, content):
    with pytest.raises(InvalidTable):
        read(content, kind)


@pytest.mark.parametrize(
    "columns", [{}, {"num_successes": [1]}, COUNTS | {"num_successes": [9] * 5}, COUNTS | {"num_rollouts": [0] * 5}]
)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow"])
def test_what_is_no_pilot(read, kind, columns):
    with pytest.raises(InvalidTable):
        read(written(kind, columns), kind)


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_gaps(read, kind):
    with pytest.raises(InvalidTable, match="row 2: num_successes must be integers"):
        read(written(kind, COUNTS | {"num_successes": [1, None, 2, 3, 4]}), kind)


def test_unknown_formats(read):
    with pytest.raises(InvalidTable, match="expected one of csv, jsonl, parquet, arrow"):
        read(b"", "tsv")


VALID = {
    kind: written(
        kind,
        REWARDS | {"prompt_id": pa.array(REWARDS["prompt_id"]).dictionary_encode()} if kind == "arrow" else REWARDS,
    )
    for kind in UNTRUSTED_FORMATS
}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(UNTRUSTED_FORMATS),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=5),
)
def test_damaged_tables_are_read_or_refused(tmp_path: Path, kind, damage):
    content = bytearray(VALID[kind])
    for place, byte in damage:
        content[place % len(content)] = byte
    path = tmp_path / "damaged"
    path.write_bytes(content)
    try:
        pilot = read_untrusted(path, kind, max_rows=MOST)
    except (InvalidTable, MemoryError):
        return
    assert pilot.total_prompts <= MOST
