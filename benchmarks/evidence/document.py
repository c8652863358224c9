"""From finished runs to `docs/evidence.md`: its tables and figures are filled in, its prose is left alone.

    python -m benchmarks.evidence.document

Tables stand between `<!-- NAME -->` and `<!-- end -->`. What is missing in build/evidence (or `--input`) is said.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.evidence.arms import BASELINES
from benchmarks.evidence.models.settings import VERSION
from benchmarks.evidence.run import OUTPUT

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "evidence.md"
FIGURES = ROOT / "docs" / "evidence"
PARTS = {"training": "prompts trained on", "held_out": "prompts held out"}

DEFAULT = "lookahead 64x8 κ default"
#: λ of Eq. 4 in results, and in print.
PENALTIES = {"0": "0", "0.01": ".01", "0.1": ".1", "1": "1"}
#: Rules that are shown, as users know them.
RULES = {
    "lookahead 64x8 κ default": "`lookahead`, κ not measured (default)",
    "lookahead 64x8 κ measured": "`lookahead`, κ measured (default)",
    "lookahead training 64x8 κ default": '`judged_on="training"`, κ not measured',
    "lookahead training 64x8 κ measured": '`judged_on="training"`, κ measured',
    "lookahead held_out 64x8 κ default": '`judged_on="held_out"`, κ not measured',
    "lookahead held_out 64x8 κ measured": '`judged_on="held_out"`, κ measured',
    "rms_gain 64x8 κ default": "`rms_gain`, κ not measured",
    "rms_gain 64x8 κ measured": "`rms_gain`, κ measured",
    "rms_gain 64x8 κ 0.01–1": "`rms_gain`, mean over κ from .01 to 1",
    **{f"paper λ={penalty} 64x8": f"`paper`, λ = {shown}" for penalty, shown in PENALTIES.items()},
    "always γ=0": "always γ = 0",
    "always γ=1": "always γ = 1",
    "constant per metric": "a constant per metric",
}
#: Pilots by prompts × rollouts, as they are called in results.
PILOTS = {"true": "true rates", "16x8": "16 × 8", "64x8": "64 × 8", "256x8": "256 × 8", "16x64": "16 × 64"}
#: Estimators and trainers, as users know them.
ARMS = {
    "bayes, lookahead 64x8 κ default": "recommended (bayes, default rule)",
    "bayes, lookahead 64x8 κ measured": "recommended, κ measured",
    "bayes_recent, lookahead 64x8 κ default": "recommended, baseline from recent counts",
    "leave_one_out, lookahead 64x8 κ default": "recommended γ, leave-one-out baseline",
    "bayes, best γ": "best γ, bayes",
    "minimum_variance, best γ": "best γ, minimum variance",
    "leave_one_out, best γ": "best γ, leave one out",
    "group_centered, best γ": "best γ, group centered",
    "score, best γ": "best γ, score (control variate)",
    "none, best γ": "best γ, none (direct)",
    "grpo": "GRPO",
    "rloo": "RLOO, Dr. GRPO",
    "maxrl_centered": "MaxRL as shipped",
    "maxrl": "MaxRL",
    "dapo": "DAPO (equal rollouts generated)",
    "pkpo": "PKPO (k = 8)",
}
MODEL_ARMS = (
    "recommended for pass@8",
    "recommended for pass@8, κ measured",
    "controller for pass@8",
    "recommended for pass@1",
    "recommended for pass@1, κ measured",
    "γ = 0.25",
)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def table(*head: str) -> list[str]:
    return [row(*head), row("---", *["---:"] * (len(head) - 1))]


def regret(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else f"{found['mean']:.4f} [{found['lower']:.4f}, {found['upper']:.4f}]"


def rules_table(report: Mapping[str, Any]) -> list[str]:
    lines = table("rule", *(f"{what}: mean [90 % interval] | 90th percentile" for what in PARTS.values()))
    lines[1] = row("---", *["---:"] * 4)
    for name, label in RULES.items():
        cells = []
        for part in PARTS:
            found = report["length_controlled"][part]["all"].get(name)
            cells += [regret(found), "" if found is None else f"{found['p90']:.3f}"]
        lines.append(row(label, *cells))
    return lines


def held_out_settings_table(report: Mapping[str, Any]) -> list[str]:
    """The rules on the settings that nothing was tuned on."""
    lines = table("rule", *PARTS.values())
    for name, label in RULES.items():
        found = [report["length_controlled"][part]["held-out settings"].get(name) for part in PARTS]
        lines.append(row(label, *map(regret, found)))
    return lines


def pilots_table(report: Mapping[str, Any]) -> list[str]:
    """The rules by how large the pilot is."""
    rules = {
        "lookahead {} κ default": "`lookahead`, κ not measured (default)",
        "lookahead {} κ measured": "`lookahead`, κ measured (default)",
        "rms_gain {} κ default": "`rms_gain`, κ not measured",
        "rms_gain {} κ measured": "`rms_gain`, κ measured",
        **{f"paper λ={penalty} {{}}": f"`paper`, λ = {shown}" for penalty, shown in PENALTIES.items()},
    }
    lines = table("rule, prompts trained on", *PILOTS.values())
    for name, label in rules.items():
        found = [report["length_controlled"]["training"]["by pilot"].get(name.format(pilot)) for pilot in PILOTS]
        lines.append(row(label, *map(regret, found)))
    return lines


def differences_table(report: Mapping[str, Any]) -> list[str]:
    """What other rules lose more than the default one, case by case."""
    lines = table("rule, less the default (κ not measured)", *PARTS.values())
    for name, label in RULES.items():
        found = [report["length_controlled"][part]["against the default rule"].get(name) for part in PARTS]
        if name != DEFAULT:
            lines.append(row(label, *map(signed, found)))
    return lines


def constants_table(report: Mapping[str, Any]) -> list[str]:
    """What γ = 0 and γ = 1 lose more than the default rule, by environment."""
    columns = [(part, name) for part in PARTS for name in ("always γ=0", "always γ=1")]
    lines = table("environment", *(f"{PARTS[part]}: {RULES[name]}" for part, name in columns))
    by = {part: report["length_controlled"][part]["constants against the default rule"] for part in PARTS}
    for environment in by["training"]:
        found = [by[part].get(environment, {}).get(name) for part, name in columns]
        lines.append(row(environment, *map(signed, found)))
    return lines


def signed(found: Mapping[str, Any] | None) -> str:
    return "" if found is None else f"{found['mean']:+.4f} [{found['lower']:+.4f}, {found['upper']:+.4f}]"


def pairs_table(report: Mapping[str, Any]) -> list[str]:
    """Rules and baselines together, against the best member of the family with the best baseline."""
    rules = {
        "lookahead 64x8 κ default": "default rule",
        "lookahead 64x8 κ measured": "κ measured",
        "constant per metric": "constant per metric",
        "always γ=0": "γ = 0",
        "always γ=1": "γ = 1",
        "best γ": "best γ",
    }
    lines = table("baseline, prompts trained on", *rules.values())
    for baseline in BASELINES:
        found = [report["pairs"]["training"].get(f"{baseline}, {rule}") for rule in rules]
        lines.append(row(f"`{baseline}`", *("" if cell is None else f"{cell['mean']:.3f}" for cell in found)))
    return lines


def environments_table(report: Mapping[str, Any]) -> list[str]:
    by = report["length_controlled"]
    columns = [(part, environment) for part in PARTS for environment in by[part]["by environment"]]
    lines = table("rule", *(f"{'held out: ' if part == 'held_out' else ''}{name}" for part, name in columns))
    for name, label in RULES.items():
        found = [by[part]["by environment"][environment].get(name) for part, environment in columns]
        lines.append(row(label, *("" if cell is None else f"{cell['mean']:.3f}" for cell in found)))
    return lines


def gains_table(report: Mapping[str, Any]) -> list[str]:
    lines = table("what trains", *(f"{what}, over {x}" for what in PARTS.values() for x in ("GRPO", "RLOO")))
    for name, label in ARMS.items():
        cells = []
        for part in PARTS:
            for against in ("over grpo", "over rloo"):
                found = report["trainers"][part][against].get(name)
                cells.append("" if found is None else percent(found))
        lines.append(row(label, *cells))
    return lines


def percent(found: Mapping[str, Any]) -> str:
    return f"{found['mean']:+.1%} [{found['lower']:+.1%}, {found['upper']:+.1%}]"


def recommended_table(report: Mapping[str, Any]) -> list[str]:
    """Where the recommended pair gains over GRPO, and where it does not."""
    found = report["recommended_by_environment"]
    lines = table(
        "gain over GRPO", *(f"{what}: {which}" for what in PARTS.values() for which in ("recommended", "best γ"))
    )
    for environment in found["training"]:
        cells = [found[part].get(environment, {}).get(which) for part in PARTS for which in ("recommended", "best γ")]
        lines.append(row(environment, *("" if cell is None else percent(cell) for cell in cells)))
    return lines


def kappa_table(report: Mapping[str, Any]) -> list[str]:
    columns = [(criterion, part) for criterion in ("lookahead", "rms_gain") for part in PARTS]
    lines = table("κ taken to be", *(f"`{criterion}`, {PARTS[part]}" for criterion, part in columns))
    names = {"measured": "the true one", "/3": "a third", "/10": "a tenth", "x3": "3 × (noise only)", "x10": "10 ×"}
    for name, label in (names | {"default": "not measured"}).items():
        found = [report["kappa"][part].get(f"{criterion}, all, κ {name}") for criterion, part in columns]
        lines.append(row(label, *map(regret, found)))
    return lines


def steps_table(report: Mapping[str, Any]) -> list[str]:
    steps = {"normalized": "one length", "adam": "Adam", "sgd": "SGD, best rate", "rms": "SGD, rate × RMS multiplier"}
    lines = table("rule, prompts trained on", *steps.values())
    for name, label in RULES.items():
        found = [report["rules_by"]["step"][step].get(name) for step in steps]
        if any(found):
            lines.append(row(label, *("" if cell is None else f"{cell['mean']:.3f}" for cell in found)))
    return lines


def one_step_table(report: Mapping[str, Any]) -> list[str]:
    found = report["one_step"]
    lines = table("correlation of predicted and realized one-step gains", "κ-model", "each prompt's own geometry")
    for name in ("all", "pass@1", "pass@8", "log:0.01", "relative, bayes", "median within, bayes"):
        lines.append(row(name, *(f"{found[kind][name]:.3f}" for kind in ("predicted", "predicted_measured"))))
    return lines


def model_difference(found: Mapping[str, Any]) -> str:
    low, high = found["interval"] or (float("nan"),) * 2
    return f"{found['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"


def models_table(models: Mapping[str, Any]) -> list[str]:
    lines = table("mean over settings", "pass@1 − GRPO", "pass@1 − RLOO", "pass@8 − GRPO", "pass@8 − RLOO")
    for rule, differences in models["over_settings"].items():
        for arm in (*MODEL_ARMS, "γ = 0", "γ = 1"):
            pairs = [differences.get(f"{arm} − {other}") for other in ("GRPO", "RLOO")]
            if all(pairs):
                cells = [model_difference(pair[f"pass@{k}"]) for k in (1, 8) for pair in pairs]
                lines.append(row(f"{arm}, {rule} steps", *cells))
    return lines


def tasks_table(models: Mapping[str, Any]) -> list[str]:
    lines = table("setting", "before", "GRPO", "RLOO", "recommended", "κ measured", "− GRPO", "− RLOO")
    ours = "recommended for pass@8"
    for key, found in models["settings"].items():
        means = [
            found["policies"].get(arm, {}).get("pass@8")
            for arm in ("before", "GRPO", "RLOO", ours, f"{ours}, κ measured")
        ]
        pairs = [found["differences"].get(f"{ours} − {other}") for other in ("GRPO", "RLOO")]
        lines.append(
            row(
                key,
                *("" if value is None else f"{value['mean']:.3f}" for value in means),
                *("" if pair is None else model_difference(pair["pass@8"]) for pair in pairs),
            )
        )
    return lines


SIMULATED: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "rules": rules_table,
    "held-out settings": held_out_settings_table,
    "pilots": pilots_table,
    "differences": differences_table,
    "constants": constants_table,
    "environments": environments_table,
    "pairs": pairs_table,
    "gains": gains_table,
    "recommended": recommended_table,
    "kappa": kappa_table,
    "steps": steps_table,
    "one step": one_step_table,
}
TRAINED: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {"models": models_table, "tasks": tasks_table}


def filled(text: str, tables: Mapping[str, list[str]]) -> str:
    """The document with its tables replaced.

    Raises:
        KeyError: a table that has no place in the document.
    """
    for name, lines in tables.items():
        body = "\n".join(lines)
        text, found = re.subn(
            rf"<!-- {re.escape(name)} -->\n.*?<!-- end -->",
            lambda _, name=name, body=body: f"<!-- {name} -->\n{body}\n<!-- end -->",
            text,
            flags=re.DOTALL,
        )
        if found != 1:
            raise KeyError(f"{DOCUMENT.name} must have one place for the table {name!r}; got {found}")
    return text


def draw_simulated(report: Mapping[str, Any], folder: Path) -> None:
    """Regret of every γ, and of the rules."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = {
        "prompts trained on": ("training", "metric"),
        "held out, difficulty not shared": ("held_out", "metric, not graded"),
        "held out, difficulty shared": ("held_out", "metric, graded"),
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(10, 3.4), sharey=True, layout="constrained")
    for axis, (what, (part, kind)) in zip(axes, panels.items(), strict=True):
        found = report["by_gamma"][part]
        for metric, values in found[kind].items():
            axis.plot(found["gamma"], [100 * value for value in values], marker="o", markersize=3, label=metric)
        axis.set(title=what, xlabel="γ (0 RL, 1 max. likelihood)")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of the best γ's gain lost, %")
    axes[0].set_ylim(0, 25)
    axes[0].legend()
    figure.savefig(folder / "gamma.png", dpi=130)
    plt.close(figure)

    figure, axis = plt.subplots(figsize=(9, 4.6), layout="constrained")
    names = [name for name in RULES if report["length_controlled"]["training"]["all"].get(name)]
    for i, (part, what) in enumerate(PARTS.items()):
        rows = [report["length_controlled"][part]["all"][name] for name in names]
        axis.errorbar(
            [100 * found["mean"] for found in rows],
            [y + 0.18 * (1 - 2 * i) for y in range(len(names))],
            xerr=[
                [100 * (found["mean"] - found["lower"]) for found in rows],
                [100 * (found["upper"] - found["mean"]) for found in rows],
            ],
            fmt="os"[i],
            markersize=5,
            capsize=2,
            label=what,
        )
    axis.set_yticks(range(len(names)), [RULES[name].replace("`", "") for name in names])
    axis.invert_yaxis()
    axis.set_xlim(left=0)
    axis.set_xlabel("mean regret, % of the best γ's gain (90 % intervals)")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    figure.savefig(folder / "regret.png", dpi=130)
    plt.close(figure)


def draw_models(models: Mapping[str, Any], folder: Path) -> None:
    """Differences from GRPO over the settings, one length per step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    differences = models["over_settings"]["normalized"]
    arms = [arm for arm in (*MODEL_ARMS, "RLOO", "γ = 0", "γ = 1") if _against_grpo(differences, arm)]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, metric in zip(axes, ("pass@1", "pass@8"), strict=True):
        for y, arm in enumerate(arms):
            sign, found = _against_grpo(differences, arm) or (1, {})
            mean = sign * found[metric]["mean"]
            reach = abs(found[metric]["interval"][1] - found[metric]["mean"])
            axis.errorbar(100 * mean, y, xerr=100 * reach, fmt="o", color="C0", capsize=2)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set(title=f"{metric}, points over GRPO", xlabel="95 % interval over seeds")
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(arms)), arms)
    axes[0].invert_yaxis()
    figure.savefig(folder / "models.png", dpi=130)
    plt.close(figure)


def _against_grpo(differences: Mapping[str, Any], arm: str) -> tuple[int, Mapping[str, Any]] | None:
    if f"{arm} − GRPO" in differences:
        return 1, differences[f"{arm} − GRPO"]
    return (-1, differences[f"GRPO − {arm}"]) if f"GRPO − {arm}" in differences else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, default=OUTPUT, help="where the runs' results are (%(default)s)")
    given = parser.parse_args()
    sources = {
        given.input / "report-full.json": (SIMULATED, draw_simulated),
        given.input / "models" / f"full-{VERSION}" / "results.json": (TRAINED, draw_models),
    }
    FIGURES.mkdir(exist_ok=True)
    text = DOCUMENT.read_text(encoding="utf-8")
    for path, (tables, draw) in sources.items():
        if not path.is_file():
            print(f"{path} is not there: its tables stay as they are", file=sys.stderr)
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        text = filled(text, {name: make(found) for name, make in tables.items()})
        draw(found, FIGURES)
    DOCUMENT.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
