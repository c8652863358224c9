"""lm-evaluation-harness samples."""

import pytest

from rl2ml_core.errors import InvalidTable


def row(doc, score, filter="strict-match", resps=None, **more):  # noqa: A002
    return {
        "doc_id": doc,
        "doc": {"q": f"question {doc}"},
        "target": "4",
        "resps": resps or [[f"answer {score}"]],
        "filtered_resps": ["4"],
        "filter": filter,
        "metrics": ["exact_match"],
        "doc_hash": f"d{doc}",
        "prompt_hash": f"p{doc}",
        "target_hash": "t",
        "exact_match": score,
        **more,
    }


BOTH = [
    row(doc, float(doc < k), name) for name, k in (("strict-match", 1), ("flexible-extract", 3)) for doc in range(4)
]


def test_one_filter_counts(write, read, codes):
    path = write("samples_gsm8k_2025.jsonl", BOTH)
    with pytest.raises(InvalidTable, match=r"several filters .*: flexible-extract, strict-match; say which"):
        read(path)
    for score in ("strict-match", "exact_match,strict-match"):
        rollouts = read(path, score=score)
        assert rollouts.pilot.cells() == [(1, 0, 3), (1, 1, 1)]
        assert rollouts.skipped == {"other filter": 4}
        assert "several_scores" in codes(rollouts)
    assert read(path, score="flexible-extract", success="exact_match >= 1").pilot.cells() == [(1, 0, 1), (1, 1, 3)]
    with pytest.raises(InvalidTable, match="score names neither a filter"):
        read(path, score="lenient")


def test_one_metric_counts(write, read):
    rows = [row(doc, 1.0, "none", metrics=["acc", "acc_norm"], acc=0.0, acc_norm=1.0) for doc in range(3)]
    path = write("samples_x.jsonl", rows)
    with pytest.raises(InvalidTable, match="several metrics: acc, acc_norm"):
        read(path)
    assert read(path, score="acc").pilot.cells() == [(1, 0, 3)]
    assert read(path, success="acc_norm == 1").pilot.cells() == [(1, 1, 3)]


def test_runs_of_one_task_add_up(write, read, codes):
    rows = BOTH[:4]
    again = [{**one, "exact_match": 1.0} for one in rows]
    paths = [write("samples_a_1.jsonl", rows), write("samples_a_2.jsonl", again)]
    rollouts = read(paths)
    assert rollouts.pilot.cells() == [(2, 1, 3), (2, 2, 1)]
    assert codes(rollouts) == []


def test_ids_of_two_tasks_are_no_mixture(write, read, codes):
    other = [{**one, "doc_hash": "o" + one["doc_hash"]} for one in BOTH[:4]]
    rollouts = read([write("samples_a.jsonl", BOTH[:4]), write("samples_b.jsonl", other)])
    assert rollouts.prompts == 8
    assert "id_mixes_prompts" not in codes(rollouts)


def test_repeats_were_collapsed(write, read, codes):
    rows = [row(doc, 1.0, resps=[["a", "b", "c"]]) for doc in range(2)]
    rollouts = read(write("samples_a.jsonl", rows))
    assert rollouts.rollouts == 2
    (found,) = [one for one in rollouts.findings if one.code == "collapsed_repeats"]
    assert found.detail.startswith("Scores that stand for several responses each")
    # Choices are scored once each: that is no repetition.
    choices = [row(0, 1.0, resps=[[[-1.5, False], [-2.5, False]]])]
    assert "collapsed_repeats" not in codes(read(write("samples_b.jsonl", choices)))


def test_older_versions_have_no_hashes(write, read):
    rows = [
        {name: value for name, value in one.items() if not name.endswith("hash") and name != "metrics"} for one in BOTH
    ]
    assert read(write("samples_a.jsonl", rows), score="strict-match").pilot.cells() == [(1, 0, 3), (1, 1, 1)]


def test_a_document_twice_is_one_rollout(write, read):
    rollouts = read(write("samples_a.jsonl", BOTH[:4] + BOTH[:2]))
    assert rollouts.rollouts == 4
    assert rollouts.skipped == {"duplicate": 2}


def test_empty_responses(write, read):
    rows = [row(0, 0.0, resps=[[""]]), row(1, 1.0)]
    assert read(write("samples_a.jsonl", rows)).skipped == {"empty": 1}
