"""The published SQL says what the engine does; names and strings cannot break out of it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl2ml_core.pilot.rollouts.sql import identifier, literal, published

duckdb = pytest.importorskip("duckdb")


def test_the_published_statement_gives_the_same_cells(write, read):
    draw = random.Random(3)
    rows = []
    for step in range(3):
        for prompt in range(20):
            for i in range(draw.randrange(1, 7)):
                score = draw.choice((None, float(draw.random() < prompt / 20), float(draw.random() < prompt / 20)))
                for output in range(draw.choice((1, 1, 3))):  # which repeat the score; later ones have other inputs
                    text = f"p{prompt}" if output == 0 else f"turn {output}"
                    uid = f"s{step}p{prompt}_{i}_{output}"
                    rows.append({"input": text, "output": f"{i}", "score": score, "step": step, "uid": uid})
    draw.shuffle(rows)
    connection = duckdb.connect()
    columns = "step INT, prompt TEXT, sample TEXT, rollout TEXT, output INT, score DOUBLE"
    connection.execute(f"CREATE TABLE dump ({columns})")
    for row in rows:
        values = [row["step"], row["input"], *row["uid"].rsplit("_", 2), row["score"]]
        connection.execute("INSERT INTO dump VALUES (?, ?, ?, ?, ?, ?)", values)
    cells = connection.execute(published("score >= 1", table="dump")).fetchall()
    assert cells == read(write("1.jsonl", rows), success="score >= 1").pilot.cells()
    # Rows that are rollouts each need no more than three columns.
    connection.execute("CREATE TABLE rollouts AS SELECT step, prompt, score FROM dump")
    cells = connection.execute(published("score > 0", repeated=False)).fetchall()
    connection.close()
    legacy = [{name: value for name, value in row.items() if name != "uid"} for row in rows]
    assert cells == read(write("2.jsonl", legacy), success="score > 0").pilot.cells()


@pytest.fixture(scope="module")
def connection():
    with duckdb.connect() as opened:
        yield opened


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
def test_strings_and_names_stay_what_they_are(connection, text):
    assert connection.execute(f"SELECT {literal(text)}").fetchall() == [(text,)]
    made = connection.execute(f"SELECT 1 AS {identifier(text)}")
    assert [column[0] for column in made.description] == [text]
