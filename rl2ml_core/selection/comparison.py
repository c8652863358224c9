"""Known trainers on one map: what each really optimizes on a pilot, its noise, what the recommended one gains."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from rl2ml_core.checks import choice, finite_number
from rl2ml_core.errors import InvalidInput
from rl2ml_core.objective.advantages import AdvantageTable
from rl2ml_core.objective.analysis import UNUSUAL, Analysis, analyze
from rl2ml_core.objective.catalog import KNOWN_TRAINERS, known_table
from rl2ml_core.objective.family import MAX_GAMMA
from rl2ml_core.objective.population import Population
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.selection.metrics import Metric
from rl2ml_core.selection.recommend import Recommendation, recommend
from rl2ml_core.selection.status import caution_of
from rl2ml_core.selection.uncertainty import Interval

__all__ = ["ComparedTrainer", "Comparison", "LeftOut", "compare"]

_STANDARD = ("rl", "maxrl", "current")


@dataclass(frozen=True, eq=False)
class ComparedTrainer:
    """One trainer on the pilot, and what the recommended objective gains over it: per step, or over a training run."""

    analysis: Analysis
    gain_of_recommended: float | None  # relative; None where this trainer gains nothing, or nothing is recommended
    interval: Interval | None  # of that gain: prompts, κ and the prior uncertain

    @property
    def label(self) -> str:
        """As a sentence names it."""
        return _label(self.analysis)

    @property
    def surprise(self) -> str:
        """What its name does not say, in sentences; empty where there is nothing."""
        found = self.analysis
        said = []
        if found.note:
            said.append(found.note)
        if found.easy_over_middling is not None:
            said.append(f"Easy prompts weigh more again: w(.9) is {found.easy_over_middling:.2f} times w(.5).")
        if found.negative_at:
            everywhere = len(found.negative_at) == len(found.pass_rates)
            rates = ", ".join(f"{p:g}" for p in found.negative_at)
            said.append(f"{'At all pass rates' if everywhere else f'At pass rates {rates}'} it makes successes rarer.")
        elif found.hard_over_middling is not None:
            said.append(f"Hard prompts weigh less: w(.01) is {found.hard_over_middling:.2f} times w(.5).")
        if found.dead_mixed_share > UNUSUAL:
            said.append(f"{found.dead_mixed_share:.0%} of groups have mixed rewards and yet no advantage.")
        if found.kept_share is not None and found.rollouts_per_kept_group is not None:
            said.append(
                f"Keeps {found.kept_share:.0%} of groups: {found.rollouts_per_kept_group:.3g} rollouts for each."
            )
        return " ".join(said)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            **self.analysis.to_dict(),
            "surprise": self.surprise,
            "gain_of_recommended": self.gain_of_recommended,
            "interval": None if self.interval is None else asdict(self.interval),
        }


@dataclass(frozen=True)
class LeftOut:
    """A trainer that groups of this size cannot be trained with, and why."""

    name: str
    reason: str  # completes a sentence that begins with the name


@dataclass(frozen=True, eq=False)
class Comparison:
    """The recommendation, its own objective analyzed, and the trainers by what it gains over them, least first."""

    recommendation: Recommendation
    recommended: Analysis | None  # None where nothing is recommended
    trainers: tuple[ComparedTrainer, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def summary(self) -> str:
        """In a sentence: over how many trainers the recommended objective gains, and over which it may not."""
        answer = self.recommendation
        if answer.gamma is None:
            return answer.summary
        valued = [row for row in self.trainers if row.gain_of_recommended is not None]
        if not valued:
            return f"γ = {answer.gamma:.2f}: there is no trainer to compare with."
        close = [row for row in valued if _verdict(row) == 0]
        better = [row for row in valued if _verdict(row) < 0]
        over = len(valued) - len(close) - len(better)
        parts = []
        if over:
            every = f"all {over}" if over == len(valued) else f"{over} of {len(valued)}"
            when = "over a training run" if answer.looks_ahead else "per step"
            parts.append(f"more {when} than {'the' if len(valued) == 1 else every} trainer{'s' * (len(valued) > 1)}")
        if close:
            parts.append(f"about as much as {_listed(close)}")
        if better:
            parts.append(f"less than {_listed(better)}")
        baseline = "" if answer.objective is None else f" ({answer.objective.baseline} baseline)"
        gains = ", and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
        return f"γ = {answer.gamma:.2f}{baseline} is predicted to gain {gains}.{caution_of(answer.status)}"

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "summary": self.summary,
            "recommendation": self.recommendation.to_dict(),
            "recommended": None if self.recommended is None else self.recommended.to_dict(),
            "trainers": [trainer.to_dict() for trainer in self.trainers],
            "left_out": [asdict(trainer) for trainer in self.left_out],
        }


def compare(
    pilot: PilotHistogram | Population,
    metric: Metric | str,
    num_rollouts: int,
    *,
    trainers: Iterable[str | float | AdvantageTable] | None = None,
    **options: Any,
) -> Comparison:
    """Known trainers on a pilot: which objective each really optimizes, its noise, its predicted gain.

    Args:
        pilot, metric, num_rollouts: as `recommend`.
        trainers: catalog names, γ (with the recommended objective's estimator) or tables; all of `KNOWN_TRAINERS` when
            None. Those of the catalog that have no table for this N are left out, with the reason.
        options: as `recommend`, but `current`.

    Raises:
        InvalidInput: as `recommend`; an unknown trainer, or none.
    """
    if "current" in options:
        raise InvalidInput("compare takes trainers=…, not current: it compares with each of them", field="current")
    chosen = _checked(KNOWN_TRAINERS if trainers is None else trainers, num_rollouts)
    reasons = [_why_unusable(trainer, num_rollouts) for trainer in chosen]
    usable = {str(i): trainer for i, trainer in enumerate(chosen) if not reasons[i]}
    joint = recommend(pilot, metric, num_rollouts, others=usable, **options)
    objective = joint.objective
    scores = options.get("score_model") if objective is None else objective.score_model
    if scores is not None and scores.name == "paper":  # proxies, not scores: their energy is no one's
        scores = None
    # What `recommend` took the pilot for; it is needed where nothing is recommended, too.
    people = pilot if isinstance(pilot, Population) else pilot.population(options.get("prior", "empirical_bayes"))
    estimator = {
        "baseline": options.get("baseline", "bayes"),
        "order": options.get("order"),
        "filter_groups": options.get("filter_groups", False),
    }
    left_out = [LeftOut(str(name), reason) for name, reason in zip(chosen, reasons, strict=True) if reason]
    rows = []
    for place, trainer in usable.items():
        of_gamma = {} if isinstance(trainer, (str, AdvantageTable)) else estimator
        found = analyze(trainer, num_rollouts, people, scores, **of_gamma)
        rows.append(ComparedTrainer(found, joint.predicted_gain_over[place], joint.gain_intervals[place]))
    rows.sort(key=lambda row: (row.gain_of_recommended is None, row.gain_of_recommended or 0.0))
    own = None if objective is None else analyze(objective.gamma, num_rollouts, people, scores, **estimator)
    spoken = replace(
        joint,
        predicted_gain_over={name: joint.predicted_gain_over[name] for name in _STANDARD},
        gain_intervals={name: joint.gain_intervals[name] for name in _STANDARD},
    )
    return Comparison(spoken, own, tuple(rows), tuple(left_out))


def _checked(trainers: Iterable[str | float | AdvantageTable], num_rollouts: int) -> list[str | float | AdvantageTable]:
    chosen: list[str | float | AdvantageTable] = [trainers] if isinstance(trainers, str) else list(trainers)
    if not chosen:
        raise InvalidInput("trainers must name at least one; got none", field="trainers")
    for trainer in chosen:
        if isinstance(trainer, AdvantageTable):
            if trainer.num_rollouts != num_rollouts:
                raise InvalidInput(
                    f"trainers hold a table for {trainer.num_rollouts} rollouts per prompt; expected {num_rollouts}",
                    field="trainers",
                )
        elif isinstance(trainer, str):
            choice(trainer, "trainers", KNOWN_TRAINERS)
        else:
            finite_number(trainer, "trainers", minimum=0, maximum=MAX_GAMMA)
    return chosen


def _why_unusable(trainer: str | float | AdvantageTable, num_rollouts: int) -> str:
    """Why a trainer of the catalog has no table for groups of this size; empty where it has one."""
    if not isinstance(trainer, str):
        return ""
    try:
        known_table(trainer, num_rollouts)
    except InvalidInput as error:
        return str(error).partition(";")[0].removeprefix(f"{trainer} ")
    return ""


def _label(found: Analysis) -> str:
    return found.name.replace("gamma=", "γ = ") if found.name.startswith("gamma=") else found.label


def _verdict(row: ComparedTrainer) -> int:
    """1 where the recommended objective gains more than this trainer, −1 where less, 0 where that is uncertain."""
    gain, where = row.gain_of_recommended or 0.0, row.interval
    low, high = (gain, gain) if where is None else (where.lower, where.upper)
    return 1 if low > 0 else -1 if high < 0 else 0


def _listed(rows: list[ComparedTrainer]) -> str:
    names = [row.label for row in rows]
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
