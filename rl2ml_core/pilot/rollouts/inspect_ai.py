"""inspect-ai: `.eval` logs (zips with a member per sample) and `.json` logs.

A sample is one epoch of one item: n is the number of epochs. Scorers grade C (correct, 1), I (incorrect, 0),
P (partial, 0.5) or N (no answer, 0), or give numbers. A sample with an error was never graded: it is left out.
"""

import json
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rl2ml_core.errors import InvalidTable
from rl2ml_core.pilot.rollouts.archives import DAMAGE, read_member
from rl2ml_core.pilot.rollouts.documents import digest, scan_of, short
from rl2ml_core.pilot.rollouts.files import open_binary
from rl2ml_core.pilot.rollouts.format import Format, Head, Options, Scan, listed

__all__ = ["FORMAT"]

#: One sample of a zip, as the zip says and as is read; a whole log in JSON.
_MAX_SAMPLE, _MAX_LOG = 1 << 26, 1 << 27

_GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "true": 1.0, "false": 0.0}


def _matches(head: Head) -> bool:
    if head.kind == "zip":
        return any(name.startswith("samples/") and name.endswith(".json") for name in head.members) or (
            "header.json" in head.members
        )
    return head.kind == "json" and all(f'"{name}"' in head.text for name in ("eval", "version", "status"))


def _plan(head: Head, options: Options) -> Scan:
    if head.kind not in ("zip", "json"):
        raise InvalidTable(f"expected {FORMAT.title}, a .eval or .json file; this file is {head.kind}")
    header = _header(head)
    scorers = _scorers(header)
    evaluation = header.get("eval")
    model = evaluation.get("model") if isinstance(evaluation, dict) else None
    return scan_of(
        FORMAT.name,
        _rows,
        roles=("prompt_id", "rollout"),
        noted="given = 'N'",
        note=("no_answer_grades", "Grades that are N, no answer, count as 0 as they do in inspect"),
        others=tuple(name for name in scorers if name != options.chosen) if len(scorers) > 1 else (),
        policy=model if isinstance(model, str) else "",
    )


def _header(head: Head) -> dict[str, Any]:
    """What a log says of itself, {} where it cannot be had cheaply."""
    try:
        if head.kind == "json":
            header = json.loads(head.text)
        else:
            with zipfile.ZipFile(head.path) as archive:
                header = json.loads(read_member(archive, archive.getinfo("header.json"), _MAX_SAMPLE))
    except (*DAMAGE, KeyError):
        return {}  # reading the samples will say what is wrong
    return header if isinstance(header, dict) else {}


def _scorers(header: dict[str, Any]) -> list[str]:
    results = header.get("results")
    scores = results.get("scores") if isinstance(results, dict) else None
    names = [one.get("name") for one in scores if isinstance(one, dict)] if isinstance(scores, list) else []
    return sorted({name for name in names if isinstance(name, str)})


def _rows(path: str, options: Options) -> Iterator[dict[str, Any]]:
    """A row per sample. With several scorers, or none of the chosen name, there is no telling which counts."""
    chosen, known = options.chosen, set()
    for sample, place in _samples(path, options.skip_errors):
        if not isinstance(sample, dict):
            if not options.skip_errors:
                raise InvalidTable(f"{place} is no JSON object")
            yield {"skip_reason": "unreadable", "place": place}
            continue
        scores = sample.get("scores")
        scores = scores if isinstance(scores, dict) else {}
        known |= set(scores)
        if chosen is None and len(known) > 1:
            raise InvalidTable(
                f"several scorers: {listed(sorted(known))}; say which counts, such as score={min(known)!r}",
                field="score",
            )
        yield _row(sample, place, _value(scores, chosen or next(iter(known), None)))
    if chosen is not None and known and chosen not in known and chosen.rpartition(".")[0] not in known:
        raise InvalidTable(f"no scorer {chosen!r:.60}; found {listed(sorted(known))}", field="score")


def _row(sample: dict[str, Any], place: str, value: Any) -> dict[str, Any]:
    content = [json.dumps(sample.get(name), sort_keys=True) for name in ("input", "target", "choices")]
    identifier, epoch = sample.get("id"), sample.get("epoch", 1)
    missing = sample.get("input") is None
    return {
        "prompt": None if missing else digest(*content),
        "shown": content[0][:100],
        "prompt_id": json.dumps(identifier),
        "rollout": digest(json.dumps(identifier), json.dumps(epoch)),
        "score": _number(value),
        "given": None if value is None else short(value),
        "skip_reason": "errored" if sample.get("error") else None,
        "place": place,
    }


def _value(scores: dict[str, Any], scorer: str | None) -> Any:
    """What a scorer gave; "scorer.part" reaches into values with several parts."""
    if scorer is None:
        return None
    if scorer in scores:
        score = scores[scorer]
        return score.get("value") if isinstance(score, dict) else score
    name, _, part = scorer.rpartition(".")
    value = _value(scores, name) if name in scores else None
    return value.get(part) if isinstance(value, dict) else None


def _number(value: Any) -> float | None:
    if isinstance(value, (bool, int, float)):
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return _GRADES.get(value) if isinstance(value, str) else None


def _samples(path: str, skip_errors: bool) -> Iterator[tuple[Any, str]]:
    """The samples of a log, one at a time, each with its place; None for one that cannot be read, if that may be."""
    if not zipfile.is_zipfile(path):
        yield from _whole(path)
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.filename.startswith("samples/") and member.filename.endswith(".json"):
                    try:
                        sample = _json(read_member(archive, member, _MAX_SAMPLE), member.filename)
                    except DAMAGE:
                        if not skip_errors:
                            raise
                        sample = None
                    yield sample, member.filename
    except DAMAGE as error:
        if isinstance(error, InvalidTable):
            raise
        raise InvalidTable(f"damaged zip: {str(error)[:100]}") from None


def _whole(path: str) -> Iterator[tuple[Any, str]]:
    with Path(path).open("rb") as stream:
        start = stream.read(2)
    compression = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}.get(start, "none")
    try:
        with open_binary(path, compression) as stream:
            content = stream.read(_MAX_LOG + 1)
    except (EOFError, OSError, ValueError) as error:
        raise InvalidTable(f"damaged: {str(error)[:100]}") from None
    if len(content) > _MAX_LOG:
        raise InvalidTable(
            f"a log of more than {_MAX_LOG >> 20} MiB in JSON; convert it with inspect log convert --to eval"
        )
    log = _json(content.removeprefix(b"\xef\xbb\xbf"), "the log")
    samples = log.get("samples") if isinstance(log, dict) else None
    if not isinstance(samples, list):
        raise InvalidTable("the log holds no samples")
    for i, sample in enumerate(samples, start=1):
        yield sample, f"sample {i}"


def _json(content: bytes, place: str) -> Any:
    try:
        return json.loads(content)
    except UnicodeDecodeError:
        raise InvalidTable(f"{place} is not UTF-8 text") from None
    except RecursionError:
        raise InvalidTable(f"{place} is nested too deeply") from None
    except ValueError as error:
        raise InvalidTable(f"{place} is not JSON: {str(error)[:80]}") from None


FORMAT = Format(
    name="inspect",
    title="an inspect log",
    fields=".eval or .json logs",
    matches=_matches,
    plan=_plan,
)
