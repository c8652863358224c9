"""Which files are read."""

import os

import pytest

import rl2ml_core as rl2ml
from rl2ml_core.errors import InvalidInput, InvalidTable
from rl2ml_core.pilot.rollouts.files import expand

ROWS = [{"prompt_id": "a", "reward": 1}]


def names(found, folder):
    return [os.path.relpath(path, folder) for path, _ in found]


def test_directories_patterns_and_files(write, tmp_path):
    for name in ("1.jsonl", "2.jsonl", "10.jsonl", "deep/er/x.parquet", "a.csv.gz", ".hidden/1.jsonl", ".x.jsonl"):
        write(name, ROWS)
    write("README.md", "# no dump")
    everything = ["1.jsonl", "2.jsonl", "10.jsonl", "a.csv.gz", "deep/er/x.parquet"]
    assert names(expand(tmp_path), tmp_path) == everything
    assert names(expand(str(tmp_path / "[12]*.jsonl")), tmp_path) == ["1.jsonl", "2.jsonl", "10.jsonl"]
    assert names(expand(str(tmp_path / "**" / "*.parquet")), tmp_path) == ["deep/er/x.parquet"]
    # Each once, and a file that is named is named even where a directory holds it.
    found = expand([tmp_path / "1.jsonl", tmp_path, str(tmp_path / "*.jsonl"), tmp_path / "deep" / ".." / "1.jsonl"])
    assert names(found, tmp_path) == everything
    assert dict(found)[str(tmp_path / "1.jsonl")]
    assert not dict(found)[str(tmp_path / "a.csv.gz")]


def test_nothing_found(tmp_path):
    with pytest.raises(InvalidInput, match=r"no files in .*: looked for \.jsonl, .*\.eval, also with \.gz or \.zst"):
        expand(tmp_path)
    with pytest.raises(InvalidInput, match="no files in"):
        expand(str(tmp_path / "*.jsonl"))
    with pytest.raises(FileNotFoundError):
        expand(tmp_path / "absent.jsonl")
    for nothing in ([], [3], [b"x"], ["a\0b"], 5, None):
        with pytest.raises(InvalidInput, match="paths must"):
            expand(nothing)


def test_links_that_go_round(write, tmp_path):
    write("a/1.jsonl", ROWS)
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "a" / "1.jsonl")
    assert len(expand(tmp_path)) == 1


def test_what_is_no_file(read, tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(InvalidTable, match=r"a\.jsonl: not a regular file"):
        read(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"b\.jsonl"):
        read(tmp_path / "b.jsonl")


def test_a_name_that_is_no_text(read, write, tmp_path):
    path = write("a.jsonl", ROWS)
    odd = os.fsencode(tmp_path) + b"/\xff.jsonl"
    os.rename(path, odd)
    with pytest.raises(InvalidTable, match="the name is not UTF-8 text"):
        read(os.fsdecode(odd))


def test_endings_do_not_decide(read, write):
    for name in ("rows", "rows.txt", "rows.log.gz"):
        assert read(write(name, ROWS)).pilot.cells() == [(1, 1, 1)]


@pytest.mark.parametrize("name", ["x.parquet", "x.csv", "x.jsonl"])
def test_folders_say_the_step_and_nothing_else(read, write, tmp_path, monkeypatch, name):
    for folder in ("step=7", "step=9", "reward=0", "prompt_id=b"):
        write(f"t/{folder}/{folder}-{name}", [{"prompt_id": "a", "reward": 1}, {"prompt_id": folder, "reward": 1}])
    rollouts = read(tmp_path / "t")
    assert rollouts.rollouts == rollouts.successes == 8
    assert [(one.step, one.rollouts) for one in rollouts.steps] == [(None, 4), (7, 2), (9, 2)]
    monkeypatch.chdir(tmp_path / "t" / "step=7")
    assert read(f"step=7-{name}", steps="7:8").rollouts == 2
    # A column says it better.
    path = write(f"step=3/{name}", [{"prompt_id": "a", "reward": 1, "step": 4}])
    assert [one.step for one in read(path).steps] == [4]


def test_separators_and_arrays_that_are_not_read(write, read):
    with pytest.raises(
        rl2ml.InvalidTable, match=r"a\.csv: columns are separated by semicolons; expected commas or tabs"
    ):
        read(write("a.csv", "prompt_id;reward\na;1\n"))
    with pytest.raises(rl2ml.InvalidTable, match=r"b\.json: a JSON array; expected one object per line"):
        read(write("b.json", '[\n{"prompt_id": "a", "reward": 1}\n]\n'))
