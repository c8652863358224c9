"""From saved results to tables: regret of rules, baselines and pairs, what a wrong κ costs, and known trainers.

A case is a setting, a metric, a checkpoint and training or held-out prompts. Cases whose best γ does not clearly gain
are counted and left out of everything that divides by its gain.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from benchmarks.evidence.arms import ARMS, BASELINES, GAMMAS, RECENT, TRAINERS
from benchmarks.evidence.environments import ENVIRONMENTS
from benchmarks.evidence.regret import Half, Summary, best_gain, gain_at, gamma_regrets, halves, is_clear, summarize
from benchmarks.evidence.rules import BASELINES as CHOSEN_FOR
from benchmarks.evidence.rules import GRID, KAPPAS, PILOTS, RULES, SPREADS, TRUE, Rule
from benchmarks.evidence.settings import Design, Question, Setting
from benchmarks.evidence.simulate import METRICS
from rl2ml_core.checks import Array

PARTS = ("training", "held_out")
GAMMA_GRID = np.array(GAMMAS)
PLACES = {baseline: [ARMS.index(arm) for arm in ARMS if arm.baseline == baseline] for baseline in BASELINES}
FAMILY = [place for places in PLACES.values() for place in places]
NAMES = [arm.name for arm in ARMS]

DEFAULT_RULE = Rule("lookahead", "64x8", "default")
MEASURED_RULE = Rule("lookahead", "64x8", "measured")
DEFAULT_BASELINE = "bayes"
CONSTANTS = {"always γ=0": 0.0, "always γ=1": 1.0}
PER_METRIC = "constant per metric"
#: Step rules under which a larger advantage makes no longer step.
LENGTH_CONTROLLED = ("normalized", "adam")


@dataclass(frozen=True, eq=False)
class Case:
    """Gains of all arms on one thing that is judged, in halves, and the γ of all rules."""

    setting: Setting
    metric: str
    part: str
    checkpoint: int
    split: tuple[Half, ...]
    chosen: Array  # γ of the rules, [rules, baselines, S]
    kappa: float  # the true one

    @cached_property
    def clear(self) -> bool:
        """Whether the default baseline's best γ gains."""
        return is_clear(self.split, PLACES[DEFAULT_BASELINE])

    @property
    def cluster(self) -> str:
        return "-".join(self.setting.cluster)

    def regret(self, rule: Rule, baseline: str = DEFAULT_BASELINE) -> float:
        """Mean over pilots, against the baseline's own best γ."""
        if baseline == DEFAULT_BASELINE:
            return float(self._regrets[RULES.index(rule)])
        return float(gamma_regrets(self.split, PLACES[baseline], GAMMA_GRID, self.gammas(rule, baseline)).mean())

    @cached_property
    def _regrets(self) -> Array:
        """Of all rules under the default baseline: many tables ask for them."""
        gammas = self.chosen[:, CHOSEN_FOR.index(DEFAULT_BASELINE)]
        return gamma_regrets(self.split, PLACES[DEFAULT_BASELINE], GAMMA_GRID, gammas).mean(axis=-1)

    def regrets_on_grid(self, baseline: str = DEFAULT_BASELINE) -> Array:
        """Of every constant γ of `GRID`."""
        return gamma_regrets(self.split, PLACES[baseline], GAMMA_GRID, GRID)

    def constant(self, gamma: float, baseline: str = DEFAULT_BASELINE) -> float:
        """Regret of a constant γ."""
        return float(gamma_regrets(self.split, PLACES[baseline], GAMMA_GRID, np.array(gamma)))

    def gammas(self, rule: Rule, baseline: str = DEFAULT_BASELINE) -> Array:
        """γ of a rule for every pilot, [S]."""
        named = "bayes" if baseline == RECENT else baseline
        return self.chosen[RULES.index(rule), CHOSEN_FOR.index(named)]

    def gain(self, gammas: Array | float, baseline: str = DEFAULT_BASELINE) -> float:
        """Mean gain of a baseline's γ."""
        return gain_at(self.split, PLACES[baseline], GAMMA_GRID, np.asarray(gammas))

    def gain_of(self, trainer: str) -> float:
        """Mean gain of a known trainer."""
        return best_gain(self.split, [NAMES.index(trainer)])

    def is_clear_of(self, trainer: str) -> bool:
        """Whether a known trainer gains."""
        return is_clear(self.split, [NAMES.index(trainer)])


def make_cases(
    results: Mapping[Setting, Mapping[str, Array]], answers: Mapping[Question, Mapping[str, Array]], design: Design
) -> list[Case]:
    """Every case of the results at hand."""
    cases = []
    for setting, result in results.items():
        answer = answers[Question(setting.environment, setting.difficulty, setting.num_rollouts)]
        for i, part in enumerate(PARTS):
            start = result["start"][:, i].astype(float)  # [S, metrics]
            if np.isnan(start).any():
                continue
            for (j, metric), (k, checkpoint) in product(enumerate(METRICS), enumerate(design.checkpoints)):
                split = tuple(halves(result["reached"][:, :, :, k, i, j] - start[:, j]))
                chosen = answer["chosen"][:, :, j]
                cases.append(Case(setting, metric, part, checkpoint, split, chosen, float(answer["kappa"])))
    return cases


Value = Callable[[Case], float]


def report(
    results: Mapping[Setting, Mapping[str, Array]], answers: Mapping[Question, Mapping[str, Array]], design: Design
) -> dict[str, Any]:
    """All tables as plain JSON values."""
    everything = make_cases(results, answers, design)
    cases = [case for case in everything if case.clear]
    constants = best_constants(cases)

    def per_metric(case: Case, baseline: str = DEFAULT_BASELINE) -> float:
        return case.constant(constants[baseline][case.metric], baseline)

    rules: dict[str, Value] = {rule.name: lambda case, rule=rule: case.regret(rule) for rule in RULES}
    rules |= {name: lambda case, gamma=gamma: case.constant(gamma) for name, gamma in CONSTANTS.items()}
    rules[PER_METRIC] = per_metric
    return {
        "design": asdict(design),
        "settings": len(results),
        "cases": len(everything),
        "not_clear": _count_unclear(everything),
        "constants_per_metric": constants,
        "rules": {part: _table(rules, [c for c in cases if c.part == part]) for part in PARTS},
        "rules_on_held_out_settings": {
            part: _table(rules, [c for c in cases if c.part == part and c.setting.held_out]) for part in PARTS
        },
        "rules_against_default": {part: _differences(rules, [c for c in cases if c.part == part]) for part in PARTS},
        "rules_by": {
            name: {
                str(value): _table(_chosen(rules), [c for c in cases if c.part == PARTS[0] and of(c) == value])
                for value in dict.fromkeys(map(of, cases))
            }
            for name, of in GROUPS.items()
        },
        "length_controlled": {part: _length_controlled([c for c in cases if c.part == part], rules) for part in PARTS},
        "by_gamma": {
            part: _by_gamma([c for c in cases if c.part == part and c.setting.step in LENGTH_CONTROLLED])
            for part in PARTS
        },
        "baselines": {part: _baselines([c for c in everything if c.part == part], constants) for part in PARTS},
        "pairs": {part: _pairs([c for c in everything if c.part == part], constants) for part in PARTS},
        "kappa": {part: _kappa([c for c in cases if c.part == part]) for part in PARTS},
        "trainers": {part: _trainers([c for c in everything if c.part == part]) for part in PARTS},
        "recommended_by_environment": {
            part: _by_environment([c for c in everything if c.part == part]) for part in PARTS
        },
        "one_step": one_step(answers),
    }


def _by_environment(cases: Sequence[Case]) -> dict[str, Any]:
    """Relative gain of the recommended pair over GRPO, where that is clear, and of the baseline at its best γ."""
    clear = [case for case in cases if case.is_clear_of("grpo")]
    columns: dict[str, Value] = {
        "recommended": lambda case: case.gain(case.gammas(DEFAULT_RULE)) / case.gain_of("grpo") - 1,
        "best γ": lambda case: best_gain(case.split, PLACES[DEFAULT_BASELINE]) / case.gain_of("grpo") - 1,
    }
    return {
        environment: _table(columns, [case for case in clear if case.setting.environment == environment])
        for environment in dict.fromkeys(case.setting.environment for case in clear)
    }


def _length_controlled(cases: Sequence[Case], rules: Mapping[str, Value]) -> dict[str, Any]:
    """What the advice assumes: steps whose length does not grow with the advantages."""
    chosen = [case for case in cases if case.setting.step in LENGTH_CONTROLLED]
    shown = _chosen(rules, "64x8")
    by_environment = {
        environment: [case for case in chosen if case.setting.environment == environment]
        for environment in dict.fromkeys(case.setting.environment for case in chosen)
    }
    return {
        "all": _table(shown, chosen),
        "held-out settings": _table(shown, [case for case in chosen if case.setting.held_out]),
        "against the default rule": _differences(shown, chosen),
        "constants against the default rule": {
            environment: _differences({name: rules[name] for name in CONSTANTS}, of)
            for environment, of in by_environment.items()
        },
        "by environment": {environment: _table(shown, of) for environment, of in by_environment.items()},
        "by pilot": _table(_chosen(rules, TRUE, *PILOTS), chosen),
        "by metric": {metric: _table(shown, [case for case in chosen if case.metric == metric]) for metric in METRICS},
    }


def _by_gamma(cases: Sequence[Case]) -> dict[str, Any]:
    """Mean regret of every constant γ of `GAMMAS` by metric, with the default baseline."""
    at = [int(np.argmin(np.abs(GRID - gamma))) for gamma in GAMMAS]
    lost = np.array([case.regrets_on_grid()[at] for case in cases])

    def by_metric(kept: Callable[[Case], bool] = lambda _: True) -> dict[str, list[float]]:
        names = np.array([case.metric for case in cases])
        there = np.array([kept(case) for case in cases])
        return {
            name: lost[there & (names == name)].mean(axis=0).tolist() for name in dict.fromkeys(names[there].tolist())
        }

    def graded(case: Case) -> bool:
        return ENVIRONMENTS[case.setting.environment].graded > 0

    return {
        "gamma": list(GAMMAS),
        "metric": by_metric(),
        "metric, graded": by_metric(graded),
        "metric, not graded": by_metric(lambda case: not graded(case)),
    }


GROUPS: dict[str, Callable[[Case], Any]] = {
    "environment": lambda case: case.setting.environment,
    "difficulty": lambda case: case.setting.difficulty,
    "metric": lambda case: case.metric,
    "step": lambda case: case.setting.step,
    "num_rollouts": lambda case: case.setting.num_rollouts,
    "checkpoint": lambda case: case.checkpoint,
}


def best_constants(cases: Iterable[Case]) -> dict[str, dict[str, float]]:
    """Of every baseline and metric the constant γ of least mean regret, over what is not held out, training prompts."""
    tuned = [case for case in cases if not case.setting.held_out and case.part == PARTS[0]]
    return {
        baseline: {
            metric: float(GRID[np.mean(found, axis=0).argmin()])
            if (
                found := [
                    case.regrets_on_grid(baseline)
                    for case in tuned
                    if case.metric == metric and is_clear(case.split, PLACES[baseline])
                ]
            )
            else 1.0
            for metric in METRICS
        }
        for baseline in BASELINES
    }


def one_step(answers: Mapping[Question, Mapping[str, Array]]) -> dict[str, dict[str, float]]:
    """Correlations of predicted and realized gains, by the κ-model and by each prompt's own score geometry.

    Of all arms and metrics over all questions, and parts of them; "relative" compares arms by their gain over the mean
    of their question's; "within" correlates every question alone.
    """
    if not answers:
        return {}
    realized = np.array([answer["realized"] for answer in answers.values()])  # [questions, metrics, A]
    error = np.array([answer["realized_error"] for answer in answers.values()])
    found = {"points": {"": float(realized.size)}, "median relative error": {"": float(np.median(error / realized))}}
    for name in ("predicted", "predicted_measured"):
        found[name] = _correlations(np.array([answer[name] for answer in answers.values()]), realized, list(answers))
    return found


def _correlations(predicted: Array, realized: Array, asked: Sequence[Question]) -> dict[str, float]:
    default = PLACES[DEFAULT_BASELINE][GAMMAS.index(1.0)]
    found = {
        "all": _correlation(predicted, realized),
        f"{NAMES[default]} across questions": _correlation(predicted[..., default], realized[..., default]),
    }
    for j, metric in enumerate(METRICS):
        found[metric] = _correlation(predicted[:, j], realized[:, j])
    for environment in dict.fromkeys(question.environment for question in asked):
        where = [i for i, question in enumerate(asked) if question.environment == environment]
        found[environment] = _correlation(predicted[where], realized[where])
    for name, arms in {"all arms": list(range(len(ARMS))), "the family": FAMILY, "bayes": PLACES["bayes"]}.items():
        p, r = (
            (gains / gains.mean(axis=-1, keepdims=True)).reshape(-1, len(arms))
            for gains in (predicted[..., arms], realized[..., arms])
        )
        found[f"relative, {name}"] = _correlation(p, r)
        found[f"median within, {name}"] = float(np.nanmedian([_correlation(*pair) for pair in zip(p, r, strict=True)]))
    return found


def _correlation(a: Array, b: Array) -> float:
    a, b = a.ravel(), b.ravel()
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _summary(values: Iterable[float], cases: Sequence[Case]) -> dict[str, float] | None:
    found: Summary | None = summarize(np.array(list(values)), np.array([case.cluster for case in cases]))
    return None if found is None else asdict(found)


def _table(columns: Mapping[str, Value], cases: Sequence[Case]) -> dict[str, Any]:
    return {name: _summary(map(value, cases), cases) for name, value in columns.items()} if cases else {}


def _chosen(rules: Mapping[str, Any], *knowledge: str) -> dict[str, Any]:
    """The rules that are worth showing: with the true κ or the default one."""
    known = knowledge or (TRUE, "64x8")
    hidden = {
        rule.name
        for rule in RULES
        if rule.knowledge not in known or rule.kappa not in ("measured", "default", "", *SPREADS)
    }
    return {name: value for name, value in rules.items() if name not in hidden}


def _differences(rules: Mapping[str, Value], cases: Sequence[Case]) -> dict[str, Any]:
    """Regret less that of the default rule, case by case."""
    default = {id(case): case.regret(DEFAULT_RULE) for case in cases}
    return _table(
        {name: lambda case, value=value: value(case) - default[id(case)] for name, value in rules.items()}, cases
    )


def _baselines(cases: Sequence[Case], constants: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Regret of γ within each baseline."""
    table = {}
    for baseline, places in PLACES.items():
        clear = [case for case in cases if is_clear(case.split, places)]
        rules: dict[str, Value] = {
            rule.name: lambda case, rule=rule, baseline=baseline: case.regret(rule, baseline)
            for rule in (DEFAULT_RULE, MEASURED_RULE)
        }
        rules |= {
            name: lambda case, gamma=gamma, baseline=baseline: case.constant(gamma, baseline)
            for name, gamma in CONSTANTS.items()
        }
        rules[PER_METRIC] = lambda case, baseline=baseline: case.constant(constants[baseline][case.metric], baseline)
        table[baseline] = _table(rules, clear)
    return table


def _pairs(cases: Sequence[Case], constants: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Regret of (rule, baseline) against the best pair of the family."""
    clear = [case for case in cases if is_clear(case.split, FAMILY)]

    def lost(case: Case, gain: float) -> float:
        return 1 - gain / best_gain(case.split, FAMILY)

    pairs: dict[str, Value] = {}
    for baseline in BASELINES:
        for rule in (DEFAULT_RULE, MEASURED_RULE):
            pairs[f"{baseline}, {rule.name}"] = lambda case, rule=rule, baseline=baseline: lost(
                case, case.gain(case.gammas(rule, baseline), baseline)
            )
        for name, gamma in CONSTANTS.items():
            pairs[f"{baseline}, {name}"] = lambda case, gamma=gamma, baseline=baseline: lost(
                case, case.gain(gamma, baseline)
            )
        pairs[f"{baseline}, {PER_METRIC}"] = lambda case, baseline=baseline: lost(
            case, case.gain(constants[baseline][case.metric], baseline)
        )
        pairs[f"{baseline}, best γ"] = lambda case, baseline=baseline: lost(
            case, best_gain(case.split, PLACES[baseline])
        )
    pairs |= {trainer: lambda case, trainer=trainer: lost(case, case.gain_of(trainer)) for trainer in TRAINERS}
    return _table(pairs, clear)


def _kappa(cases: Sequence[Case]) -> dict[str, Any]:
    """Regret by how wrong κ is, from the true pass rates: of all cases, and by metric and environment.

    Of both criteria that need κ. Multiples stop at κ = 1, so those above one leave out environments whose κ is 1.
    """
    groups: dict[str, Callable[[Case], bool]] = {"all": lambda _: True}
    groups |= {metric: lambda case, metric=metric: case.metric == metric for metric in METRICS}
    for environment in dict.fromkeys(case.setting.environment for case in cases):
        groups[environment] = lambda case, environment=environment: case.setting.environment == environment
    table: dict[str, Any] = {}
    for (group, belongs), name in product(groups.items(), KAPPAS):
        chosen = [case for case in cases if belongs(case) and (case.kappa < 1 or not name.startswith("x"))]
        rules = {
            f"{criterion}, {group}, κ {name}": Rule(criterion, TRUE, name) for criterion in ("lookahead", "rms_gain")
        }
        table |= _table({key: lambda case, rule=rule: case.regret(rule) for key, rule in rules.items()}, chosen)
    return table


def _trainers(cases: Sequence[Case]) -> dict[str, Any]:
    """Gains relative to GRPO's and RLOO's, where those are clear.

    Of every baseline at its best γ, of recommended pairs, and of known trainers.
    """
    arms: dict[str, Callable[[Case], float]] = {
        f"{baseline}, best γ": lambda case, baseline=baseline: best_gain(case.split, PLACES[baseline])
        for baseline in BASELINES
    }
    for baseline in (DEFAULT_BASELINE, RECENT, "leave_one_out"):
        for rule in (DEFAULT_RULE, MEASURED_RULE):
            arms[f"{baseline}, {rule.name}"] = lambda case, rule=rule, baseline=baseline: case.gain(
                case.gammas(rule, baseline), baseline
            )
    arms |= {trainer: lambda case, trainer=trainer: case.gain_of(trainer) for trainer in TRAINERS}
    table: dict[str, Any] = {}
    for against in ("grpo", "rloo"):
        clear = [case for case in cases if case.is_clear_of(against)]
        table[f"over {against}"] = _table(
            {
                name: lambda case, gain=gain, against=against: gain(case) / case.gain_of(against) - 1
                for name, gain in arms.items()
            },
            clear,
        )
    return table


def _count_unclear(cases: Sequence[Case]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {part: {} for part in PARTS}
    for case in cases:
        if not case.clear:
            by = counts[case.part]
            by[case.cluster] = by.get(case.cluster, 0) + 1
    return counts


def printed(found: Mapping[str, Any]) -> str:
    """The main tables as text."""
    unclear = {part: sum(by.values()) for part, by in found["not_clear"].items()}
    lines = [
        f"{found['settings']} settings, {found['cases']} cases; without a clear gain at the best γ: {unclear}",
        f"constants per metric (bayes): {found['constants_per_metric']['bayes']}",
    ]
    for part in PARTS:
        lines += _rows(
            f"regret of γ with the baseline bayes, {part} prompts", _chosen(found["rules"][part], TRUE, *PILOTS)
        )
        lines += _rows(
            f"the same on held-out settings, {part} prompts", _chosen(found["rules_on_held_out_settings"][part])
        )
        lines += _rows(
            f"less that of {DEFAULT_RULE.name}, {part} prompts", _chosen(found["rules_against_default"][part])
        )
        lines += _rows(f"κ, {part} prompts", found["kappa"][part])
        for baseline, table in found["baselines"][part].items():
            lines += _rows(f"baseline {baseline}, {part} prompts", table)
        lines += _rows(f"pairs against the best of the family, {part} prompts", found["pairs"][part])
        for against, table in found["trainers"][part].items():
            lines += _rows(f"gain {against}, {part} prompts", table)
    for name, tables in found["rules_by"].items():
        for value, table in tables.items():
            lines += _rows(f"{name} {value}, training prompts", table)
    lines += ["", "one step, correlations of predicted and realized gains"]
    for name, values in found["one_step"].items():
        lines += [f"  {name + ', ' + what if what else name:<56} {value:.3f}" for what, value in values.items()]
    return "\n".join(lines)


def _rows(title: str, table: Mapping[str, Any]) -> list[str]:
    if not any(table.values()):
        return []
    lines = ["", f"{title:<58}{'mean':>8}  {'90 % interval':<16}{'p90':>7}{'worst':>8}{'> .1':>7}{'cases':>7}"]
    for name, row in table.items():
        if row is not None:
            interval = f"[{row['lower']:.4f}, {row['upper']:.4f}]"
            lines.append(
                f"  {name:<56}{row['mean']:8.4f}  {interval:<16} {row['p90']:6.3f}{row['worst']:8.3f}"
                f"{row['above_tenth']:7.1%}{row['cases']:7d}"
            )
    return lines
