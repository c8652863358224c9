"""Options that several commands share, and what their text stands for."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import rl2ml_core as rl2ml
from rl2ml_core.objective.family import MAX_ROLLOUTS
from rl2ml_core.pilot.histogram import PRIORS
from rl2ml_core.pilot.rollouts import FORMATS as DUMPS

__all__ = [
    "COLUMNS",
    "Baseline",
    "Bootstrap",
    "CriterionName",
    "DumpFormat",
    "Dumps",
    "FilterGroups",
    "Format",
    "GammaRange",
    "Kappa",
    "Level",
    "MetricName",
    "Order",
    "OutputFormat",
    "Pilot",
    "Prior",
    "Rollouts",
    "Seed",
    "Steps",
    "Success",
    "VariancePenalty",
    "conditions_of",
    "integers_of",
    "objective_path",
    "parameters_of",
    "prior_of",
    "score_model_of",
    "trainer_of",
]


class Format(StrEnum):
    """How an answer is printed."""

    TEXT = "text"
    JSON = "json"


#: What a pilot's table must be.
COLUMNS = (
    "(csv, tsv, jsonl, parquet; - for standard input) with columns num_successes and num_rollouts, one row per prompt, "
    "or prompt_id and reward, one row per rollout."
)
Pilot = Annotated[str, typer.Argument(help=f"Pilot table {COLUMNS}")]
#: Tables or dumps, one or several.
Dumps = Annotated[
    list[str],
    typer.Argument(
        metavar="PILOT...",
        help=f"Pilot table {COLUMNS} Or files, folders and patterns of dumped rollouts: see rl2ml pilot.",
    ),
]
Success = Annotated[
    str | None,
    typer.Option(help="Of dumps: what counts as a success, such as 'score >= 1', where scores are not 0 or 1."),
]
Steps = Annotated[str | None, typer.Option(metavar="FROM:TO", help="Of dumps: training steps to read, TO excluded.")]
DumpFormat = Annotated[
    str | None, typer.Option("--dump", metavar="FORMAT", help=f"Of dumps: {', '.join(DUMPS)}. Default: found out.")
]
MetricName = Annotated[
    str, typer.Option("--metric", "-m", help="What you are judged on: pass@8, log:0.01, 0.5*pass@1+0.5*pass@16.")
]
Rollouts = Annotated[
    int,
    typer.Option(
        "--rollouts-per-prompt",
        "--num-generations",
        "-n",
        min=1,
        max=MAX_ROLLOUTS,
        help="Rollouts per prompt in training (the group size).",
    ),
]
Baseline = Annotated[str, typer.Option(help="The estimator: " + ", ".join(rl2ml.BASELINES) + ".")]
Kappa = Annotated[
    float | None,
    typer.Option(help="Share of score energy about success, in (0, 1]. Default: 0.1, and uncertain from 0.01 to 1."),
]
GammaRange = Annotated[
    tuple[float, float], typer.Option(metavar="LOW HIGH", help="The γ to choose from, within 0 and 20.")
]
CriterionName = Annotated[
    str, typer.Option(help="rms_gain, lookahead (over a training run), or paper (Eq. 4 of arXiv:2605.30154).")
]
JudgedOn = Annotated[
    str, typer.Option(help="With --criterion lookahead, where the metric is read: training, held_out or either.")
]
VariancePenalty = Annotated[float | None, typer.Option(help="λ of --criterion paper.")]
Prior = Annotated[
    str,
    typer.Option(
        help="Prior on pass rates: empirical_bayes for the Beta that fits the pilot best, ALPHA,BETA for another, or "
        "plug_in for raw k/n."
    ),
]
Order = Annotated[
    int | None, typer.Option(min=1, max=MAX_ROLLOUTS, help="Truncation order M to train with. Default: N.")
]
FilterGroups = Annotated[
    bool,
    typer.Option("--filter-groups", help="The trainer drops groups of equal rewards (DAPO, verl's filter_groups)."),
]
Bootstrap = Annotated[int, typer.Option(min=0, help="Draws for the intervals; 0 for none.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the draws.")]
Level = Annotated[float, typer.Option(help="Probability of the intervals.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="text for people, json for programs.")]


def prior_of(text: str) -> rl2ml.BetaPrior | str:
    """--prior."""
    if text in PRIORS:
        return text
    try:
        alpha, beta = (float(part) for part in text.split(","))
    except ValueError:
        raise rl2ml.InvalidInput(
            f"--prior must be ALPHA,BETA such as 1,1, or one of {', '.join(PRIORS)}; got {text!r:.40}"
        ) from None
    return rl2ml.BetaPrior(alpha, beta)


def score_model_of(kappa: float | None) -> rl2ml.ScoreModel | None:
    """--kappa."""
    return None if kappa is None else rl2ml.ScoreModel(kappa)


def conditions_of(text: str) -> rl2ml.Conditions | None:
    """--sampled, --training."""
    return rl2ml.Conditions.parse(text) if text.strip() else None


def trainer_of(text: str) -> str | float:
    """A name from the catalog or a γ."""
    found = _number(text)
    return text if found is None else found


def objective_path(text: str) -> Path | None:
    """The objective.json that a trainer may be given as."""
    if text in rl2ml.KNOWN_TRAINERS or _number(text) is not None:
        return None
    path = Path(text)
    return path if path.suffix.lower() == ".json" or path.is_file() else None


def parameters_of(texts: list[str]) -> dict[str, float | str]:
    """--parameter NAME=VALUE, several times."""
    found: dict[str, float | str] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise rl2ml.InvalidInput(f"--parameter must be NAME=VALUE such as k=4; got {text!r:.40}")
        if name in found:
            raise rl2ml.InvalidInput(f"--parameter must give {name} once; got it twice", field=name)
        given = _number(value)
        found[name] = value if given is None else given
    return found


def integers_of(text: str | None, option: str) -> list[int] | None:
    """Whole numbers with commas between them."""
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise rl2ml.InvalidInput(f"{option} must be whole numbers such as 4,8,16; got {text!r:.40}") from None


def _number(text: str) -> int | float | None:
    """An integer where it is written as one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
