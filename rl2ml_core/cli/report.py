"""`rl2ml report`: a recommendation as one HTML file."""

from pathlib import Path
from typing import Annotated

import typer

import rl2ml_core as rl2ml
from rl2ml_core.cli import options as o
from rl2ml_core.cli.console import clear_errors, progress
from rl2ml_core.cli.rollouts import pilot_of
from rl2ml_core.files import write_atomically
from rl2ml_core.plotting import FORMATS
from rl2ml_core.report import report_html

__all__ = ["report"]

_TRAINERS = ", ".join(rl2ml.KNOWN_TRAINERS)


def report(
    pilot: o.Dumps,
    metric: o.MetricName,
    rollouts_per_prompt: o.Rollouts,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: HTML, or a picture by .png, .svg or .pdf.")
    ] = Path("report.html"),
    current: Annotated[str, typer.Option(help=f"The trainer in use, for comparison: {_TRAINERS}, or a γ.")] = "grpo",
    baseline: o.Baseline = "bayes",
    kappa: o.Kappa = None,
    gamma_range: o.GammaRange = (0.0, 2.0),
    criterion: o.CriterionName = "lookahead",
    judged_on: o.JudgedOn = "either",
    prior: o.Prior = "empirical_bayes",
    success: o.Success = None,
    steps: o.Steps = None,
    dump: o.DumpFormat = None,
    bootstrap: o.Bootstrap = 200,
    seed: o.Seed = 0,
) -> None:
    """Write a recommendation with all that is behind it as one HTML file, to look at and to pass on.

    Example: [bold]rl2ml report pilot.csv --metric pass@8 --rollouts-per-prompt 16 -o report.html[/bold]
    """
    with clear_errors():
        counts, _ = pilot_of(pilot, success, steps, dump)
        with progress("Choosing γ …"):
            trainer = o.trainer_of(current)
            found = rl2ml.recommend(
                counts,
                metric,
                rollouts_per_prompt,
                gamma_min=gamma_range[0],
                gamma_max=gamma_range[1],
                criterion=criterion,
                judged_on=judged_on,
                prior=o.prior_of(prior),
                score_model=o.score_model_of(kappa),
                baseline=baseline,
                current=trainer,
                bootstrap=bootstrap,
                seed=seed,
            )
        if output.suffix.lower() in FORMATS:
            found.plot().savefig(output, dpi=150)
        else:
            write_atomically(output, report_html(found, counts, trainer))
    typer.echo(f"{found.summary}\nSaved {output}.")
