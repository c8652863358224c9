"""The published SQL says what the engine does; names and strings cannot break out of it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl2ml_core.pilot.rollouts.sql import identifier, literal, published

duckdb = pytest.importorskip("duckdb")


def test_the_published_statement_gives_the_same_cells(write, read):
    draw = random.Random(3)
    rows = [
        {
            "input": f"p{j}",
            "output": f"{i}.{o}",
            "score": float(draw.random() < j / 20),
            "step": s,
            "uid": f"s{s}p{j}_{i}_{o}",
        }
        for s in range(3)
        for j in range(20)
        for i in range(draw.randrange(1, 7))
        for o in range(1 + (i == 0))
    ]
    for row in rows:  # outputs of a rollout repeat its score
        if row["uid"].endswith("_0_1"):
            row["score"] = next(r["score"] for r in rows if r["uid"] == row["uid"][:-1] + "0")
    connection = duckdb.connect()
    connection.execute("CREATE TABLE rollouts (step INT, prompt TEXT, sample TEXT, rollout TEXT, score DOUBLE)")
    for row in rows:
        sample, rollout, _ = row["uid"].rsplit("_", 2)
        connection.execute(
            "INSERT INTO rollouts VALUES (?, ?, ?, ?, ?)", [row["step"], row["input"], sample, rollout, row["score"]]
        )
    cells = connection.execute(published("score >= 1")).fetchall()
    connection.close()
    assert cells == read(write("1.jsonl", rows), success="score >= 1").pilot.cells()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_strings_and_names_stay_what_they_are(text):
    connection = duckdb.connect()
    assert connection.execute(f"SELECT {literal(text)}").fetchall() == [(text,)]
    made = connection.execute(f"SELECT 1 AS {identifier(text)}")
    assert [column[0] for column in made.description] == [text]
    connection.close()
