"""What was read, and its file."""

import json

import pytest

import rl2ml_core as rl2ml

ROWS = [{"prompt_id": f"p{j}", "reward": float(i < j), "step": j // 3} for j in range(6) for i in range(5)]


def test_saved_pilots_are_read_back(write, read, tmp_path):
    rollouts = read(write("a.jsonl", ROWS))
    rollouts.save(tmp_path / "pilot.json")
    assert rl2ml.read_pilot(tmp_path / "pilot.json") == rollouts.pilot
    saved = json.loads((tmp_path / "pilot.json").read_text())
    assert saved == rollouts.to_dict()
    assert saved["schema"] == 1
    assert saved["cells"][0] == [5, 0, 1]
    assert saved["source"]["success"] == "score == 1"
    assert [one["step"] for one in saved["source"]["steps"]] == [0, 1]
    assert [path.name for path in tmp_path.glob("*pilot*")] == ["pilot.json"]


def test_totals(write, read):
    rollouts = read(write("a.jsonl", ROWS))
    assert (rollouts.prompts, rollouts.rollouts, rollouts.successes) == (6, 30, 15)
    assert sum(one.successes for one in rollouts.steps) == 15
    assert rollouts.formats == {"plain": 1}
    assert rollouts.skipped == {}


def test_a_save_that_fails_leaves_what_was_there(write, read, tmp_path):
    rollouts = read(write("a.jsonl", ROWS))
    with pytest.raises(OSError, match="absent"):
        rollouts.save(tmp_path / "absent" / "pilot.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "expected a saved pilot.*found keys"),
        ('{"cells": [[4, 2, 1]]}', "got schema None"),
        ('{"schema": 2, "cells": [[4, 2, 1]]}', "got schema 2"),
        ('{"schema": 1, "cells": []}', "cells must be a non-empty list"),
        ('{"schema": 1, "cells": [[4, 5, 1]]}', "must not exceed"),
        ('{"schema": 1, "cells": [["a", 5, 1]]}', "must be integers"),
        ('{"schema": 1, "cells": {"a": 1}}', "expected a saved pilot"),
        ("[1]", "expected a saved pilot.*found no object"),
        ('{"num_successes": 1}\n{"num_successes": 2}\n', r"one object per line is \.jsonl"),
        ("[" * 100_000, "not JSON"),
        ("", "not JSON"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_other_json_is_no_pilot(write, text, said):
    with pytest.raises(rl2ml.InvalidTable, match=rf"pilot\.json: .*{said}"):
        rl2ml.read_pilot(write("pilot.json", text))


def test_a_saved_pilot_has_no_groups(write):
    path = write("pilot.json", '{"schema": 1, "cells": [[4, 2, 1]]}')
    assert rl2ml.read_pilot(path).cells() == [(4, 2, 1)]
    assert rl2ml.read_pilot(write("pilot.txt", path.read_text()), format="json").cells() == [(4, 2, 1)]
    with pytest.raises(rl2ml.InvalidTable, match="has no groups"):
        rl2ml.read_pilot_groups(path, "source")
