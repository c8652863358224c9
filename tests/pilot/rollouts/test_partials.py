"""Partial aggregates: what is written and read again is the same to the last bit of its keys."""

import pytest

from rl2ml_core.pilot.rollouts.aggregate import KEYS
from rl2ml_core.pilot.rollouts.engine import Engine
from rl2ml_core.pilot.rollouts.format import Options


@pytest.fixture
def engine():
    pytest.importorskip("duckdb")
    with Engine(Options()) as made:
        yield made


@pytest.mark.parametrize("keys", [("prompt",), ("step", "prompt", "prompt_id", "sample"), ("step",)])
def test_parts_keep_every_bit(engine, tmp_path, keys):
    # Two keys of 128 bits that are one in double precision, which is what parquet would make of them.
    rows = [(2**127 + 1, 3, 1), (2**127 + 2, 5, 4), (7, 2, 0)]
    made = []
    for key, n, k in rows:
        cast = [f"{key % 97 if name == 'step' else key}::{KEYS[name]}" for name in keys]
        made.append(f"({', '.join(cast)}, NULL::rl2ml_reason, {n}, {k})")
    values = ", ".join(made)
    named = ", ".join(keys)
    engine.rows(f"CREATE TEMP TABLE made AS SELECT * FROM (VALUES {values}) AS t({named}, skip, n, k)")
    path = str(tmp_path / "part.parquet")
    engine.partials.save("made", path)
    table = engine.partials.load(path)
    types = dict(engine.rows(f"SELECT column_name, column_type FROM (DESCRIBE {table})"))
    assert {name: types[name] for name in keys} == {name: KEYS[name] for name in keys}
    everything = f"SELECT {named}, skip, n, k FROM {{}} ORDER BY ALL"
    assert engine.rows(everything.format(table)) == engine.rows(everything.format("made"))
    engine.partials.keep(table)
    counted = engine.rows(f"SELECT num_rollouts, num_successes FROM {engine.partials.counted(*keys)} ORDER BY ALL")
    assert counted == sorted((n, k) for _, n, k in rows)
