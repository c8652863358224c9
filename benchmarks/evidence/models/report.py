"""From finished runs to tables: pass@1 and pass@8 on held-out prompts, and differences of arms, paired by seed.

Every seed has held-out prompts, a start, training prompts and noise of its own, so that the spread over seeds holds all
of them: a mean's standard error is that of its seeds' means, and a difference's interval is Student's t over seeds.
Over settings the mean is taken with equal weights, and its error adds up from theirs: the interval is for these
settings, not for others. Shapes: P prompts, S seeds.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from benchmarks.evidence.models.runs import BEFORE, read_run, run_files
from benchmarks.evidence.models.settings import VERSION, Block, Plan

__all__ = ["collect", "difference", "mean_over_settings", "pass_at_k", "summarize", "tables"]

KS = (1, 8)
LEVEL = 0.95
#: Every arm is compared with these, and the controller with what it starts from.
_REFERENCES = ("GRPO", "RLOO", "γ = 0", "γ = 1")
_FURTHER = (
    ("controller for pass@8", "recommended for pass@8"),
    ("recommended for pass@8, κ measured", "recommended for pass@8"),
    ("recommended for pass@1, κ measured", "recommended for pass@1"),
)
#: What the product promises to be no worse in than its references, by the metric that was asked for.
_PROMISED = {
    f"{kind} for {metric}{kappa}": metric
    for metric in ("pass@1", "pass@8")
    for kind in ("recommended", "controller")
    for kappa in ("", ", κ measured")
}

Values = dict[str, dict[str, list[float]]]  # by arm, by metric: one per seed


def pass_at_k(successes: npt.ArrayLike, rollouts: int, k: int) -> npt.NDArray[np.float64]:
    """The unbiased estimate 1 − C(n−c, k)/C(n, k) of each prompt's pass@k from c of n rollouts, [P]."""
    values = [1 - math.comb(rollouts - c, k) / math.comb(rollouts, k) for c in range(rollouts + 1)]
    return np.array(values)[np.asarray(successes)]


def mean_and_error(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and standard error over seeds, [S]."""
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "standard_error": error}


def difference(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Mean of ours − theirs with its interval over seeds, [S] both, in the same order."""
    found = mean_and_error(np.subtract(ours, theirs).tolist())
    return _with_interval(found["mean"], found["standard_error"], len(ours) - 1)


def mean_over_settings(differences: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Their mean; degrees of freedom by Welch and Satterthwaite."""
    mean = float(np.mean([found["mean"] for found in differences]))
    if any(found["standard_error"] is None for found in differences):
        return _with_interval(mean, None, 0)
    squares = np.array([found["standard_error"] for found in differences]) ** 2
    freedoms = np.array([found["degrees_of_freedom"] for found in differences])
    total = float(squares.sum())
    freedom = total**2 / float((squares**2 / freedoms).sum()) if total > 0 else float(freedoms.sum())
    return _with_interval(mean, math.sqrt(total) / len(differences), freedom)


def _with_interval(mean: float, error: float | None, freedom: float) -> dict[str, Any]:
    reach = None if error is None else float(stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return {
        "mean": mean,
        "standard_error": error,
        "degrees_of_freedom": freedom,
        "interval": None if reach is None else [mean - reach, mean + reach],
    }


def collect(folder: Path, blocks: Sequence[Block]) -> dict[str, dict[str, Any]]:
    """Finished blocks by "setting, rule": seeds, values by arm and metric, and what else was recorded.

    A seed counts where all its runs are there, so that all arms have the same seeds.
    """
    collected: dict[str, dict[str, Any]] = {}
    for block in blocks:
        runs = {run: read_run(path, block, run) for run, path in run_files(folder, block).items()}
        before = runs.pop(None)
        if before is None or any(content is None for content in runs.values()):
            continue
        rollouts = block.size.held_out_rollouts
        for rule in dict.fromkeys(rule for rule, _ in block.runs):
            key = f"{block.setting.name}, {rule.name} {rule.size:g}"
            group = collected.setdefault(
                key,
                {
                    "setting": block.setting.name,
                    "rule": rule.name,
                    "size": rule.size,
                    "seeds": [],
                    "values": {},
                    "about": {},
                    "pilot_pass_rates": [],
                    "supervised_steps": [],
                },
            )
            group["seeds"].append(block.seed)
            group["pilot_pass_rates"].append(before["pilot"]["mean_pass_rate"])
            group["supervised_steps"].append(before["supervised_steps"])
            under_rule = {arm.name: content for (used, arm), content in runs.items() if used == rule}
            for name, content in ({BEFORE: before} | under_rule).items():
                values = group["values"].setdefault(name, {f"pass@{k}": [] for k in KS})
                for k in KS:
                    values[f"pass@{k}"].append(float(pass_at_k(content["successes"], rollouts, k).mean()))
                if name != BEFORE:
                    about = {field: content.get(field) for field in ("gamma", "kappa", "gammas", "same_as")}
                    about |= {field: content[field] for field in ("zero_advantage_groups", "training_pass_rates")}
                    group["about"].setdefault(name, []).append(about)
    return collected


def summarize(plan: Plan, folder: Path) -> dict[str, Any]:
    """All that the tables say, and each seed's values."""
    collected = collect(folder, list(plan.blocks()))
    settings = {}
    for key, group in collected.items():
        values: Values = group["values"]
        settings[key] = {
            **group,
            "policies": {arm: {metric: mean_and_error(v) for metric, v in by.items()} for arm, by in values.items()},
            "differences": {
                f"{ours} − {theirs}": {
                    metric: difference(values[ours][metric], values[theirs][metric]) for metric in by
                }
                for ours, theirs in _pairs(values)
                for by in (values[ours],)
            },
        }
    return {
        "version": VERSION,
        "plan": plan.name,
        "level": LEVEL,
        "settings": settings,
        "over_settings": _over_settings(settings),
        "promises": _promises(settings),
    }


def _pairs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Which arms are compared, of those that are there."""
    arms = [arm for arm in values if arm != BEFORE]
    pairs = [(ours, theirs) for theirs in _REFERENCES for ours in arms if ours not in _REFERENCES]
    pairs += [(f"γ = {gamma}", theirs) for gamma in (0, 1) for theirs in ("GRPO", "RLOO")]
    pairs += [*_FURTHER, ("GRPO", "RLOO"), *((arm, BEFORE) for arm in arms)]
    return [(ours, theirs) for ours, theirs in pairs if ours in values and theirs in values]


def _over_settings(settings: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """By rule, pair and metric."""
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for rule in dict.fromkeys(found["rule"] for found in settings.values()):
        under = [found["differences"] for found in settings.values() if found["rule"] == rule]
        pairs = [pair for pair in under[0] if all(pair in differences for differences in under)]
        result[rule] = {
            pair: {
                metric: mean_over_settings([differences[pair][metric] for differences in under])
                for metric in under[0][pair]
            }
            for pair in pairs
        }
    return result


def verdict(found: Mapping[str, Any]) -> str:
    """What an interval says of ours."""
    if found["interval"] is None:
        return "one seed"
    low, high = found["interval"]
    return "better" if low > 0 else "worse" if high < 0 else "level"


def _promises(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How each arm that was asked for a metric does in it, against GRPO and RLOO."""
    rows = []
    for key, found in settings.items():
        for pair, by_metric in found["differences"].items():
            ours, theirs = pair.split(" − ")
            if ours in _PROMISED and theirs in ("GRPO", "RLOO"):
                value = by_metric[_PROMISED[ours]]
                rows.append(
                    {"setting": key, "ours": ours, "theirs": theirs, "metric": _PROMISED[ours]}
                    | {"verdict": verdict(value), "mean": value["mean"], "interval": value["interval"]}
                )
    return rows


# ---- as text ----


def tables(summary: Mapping[str, Any]) -> str:
    lines: list[str] = []
    for key, found in summary["settings"].items():
        rates = found["pilot_pass_rates"]
        lines += [
            "",
            f"{key}: {len(found['seeds'])} seeds, pilot's mean pass rate {min(rates):.3f} to {max(rates):.3f}",
            f"  {'':<36}{'pass@1':>16}{'pass@8':>18}{'γ':>15}{'groups unused':>15}",
        ]
        for arm, by_metric in found["policies"].items():
            lines.append(
                f"  {arm:<36}" + "".join(f"{_cell(by_metric[f'pass@{k}'], ''):>17}" for k in KS) + _about(found, arm)
            )
        lines += _differences(found["differences"])
    for rule, differences in summary["over_settings"].items():
        lines += ["", f"mean over the settings with {rule} steps"]
        lines += _differences(differences)
    lines += ["", "In the metric that was asked for, against GRPO and RLOO, by setting:"]
    for ours in dict.fromkeys(row["ours"] for row in summary["promises"]):
        verdicts = [row["verdict"] for row in summary["promises"] if row["ours"] == ours]
        counts = {said: verdicts.count(said) for said in dict.fromkeys(verdicts)}
        lines.append(f"  {ours:<36}" + ", ".join(f"{said} {count}" for said, count in counts.items()))
    lines += [
        "",
        f"± is one standard error over seeds; brackets are {summary['level']:.0%} intervals, paired by seed: prompts,",
        "starts and noise. Of such intervals one in twenty misses 0 where there is no difference.",
    ]
    return "\n".join(lines)


def _cell(found: Mapping[str, Any], sign: str) -> str:
    error = found["standard_error"]
    return f"{found['mean']:{sign}.3f}" + ("" if error is None else f" ± {error:.3f}")


def _about(found: Mapping[str, Any], arm: str) -> str:
    about = found["about"].get(arm, [])
    gammas = [run["gamma"] for run in about if run["gamma"] is not None]
    if about and about[0]["gammas"]:
        gammas = [gamma for run in about for gamma in run["gammas"]]
    spread = f"{min(gammas):.2f} to {max(gammas):.2f}" if gammas else ""
    unused = f"{np.mean([run['zero_advantage_groups'] for run in about]):.0%}" if about else ""
    return f"{spread:>16}{unused:>13}"


def _differences(differences: Mapping[str, Any]) -> list[str]:
    lines = []
    for pair, by_metric in differences.items():
        if not pair.endswith(f" − {BEFORE}"):
            cells = []
            for k in KS:
                found = by_metric[f"pass@{k}"]
                between = "" if found["interval"] is None else " [{:+.3f}, {:+.3f}]".format(*found["interval"])
                cells.append(f"pass@{k} {found['mean']:+.3f}{between} {verdict(found):<7}")
            lines.append(f"    {pair:<60}" + "".join(cells).rstrip())
    return lines
