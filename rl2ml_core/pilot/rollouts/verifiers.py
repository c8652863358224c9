"""verifiers and prime-rl: `results.jsonl` of evaluations, and `traces.jsonl` since version 0.4.

Results have a row per rollout. Their ids number rows of a data set, and in some versions do not go with the prompts;
the prompt with its answer tells tasks apart. Traces have a row per rollout (an episode) with the rewards of each of its
traces, or before version 0.4 a row per trace: a rollout's reward is the sum of score times weight, and a score of null
was never given. Errors of attempts before the last one do not make a rollout that is ok a failed one.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from rl2ml_core.errors import InvalidTable
from rl2ml_core.pilot.rollouts.columns import column, declared, id_in_file
from rl2ml_core.pilot.rollouts.documents import digest, scan_of, short
from rl2ml_core.pilot.rollouts.files import MAX_RECORD_BYTES, open_binary
from rl2ml_core.pilot.rollouts.format import Format, Head, Options, Scan, require
from rl2ml_core.pilot.rollouts.sql import content_key

__all__ = ["FORMAT", "TRACES"]

#: Between the scores of traces.
_AND = " and "


def _matches(head: Head) -> bool:
    return (
        head.kind in ("jsonl", "parquet")
        and head.has("prompt", "completion", "reward")
        and "advantage" not in head.fields
    )


def _plan(head: Head, options: Options) -> Scan:
    require(head, FORMAT.title, "prompt", "completion")
    score = column(head, options.chosen or options.reward or "reward", "JSON")
    prompt, completion = column(head, "prompt"), column(head, "completion")
    used = [score, prompt, completion]
    content = [prompt.text]
    # A game's prompt is the same whatever word is to be guessed.
    if "answer" in head.fields:
        answer = column(head, "answer")
        used.append(answer)
        content.append(f"coalesce({answer.text}, '')")
    changes: dict[str, Any] = {}
    for name in ("example_id", "id"):
        if name in head.fields:
            example = column(head, name)
            used.append(example)
            changes = {"prompt_id": id_in_file(example.text), "shown_id": example.text}
            break
    cases = f"WHEN {completion.text} IN ('', '[]') THEN 'empty'"
    if "error" in head.fields:
        error = column(head, "error")
        used.append(error)
        cases = f"WHEN {error.text} <> '' AND {error.text} <> 'null' THEN 'errored' {cases}"
    scan = Scan(
        format="verifiers",
        kind=head.kind,
        columns=declared(head, used),
        prompt=content_key(*content),
        shown=prompt.text,
        score=score.number,
        given=score.text,
        skip=f"CASE {cases} END",
        completion=f"hash({completion.text})",
        single=score.type == "FLOAT",
        others=tuple(name for name in head.fields if name.endswith("_reward_func") and name != score.name),
    )
    return replace(scan, **changes)


def _traces_match(head: Head) -> bool:
    return head.kind == "jsonl" and head.has("task") and (head.has("traces") or head.has("rewards", "nodes"))


def _traces_plan(head: Head, _: Options) -> Scan:
    require(head, TRACES.title, "task")
    if head.kind != "jsonl":
        raise InvalidTable(f"expected {TRACES.title} in jsonl; this file is {head.kind}")
    roles = ["prompt_id"]
    roles += [role for field, role in (("group", "sample"), ("id", "rollout")) if field in head.fields]
    roles += ["step"] if _step(head.first) is not None else []
    return scan_of(
        TRACES.name,
        _Traces(head.compression),
        roles=tuple(roles),
        noted=f"contains(given, '{_AND}')",
        note=("several_agents", "Rollouts whose reward is the sum over several traces, as of several agents"),
    )


def _step(record: Mapping[str, Any]) -> int | None:
    """The training step that an episode was sampled for, where a trainer noted it."""
    step: Any = record
    for name in ("run", "work", "step"):
        step = step.get(name) if isinstance(step, Mapping) else None
    return step if isinstance(step, int) and 0 <= step < 1 << 63 else None


class _Traces:
    """The reader of one compression; equal to another of the same."""

    def __init__(self, compression: str) -> None:
        self.compression = compression

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Traces) and other.compression == self.compression

    def __hash__(self) -> int:
        return hash(self.compression)

    def __call__(self, path: str, options: Options) -> Iterator[dict[str, Any]]:
        with open_binary(path, self.compression) as stream:
            number = 0
            while line := stream.readline(MAX_RECORD_BYTES + 1):
                number += 1
                place = f"line {number}"
                if len(line) > MAX_RECORD_BYTES:
                    raise InvalidTable(f"{place} is longer than {MAX_RECORD_BYTES >> 20} MiB")
                if not line.strip():
                    continue
                try:
                    record = json.loads(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                except (ValueError, RecursionError):
                    record = None
                if isinstance(record, dict):
                    yield _trace_row(record, place, options.chosen)
                elif options.skip_errors:
                    yield {"skip_reason": "unreadable", "place": place}
                else:
                    raise InvalidTable(f"{place} is no JSON object")


def _trace_row(record: dict[str, Any], place: str, chosen: str | None) -> dict[str, Any]:
    task = record.get("task")
    task = task if isinstance(task, dict) else {"key": task}
    key = task.get("key")
    # The hash is of the task's data; where neither it nor a key was written, the data are what there is.
    prompt = next((one for one in (task.get("hash"), key, task.get("data"), task.get("idx")) if one is not None), None)
    traces = record.get("traces") if "traces" in record else [record]
    score, given = _reward(traces, chosen)
    ok = record.get("ok")
    errored = not ok if isinstance(ok, bool) else bool(record.get("errors") or record.get("error"))
    return {
        "prompt": None if prompt is None else digest(json.dumps(prompt, sort_keys=True)),
        "shown": json.dumps(key if key is not None else prompt)[:60],
        "prompt_id": json.dumps(key),
        "sample": json.dumps(record.get("group")),
        "rollout": None if record.get("id") is None else json.dumps(record["id"]),
        "score": score,
        "given": given,
        "skip_reason": "errored" if errored else None if traces else "empty",
        "step": _step(record),
        "place": place,
    }


def _reward(traces: Any, chosen: str | None) -> tuple[float | None, str | None]:
    """Σ score · weight over a rollout's traces, or the scores of one reward; and what it was made of."""
    total, made_of = 0.0, []
    for trace in traces if isinstance(traces, list) else []:
        rewards = trace.get("rewards") if isinstance(trace, dict) else None
        parts = []
        for name, reward in rewards.items() if isinstance(rewards, dict) else ():
            if chosen is not None and name != chosen:
                continue
            score = reward.get("score") if isinstance(reward, dict) else reward
            weight = reward.get("weight", 1.0) if isinstance(reward, dict) and chosen is None else 1.0
            if score is None or weight is None:
                return None, None
            parts.append(short(score, 20))
            try:
                total += float(score) * float(weight)
            except (TypeError, ValueError, OverflowError):
                return None, short(score)
        if parts:
            made_of.append(" ".join(parts[:10]))
    return (total, _AND.join(made_of[:10])) if made_of else (None, None)


FORMAT = Format(
    name="verifiers",
    title="verifiers' results",
    fields="prompt, completion, reward, example_id or id",
    matches=_matches,
    plan=_plan,
)

TRACES = Format(
    name="traces",
    title="verifiers' traces",
    fields="task, group, ok, errors, traces or rewards",
    matches=_traces_match,
    plan=_traces_plan,
)
