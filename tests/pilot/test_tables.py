"""Tables in every form give the same pilot, and what cannot be read is named by file, row and column."""

import csv
import io
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.pilot import tables

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "pilots"

#: (prompt_id, successes, rollouts)
PROMPTS = [("a", 1, 4), ("b, quoted", 0, 3), ('c "twice"', 4, 4), ("d", 1, 4), ("5", 2, 4)]
CELLS = [(3, 0, 1), (4, 1, 2), (4, 2, 1), (4, 4, 1)]
COUNTS = [{"prompt_id": p, "num_successes": k, "num_rollouts": n} for p, k, n in PROMPTS]
ROLLOUTS = [{"prompt_id": p, "reward": int(i < k)} for i in range(4) for p, k, n in PROMPTS if i < n]


def as_csv(rows, delimiter=",", **options) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, **options)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    sink = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), sink)
    return sink.getvalue()


def read(folder: Path, name: str, content: bytes | str, **options) -> rl2ml.PilotHistogram:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return rl2ml.read_pilot(path, **options)


# --- every form ------------------------------------------------------------------------------------------------------

FORMS = {
    "pilot.csv": as_csv,
    "pilot.CSV": as_csv,
    "pilot.tsv": lambda rows: as_csv(rows, "\t"),
    "pilot.jsonl": as_jsonl,
    "pilot.ndjson": as_jsonl,
    "pilot.parquet": as_parquet,
    "pilot.pq": as_parquet,
}


@pytest.mark.parametrize("rows", [COUNTS, ROLLOUTS], ids=["counts", "rollouts"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_counts_and_rollouts_gives_one_pilot(name, rows, tmp_path):
    assert read(tmp_path, name, FORMS[name](rows)).cells() == CELLS


@pytest.mark.parametrize("rows", [COUNTS, ROLLOUTS], ids=["counts", "rollouts"])
@pytest.mark.parametrize(
    "change",
    {
        "as it is": lambda text: text,
        "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
        "line feeds alone": lambda text: text.replace(b"\r\n", b"\n"),
        "blank lines": lambda text: text.replace(b"\r\n", b"\r\n\r\n"),
        "no last line end": lambda text: text.rstrip(b"\r\n"),
        "spaces in the header": lambda text: text.replace(b"prompt_id,", b" prompt_id , ", 1),
    }.items(),
    ids=lambda item: item[0],
)
def test_csv_as_people_write_it(change, rows, tmp_path):
    assert read(tmp_path, "pilot.csv", change[1](as_csv(rows, quoting=csv.QUOTE_MINIMAL))).cells() == CELLS
    assert read(tmp_path, "pilot.csv", change[1](as_csv(rows, quoting=csv.QUOTE_ALL))).cells() == CELLS


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text.replace(b"\n", b"\r\n"),
        lambda text: text.replace(b"\n", b"\n\n"),
        lambda text: text.rstrip(b"\n"),
    ],
    ids=["byte order mark", "carriage returns", "blank lines", "no last line end"],
)
def test_jsonl_as_people_write_it(change, tmp_path):
    assert read(tmp_path, "pilot.jsonl", change(as_jsonl(COUNTS))).cells() == CELLS


def test_other_columns_and_their_order_do_not_matter(tmp_path):
    text = "note,num_rollouts,seed,num_successes\nx,8,1,3\ny,8,2,0\n"
    assert read(tmp_path, "p.csv", text).cells() == [(8, 0, 1), (8, 3, 1)]
    # Counts win where a table has both.
    text = "prompt_id,reward,num_successes,num_rollouts\na,0.37,3,8\nb,0.1,0,8\n"
    assert read(tmp_path, "p.csv", text).cells() == [(8, 0, 1), (8, 3, 1)]


def test_weights_are_prompts_represented(tmp_path):
    text = "num_successes,num_rollouts,weight\n3,8,2\n0,8,1.5\n3,8,1\n"
    assert read(tmp_path, "p.csv", text).cells() == [(8, 0, 1.5), (8, 3, 3)]


@pytest.mark.parametrize("value", ["3", " 3", "3.0", "3e0", "+3"])
def test_whole_numbers_may_be_written_in_any_way(value, tmp_path):
    assert read(tmp_path, "p.csv", f"num_successes,num_rollouts\n{value},8\n").cells() == [(8, 3, 1)]


@pytest.mark.parametrize("reward", ["1", "1.0", " 1 ", "true", "True"])
def test_a_success_may_be_written_in_any_way(reward, tmp_path):
    assert read(tmp_path, "p.csv", f"prompt_id,reward\na,{reward}\na,0\n").cells() == [(2, 1, 1)]


def test_rewards_of_json_may_be_numbers_booleans_or_text(tmp_path):
    rewards = [1, 0, 1.0, 0.0, True, False, "1", "false"]
    rows = [{"prompt_id": 7, "reward": reward} for reward in rewards]
    assert read(tmp_path, "p.jsonl", as_jsonl(rows)).cells() == [(8, 4, 1)]


def test_prompts_of_json_may_be_numbers_text_or_chats(tmp_path):
    chat = [{"role": "user", "content": "1+1="}]
    ids = [1, 1, "1", chat, chat, {"b": 1, "a": 2}, {"a": 2, "b": 1}]
    rows = [{"prompt_id": prompt, "reward": 1} for prompt in ids]
    assert read(tmp_path, "rollouts.jsonl", as_jsonl(rows)).cells() == [(1, 1, 1), (2, 2, 3)]


def test_prompts_of_counts_may_be_numbers_text_or_chats(tmp_path):
    ids = [1, "1", [{"role": "user", "content": "1+1="}], [{"role": "user", "content": "2+2="}], {"a": 1}]
    rows = [{"prompt_id": prompt, "num_successes": 1, "num_rollouts": 8} for prompt in ids]
    assert read(tmp_path, "counts.jsonl", as_jsonl(rows)).cells() == [(8, 1, 5)]


def test_rollouts_need_not_be_sorted_by_prompt_nor_equal_in_number(tmp_path):
    text = "prompt_id,reward\na,1\nb,0\na,0\nc,1\nb,0\na,1\n"
    assert read(tmp_path, "p.csv", text).cells() == [(1, 1, 1), (2, 0, 1), (3, 2, 1)]


def test_a_format_can_be_named(tmp_path):
    assert read(tmp_path, "pilot.txt", as_csv(COUNTS), format="csv").cells() == CELLS
    assert read(tmp_path, "pilot.csv", as_jsonl(COUNTS), format="jsonl").cells() == CELLS
    assert rl2ml.read_pilot(str(tmp_path / "pilot.txt"), "csv").cells() == CELLS


@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(
        st.integers(1, 6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1, max_size=12
    ),
    ids=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), unique=True, min_size=12),
    form=st.sampled_from(["csv", "tsv", "jsonl"]),
)
def test_counts_and_rollouts_agree_whatever_the_prompts_are_called(tmp_path_factory, counts, ids, form):
    folder = tmp_path_factory.mktemp("tables", numbered=True)
    named = list(zip(ids, counts, strict=False))
    rows = [{"prompt_id": name, "num_successes": k, "num_rollouts": n} for name, (k, n) in named]
    rollouts = [{"prompt_id": name, "reward": int(i < k)} for name, (k, n) in named for i in range(n)]
    expected = rl2ml.PilotHistogram.from_counts(*zip(*counts, strict=True))
    for table in (rows, rollouts):
        assert read(folder, f"pilot.{form}", FORMS[f"pilot.{form}"](table)) == expected


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.parquet"])
def test_tables_longer_than_one_batch(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", 50)
    rows = [{"prompt_id": str(i), "num_successes": i % 9, "num_rollouts": 8} for i in range(130)]
    expected = [(8, k, len(range(k, 130, 9))) for k in range(9)]
    assert read(tmp_path, name, FORMS[f"pilot{name[1:]}"](rows)).cells() == expected
    first = 2 if name in ("p.csv", "p.tsv") else 1  # a header is row 1
    for wrong in (0, 49, 50, 51, 99, 100, 129):
        broken = [{**row, "num_successes": 9} if i == wrong else row for i, row in enumerate(rows)]
        with pytest.raises(rl2ml.InvalidTable, match=f"row {first + wrong}: num_successes must not exceed"):
            read(tmp_path, name, FORMS[f"pilot{name[1:]}"](broken))
    with pytest.raises(rl2ml.InvalidTable, match=rf"prompt_id '0' appears twice \(again in row {first + 130}\)"):
        read(tmp_path, name, FORMS[f"pilot{name[1:]}"]([*rows, rows[0]]))
    rollouts = [{"prompt_id": str(i % 7), "reward": int(i % 2 == 0)} for i in range(130)]
    # 130 = 18·7 + 4: prompts 0–3 have 19 rollouts, 4–6 have 18, successes and failures in turn; 0 and 2 begin with one.
    expected = [(18, 9, 3), (19, 9, 2), (19, 10, 2)]
    assert read(tmp_path, name, FORMS[f"pilot{name[1:]}"](rollouts)).cells() == expected


# --- groups ----------------------------------------------------------------------------------------------------------

#: (group, prompt_id, successes, rollouts); "a" is a prompt of two groups.
GROUPED = [("math", "a", 1, 4), ("code, py", "a", 0, 3), ("math", "b", 4, 4), ("code, py", "c", 1, 4), ("7", "d", 2, 4)]
BY_GROUP = {"math": [(4, 1, 1), (4, 4, 1)], "code, py": [(3, 0, 1), (4, 1, 1)], "7": [(4, 2, 1)]}
COUNTS_BY_GROUP = [{"prompt_id": p, "num_successes": k, "num_rollouts": n, "source": g} for g, p, k, n in GROUPED]
ROLLOUTS_BY_GROUP = [
    {"source": g, "prompt_id": p, "reward": int(i < k)} for i in range(4) for g, p, k, n in GROUPED if i < n
]


def read_groups(folder: Path, name: str, content: bytes | str, column: str = "source", **options):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return rl2ml.read_pilot_groups(path, column, **options)


def cells_of(groups: dict[str, rl2ml.PilotHistogram]) -> dict[str, list]:
    return {name: pilot.cells() for name, pilot in groups.items()}


@pytest.mark.parametrize("rows", [COUNTS_BY_GROUP, ROLLOUTS_BY_GROUP], ids=["counts", "rollouts"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_one_pilot_per_group(name, rows, tmp_path):
    found = read_groups(tmp_path, name, FORMS[name](rows))
    assert cells_of(found) == BY_GROUP
    assert list(found) == list(BY_GROUP), "in order of appearance"
    # Together they are the pilot, but for the prompt of two groups: without groups its rollouts are one prompt's.
    if rows is ROLLOUTS_BY_GROUP:
        assert read(tmp_path, name, FORMS[name](rows)).cells() == [(4, 1, 1), (4, 2, 1), (4, 4, 1), (7, 1, 1)]


@pytest.mark.parametrize("rows", [COUNTS_BY_GROUP, ROLLOUTS_BY_GROUP], ids=["counts", "rollouts"])
@pytest.mark.parametrize("name", ["pilot.csv", "pilot.tsv", "pilot.jsonl"])
def test_groups_from_standard_input(name, rows, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(FORMS[name](rows).decode()))
    assert cells_of(rl2ml.read_pilot_groups("-", "source")) == BY_GROUP


def test_a_format_can_be_named_for_groups(tmp_path):
    assert cells_of(read_groups(tmp_path, "pilot.txt", as_csv(COUNTS_BY_GROUP), format="csv")) == BY_GROUP


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.parquet"])
@pytest.mark.parametrize("kind", ["counts", "rollouts"])
def test_groups_equal_their_rows_read_alone(kind, name, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", 40)
    write = FORMS[f"pilot{name[1:]}"]
    rng = np.random.default_rng(1)
    sources = [f"s{i}" for i in rng.integers(0, 5, 130)]
    if kind == "counts":
        weights = rng.integers(1, 4, 130).tolist()
        rows = [
            {
                "prompt_id": f"p{i}",
                "num_successes": int(k),
                "num_rollouts": 8,
                "weight": weights[i],
                "source": sources[i],
            }
            for i, k in enumerate(rng.integers(0, 9, 130))
        ]
    else:
        rows = [
            {"source": source, "prompt_id": f"p{i}", "reward": int(r)}
            for source, i, r in zip(sources, rng.integers(0, 9, 130), rng.integers(0, 2, 130), strict=True)
        ]
    found = read_groups(tmp_path, name, write(rows))
    assert set(found) == set(sources)
    for source, pilot in found.items():
        alone = [
            {key: value for key, value in row.items() if key != "source"} for row in rows if row["source"] == source
        ]
        assert read(tmp_path, name, write(alone)) == pilot


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet"])
def test_groups_of_tables_longer_than_one_batch(name, tmp_path):
    size = (1 << 16) + 1000
    rows = [{"prompt_id": i, "num_successes": i % 9, "num_rollouts": 8, "source": f"s{i % 2}"} for i in range(size)]
    found = read_groups(tmp_path, name, FORMS[f"pilot{name[1:]}"](rows))
    assert cells_of(found) == {
        f"s{side}": [(8, k, count) for k in range(9) if (count := sum(i % 9 == k for i in range(side, size, 2)))]
        for side in (0, 1)
    }


def test_one_group_is_the_pilot(tmp_path):
    rows = [{**row, "source": "all"} for row in COUNTS]
    assert cells_of(read_groups(tmp_path, "p.csv", as_csv(rows))) == {"all": CELLS}


def test_names_of_groups_are_text_without_the_spaces_around_it(tmp_path):
    text = "num_successes,num_rollouts,source\n1,8, a \n2,8,a\n3,8,a b\n"
    assert cells_of(read_groups(tmp_path, "p.csv", text)) == {"a": [(8, 1, 1), (8, 2, 1)], "a b": [(8, 3, 1)]}


@pytest.mark.parametrize("names", [[1, 2, 1], ["1", 2, 1]])
def test_groups_of_json_may_be_numbers(names, tmp_path):
    rows = [{"num_successes": k, "num_rollouts": 8, "source": name} for k, name in enumerate(names)]
    assert cells_of(read_groups(tmp_path, "p.jsonl", as_jsonl(rows))) == {"1": [(8, 0, 1), (8, 2, 1)], "2": [(8, 1, 1)]}


def test_groups_of_parquet_may_be_numbers_or_categories(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    counts = {"num_successes": [1, 2, 3], "num_rollouts": [8, 8, 8]}
    for column, names in (([4, 5, 4], "45"), (pyarrow.array(["x", "y", "x"]).dictionary_encode(), "xy")):
        parquet.write_table(pyarrow.table({**counts, "source": column}), tmp_path / "p.parquet")
        found = rl2ml.read_pilot_groups(tmp_path / "p.parquet", "source")
        assert cells_of(found) == {names[0]: [(8, 1, 1), (8, 3, 1)], names[1]: [(8, 2, 1)]}


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_column_that_is_read_anyway_may_name_the_groups(form, tmp_path):
    write = FORMS[f"pilot.{form}"]
    counts = [{"prompt_id": p, "num_successes": k, "num_rollouts": n} for p, k, n in PROMPTS]
    found = read_groups(tmp_path, f"p.{form}", write(counts), "num_rollouts")
    assert cells_of(found) == {"4": [(4, 1, 2), (4, 2, 1), (4, 4, 1)], "3": [(3, 0, 1)]}
    by_prompt = {
        "a": [(4, 1, 1)],
        "b, quoted": [(3, 0, 1)],
        'c "twice"': [(4, 4, 1)],
        "d": [(4, 1, 1)],
        "5": [(4, 2, 1)],
    }
    assert cells_of(read_groups(tmp_path, f"p.{form}", write(counts), "prompt_id")) == by_prompt
    assert cells_of(read_groups(tmp_path, f"p.{form}", write(ROLLOUTS), "prompt_id")) == by_prompt
    assert cells_of(read_groups(tmp_path, f"p.{form}", write(ROLLOUTS), "reward")) == {
        "1": [(1, 1, 2), (2, 2, 1), (4, 4, 1)],
        "0": [(2, 0, 1), (3, 0, 3)],
    }


def test_columns_of_the_other_kind_of_table_may_name_the_groups(tmp_path):
    counts = "prompt_id,num_successes,num_rollouts,reward\na,3,8,0.4\nb,0,8,0\nc,1,8,0.4\n"
    found = read_groups(tmp_path, "p.csv", counts, "reward")
    assert cells_of(found) == {"0.4": [(8, 1, 1), (8, 3, 1)], "0": [(8, 0, 1)]}
    rollouts = "prompt_id,reward,num_successes\na,1,x\na,0,x\nb,1,y\n"
    assert cells_of(read_groups(tmp_path, "p.csv", rollouts, "num_successes")) == {"x": [(2, 1, 1)], "y": [(1, 1, 1)]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "num_successes,num_rollouts\n1,8\n",
            "expected a column 'source' with each row's group; found num_successes, num",
        ),
        (
            "num_successes,num_rollouts,source\n1,8,a\n2,8,\n",
            "row 3: a group must have a name of 1 to 200 printable characters",
        ),
        (
            "num_successes,num_rollouts,source\n1,8,a\n2,8,  \n",
            "row 3: a group must have a name of 1 to 200 printable char.*; got ''",
        ),
        (
            f"num_successes,num_rollouts,source\n1,8,{'x' * 201}\n",
            "row 2: a group must have a name of 1 to 200 printable char",
        ),
        ("num_successes,num_rollouts,source\n", "the table has a header but no rows"),
        ("num_successes,num_rollouts,source\n1,8,a\n9,8,b\n", "row 3: num_successes must not exceed num_rollouts"),
        ("num_successes,num_rollouts,source\n1,8,a\n1,8,b\nx,8,a\n", "row 4: num_successes must be a number"),
        ("prompt_id,num_successes,num_rollouts,source\na,1,8,x\na,1,8,y\na,2,8,x\n", "'a' appears twice .*row 4"),
        ("prompt_id,reward,source\na,1,x\na,0.5,y\n", "row 3: reward must be 0 or 1; got '0.5'"),
        ("prompt_id,reward,source\na,1,x\n,1,y\n", "row 3: prompt_id is empty"),
    ],
)
def test_groups_that_cannot_be_read_are_refused(text, message, tmp_path):
    with pytest.raises(rl2ml.InvalidTable, match=message) as refused:
        read_groups(tmp_path, "p.csv", text)
    assert str(refused.value).startswith(f"{tmp_path / 'p.csv'}: ")


@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet"])
def test_a_missing_name_is_refused(name, tmp_path):
    rows = [{"num_successes": 1, "num_rollouts": 8, "source": source} for source in ("a", None)]
    with pytest.raises(rl2ml.InvalidTable, match="row 2: a group must have a name"):
        read_groups(tmp_path, name, FORMS[f"pilot{name[1:]}"](rows))


def test_names_of_groups_may_have_200_characters(tmp_path):
    name = "x" * 200
    assert list(read_groups(tmp_path, "p.csv", f"num_successes,num_rollouts,source\n1,8,{name}\n")) == [name]


@pytest.mark.parametrize("at_once", [100, 1 << 16])
def test_no_more_than_256_groups(at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", at_once)
    rows = [{"num_successes": 1, "num_rollouts": 8, "source": f"s{i % 256}"} for i in range(300)]
    assert len(read_groups(tmp_path, "p.csv", as_csv(rows))) == 256
    rows.append({"num_successes": 1, "num_rollouts": 8, "source": "one more"})
    with pytest.raises(rl2ml.InvalidTable, match="column 'source' has more than 256 values; expected a few groups"):
        read_groups(tmp_path, "p.csv", as_csv(rows))


def test_reading_by_group_costs_no_more_with_many_groups(tmp_path):
    size, prompts = 120_000, 15_000
    path = tmp_path / "p.csv"
    lines = (f"p{i % prompts},{i % 2},source-{i % 250}\n" for i in range(size))
    path.write_text("prompt_id,reward,source\n" + "".join(lines))

    def seconds(reader, *arguments) -> float:
        taken = []
        for _ in range(3):
            start = time.process_time()
            reader(path, *arguments)
            taken.append(time.process_time() - start)
        return min(taken)

    # 1.4 times as long when measured; looking for each group among all rows took 7 times.
    assert seconds(rl2ml.read_pilot_groups, "source") < 3 * seconds(rl2ml.read_pilot)


# --- standard input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [COUNTS, ROLLOUTS], ids=["counts", "rollouts"])
@pytest.mark.parametrize("name", ["pilot.csv", "pilot.tsv", "pilot.jsonl"])
def test_standard_input_is_told_apart_by_its_first_line(name, rows, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(FORMS[name](rows).decode()))
    assert rl2ml.read_pilot("-").cells() == CELLS


def test_standard_input_may_begin_with_a_byte_order_mark(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffnum_successes,num_rollouts\n1,8\n"))
    assert rl2ml.read_pilot("-").cells() == [(8, 1, 1)]


def test_errors_in_standard_input_say_so(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("num_successes,num_rollouts\n9,8\n"))
    with pytest.raises(rl2ml.InvalidTable, match=r"^standard input: row 2: num_successes must not exceed"):
        rl2ml.read_pilot("-")


@pytest.mark.parametrize("name", ["xml", "parquet"])
def test_standard_input_refuses_formats_that_it_cannot_have(name, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("num_successes,num_rollouts\n1,8\n"))
    with pytest.raises(rl2ml.InvalidTable, match=r"^standard input: "):
        rl2ml.read_pilot("-", format=name)


# --- errors ----------------------------------------------------------------------------------------------------------

HEADER = "prompt_id,num_successes,num_rollouts\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table is empty; expected a header and at least one row"),
        (HEADER, "the table has a header but no rows"),
        (HEADER + "\n\n", "the table has a header but no rows"),
        ("id,k,n\na,1,8\n", "expected columns num_successes and num_rollouts .*; found id, k, n"),
        (HEADER.replace(",", ";") + "a;1;8\n", "found prompt_id;num_successes;num_rollouts"),
        ("num_successes\n1\n", "expected columns .*; found num_successes"),
        ("reward\n1\n", "expected columns .*; found reward"),
        (HEADER + "a,1,8\nb,9,8\n", "row 3: num_successes must not exceed num_rollouts; got 9 of 8"),
        (HEADER + "a,-1,8\n", "row 2: num_successes must not be negative; got -1"),
        (HEADER + "a,0,0\n", "row 2: num_rollouts must be from 1"),
        (HEADER + "a,1,8\nb,1.5,8\n", "row 3: num_successes must be integers; got .*1.5"),
        (HEADER + "a,1,8\nb,nan,8\n", "row 3: num_successes must be integers; got .*nan"),
        (HEADER + "a,1,8\nb,x,8\n", "row 3: num_successes must be a number; got 'x'"),
        (HEADER + "a,1,8\nb,1,\n", "row 3: num_rollouts must be a number; got ''"),
        (HEADER + "a,1,8\nb,2\n", "line 3 has 2 fields; expected 3 as in the header"),
        (HEADER + "a,1,8\nb,2,8,9\n", "line 3 has 4 fields; expected 3"),
        (HEADER + '"a,1,8\n', "line 2 is not csv: unexpected end of data"),
        (HEADER + '"a"b,1,8\n', "line 2 is not csv"),
        (HEADER + "a,1,8\nb,2,8\na,3,8\n", r"prompt_id 'a' appears twice \(again in row 4\); a table of counts has"),
        ("num_successes,num_rollouts,weight\n1,8,1\n2,8,0\n", "row 3: weights must be positive"),
        ("num_successes,num_rollouts,weight\n1,8,1\n2,8,\n", "row 3: weight must be a number; got ''"),
        ("prompt_id,reward\na,1\na,0.5\n", r"row 3: reward must be 0 or 1; got '0.5' \(apply a success threshold"),
        ("prompt_id,reward\na,1\na,\n", "row 3: reward must be 0 or 1; got ''"),
        ("prompt_id,reward\na,2\n", "row 2: reward must be 0 or 1; got '2'"),
        ("prompt_id,reward\na,1\n,1\n", "row 3: prompt_id is empty"),
    ],
)
def test_csv_that_is_no_pilot_is_refused(text, message, tmp_path):
    with pytest.raises(rl2ml.InvalidTable, match=message) as refused:
        read(tmp_path, "p.csv", text)
    assert str(refused.value).startswith(f"{tmp_path / 'p.csv'}: ")
    assert isinstance(refused.value, rl2ml.InvalidInput)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["[1, 2]"], "line 1 is not a JSON object"),
        (['{"num_successes": 1,'], "line 1 is not JSON; expected one object per line"),
        (["[" * 100_000], "line 1 is not JSON"),
        (['{"num_successes": 1, "num_rollouts": 8}', "nonsense"], "line 2 is not JSON"),
        (
            ['{"num_successes": 1, "num_rollouts": 8}', '{"num_successes": 1}'],
            "line 2 lacks num_rollouts, which earlier",
        ),
        (['{"k": 1, "n": 8}'], "expected columns .*; found k, n"),
        (["{}"], "expected columns .*; found none"),
        (['{"num_successes": true, "num_rollouts": 8}'], "row 1: num_successes must be a number; got True"),
        (['{"num_successes": null, "num_rollouts": 8}'], "row 1: num_successes must be"),
        (['{"num_successes": [1], "num_rollouts": 8}'], "row 1: num_successes must be"),
        (['{"num_successes": {}, "num_rollouts": 8}'], "row 1: num_successes must be a number"),
        (['{"num_successes": 1' + "0" * 400 + ', "num_rollouts": 8}'], "row 1: num_successes must be a number"),
        (
            ['{"num_successes": 1, "num_rollouts": 8}', '{"num_successes": 9, "num_rollouts": 8}'],
            "row 2: .* got 9 of 8",
        ),
        (['{"prompt_id": 1, "reward": NaN}'], "row 1: reward must be 0 or 1; got nan"),
        (['{"prompt_id": 1, "reward": null}'], "row 1: reward must be 0 or 1; got None"),
        (['{"prompt_id": 1, "reward": [1]}'], r"row 1: reward must be 0 or 1; got \[1\]"),
        (['{"prompt_id": null, "reward": 1}'], "row 1: prompt_id is empty"),
        (['{"prompt_id": 1, "reward": 0.5}'], "row 1: reward must be 0 or 1; got 0.5"),
    ],
)
def test_jsonl_that_is_no_pilot_is_refused(lines, message, tmp_path):
    with pytest.raises(rl2ml.InvalidTable, match=message) as refused:
        read(tmp_path, "p.jsonl", "\n".join(lines) + "\n")
    assert str(refused.value).startswith(f"{tmp_path / 'p.jsonl'}: ")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("p.csv", HEADER + "a,1,8\n\n\nb,9,8\n", 5),
        ("p.csv", "prompt_id,reward\na,1\n\na,0.5\n", 4),
        ("p.jsonl", '{"prompt_id": 1, "reward": 1}\n\n{"prompt_id": 1, "reward": 0.5}\n', 3),
    ],
)
def test_rows_are_numbered_as_in_the_file_despite_blank_lines(name, text, line, tmp_path):
    with pytest.raises(rl2ml.InvalidTable, match=rf"(row|line) {line}:"):
        read(tmp_path, name, text)


@pytest.mark.parametrize("content", ["é,1,8\n".encode("latin-1"), "a,1,8\n".encode("utf-16"), b"\xff\xfe\xfd"])
def test_text_that_is_not_utf8_is_refused(content, tmp_path):
    with pytest.raises(rl2ml.InvalidTable, match=r"p\.csv: not UTF-8 text; expected csv, tsv or jsonl"):
        read(tmp_path, "p.csv", HEADER.encode() + content)


@pytest.mark.parametrize(("name", "options"), [("pilot.txt", {}), ("pilot", {}), ("pilot.csv", {"format": "xml"})])
def test_unknown_formats_are_refused(name, options, tmp_path):
    with pytest.raises(rl2ml.InvalidTable, match=r"unknown format; expected a name ending in .csv, .tsv, .jsonl"):
        read(tmp_path, name, as_csv(COUNTS), **options)


@pytest.mark.parametrize("name", ["absent.csv", "absent.jsonl", "absent.parquet"])
def test_a_missing_file_is_the_callers_own_error(name, tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(FileNotFoundError, match=name):
        rl2ml.read_pilot(tmp_path / name)


# --- parquet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"PAR1", b"prompt_id,reward\na,1\n" * 10])
def test_unreadable_parquet_is_refused(content, tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(rl2ml.InvalidTable, match=r"p\.parquet: not a readable parquet file"):
        read(tmp_path, "p.parquet", content)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"k": 1, "n": 8}], "expected columns .*; found k, n"),
        ([{"num_successes": 1, "num_rollouts": 8}, {"num_successes": 9, "num_rollouts": 8}], "row 2: .* got 9 of 8"),
        ([{"num_successes": 1, "num_rollouts": 8}, {"num_successes": None, "num_rollouts": 8}], "row 2: num_successes"),
        (
            [{"prompt_id": "a", "reward": 1.0}, {"prompt_id": "a", "reward": 0.5}],
            "row 2: reward must be 0 or 1; got 0.5",
        ),
        ([{"prompt_id": "a", "reward": 1.0}, {"prompt_id": None, "reward": 1.0}], "row 2: prompt_id is empty"),
    ],
)
def test_parquet_that_is_no_pilot_is_refused(rows, message, tmp_path):
    with pytest.raises(rl2ml.InvalidTable, match=message):
        read(tmp_path, "p.parquet", as_parquet(rows))


def test_parquet_without_rows_is_refused(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    empty = pyarrow.table({name: pyarrow.array([], pyarrow.int64()) for name in ("num_successes", "num_rollouts")})
    parquet.write_table(empty, tmp_path / "p.parquet")
    with pytest.raises(rl2ml.InvalidTable, match="the table has a header but no rows"):
        rl2ml.read_pilot(tmp_path / "p.parquet")


def test_parquet_rewards_may_be_booleans_and_prompts_nested(tmp_path):
    rows = [{"prompt_id": [{"role": "user"}], "reward": True}, {"prompt_id": [{"role": "user"}], "reward": False}]
    assert read(tmp_path, "p.parquet", as_parquet(rows)).cells() == [(2, 1, 1)]


def test_parquet_without_pyarrow_names_the_command_that_helps(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(rl2ml.MissingExtra, match=r"pip install 'rl2ml\[ingest\]'") as missing:
        read(tmp_path, "p.parquet", b"PAR1")
    assert isinstance(missing.value, ImportError)
    assert missing.value.extra == "ingest"


# --- real pilots -----------------------------------------------------------------------------------------------------


def slowly(path: Path) -> dict[tuple[int, int], int]:
    """Cells by splitting lines by hand; these files quote nothing."""
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines[0] == "prompt_id,num_successes,num_rollouts"
    assert lines[-1] == ""
    cells: dict[tuple[int, int], int] = defaultdict(int)
    for line in lines[1:-1]:
        _, successes, rollouts = line.rsplit(",", 2)
        cells[int(rollouts), int(successes)] += 1
    return cells


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("aime2024_llama3b_rg_step400_n50", 30),
        ("countdown_curriculummaxrl_sft_or_init_checkpoint_n16", 384),
        ("deepscaler_qwen25math7b_n128_hard_extreme", 9146),
        ("deepscaler_qwen25math7b_n128_uniform", 7609),
        ("dsr1209_qwen25math1.5b_first4epochs_n32", 1209),
        ("lcb_codeexec_claude3opus_cot_n10", 479),
        ("lcb_codegen_gpt35turbo0125_n10", 400),
        ("metr_o1_agent_tasks", 83),
        ("tot_game24_gpt4_cot_n100", 100),
    ],
)
def test_real_pilots(name, prompts):
    path = SHARED / f"{name}.csv"
    if not path.exists():
        pytest.skip(f"../shared/data/pilots/{name}.csv is absent")
    pilot, cells = rl2ml.read_pilot(path), slowly(path)
    assert pilot.total_prompts == sum(cells.values()) == prompts
    assert pilot.cells() == [(n, k, count) for (n, k), count in sorted(cells.items())]
    successes = sum(k * count for (_, k), count in cells.items())
    assert int(pilot.num_prompts @ pilot.num_successes) == successes
    mean = sum(k / n * count for (n, k), count in cells.items()) / prompts
    assert pilot.mean_pass_rate == pytest.approx(mean, rel=1e-12)
