"""Each operation as a call: where it goes, what it carries, and whether it may be repeated. No input or output here."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote, urlencode

from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.population import BetaPrior, ScoreModel
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.metadata import Conditions
from rl2ml_core.selection.controller import ControllerSettings
from rl2ml_core.selection.metrics import LogSuccess, Metric, Mixture, PassAtK, parse_metric

__all__ = ["Call", "Options"]

#: How a table is written, by the end of its file's name.
MEDIA_TYPES = {
    ".parquet": "application/vnd.apache.parquet",
    ".arrow": "application/vnd.apache.arrow.stream",
    ".arrows": "application/vnd.apache.arrow.stream",
    ".csv": "text/csv",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/x-ndjson",
}

_SEARCH = ("gamma_min", "gamma_max", "criterion", "variance_penalty", "judged_on", "look_ahead")
_ESTIMATOR = ("baseline", "order", "filter_groups")
_UNCERTAINTY = ("bootstrap", "seed", "level")
_CONTROLLER = ("half_life", "hysteresis", "max_step", "min_prompts", "initial_gamma")


class Options(TypedDict, total=False):
    """What `rl2ml_core.recommend` takes besides pilot, metric and rollouts; what is left out has its defaults."""

    gamma_min: float
    gamma_max: float
    criterion: str
    variance_penalty: float | None
    judged_on: str
    look_ahead: bool
    prior: BetaPrior | str
    score_model: ScoreModel | None
    baseline: str
    order: int | None
    filter_groups: bool
    current: str | float | AdvantageTable
    bootstrap: int
    seed: int
    level: float
    sampled: Conditions | None
    training: Conditions | None


@dataclass(frozen=True)
class Call:
    """A request. Repeatable ones change nothing, or nothing more, when they arrive twice."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False

    @classmethod
    def of_json(cls, method: str, path: str, content: Any, *, repeatable: bool, **headers: str) -> "Call":
        body = json.dumps(content, allow_nan=False).encode()
        return cls(method, path, body, {"Content-Type": "application/json", **headers}, repeatable)


def recommendation(
    pilot: PilotHistogram | str, metric: Metric | str, num_rollouts: int, options: Mapping[str, Any]
) -> Call:
    """A pilot, or the id of one that was uploaded, → what to train with. Pure, so repeatable.

    Raises:
        InvalidInput: an option that there is not, or values that do not go over the wire.
    """
    known = Options.__annotations__
    for name in options:
        if name not in known:
            raise InvalidInput(f"options must be of {', '.join(known)}; got {name}", field=name)
    content = {"pilot": _pilot(pilot), **_question(metric, num_rollouts, options)}
    for name in ("sampled", "training"):
        conditions = options.get(name)
        if conditions is not None:
            said = {part: getattr(conditions, part) for part in ("temperature", "policy", "step")}
            content[name] = {part: value for part, value in said.items() if value is not None}
    return Call.of_json("POST", "/v1/recommendations", content, repeatable=True)


def create_run(settings: ControllerSettings, pilot: PilotHistogram | str | None, key: str) -> Call:
    """A run before its first window. The same key gives the same run, so repeatable."""
    options = {name: getattr(settings, name) for name in (*_SEARCH[:4], *_ESTIMATOR, *_UNCERTAINTY[:2])}
    options |= {name: getattr(settings, name) for name in ("prior", "score_model", "current")}
    content = _question(settings.metric, settings.num_rollouts, options)
    content["controller"] = {name: getattr(settings, name) for name in _CONTROLLER}
    if pilot is not None:
        content["pilot"] = _pilot(pilot)
    return Call.of_json("POST", "/v1/runs", content, repeatable=True, **{"Idempotency-Key": key})


def put_window(run: str, index: int, window: PilotHistogram | None) -> Call:
    """The counts of a window. The same again changes nothing, so repeatable."""
    cells = {"cells": [] if window is None else _cells(window)}
    return Call.of_json("PUT", f"/v1/runs/{_segment(run)}/windows/{index}", cells, repeatable=True)


def rewind(run: str, index: int) -> Call:
    """Back to before a window. Not repeatable: another window may have been put between the two."""
    return Call.of_json("POST", f"/v1/runs/{_segment(run)}/rewinds", {"to_index": index}, repeatable=False)


def run(identity: str) -> Call:
    """A run as it stands."""
    return Call("GET", f"/v1/runs/{_segment(identity)}", repeatable=True)


def runs(limit: int | None, cursor: str | None) -> Call:
    """A page of the runs of this key."""
    return Call("GET", "/v1/runs" + _query(limit=limit, cursor=cursor), repeatable=True)


def windows(identity: str, limit: int | None, cursor: str | None) -> Call:
    """A page of a run's windows."""
    return Call("GET", f"/v1/runs/{_segment(identity)}/windows" + _query(limit=limit, cursor=cursor), repeatable=True)


def delete_run(identity: str) -> Call:
    """Remove a run with its windows."""
    return Call("DELETE", f"/v1/runs/{_segment(identity)}")


def upload(table: str | Path | bytes, media_type: str | None) -> Call:
    """A table of counts or rollouts. Its id is of its content, so repeatable.

    Raises:
        InvalidInput: bytes without a media type, or a file whose name does not say it.
        OSError: a file that cannot be read.
    """
    if isinstance(table, bytes):
        body = table
    else:
        path = Path(table)
        media_type = media_type or MEDIA_TYPES.get(path.suffix.lower())
        body = path.read_bytes() if media_type else b""
    if media_type is None:
        expected = ", ".join(dict.fromkeys(MEDIA_TYPES.values()))
        raise InvalidInput(f"media_type must be one of {expected}; got None", field="media_type")
    return Call("POST", "/v1/pilots", body, {"Content-Type": media_type}, repeatable=True)


def _question(metric: Metric | str, num_rollouts: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """What recommendations and runs ask alike; what an option leaves out, the service fills in."""
    content: dict[str, Any] = {"metric": _metric(metric), "budget": {"num_rollouts": num_rollouts}}
    for part, names in (("search", _SEARCH), ("estimator", _ESTIMATOR), ("uncertainty", _UNCERTAINTY)):
        given = {name: options[name] for name in names if name in options}
        if given:
            content[part] = given
    if "prior" in options:
        content["prior"] = _prior(options["prior"])
    if options.get("score_model") is not None:
        content["score_model"] = _scores(options["score_model"], options.get("criterion"))
    if "current" in options:
        content["current"] = _current(options["current"])
    return {name: value for name, value in content.items() if value is not None}


def _metric(metric: Metric | str) -> dict[str, Any]:
    found = parse_metric(metric)
    if not isinstance(found, (PassAtK, LogSuccess, Mixture)):
        raise InvalidInput(f"metric must be one that the service knows; got {found.name!r:.60}", field="metric")
    return found.to_dict()


def _pilot(pilot: PilotHistogram | str) -> dict[str, Any]:
    if isinstance(pilot, str):
        return {"id": pilot}
    if not isinstance(pilot, PilotHistogram):
        raise InvalidInput(
            f"pilot must be a PilotHistogram or an uploaded pilot's id; got {type(pilot).__name__}", field="pilot"
        )
    return {"cells": _cells(pilot)}


def _cells(pilot: PilotHistogram) -> list[dict[str, float]]:
    names = ("num_rollouts", "num_successes", "num_prompts")
    return [dict(zip(names, cell, strict=True)) for cell in pilot.cells()]


def _prior(prior: BetaPrior | str) -> dict[str, Any]:
    return {"name": prior} if isinstance(prior, str) else {"alpha": prior.alpha, "beta": prior.beta}


def _scores(scores: ScoreModel, criterion: Any) -> dict[str, Any] | None:
    if scores.name == "paper":
        if criterion != "paper":
            raise InvalidInput("score_model must be a κ-model unless the criterion is paper", field="score_model")
        return None  # its default there
    return scores.to_dict()


def _current(current: str | float | AdvantageTable) -> Any:
    if not isinstance(current, AdvantageTable):
        return current
    success, failure = current.success.tolist(), current.failure.tolist()
    return {"success": [None, *success[1:]], "failure": [*failure[:-1], None]}


def _segment(text: str) -> str:
    return quote(text, safe="")


def _query(**parameters: object) -> str:
    given: Iterable[tuple[str, object]] = [(name, value) for name, value in parameters.items() if value is not None]
    text = urlencode(list(given))
    return f"?{text}" if text else ""
