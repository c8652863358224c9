"""What `rl2ml` can be asked. Commands translate arguments and errors; they compute nothing."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import rl2ml_core as rl2ml
from rl2ml_core.cli.text import advantage_rows, recommendation_text
from rl2ml_core.objective.family import MAX_ROLLOUTS

__all__ = ["app"]

UNINFORMATIVE = 3
WRONG = 2

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Which objective between RL (pass@1) and maximum likelihood should your trainer optimize? "
    "Answered from a small pilot: how often did each prompt succeed?",
)


class Format(StrEnum):
    """How an answer is printed."""

    TEXT = "text"
    JSON = "json"


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
OutputFormat = Annotated[Format, typer.Option("--format", help="text for people, json for programs.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rl2ml {rl2ml.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def recommend(
    pilot: Annotated[
        str,
        typer.Argument(
            help="Pilot table (csv, tsv, jsonl, parquet; - for standard input) with columns num_successes and "
            "num_rollouts, one row per prompt, or prompt_id and reward, one row per rollout."
        ),
    ],
    metric: Annotated[
        str, typer.Option("--metric", "-m", help="What you are judged on: pass@8, log:0.01, 0.5*pass@1+0.5*pass@16.")
    ],
    rollouts_per_prompt: Rollouts,
    current: Annotated[
        str,
        typer.Option(help="The trainer in use, for comparison: " + ", ".join(rl2ml.KNOWN_TRAINERS) + ", or a γ."),
    ] = "grpo",
    baseline: Annotated[str, typer.Option(help="The estimator: " + ", ".join(rl2ml.BASELINES) + ".")] = "bayes",
    kappa: Annotated[
        float | None,
        typer.Option(
            help="Share of score energy about success, in (0, 1]. Default: 0.1, and uncertain from 0.01 to 1."
        ),
    ] = None,
    gamma_range: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="The γ to choose from, within 0 and 20.")
    ] = (0.0, 2.0),
    criterion: Annotated[str, typer.Option(help="rms_gain, or paper (Eq. 4 of arXiv:2605.30154).")] = "rms_gain",
    variance_penalty: Annotated[float | None, typer.Option(help="λ of --criterion paper.")] = None,
    prior: Annotated[str, typer.Option(help="Beta prior on pass rates as ALPHA,BETA; or plug_in for raw k/n.")] = "1,1",
    bootstrap: Annotated[int, typer.Option(min=0, help="Draws for the intervals; 0 for none.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
    level: Annotated[float, typer.Option(help="Probability of the intervals.")] = 0.9,
    format: OutputFormat = Format.TEXT,  # noqa: A002  (the option's name)
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the objective as JSON, ready for a trainer's adapter.")
    ] = None,
) -> None:
    """Recommend the objective to train with, from a pilot.

    Example: [bold]rl2ml recommend pilot.csv --metric pass@8 --rollouts-per-prompt 16 -o objective.json[/bold]
    """
    with _clear_errors():
        with _progress(f"Reading {pilot} …"):
            counts = rl2ml.read_pilot(pilot)
        with _progress("Choosing γ …"):
            answer = rl2ml.recommend(
                counts,
                metric,
                rollouts_per_prompt,
                gamma_min=gamma_range[0],
                gamma_max=gamma_range[1],
                criterion=criterion,
                variance_penalty=variance_penalty,
                prior=_prior(prior),
                score_model=None if kappa is None else rl2ml.ScoreModel(kappa),
                baseline=baseline,
                current=_trainer(current),
                bootstrap=bootstrap,
                seed=seed,
                level=level,
            )
        if answer.objective is not None and output is not None:
            answer.objective.save(output)
    if format is Format.JSON:
        typer.echo(json.dumps(answer.to_dict(), allow_nan=False, ensure_ascii=False))
    else:
        Console(highlight=False, soft_wrap=True).print(recommendation_text(answer, counts, rollouts_per_prompt))
        if answer.objective is not None and output is not None:
            typer.echo(
                f"\nSaved {output}. The table for another group size: rl2ml table {output} -n {2 * rollouts_per_prompt}"
            )
    if answer.objective is None:
        raise typer.Exit(UNINFORMATIVE)


@app.command()
def table(
    objective: Annotated[Path, typer.Argument(help="An objective.json that recommend, the service or Python saved.")],
    rollouts_per_prompt: Rollouts,
    format: OutputFormat = Format.TEXT,  # noqa: A002  (the option's name)
) -> None:
    """Print an objective's advantages for a group size: of a success and of a failure, by success count.

    Example: [bold]rl2ml table objective.json --rollouts-per-prompt 8[/bold]
    """
    with _clear_errors():
        loaded = rl2ml.Objective.load(objective)
        content = loaded.to_dict(rollouts_per_prompt)
    if format is Format.JSON:
        typer.echo(json.dumps(content, allow_nan=False))
        return
    console = Console(highlight=False)
    order = f", truncation order {min(loaded.order, rollouts_per_prompt)}" if loaded.order else ""
    console.print(
        f"γ = {loaded.gamma:.4g} ({loaded.baseline} baseline{order}): advantages in a group of {rollouts_per_prompt}"
    )
    console.print(advantage_rows(loaded, rollouts_per_prompt))


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Say what is wrong with usage or data in one line, without a traceback."""
    try:
        yield
    except (rl2ml.RL2MLError, OSError) as error:
        reason = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
        typer.echo(f"Error: {reason}", err=True)
        raise typer.Exit(WRONG) from None


@contextmanager
def _progress(what: str) -> Iterator[None]:
    """A spinner on standard error, for people only."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield
        return
    with console.status(what):
        yield


def _prior(text: str) -> rl2ml.BetaPrior | str:
    if text == "plug_in":
        return text
    try:
        alpha, beta = (float(part) for part in text.split(","))
    except ValueError:
        raise rl2ml.InvalidInput(f"--prior must be ALPHA,BETA such as 1,1, or plug_in; got {text!r:.40}") from None
    return rl2ml.BetaPrior(alpha, beta)


def _trainer(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
