"""`rl2ml plan` and `rl2ml pilot-size`: how to spend a budget, and whether the pilot is enough."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

import rl2ml_core as rl2ml
from rl2ml_core.cli import options as o
from rl2ml_core.cli.console import clear_errors, progress, show, show_json
from rl2ml_core.cli.layout import fields, table
from rl2ml_core.cli.rollouts import findings_text, pilot_of
from rl2ml_core.selection.planning import NUM_PROMPTS
from rl2ml_core.selection.plans import Planned

__all__ = ["pilot_size", "plan"]

UNPLANNED = 3
_MOST_ROWS = 16
_BRIEF = ("summary", "gamma", "status", "near_optimal", "objective")

_Choices = Annotated[
    str | None,
    typer.Option("--choose-from", metavar="N,N,…", help="Rollouts per prompt to choose from. Default: 1 to 64."),
]
_Plot = Annotated[
    Path | None, typer.Option("--plot", help="Draw gain and γ over N: a .png, .svg or .pdf (extra `plot`).")
]


def plan(
    pilot: o.Dumps,
    metric: o.MetricName,
    rollouts_per_step: Annotated[
        int, typer.Option("--rollouts-per-step", "-b", min=1, help="The budget: rollouts of a training step.")
    ],
    choose_from: _Choices = None,
    prompt_cost: Annotated[
        float, typer.Option(min=0, help="What drawing one more prompt costs, in rollouts (its prefill).")
    ] = 0.0,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of the training set.")] = NUM_PROMPTS,
    cosine: Annotated[
        float | None,
        typer.Option(help="Mean cosine ρ of two prompts' gradients, 0 to 1. Default: 0 and 0.1, by --judged-on."),
    ] = None,
    kappa: o.Kappa = None,
    gamma_range: o.GammaRange = (0.0, 2.0),
    judged_on: Annotated[
        str, typer.Option(help="Where the metric is read, and no --cosine is given: training, held_out or either.")
    ] = "either",
    prior: o.Prior = "empirical_bayes",
    baseline: o.Baseline = "bayes",
    filter_groups: o.FilterGroups = False,
    least_pass_rate: Annotated[
        float | None, typer.Option(help="Demand: the hardest prompts that must count, by pass rate.")
    ] = None,
    tail: Annotated[float, typer.Option(help="Demand: the share of their weight that may be missing.")] = 0.1,
    largest_scale: Annotated[
        float | None, typer.Option(help="Demand: bound on the update scale of a lone success, α₁.")
    ] = None,
    bootstrap: o.Bootstrap = 200,
    seed: o.Seed = 0,
    level: o.Level = 0.9,
    success: o.Success = None,
    steps: o.Steps = None,
    dump: o.DumpFormat = None,
    format: o.OutputFormat = o.Format.TEXT,  # noqa: A002  (the option's name)
    plot: _Plot = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the objective for the planned N as JSON.")
    ] = None,
) -> None:
    """Plan a budget: how many rollouts per prompt, with which γ, and what other splits would cost.

    Example: [bold]rl2ml plan pilot.csv --metric pass@8 --rollouts-per-step 512[/bold]
    """
    with clear_errors():
        counts, read = pilot_of(pilot, success, steps, dump)
        demands = None
        if least_pass_rate is not None or largest_scale is not None:
            demands = rl2ml.Demands(least_pass_rate, tail, largest_scale)
        common: dict[str, Any] = {
            "gamma_min": gamma_range[0],
            "prior": o.prior_of(prior),
            "score_model": o.score_model_of(kappa),
            "baseline": baseline,
            "filter_groups": filter_groups,
            "judged_on": judged_on,
        }
        with progress("Planning …"):
            found = rl2ml.plan_budget(
                counts,
                metric,
                rollouts_per_step,
                choices=_choices(choose_from),
                prompt_cost=prompt_cost,
                num_prompts=prompts,
                cosine=cosine,
                gamma_max=gamma_range[1],
                demands=demands,
                bootstrap=bootstrap,
                seed=seed,
                level=level,
                **common,
            )
            answer = enough = None
            if found.best is not None:
                n, most = found.best.num_rollouts, found.best.largest_gamma
                answer = rl2ml.recommend(counts, metric, n, gamma_max=most, bootstrap=0, **common)
                asked = {name: common[name] for name in ("gamma_min", "score_model", "baseline", "filter_groups")}
                enough = rl2ml.plan_pilot(
                    counts, metric, n, more_prompts=[], more_rollouts=[], gamma_max=gamma_range[1], seed=seed, **asked
                )
        if plot is not None:
            from rl2ml_core.plotting import plot_frontier

            plot_frontier(found, plot)
        if output is not None and answer is not None and answer.objective is not None:
            answer.objective.save(output)
    if format is o.Format.JSON:
        content = None if answer is None else answer.to_dict()
        brief = None if content is None else {name: content[name] for name in _BRIEF}
        show_json({**found.to_dict(), "recommendation": brief, "pilot": enough and enough.to_dict()})
    else:
        show(plan_text(found, answer, enough, kappa, cosine))
        if read is not None:
            show(*findings_text(read))
        if output is not None and answer is not None and answer.objective is not None:
            typer.echo(f"\nSaved {output}, the objective for groups of {found.num_rollouts}.")
    if found.best is None:
        raise typer.Exit(UNPLANNED)


def pilot_size(
    metric: o.MetricName,
    rollouts_per_prompt: o.Rollouts,
    pilot: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PILOT...]", help=f"Pilot table {o.COLUMNS} Or dumped rollouts: see rl2ml pilot."),
    ] = None,
    guess: Annotated[
        float | None, typer.Option(help="Without a pilot: a guess of the mean pass rate, between 0 and 1.")
    ] = None,
    spread: Annotated[
        float, typer.Option(help="Of a guess: pseudo-counts of its Beta law. Small: prompts are easy or hard.")
    ] = 1.0,
    target: Annotated[float, typer.Option(help="Expected regret to reach, as a share of the gain.")] = 0.01,
    more_prompts: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Numbers of further prompts to ask about.")
    ] = None,
    more_rollouts: Annotated[
        str | None, typer.Option(metavar="N,N,…", help="Numbers of further rollouts per prompt to ask about.")
    ] = None,
    pilot_rollouts: Annotated[int | None, typer.Option(min=1, help="Rollouts of each new prompt.")] = None,
    baseline: o.Baseline = "bayes",
    kappa: o.Kappa = None,
    gamma_range: o.GammaRange = (0.0, 2.0),
    seed: o.Seed = 0,
    format: o.OutputFormat = o.Format.TEXT,  # noqa: A002  (the option's name)
) -> None:
    """Is the pilot large enough? What γ chosen from it is expected to lose, now and after a larger pilot.

    Example: [bold]rl2ml pilot-size pilot.csv --metric pass@8 -n 8 --target 0.005[/bold], or, before anything is
    sampled, [bold]rl2ml pilot-size --guess 0.1 --metric pass@8 -n 8[/bold]
    """
    with clear_errors():
        if (guess is None) == (not pilot):
            raise rl2ml.InvalidInput("give a pilot or --guess, one of them")
        known = pilot_of(pilot, None, None, None)[0] if pilot else rl2ml.guessed_prior(guess or 0.0, spread)
        with progress("Drawing pilots …"):
            found = rl2ml.plan_pilot(
                known,
                metric,
                rollouts_per_prompt,
                more_prompts=o.integers_of(more_prompts, "--more-prompts"),
                more_rollouts=o.integers_of(more_rollouts, "--more-rollouts"),
                pilot_rollouts=pilot_rollouts,
                target=target,
                gamma_min=gamma_range[0],
                gamma_max=gamma_range[1],
                score_model=o.score_model_of(kappa),
                baseline=baseline,
                seed=seed,
            )
    if format is o.Format.JSON:
        show_json(found.to_dict())
    else:
        show(pilot_text(found))
    if found.status == "uninformative":
        raise typer.Exit(UNPLANNED)


def plan_text(
    found: rl2ml.BudgetPlan,
    answer: rl2ml.Recommendation | None,
    enough: rl2ml.PilotPlan | None,
    kappa: float | None,
    cosine: float | None,
) -> RenderableType:
    """The plan: the sentence, what it rests on, then a row per N."""
    parts: list[RenderableType] = [Text(found.summary, style="bold")]
    if found.best is not None:
        parts += [Text(""), fields(_rows(found, answer, enough, kappa, cosine)), Text(""), _frontier(found)]
    return Group(*parts)


def pilot_text(found: rl2ml.PilotPlan) -> RenderableType:
    """The sentence, then a row per size."""
    parts: list[RenderableType] = [Text(found.summary, style="bold")]
    if found.sizes:
        rows = [("the pilot there is", "", f"{found.expected_regret:.2%}")] if found.expected_regret is not None else []
        rows += [(size.words, f"{size.cost:,g}", f"{size.expected_regret:.2%}") for size in found.sizes]
        if found.floor:
            rows.append(("κ alone, whatever the pilot", "", f"{found.floor:.2%}"))
        titles = ("more of the pilot", "rollouts", "expected\nregret")
        parts += [Text(""), table(titles, rows, words=1)]
    return Group(*parts)


def _choices(text: str | None) -> list[int] | None:
    return o.integers_of(text, "--choose-from")


def _rows(
    found: rl2ml.BudgetPlan,
    answer: rl2ml.Recommendation | None,
    enough: rl2ml.PilotPlan | None,
    kappa: float | None,
    cosine: float | None,
) -> Iterator[tuple[str, str]]:
    best = found.best
    if best is None:
        return
    spent = f"{best.rollouts_spent:,g} of {found.rollouts_per_step:,} rollouts"
    yield "planned", f"{best.prompts_per_step:,} prompts × {best.num_rollouts}, {spent}"
    if answer is not None and answer.gamma is not None:
        yield (
            "γ to train with",
            f"{answer.gamma:.2f}, by criterion lookahead, as rl2ml recommend -n {best.num_rollouts} gives "
            f"(best for one step: {best.gamma:.2f})",
        )
    near = found.near_optimal
    if len(near) > 1:
        yield "near-optimal N", f"{', '.join(map(str, near))}  (within 1% of the best)"
    if found.expected_regret is not None:
        yield "expected regret", f"{found.expected_regret:.1%} of a step's gain  (prompts, κ and ρ uncertain)"
    if enough is not None and enough.expected_regret is not None and enough.floor is not None:
        part = f", {enough.floor:.2%} for κ alone" if enough.floor else ""
        yield "the pilot", f"γ chosen from it loses {enough.expected_regret:.2%}{part}; more of it: rl2ml pilot-size"
    for name, rows, given in (("κ", found.kappa_sensitivity, kappa), ("ρ", found.cosine_sensitivity, cosine)):
        text = ", ".join(f"{row.value:g}: {row.num_rollouts}" for row in rows)
        yield f"best N if {name} were", text + ("" if given is None else f"  (given: {given:g})")
        text = ", ".join(f"{row.value:g}: {row.split_loss:.1%}" for row in rows)
        yield f"this N loses if {name} were", text


def _frontier(found: rl2ml.BudgetPlan) -> RenderableType:
    """A row per N; of many, powers of two and those around the best."""
    best, rows = found.best, found.frontier
    if len(rows) > _MOST_ROWS and best is not None:
        near = range(best.num_rollouts - 2, best.num_rollouts + 3)
        rows = tuple(row for row in rows if row.num_rollouts & (row.num_rollouts - 1) == 0 or row.num_rollouts in near)
    titles = ("", "N", "prompts\nper step", "γ of\na step", "loses", "interval", "gain per\nrollout", "equal\ngroups")
    return table(titles, [_row(row, row is best or row == best) for row in rows], words=1, gap=2)


def _row(row: Planned, is_best: bool) -> tuple[str, ...]:
    loss, span = 1 - row.relative_gain, row.loss_interval
    return (
        "→" if is_best else "",
        str(row.num_rollouts),
        f"{row.prompts_per_step:,}",
        f"{row.gamma:.2f}",
        "best" if is_best else f"{loss:.1%}",
        "" if span is None or is_best else f"{span.lower:+.0%} to {span.upper:+.0%}",
        f"{row.gain_per_rollout:.3f}",
        f"{row.equal_group_share:.0%}",
    )
