"""What would mislead: said with counts and an example each. What the histogram itself shows is said elsewhere."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rl2ml_core.pilot.diagnostics import Diagnostic, filtered_groups
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.rollouts.aggregate import rows_sql
from rl2ml_core.pilot.rollouts.columns import FILE_HALF
from rl2ml_core.pilot.rollouts.drift import drift
from rl2ml_core.pilot.rollouts.engine import Engine, Tally
from rl2ml_core.pilot.rollouts.format import BAD
from rl2ml_core.pilot.rollouts.plans import Plan
from rl2ml_core.pilot.rollouts.result import FileReport, Step
from rl2ml_core.pilot.rollouts.sql import CELLS
from rl2ml_core.pilot.rollouts.trouble import shown

__all__ = ["Read", "look"]

#: Files that are searched for an example: it is a help, not a result.
_SEARCHED = 8
#: Rollouts left out by the dump's own word, in the words of a sentence.
_LEFT_OUT = {
    "errored": "ended in an error",
    "empty": "have an empty completion",
    "unscored": "have no score",
}


@dataclass(frozen=True)
class Read:
    """All that was read."""

    engine: Engine
    plans: Sequence[Plan]
    tallies: Mapping[str, Tally]
    reports: Sequence[FileReport]
    pilot: PilotHistogram
    steps: Sequence[Step] | None
    merge_steps: bool


def look(read: Read) -> list[Diagnostic]:
    """Every finding, those about files first."""
    return [*_files(read), *_left_out(read), *_scores(read), *_identity(read), *_groups(read), *_moving(read)]


# --- files ------------------------------------------------------------------------------------------------------------


def _files(read: Read) -> list[Diagnostic]:
    notes: dict[str, list[str]] = {}
    for plan, report in zip(read.plans, read.reports, strict=True):
        if report.note:
            kind = "unreadable" if plan.error or plan.scan is not None else report.note.split(" as ")[0]
            notes.setdefault(kind, []).append(report.path)
    said = {
        "pickle": ("pickles_refused", "warning", "Pickles, which run code when they are loaded, are not read"),
        "unreadable": ("unreadable_files", "warning", "Files that could not be read are left out"),
        "same content": ("duplicate_files", "warning", "Files that repeat another one byte for byte are read once"),
        "no known format": ("unknown_files", "info", "Files in the directories that are no known dump are not read"),
        "aggregates, no rollouts": (
            "aggregate_files",
            "info",
            "Files that hold aggregates, not rollouts, are not read",
        ),
    }
    found = [
        Diagnostic(code, level, f"{words}: {len(notes[kind])} ({shown(notes[kind][0])}).")
        for kind, (code, level, words) in said.items()
        if kind in notes
    ]
    formats = sorted({one.format for one in read.reports if one.used})
    if len(formats) > 1:
        counts = ", ".join(f"{sum(one.format == name for one in read.reports)} {name}" for name in formats)
        found.append(Diagnostic("several_formats", "info", f"The files are of several formats: {counts}."))
    policies = sorted({plan.scan.policy for plan in read.plans if plan.scan is not None and plan.scan.policy})
    if len(policies) > 1:
        detail = f"Rollouts of {len(policies)} models are put together ({shown(', '.join(policies))})."
        found.append(Diagnostic("several_policies", "warning", detail))
    return found


# --- rollouts that are not counted ------------------------------------------------------------------------------------


def _left_out(read: Read) -> list[Diagnostic]:
    total = sum(one.rows for one in read.reports)
    found = []
    bad = sum(counts[0] for tally in read.tallies.values() for reason, counts in tally.items() if reason in BAD)
    if bad:
        reasons = sorted({reason for tally in read.tallies.values() for reason in tally if reason in BAD})
        detail = f"Rows that are wrong are left out: {bad} of {total} ({', '.join(reasons)})."
        found.append(Diagnostic("bad_rows", "warning", detail))
    for reason, words in _LEFT_OUT.items():
        count = sum(tally[reason][0] for tally in read.tallies.values() if reason in tally)
        if count:
            example = _example(read, "shown", f"skip = '{reason}'", lambda tally: reason in tally)  # noqa: B023
            detail = f"Rollouts that {words} are left out, not counted as failures: {count} of {total}{example}."
            found.append(Diagnostic(f"{reason}_rollouts", "warning", detail))
    repeated = sum(max(one.rows - one.used - sum(_without(one).values()), 0) for one in read.reports)
    if repeated:
        detail = f"Rows that repeat a rollout, as its further outputs or twice, do not count: {repeated} of {total}."
        found.append(Diagnostic("duplicates", "info", detail))
    return found


def _without(report: FileReport) -> dict[str, int]:
    return {reason: count for reason, count in report.skipped.items() if reason != "duplicate"}


# --- scores -----------------------------------------------------------------------------------------------------------


def _scores(read: Read) -> list[Diagnostic]:
    found = []
    rule = read.engine.options.success
    counted = sum(one.used for one in read.reports)
    partial = sum(tally[None][3] for tally in read.tallies.values() if None in tally)
    if partial:
        values = _example(
            read, "score", "skip IS NULL AND score NOT IN (0, 1)", lambda tally: tally.get(None, (0,) * 6)[3]
        )
        detail = (
            f"Scores that are neither 0 nor 1, as shaped or partial rewards are: {partial} of {counted}{values}. "
            f"{str(rule)!r} decides what a success is."
        )
        found.append(Diagnostic("partial_rewards", "warning", detail))
    others = sorted({name for plan in read.plans if plan.scan is not None for name in plan.scan.others})
    if others:
        detail = f"Rollouts have other scores than the one that counts: {shown(', '.join(others))}."
        found.append(Diagnostic("several_scores", "info", detail))
    noted: dict[tuple[str, str], int] = {}
    for plan in read.plans:
        count = read.tallies.get(plan.path, {}).get(None, (0,) * 6)[5]
        if plan.scan is not None and plan.scan.note is not None and count:
            noted[plan.scan.note] = noted.get(plan.scan.note, 0) + count
    found += [Diagnostic(code, "warning", f"{words}: {count} of {counted}.") for (code, words), count in noted.items()]
    flaky = sum(tally[None][4] for tally in read.tallies.values() if None in tally)
    if flaky:
        example = _example(read, "shown", None, lambda tally: tally.get(None, (0,) * 6)[4])
        detail = (
            f"Completions of a prompt that occur with both outcomes: {flaky}{example}. The grader is not consistent."
        )
        found.append(Diagnostic("flaky_grader", "warning", detail))
    return found


# --- which rollouts are of one prompt ---------------------------------------------------------------------------------


def _identity(read: Read) -> list[Diagnostic]:
    engine = read.engine
    found = []
    if "prompt_id" in engine.partials.keys:
        # One row per pair already; ids of different files have nothing to do with each other.
        pairs = f"{engine.partials.counted('prompt', 'prompt_id')} WHERE prompt_id IS NOT NULL"
        by_id = f"SELECT prompt_id AS a, count(*) AS c FROM {pairs} GROUP BY prompt_id HAVING count(*) > 1"
        by_file = f"prompt, prompt_id // {FILE_HALF}"
        by_prompt = f"SELECT prompt AS a, count(*) AS c FROM {pairs} GROUP BY {by_file} HAVING count(*) > 1"
        ((mixed, most, worst),) = engine.rows(f"SELECT count(*), max(c), max_by(a, (c, a)) FROM ({by_id})")
        if mixed:
            name = _id_example(read, worst)
            example = name and f" (id {name!r} names {most})"
            detail = (
                f"Ids that name several prompts: {mixed}{example}. Prompts are told apart by their content instead."
            )
            found.append(Diagnostic("id_mixes_prompts", "warning", detail))
        ((alike, worst),) = engine.rows(f"SELECT count(DISTINCT a), max_by(a, (c, a)) FROM ({by_prompt})")
        if alike:
            example = _example(read, "shown", f"prompt = {worst}")
            detail = f"Prompts that occur under several ids: {alike}{example}. Their rollouts are put together."
            found.append(Diagnostic("prompt_under_several_ids", "warning", detail))
    if int(read.pilot.num_rollouts[-1]) == 1:
        detail = (
            f"No prompt of {read.pilot.total_prompts:.0f} has more than one rollout: how pass rates spread is not seen."
        )
        found.append(Diagnostic("one_rollout_per_prompt", "warning", detail))
    return found


def _id_example(read: Read, key: int) -> str:
    """The text of an id, by its key."""
    for plan in _searched(read, None):
        if plan.scan is not None and plan.scan.prompt_id is not None:
            source = read.engine.source(plan.scan, [plan.path])
            with read.engine.in_order(), read.engine.documents(plan.scan, plan.path):
                found = read.engine.rows(
                    f"SELECT {plan.scan.shown_id} FROM {source} WHERE {plan.scan.prompt_id} = {key} LIMIT 1"
                )
            if found:
                return shown(found[0][0])
    return ""


# --- groups -----------------------------------------------------------------------------------------------------------


def _groups(read: Read) -> list[Diagnostic]:
    """Of groups, where a prompt of the pilot is several: then its histogram does not show them."""
    engine = read.engine
    keys = [name for name in ("step", "prompt", "sample") if name in engine.partials.keys]
    if "sample" not in keys and not (read.merge_steps and "step" in keys):
        return []
    groups = PilotHistogram.from_cells(engine.rows(CELLS.format(prompts=engine.partials.counted(*keys))))
    if groups == read.pilot:
        return []
    found = []
    n, weights = groups.num_rollouts, groups.num_prompts
    if n[0] != n[-1]:
        sizes = {int(size): float(weights[n == size].sum()) for size in set(n.tolist())}
        usual = max(sizes, key=lambda size: (sizes[size], size))
        other = groups.total_prompts - sizes[usual]
        detail = (
            f"Groups that do not have {usual} rollouts, as most do: {other:.0f} of {groups.total_prompts:.0f}; "
            f"they have {n[0]} to {n[-1]}."
        )
        found.append(Diagnostic("unequal_groups", "info", detail))
    filtered = filtered_groups(groups, groups.fitted_prior.prior)
    return found + [Diagnostic(one.code, one.level, f"Groups of rollouts: {one.detail}") for one in filtered]


# --- steps ------------------------------------------------------------------------------------------------------------


def _moving(read: Read) -> list[Diagnostic]:
    numbers = [one.step for one in read.steps or () if one.step is not None]
    if len(numbers) < 2:
        return []
    trend = drift(read.engine)
    if trend is None or not trend.material:
        return []
    detail = (
        f"The policy moves over the steps read: the success rate goes from {trend.first:.2f} at step {numbers[0]} to "
        f"{trend.last:.2f} at step {numbers[-1]} (p = {trend.p_value:.1g}); read fewer steps for one policy's pilot."
    )
    return [Diagnostic("policy_moves", "warning", detail)]


# --- examples ---------------------------------------------------------------------------------------------------------


def _searched(read: Read, holds: Callable[[Tally], object] | None) -> list[Plan]:
    """The first files whose tally holds something."""
    read_plans = [plan for plan in read.plans if plan.path in read.tallies]
    return [plan for plan in read_plans if holds is None or holds(read.tallies[plan.path])][:_SEARCHED]


def _example(read: Read, column: str, where: str | None, holds: Callable[[Tally], object] | None = None) -> str:
    """`, such as '…'`: a value of the first row that meets a condition, in the first file that has one; or nothing.

    Without a condition: a prompt that has a completion with both outcomes.
    """
    engine = read.engine
    for plan in _searched(read, holds):
        assert plan.scan is not None
        rows = rows_sql(plan.scan, engine.source(plan.scan, [plan.path]), engine.options, shown=plan.scan.shown)
        query = f"SELECT {column} FROM ({rows}) WHERE {where} LIMIT 1"
        if where is None:
            success = plan.scan.success(engine.options)
            query = (
                f"SELECT min(shown) FROM ({rows}) WHERE skip IS NULL GROUP BY prompt, completion "
                f"HAVING bool_or({success}) AND NOT bool_and({success}) ORDER BY 1 LIMIT 1"
            )
        with engine.in_order(), engine.documents(plan.scan, plan.path):
            found = engine.rows(query)
        if found and found[0][0] is not None:
            value = found[0][0]
            return f", such as {value:g}" if isinstance(value, float) else f", such as {shown(value)!r}"
    return ""
