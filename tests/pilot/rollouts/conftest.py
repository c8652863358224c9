"""Dumps to read: written here, or real ones under ../shared."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

import rl2ml_core as rl2ml

SHARED = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "dumps"


@pytest.fixture
def dumps() -> Path:
    if not SHARED.is_dir():
        pytest.skip("../shared/data/dumps is absent")
    pytest.importorskip("duckdb")
    return SHARED


@pytest.fixture
def write(tmp_path):
    """write(name, rows): jsonl, csv, tsv or parquet by the name's ending; bytes as they are. Returns the path."""
    pytest.importorskip("duckdb")

    def _write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(rows, (bytes, str)):
            path.write_bytes(rows if isinstance(rows, bytes) else rows.encode())
            return path
        plain = name.removesuffix(".gz").removesuffix(".zst")
        if plain.endswith(".parquet"):
            pyarrow = pytest.importorskip("pyarrow")
            parquet = pytest.importorskip("pyarrow.parquet")
            parquet.write_table(rows if isinstance(rows, pyarrow.Table) else pyarrow.Table.from_pylist(rows), path)
            return path
        content = _text(plain, rows).encode()
        if name.endswith(".gz"):
            content = gzip.compress(content)
        elif name.endswith(".zst"):
            content = pytest.importorskip("pyarrow").compress(content, codec="zstd", asbytes=True)
        path.write_bytes(content)
        return path

    return _write


def _text(name, rows):
    if name.endswith((".csv", ".tsv")):
        import csv
        import io

        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if name.endswith(".tsv") else ",")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def count():
    """count(pairs): the cells of (prompt, success) pairs, by dictionaries."""

    def _count(pairs):
        n, k = Counter(), Counter()
        for prompt, success in pairs:
            n[prompt] += 1
            k[prompt] += bool(success)
        cells = Counter((n[prompt], k[prompt]) for prompt in n)
        return [(n, k, prompts) for (n, k), prompts in sorted(cells.items())]

    return _count


@pytest.fixture
def codes():
    """codes(rollouts): the codes of its findings."""
    return lambda rollouts: [found.code for found in rollouts.findings]


@pytest.fixture
def read():
    return rl2ml.read_rollouts
