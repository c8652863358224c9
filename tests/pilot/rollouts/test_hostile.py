"""Corrupt, truncated, empty, mixed and hostile files: an error that names file and row, or the rest is read."""

import gzip
import json
import random
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.pilot.rollouts import FORMATS

GOOD = [{"prompt_id": f"p{i % 5}", "reward": float(i % 2)} for i in range(40)]
LINES = [json.dumps(row).encode() + b"\n" for row in GOOD]
CSV = b"prompt_id,reward\n" + b"".join(b"p%d,%d\n" % (i % 5, i % 2) for i in range(40))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"prompt_id": "p1", "reward": 1', r"line 11 is not JSON"),
        (b"[1, 2]", r"line 11 is no JSON object; got '\[1, 2\]'"),
        (b'{"prompt_id": "p1", "reward": 1} {"prompt_id": "p2"}', "line 11 is not JSON: Extra data"),
        (b'{"prompt_id": "\xff", "reward": 1}', r"line 11 is not UTF-8 text \(byte 16\)"),
        (b'{"prompt_id": "\\ud800", "reward": 1}', "line 11 holds half of a surrogate pair"),
        (
            b'{"prompt_id": "p1", "reward": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
            "line 11 has a score that is no finite",
        ),
        (
            b'{"prompt_id": "p1", "reward": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
            "line 11 has a score that",
        ),
        (b'{"prompt_id": ' + b"[" * 50_000 + b', "reward": 1}', "line 11 is n"),
        (b'{"prompt_id": "p1", "reward": "\x1b[31mgood"}', "line 11 is not JSON"),
        (b'{"prompt_id": "p1", "reward": {"a": 1}}', "line 11 has a score that is no finite number"),
        (b'{"prompt_id": "p1", "reward": 1e999}', "line 11 has a score that is no finite number"),
        (b'{"reward": 1}', "line 11 has no prompt"),
        (b'{"prompt_id": "p1"}', "line 11 has no reward"),
        (b"null", "line 11 has no prompt"),
        (b"\0\0\0", "line 11 is not JSON"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_bad_line_is_named_or_left_out(write, line, said, compressed):
    content = b"".join([*LINES[:10], line + b"\n", *LINES[10:]])
    path = write("a.jsonl.gz" if compressed else "a.jsonl", gzip.compress(content) if compressed else content)
    with pytest.raises(rl2ml.InvalidTable, match=rf"a\.jsonl(\.gz)?: {said}") as caught:
        rl2ml.read_rollouts(path)
    assert str(caught.value).isprintable()
    rollouts = rl2ml.read_rollouts(path, on_error="skip")
    assert rollouts.rollouts == 40
    assert sum(rollouts.skipped.values()) == 1
    assert "bad_rows" in [one.code for one in rollouts.findings]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"p1", "line 12 is no row like the header"),
        (b"p1,1,2", "line 12 is no row like the header"),
        (b"\xff,1", "line 12"),
        (b"p1,good", "line 12 has a score that is no finite number; got 'good'"),
        (b",1", "line 12 has no prompt"),
        (b"p1,", "line 12 has no reward"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "it's [*]; .csv"])
def test_a_bad_row_of_csv_is_named_or_left_out(write, name, line, said):
    lines = CSV.splitlines(keepends=True)
    path = write(name, b"".join([*lines[:11], line + b"\n", *lines[11:]]))
    with pytest.raises(rl2ml.InvalidTable, match=said):
        rl2ml.read_rollouts(path)
    other = write("good.csv", CSV + b"p9,1\n")
    rollouts = rl2ml.read_rollouts([path, other], on_error="skip")
    assert rollouts.rollouts == 81
    assert [sum(one.skipped.values()) for one in rollouts.files if one.path == str(path)] == [1]


def test_a_quote_that_never_ends_is_no_silent_loss(write):
    lines = CSV.splitlines(keepends=True)
    path = write("a.csv", b"".join([*lines[:11], b'"p1,1\n', *lines[11:]]))
    rollouts = rl2ml.read_rollouts([path, write("b.csv", CSV)], on_error="skip")
    assert [one.note for one in rollouts.files] == ["line 12 has a quote that does not end", ""]


FILES = {
    "empty.jsonl": b"",
    "blank.jsonl": b"\n\n  \n",
    "text.jsonl": b"hello\n",
    "cut.jsonl.gz": gzip.compress(b"".join(LINES * 50))[:-30],
    "cut.parquet": b"PAR1" + b"\0" * 100,
    "cut.eval": b"PK\x03\x04" + b"\0" * 100,
    "torch.pt": b"PK\x03\x04",
    "pickle.jsonl": b"\x80\x04\x95",
    "binary.csv": bytes(range(256)),
    "log.json": b'{"version": 2, "status": "success", "eval": {}, "samples": ',
    "twice.csv": b"prompt_id,reward,reward\na,1,1\n",
    "cases.csv": b"prompt_id,reward,Reward\na,1,1\n",
    "other.jsonl": b'{"loss": 1}\n',
    "zstd.jsonl.zst": b"\x28\xb5\x2f\xfd\x00\x00",
    "array.json": b"[1, 2, 3]",
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_named_or_left_out(write, name):
    path = write(name, FILES[name])
    with pytest.raises(rl2ml.InvalidTable, match=name) as caught:
        rl2ml.read_rollouts(path)
    assert str(caught.value).isprintable()
    good = write("good.jsonl", GOOD)
    rollouts = rl2ml.read_rollouts([path, good], on_error="skip")
    assert rollouts.rollouts == 40
    assert [one.path for one in rollouts.files if not one.used] == [str(path)]
    with pytest.raises(rl2ml.InvalidTable, match=name):
        rl2ml.read_rollouts([good, path])


def test_files_without_rows(write):
    path = write("header.csv", b"prompt_id,reward\n")
    with pytest.raises(rl2ml.InvalidTable, match=r"no rollout is left to count in .*header\.csv: no rows"):
        rl2ml.read_rollouts(path)
    assert rl2ml.read_rollouts([path, write("good.csv", CSV)]).rollouts == 40


def test_many_small_files_with_a_bad_one(write):
    """In one batch: the bad one is found, the others are read all the same."""
    paths = [write(f"{i}.jsonl", [*GOOD, {"prompt_id": "x", "reward": i % 2, "i": i}]) for i in range(6)]
    paths[3].write_bytes(paths[3].read_bytes()[:-5])
    with pytest.raises(rl2ml.InvalidTable, match=r"3\.jsonl: line 41 is not JSON"):
        rl2ml.read_rollouts(paths)
    assert rl2ml.read_rollouts(paths, on_error="skip").skipped == {"unreadable": 1}


def test_a_line_without_end(write):
    bomb = gzip.compress(b'{"prompt_id": "' + b"a" * (66 << 20), 1)
    path = write("bomb.jsonl.gz", bomb)
    with pytest.raises(rl2ml.InvalidTable, match="line 1 is longer than 64 MiB"):
        rl2ml.read_rollouts(path)
    path = write("later.jsonl", b"".join(LINES) + b'{"prompt_id": "' + b"a" * (70 << 20) + b'", "reward": 1}\n')
    with pytest.raises(rl2ml.InvalidTable, match=r"later\.jsonl: line 41 is longer than 64 MiB"):
        rl2ml.read_rollouts(path)
    good = write("good.jsonl", GOOD)
    assert rl2ml.read_rollouts([path, good], on_error="skip").rollouts == 40
    # Long ones that are not absurd are read.
    path = write("long.jsonl", b"".join(LINES) + b'{"prompt_id": "' + b"a" * (40 << 20) + b'", "reward": 1}\n')
    assert rl2ml.read_rollouts(path).rollouts == 41


def test_members_of_a_zip_that_explode(write, monkeypatch):
    monkeypatch.setattr("rl2ml_core.pilot.rollouts.inspect_ai._MAX_SAMPLE", 1 << 20)
    path = write("a.eval", b"")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("samples/1.json", " " * (2 << 20))
    with pytest.raises(rl2ml.InvalidTable, match=r"samples/1\.json is larger than 1 MiB"):
        rl2ml.read_rollouts(path)
    # What a member claims about its size is no promise.
    content = bytearray(path.read_bytes())
    size = (2 << 20).to_bytes(4, "little")
    while (at := content.find(size)) >= 0:
        content[at : at + 4] = (100).to_bytes(4, "little")
    with pytest.raises(rl2ml.InvalidTable, match=r"a\.eval: "):
        rl2ml.read_rollouts(write("a.eval", bytes(content)))


def test_a_broken_page_of_parquet(write):
    path = write("a.parquet", GOOD)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36
    path.write_bytes(content)
    with pytest.raises(rl2ml.InvalidTable, match=r"a\.parquet: "):
        rl2ml.read_rollouts(path)


def test_a_page_of_parquet_larger_than_memory(write):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"prompt_id": ["a" * (1 << 20)] * 80, "reward": [1.0] * 80})
    path = write("bomb.parquet", b"")
    parquet.write_table(table, path, compression="zstd", use_dictionary=False, data_page_size=1 << 30)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(rl2ml.InvalidInput, match=r"bomb\.parquet: memory_limit is too small for it") as caught:
        rl2ml.read_rollouts(path, memory_limit="128MB", threads=1)
    assert caught.value.field == "memory_limit"
    good = write("good.parquet", GOOD)
    rollouts = rl2ml.read_rollouts([path, good], memory_limit="128MB", threads=1, on_error="skip")
    assert rollouts.rollouts == 40
    assert [one.code for one in rollouts.findings] == ["unreadable_files"]


def test_types_that_hold_no_numbers(write):
    pyarrow = pytest.importorskip("pyarrow")
    path = write("a.parquet", pyarrow.table({"prompt_id": ["a"], "reward": [[1.0]]}))
    with pytest.raises(rl2ml.InvalidTable, match=r"a\.parquet: column 'reward' holds DOUBLE\[\]; expected numbers"):
        rl2ml.read_rollouts(path)


SAMPLE = {"id": 1, "epoch": 1, "input": "x", "target": "y", "scores": {"m": {"value": "C"}}}
LOG = {"version": 2, "status": "success", "eval": {"model": "m"}, "samples": [SAMPLE, {**SAMPLE, "epoch": 2}]}
REWARDED = [{"rewards": {"a": {"score": 1.0, "weight": 1.0}}}]
TRACE = {"task": {"key": "k", "hash": "h"}, "group": 1, "ok": True, "errors": [], "traces": REWARDED}
VERL = {"input": "a", "output": "o", "gts": "1", "score": 1.0, "step": 1}
DOC = {"doc": {"q": "x"}, "resps": [["a"]], "filtered_resps": ["a"], "filter": "f", "metrics": ["m"], "m": 1.0}
TRAJECTORY = {"split": "a", "iteration": 1, "group_idx": 0, "total_reward": 1.0}
VALID = {
    "verl.jsonl": [{**VERL, "uid": f"u_{i}_0"} for i in range(3)],
    "skyrl.jsonl": [{"input_prompt": "a", "output_response": "b", "score": [0, 1], "stop_reason": "stop"}] * 3,
    "lm_eval.jsonl": [{"doc_id": i, **DOC} for i in range(3)],
    "verifiers.jsonl": [{"id": i, "prompt": [{"content": "x"}], "completion": [1], "reward": 1.0} for i in range(3)],
    "traces.jsonl": [{**TRACE, "id": f"t{i}"} for i in range(3)],
    "tinker.jsonl": [{**TRAJECTORY, "traj_idx": i} for i in range(3)],
    "plain.jsonl": GOOD[:4],
    "plain.csv": GOOD[:4],
    "counts.tsv": [{"num_successes": 1, "num_rollouts": 2}] * 3,
    "trl.parquet": [
        {"step": 1, "prompt": "p", "completion": f"c{i}", "right": 1.0, "advantage": 0.0} for i in range(3)
    ],
    "inspect.json": json.dumps(LOG, indent=1),
}
JUNK = [
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b"\\",
    b"\n",
    b"\0",
    b"\xff",
    b"null",
    b"NaN",
    b"1e999",
    b"-1",
    b'"\\ud800"',
    b",",
    b":",
    b"true",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(VALID)),
    seed=st.integers(0, 2**32),
    options=st.fixed_dictionaries(
        {"on_error": st.sampled_from(["raise", "skip"])},
        optional={
            "success": st.sampled_from(["score >= 1", "right > 0", "m == 1"]),
            "format": st.sampled_from(sorted(FORMATS)),
            "prompt": st.sampled_from(["input", "doc.q", "task.key"]),
            "reward": st.sampled_from(["score", "step", "reward"]),
            "steps": st.just("0:5"),
        },
    ),
)
def test_mutations_give_a_pilot_or_a_clear_error(write, name, seed, options):
    draw = random.Random(seed)
    path = write(name, VALID[name])
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 1, 2, 4))):
        at = draw.randrange(len(content) + 1)
        end = at + draw.choice((0, 1, 1, 4, 40))
        content[at:end] = draw.choice([b"", draw.randbytes(1), draw.choice(JUNK), bytes(content[:at][-30:])])
    path.write_bytes(content)
    said = ""
    try:
        assert rl2ml.read_rollouts(path, **options).rollouts > 0
    except (rl2ml.InvalidInput, OSError) as error:
        said = str(error)
    assert said.isprintable()
    assert name in said or not said
