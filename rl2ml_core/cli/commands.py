"""What `rl2ml` can be asked. Commands translate arguments and errors; they compute nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import rl2ml_core as rl2ml
from rl2ml_core.cli import options as o
from rl2ml_core.cli.console import clear_errors, progress, show, show_json
from rl2ml_core.cli.plan import pilot_size, plan
from rl2ml_core.cli.report import report
from rl2ml_core.cli.rollouts import findings_text, pilot_of, reading, rollouts_text
from rl2ml_core.cli.text import groups_text, objective_text, recommendation_text, window_text
from rl2ml_core.cli.trainers import analysis_text, catalog_help, comparison_text
from rl2ml_core.objective.analysis import OF_GAMMA
from rl2ml_core.objective.catalog import check_parameters
from rl2ml_core.objective.family import MAX_ROLLOUTS

__all__ = ["app"]

UNINFORMATIVE = 3

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Which objective between RL (pass@1) and maximum likelihood should your trainer optimize? "
    "Answered from a small pilot: how often did each prompt succeed?",
)

_TRAINERS = ", ".join(rl2ml.KNOWN_TRAINERS)
_CONDITIONS = "temperature=0.6,policy=sft-3,step=0, any of them"


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
    pilot: o.Dumps,
    metric: o.MetricName,
    rollouts_per_prompt: o.Rollouts,
    current: Annotated[str, typer.Option(help=f"The trainer in use, for comparison: {_TRAINERS}, or a γ.")] = "grpo",
    baseline: o.Baseline = "bayes",
    kappa: o.Kappa = None,
    gamma_range: o.GammaRange = (0.0, 2.0),
    criterion: o.CriterionName = "lookahead",
    variance_penalty: o.VariancePenalty = None,
    judged_on: o.JudgedOn = "either",
    prior: o.Prior = "empirical_bayes",
    order: o.Order = None,
    filter_groups: o.FilterGroups = False,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column with each prompt's group (data source): also one answer per group, and whether they differ.",
        ),
    ] = None,
    sampled: Annotated[str, typer.Option(help=f"How the pilot was sampled: {_CONDITIONS}.")] = "",
    training: Annotated[str, typer.Option(help=f"How training samples: {_CONDITIONS}.")] = "",
    success: o.Success = None,
    steps: o.Steps = None,
    dump: o.DumpFormat = None,
    bootstrap: o.Bootstrap = 200,
    seed: o.Seed = 0,
    level: o.Level = 0.9,
    format: o.OutputFormat = o.Format.TEXT,  # noqa: A002  (the option's name)
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Save the objective as JSON, ready for a trainer's adapter.")
    ] = None,
) -> None:
    """Recommend the objective to train with, from a pilot.

    Example: [bold]rl2ml recommend pilot.csv --metric pass@8 --rollouts-per-prompt 16 -o objective.json[/bold]
    """
    with clear_errors():
        read: rl2ml.Rollouts | None = None
        if group_by is None:
            counts, read = pilot_of(pilot, success, steps, dump)
            groups = {}
        else:
            with progress(f"Reading {pilot[0]} …"):
                groups = rl2ml.read_pilot_groups(_single(pilot), group_by)
                counts = rl2ml.PilotHistogram.merged(groups.values())
        options: dict[str, Any] = {
            "gamma_min": gamma_range[0],
            "gamma_max": gamma_range[1],
            "criterion": criterion,
            "variance_penalty": variance_penalty,
            "judged_on": judged_on,
            "prior": o.prior_of(prior),
            "score_model": o.score_model_of(kappa),
            "baseline": baseline,
            "order": order,
            "filter_groups": filter_groups,
            "current": o.trainer_of(current),
            "bootstrap": bootstrap,
            "seed": seed,
            "level": level,
            "sampled": o.conditions_of(sampled),
            "training": o.conditions_of(training),
            "look_ahead": True,
        }
        with progress("Choosing γ …"):
            grouped = rl2ml.recommend_groups(groups, metric, rollouts_per_prompt, **options) if groups else None
            answer = grouped.joint if grouped else rl2ml.recommend(counts, metric, rollouts_per_prompt, **options)
        if answer.objective is not None and output is not None:
            answer.objective.save(output)
    if format is o.Format.JSON:
        show_json(answer.to_dict() if grouped is None else grouped.to_dict())
    else:
        show(recommendation_text(answer, counts, rollouts_per_prompt))
        if read is not None:
            show(*findings_text(read))
        if grouped is not None:
            show(groups_text(grouped))
        if answer.objective is not None and output is not None:
            typer.echo(
                f"\nSaved {output}. The table for another group size: rl2ml table {output} -n {2 * rollouts_per_prompt}"
            )
    if answer.objective is None:
        raise typer.Exit(UNINFORMATIVE)


@app.command(no_args_is_help=True)
def pilot(
    paths: Annotated[
        list[str],
        typer.Argument(help="Files, folders (with all below) or patterns; .gz and .zst too."),
    ],
    success: o.Success = None,
    steps: o.Steps = None,
    dump: o.DumpFormat = None,
    score: Annotated[
        str | None,
        typer.Option(help="Which filter (lm-eval), scorer (inspect) or reward function (TRL, verifiers) to go by."),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Field that tells prompts apart.")] = None,
    reward: Annotated[str | None, typer.Option(help="Field of the score.")] = None,
    step: Annotated[str | None, typer.Option(help="Field of the training step.")] = None,
    group: Annotated[str | None, typer.Option(help="Field that tells groups of rollouts apart.")] = None,
    merge_steps: Annotated[
        bool, typer.Option("--merge-steps", help="Count a prompt's rollouts at all steps together, as of one policy.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out files and rows that cannot be read, and say so.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="duckdb, in this process; ray, on the cluster at RAY_ADDRESS or on this machine.")
    ] = "duckdb",
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Most memory to use, such as 2GB.")] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder in which files read are remembered: a second run takes up from there.")
    ] = None,
    format: o.OutputFormat = o.Format.TEXT,  # noqa: A002  (the option's name)
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Save the pilot as JSON.")] = None,
) -> None:
    """Read a pilot from the rollouts that a trainer or evaluator dumped, and say what would mislead.

    Example: [bold]rl2ml pilot rollouts/ --success 'score >= 1' --steps 0:50 -o pilot.json[/bold]
    """
    with clear_errors():
        with reading() as bar:
            found = rl2ml.read_rollouts(
                paths,
                format=dump,
                success=success,
                steps=steps,
                prompt=prompt,
                reward=reward,
                step=step,
                group=group,
                score=score,
                merge_steps=merge_steps,
                on_error="skip" if skip_bad else "raise",
                engine=engine,
                memory_limit=memory,
                cache=cache,
                progress=bar,
            )
        if output is not None:
            found.save(output)
    if format is o.Format.JSON:
        show_json(found.to_dict())
        return
    show(rollouts_text(found))
    if output is not None:
        typer.echo(f"\nSaved {output}. Next: rl2ml recommend {output} --metric pass@8 --rollouts-per-prompt 8")


app.command()(plan)
app.command("pilot-size", no_args_is_help=True)(pilot_size)


@app.command()
def compare(
    pilot: o.Pilot,
    metric: o.MetricName,
    rollouts_per_prompt: o.Rollouts,
    trainers: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME,…", help=f"Which trainers, names or γ. Default: {_TRAINERS}."),
    ] = None,
    baseline: o.Baseline = "bayes",
    kappa: o.Kappa = None,
    gamma_range: o.GammaRange = (0.0, 2.0),
    criterion: o.CriterionName = "lookahead",
    variance_penalty: o.VariancePenalty = None,
    prior: o.Prior = "empirical_bayes",
    order: o.Order = None,
    filter_groups: o.FilterGroups = False,
    bootstrap: o.Bootstrap = 200,
    seed: o.Seed = 0,
    level: o.Level = 0.9,
    format: o.OutputFormat = o.Format.TEXT,  # noqa: A002  (the option's name)
) -> None:
    """Compare known trainers on a pilot: what each really optimizes, its noise, and what it leaves to be gained.

    Example: [bold]rl2ml compare pilot.csv --metric pass@8 --rollouts-per-prompt 16[/bold]
    """
    with clear_errors():
        with progress(f"Reading {pilot} …"):
            counts = rl2ml.read_pilot(pilot)
        with progress("Comparing trainers …"):
            compared = rl2ml.compare(
                counts,
                metric,
                rollouts_per_prompt,
                trainers=None if trainers is None else [o.trainer_of(name.strip()) for name in trainers.split(",")],
                gamma_min=gamma_range[0],
                gamma_max=gamma_range[1],
                criterion=criterion,
                variance_penalty=variance_penalty,
                prior=o.prior_of(prior),
                score_model=o.score_model_of(kappa),
                baseline=baseline,
                order=order,
                filter_groups=filter_groups,
                bootstrap=bootstrap,
                seed=seed,
                level=level,
            )
    if format is o.Format.JSON:
        show_json(compared.to_dict())
    else:
        show(comparison_text(compared))
    if compared.recommended is None:
        raise typer.Exit(UNINFORMATIVE)


@app.command(no_args_is_help=True, epilog=catalog_help())
def analyze(
    trainer: Annotated[str, typer.Argument(help=f"{_TRAINERS}; a γ; or an objective.json.")],
    rollouts_per_prompt: o.Rollouts,
    pilot: Annotated[
        str | None, typer.Option(help=f"On which prompts: a table {o.COLUMNS} Default: pass rates uniform on [0, 1].")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="Of the trainer (see below); may be repeated."),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="With a γ, the estimator: " + ", ".join(rl2ml.BASELINES) + ".")
    ] = None,
    order: Annotated[
        int | None, typer.Option(min=1, max=MAX_ROLLOUTS, help="With a γ, the truncation order M. Default: N.")
    ] = None,
    filter_groups: Annotated[
        bool, typer.Option("--filter-groups", help="With a γ: the trainer drops groups of equal rewards.")
    ] = False,
    kappa: o.Kappa = None,
    prior: o.Prior = "empirical_bayes",
    format: o.OutputFormat = o.Format.TEXT,  # noqa: A002  (the option's name)
) -> None:
    """Analyze a trainer: what it really optimizes, how noisy it is, and which groups teach it nothing.

    Example: [bold]rl2ml analyze pkpo --parameter k=4 --rollouts-per-prompt 16 --pilot pilot.csv[/bold]
    """
    with clear_errors():
        people = None
        if pilot is not None:
            with progress(f"Reading {pilot} …"):
                people = rl2ml.read_pilot(pilot).population(o.prior_of(prior))
        given = o.parameters_of(parameter or [])
        chosen = {"baseline": baseline, "order": order, "filter_groups": filter_groups or None}
        given |= {name: value for name, value in chosen.items() if value is not None}
        scores = o.score_model_of(kappa)
        with progress(f"Analyzing {trainer} …"):
            found = _analyzed(trainer, rollouts_per_prompt, people, scores, given)
    if format is o.Format.JSON:
        show_json(found.to_dict())
    else:
        show(analysis_text(found))


@app.command()
def truncation(
    gamma: Annotated[float, typer.Option(help="γ of the objective.")],
    rollouts_per_prompt: o.Rollouts,
    least_pass_rate: Annotated[float, typer.Option(help="The hardest prompts that must count: their pass rate.")],
    tail: Annotated[float, typer.Option(help="The share of their weight p^−γ that truncation may remove.")] = 0.1,
    largest_scale: Annotated[float, typer.Option(help="Bound on the update scale of a lone success, α₁.")] = 4.0,
    format: o.OutputFormat = o.Format.TEXT,  # noqa: A002  (the option's name)
) -> None:
    """Which truncation orders M keep the weight of hard prompts and bound that of lone successes.

    Example: [bold]rl2ml truncation --gamma 1 -n 16 --least-pass-rate 0.2[/bold]
    """
    with clear_errors():
        window = rl2ml.truncation_window(
            gamma, rollouts_per_prompt, least_pass_rate=least_pass_rate, tail=tail, largest_scale=largest_scale
        )
    if format is o.Format.JSON:
        show_json(window.to_dict())
    else:
        show(window_text(window))


@app.command()
def table(
    objective: Annotated[Path, typer.Argument(help="An objective.json that recommend, the service or Python saved.")],
    rollouts_per_prompt: o.Rollouts,
    format: o.OutputFormat = o.Format.TEXT,  # noqa: A002  (the option's name)
) -> None:
    """Print an objective's advantages for a group size: of a success and of a failure, by success count.

    Example: [bold]rl2ml table objective.json --rollouts-per-prompt 8[/bold]
    """
    with clear_errors():
        loaded = rl2ml.Objective.load(objective)
        content = loaded.to_dict(rollouts_per_prompt)
    if format is o.Format.JSON:
        show_json(content)
    else:
        show(objective_text(loaded, rollouts_per_prompt))


def _single(paths: list[str]) -> str:
    if len(paths) > 1:
        raise rl2ml.InvalidInput(f"--group-by reads one table; got {len(paths)} paths")
    return paths[0]


app.command()(report)


def _analyzed(
    trainer: str,
    num_rollouts: int,
    people: rl2ml.Population | None,
    scores: rl2ml.ScoreModel | None,
    given: dict[str, Any],
) -> rl2ml.Analysis:
    """A trainer however it is named; a saved objective on its own pilot, where no other is given."""
    path = o.objective_path(trainer)
    if path is None:
        chosen = o.trainer_of(trainer)
        if isinstance(chosen, str) and chosen not in rl2ml.KNOWN_TRAINERS:
            raise rl2ml.InvalidInput(
                f"TRAINER must be one of {_TRAINERS}, a γ, or the path of an objective.json; got {trainer!r:.60}"
            )
        # They become keyword arguments, so only the trainer's own may pass.
        if isinstance(chosen, str):
            check_parameters(given, rl2ml.KNOWN_TRAINERS[chosen].parameters, chosen)
        else:
            check_parameters(given, OF_GAMMA, "a γ")
        return rl2ml.analyze(chosen, num_rollouts, people, scores, **given)
    if given:
        raise rl2ml.InvalidInput(f"{path} says how it estimates: it takes no {next(iter(given))}")
    saved = rl2ml.Objective.load(path)
    own = saved.population if isinstance(saved.population, rl2ml.Population) else None
    people, scores = people or own, scores or saved.score_model
    # By its table: on other prompts its baseline stays that of its own pilot.
    table, drops = saved.table(num_rollouts), saved.filter_groups
    found = rl2ml.analyze(table, num_rollouts, people, scores, drops_equal_groups=drops)
    return replace(found, name=path.name, label=f"RL2ML ({saved.baseline})")
