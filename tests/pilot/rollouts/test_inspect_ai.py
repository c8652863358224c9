"""inspect's logs, as zips and as JSON."""

import json
import zipfile

import pytest

from rl2ml_core.errors import InvalidTable


def sample(identifier, epoch, value, **more):
    scores = {"match": {"value": value, "answer": "x"}} if value is not None else None
    return {"id": identifier, "epoch": epoch, "input": f"item {identifier}", "target": "y", "scores": scores, **more}


@pytest.fixture(params=["eval", "json", "json.gz"])
def log(write, request):
    def _log(samples, name="log", model="m"):
        header = {
            "version": 2,
            "status": "success",
            "eval": {"model": model},
            "results": {"scores": [{"name": "match"}]},
        }
        if request.param != "eval":
            text = json.dumps({**header, "samples": samples}, indent=1)
            if request.param == "json":
                return write(f"{name}.json", text)
            import gzip

            return write(f"{name}.json.gz", gzip.compress(text.encode()))
        path = write(f"{name}.eval", b"")
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("_journal/start.json", "{}")
            for i, one in enumerate(samples):
                archive.writestr(f"samples/{i}.json", json.dumps(one))
            archive.writestr("header.json", json.dumps(header))
        return path

    return _log


def test_epochs_are_rollouts(log, read, codes):
    rollouts = read(log([sample(i, epoch, "CI"[epoch > i]) for epoch in range(1, 5) for i in range(3)]))
    assert rollouts.pilot.cells() == [(4, 0, 1), (4, 1, 1), (4, 2, 1)]
    assert codes(rollouts) == []


@pytest.mark.parametrize(("value", "success"), [("C", 1), ("I", 0), (True, 1), (False, 0), (1, 1), (0.0, 0)])
def test_grades(log, read, value, success):
    assert read(log([sample(1, 1, value)])).pilot.cells() == [(1, success, 1)]


def test_partial_credit_needs_a_rule_and_no_answer_is_said(log, read, codes):
    path = log([sample(i, 1, grade) for i, grade in enumerate("CPNI")])
    with pytest.raises(InvalidTable, match=r"not all 0 or 1; 3 distinct values: 0 \(2×\), 0\.5"):
        read(path)
    rollouts = read(path, success="score >= 0.5")
    assert rollouts.pilot.cells() == [(1, 0, 2), (1, 1, 2)]
    assert {"partial_rewards", "no_answer_grades"} <= set(codes(rollouts))


def test_errors_are_no_failures(log, read, codes):
    rows = [
        sample(1, 1, "C"),
        sample(1, 2, None, error={"message": "timeout"}),
        sample(1, 3, None),
        sample(1, 4, float("nan")),
    ]
    rollouts = read(log(rows))
    assert rollouts.pilot.cells() == [(1, 1, 1)]
    assert rollouts.skipped == {"errored": 1, "unscored": 2}
    assert {"errored_rollouts", "unscored_rollouts"} <= set(codes(rollouts))


def test_one_scorer_counts(log, read):
    path = log([{**sample(1, 1, "C"), "scores": {"a": {"value": "C"}, "b": {"value": {"x": 0, "y": 1}}}}])
    with pytest.raises(InvalidTable, match="several scorers: a, b"):
        read(path)
    assert read(path, score="a").pilot.cells() == [(1, 1, 1)]
    assert read(path, score="b.x").pilot.cells() == [(1, 0, 1)]
    assert read(path, success="b.y > 0").pilot.cells() == [(1, 1, 1)]
    with pytest.raises(InvalidTable, match="no scorer 'c'; found a, b"):
        read(path, score="c")


def test_models_are_not_mixed_silently(log, read, codes):
    paths = [log([sample(1, 1, "C")], "a", "m1"), log([sample(1, 1, "I")], "b", "m2")]
    rollouts = read(paths)
    assert rollouts.pilot.cells() == [(2, 1, 1)]
    assert "several_policies" in codes(rollouts)
    assert "prompt_under_several_ids" not in codes(rollouts)


def test_an_epoch_twice_is_one_rollout(log, read):
    assert read(log([sample(1, 1, "C"), sample(1, 1, "C"), sample(1, 2, "I")])).pilot.cells() == [(2, 1, 1)]


def test_a_bad_value_is_named(log, read):
    path = log([sample(1, 1, "C"), sample(2, 1, "maybe")])
    with pytest.raises(
        InvalidTable, match=r"(samples/1\.json|sample 2) has a score that is no finite number; got 'maybe'"
    ):
        read(path)
    assert read(path, on_error="skip").skipped == {"not a number": 1}


def test_roles_cannot_be_named(log, read):
    with pytest.raises(ValueError, match="reward cannot be named in inspect logs"):
        read(log([sample(1, 1, "C")]), reward="x")


def test_a_sample_that_cannot_be_read_is_one_row(write, read):
    path = write("a.eval", b"")
    with zipfile.ZipFile(path, "w") as archive:
        for i, content in enumerate([json.dumps(sample(1, 1, "C")), "[" * 100_000, "[1]", '{"id": 1', "\ufeff\0"]):
            archive.writestr(f"samples/{i}.json", content)
    with pytest.raises(InvalidTable, match=r"a\.eval: samples/1\.json is nested too deeply"):
        read(path)
    rollouts = read(path, on_error="skip")
    assert rollouts.pilot.cells() == [(1, 1, 1)]
    assert rollouts.skipped == {"unreadable": 4}


@pytest.mark.parametrize("value", ["\ud800", [1], {"a": 1}, "x" * 10_000])
def test_values_that_are_no_grades(log, read, value):
    path = log([sample(1, 1, "C"), sample(1, 2, value)])
    with pytest.raises(
        InvalidTable, match=r"(samples/1\.json|sample 2) has a score that is no finite number"
    ) as caught:
        read(path)
    assert str(caught.value).isprintable()
    assert read(path, on_error="skip").skipped == {"not a number": 1}
