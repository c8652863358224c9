"""How trainers look in a terminal: one analyzed, or all of them on one pilot."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

import rl2ml_core as rl2ml
from rl2ml_core.cli.layout import Marked, fields, signed_percent, table, unit_of_gains
from rl2ml_core.objective.family import MAX_GAMMA
from rl2ml_core.selection.comparison import ComparedTrainer, LeftOut

__all__ = ["analysis_text", "catalog_help", "comparison_text"]

_LEGEND = (
    "≈ is the nearest γ, with the cosine of the weights. Noise is that of one group.\n"
    "Dead groups have no advantage. Left to gain: with the recommended objective instead, {}, from as many generated "
    "rollouts."
)


def analysis_text(found: rl2ml.Analysis) -> RenderableType:
    """What a trainer optimizes: the sentence, its weight by pass rate, then the numbers."""
    titles = ["pass rate", "effective weight"]
    columns = [[f"{p:g}" for p in found.pass_rates], _weights(found.weights.tolist())]
    if found.kept_weights is not None:
        titles.append("per kept group")
        columns.append(_weights(found.kept_weights.tolist()))
    rows = list(zip(*columns, strict=True))
    return Group(Text(found.sentence, style="bold"), Text(""), table(titles, rows), Text(""), fields(_rows(found)))


def comparison_text(compared: rl2ml.Comparison) -> RenderableType:
    """All trainers, best first, then what their names do not say."""
    levels = {row.interval.level for row in compared.trainers if row.interval is not None}
    between = f"{levels.pop():.0%}\ninterval" if levels else "interval"
    titles = ("trainer", "optimizes", "noise/\nsignal", "dead\ngroups", "left to\ngain", between)
    rows = []
    if compared.recommended is not None:
        rows.append(("recommended", *_shown(compared.recommended), "", ""))
    rows += [(row.label, *_shown(row.analysis), *_gain(row)) for row in compared.trainers]
    parts: list[RenderableType] = [
        Text(compared.summary, style="bold"),
        Text(""),
        table(titles, rows, words=2, gap=2),
        Text(""),
        Text(_LEGEND.format(unit_of_gains(compared.recommendation)), style="dim"),
    ]
    surprising = [row for row in compared.trainers if row.surprise]
    if surprising:
        parts.append(Text(""))
        parts += [Marked("·", "none", f"{row.label}: {row.surprise}") for row in surprising]
    if compared.left_out:
        parts += [Text(""), *(Marked("·", "dim", sentence) for sentence in _left_out(compared.left_out))]
    warnings = sum(found.level != "info" for found in compared.recommendation.diagnostics)
    if warnings and compared.recommended is not None:
        few = "1 warning" if warnings == 1 else f"{warnings} warnings"
        parts += [Text(""), Marked("!", "yellow", f"{few} about this pilot: rl2ml recommend says which.")]
    return Group(*parts)


def catalog_help() -> str:
    """The known trainers with their parameters, a paragraph each."""
    paragraphs = ["[bold]Trainers[/bold]"]
    for name, trainer in rl2ml.KNOWN_TRAINERS.items():
        taken = [
            f"{key} ({parameter.meaning}{'' if parameter.default is None else f'; default {parameter.default}'})"
            for key, parameter in trainer.parameters.items()
        ]
        accepted = f" Parameters: {'; '.join(taken)}." if taken else ""
        paragraphs.append(f"[bold]{name}[/bold]: {trainer.title}.{accepted}")
    return "\n\n".join(paragraphs)


def _rows(found: rl2ml.Analysis) -> Iterator[tuple[str, str]]:
    where = "on this pilot" if found.population == "pilot" else "for uniform pass rates"
    yield "optimizes exactly", _exactly(found) or "no member of the family, nor pass@k"
    if found.nearest is not None:
        yield "nearest γ", f"{_gamma(found.nearest.gamma)}  (cosine {_cosine(found.nearest.cosine)} {where})"
    if found.noise_to_signal is None:
        yield "noise per signal", f"no signal; E‖ĝ‖² = {found.energy:.3g}"
    else:
        yield (
            "noise per signal",
            f"{_noise(found.noise_to_signal)} in a group of {found.num_rollouts}  "
            f"(E‖ĝ‖² = {found.energy:.3g}, ‖E ĝ‖² = {found.signal:.3g})",
        )
    yield "advantage RMS", f"{found.advantage_rms:.3g}"
    for what, share, carries in (
        ("all-fail groups", found.all_fail_share, found.all_fail_carries_advantage),
        ("all-pass groups", found.all_pass_share, found.all_pass_carries_advantage),
    ):
        yield what, f"{share:.1%} of all, {'with' if carries else 'without'} advantages"
    mixed = f" ({found.dead_mixed_share:.1%} with mixed rewards)" if found.dead_mixed_share else ""
    yield "dead groups", f"{found.dead_group_share:.1%} of all{mixed}"
    if found.kept_share is not None:
        cost = found.rollouts_per_kept_group
        yield (
            "kept groups",
            f"{found.kept_share:.1%} of all" + ("" if cost is None else f", {cost:.3g} rollouts for each"),
        )
    given = ", ".join(f"{name} = {value}" for name, value in found.parameters.items() if value is not None)
    if given:
        yield "parameters", given
    if found.name in rl2ml.KNOWN_TRAINERS:
        yield "source", rl2ml.KNOWN_TRAINERS[found.name].source


def _shown(found: rl2ml.Analysis) -> tuple[str, str, str]:
    noise = "–" if found.noise_to_signal is None else _noise(found.noise_to_signal)
    return _briefly(found), noise, f"{found.dead_group_share:.0%}"


def _exactly(found: rl2ml.Analysis) -> str:
    exact = found.identity
    if exact is None:
        return ""
    sign = "" if exact.scale > 0 else "the reverse of "
    if exact.k is not None:
        return f"{sign}plain RL" if exact.k == 1 else f"{sign}pass@{exact.k}"
    return f"{sign}γ = {exact.gamma:.4g}, order {exact.order}"


def _briefly(found: rl2ml.Analysis) -> str:
    exact = _exactly(found)
    if exact:
        return exact
    if found.nearest is None:
        return "nothing on this pilot"
    return f"≈ γ = {_gamma(found.nearest.gamma)} ({_cosine(found.nearest.cosine)})"


def _gain(row: ComparedTrainer) -> tuple[str, str]:
    gain, where = row.gain_of_recommended, row.interval
    return (
        "–" if gain is None else signed_percent(gain),
        "–" if where is None else f"{signed_percent(where.lower).rstrip('%')} to {signed_percent(where.upper)}",
    )


def _left_out(trainers: tuple[LeftOut, ...]) -> Iterator[str]:
    for reason in dict.fromkeys(trainer.reason for trainer in trainers):
        names = ", ".join(trainer.name for trainer in trainers if trainer.reason == reason)
        yield f"Left out: {names} ({reason})."


def _weights(values: list[float]) -> list[str]:
    return [f"{value:.3g}" for value in values]


def _gamma(value: float) -> str:
    return f"{value:.2f}" if value < MAX_GAMMA else f"{value:g} or more"


def _cosine(value: float) -> str:
    """Three decimals, not rounded up to 1."""
    return "1" if value > 1 - 1e-9 else f"{min(value, 0.999):.3f}"


def _noise(value: float) -> str:
    if value < 1:
        return f"{value:.2g}"
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
