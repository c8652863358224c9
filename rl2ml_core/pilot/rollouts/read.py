"""Reading rollouts: from paths and options to a pilot."""

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl2ml_core.checks import choice, integer
from rl2ml_core.errors import InvalidInput, InvalidTable
from rl2ml_core.pilot.histogram import PilotHistogram
from rl2ml_core.pilot.rollouts import findings
from rl2ml_core.pilot.rollouts.cluster import Cluster
from rl2ml_core.pilot.rollouts.engine import Engine, Tally
from rl2ml_core.pilot.rollouts.files import expand
from rl2ml_core.pilot.rollouts.format import BAD, Format, Options, Scan
from rl2ml_core.pilot.rollouts.formats import named_format, unknown_files
from rl2ml_core.pilot.rollouts.plans import BATCH_BYTES, Plan, batches, plan_file, same_content
from rl2ml_core.pilot.rollouts.result import FileReport, Rollouts, Step
from rl2ml_core.pilot.rollouts.sql import CELLS, PER_STEP
from rl2ml_core.pilot.rollouts.store import Store
from rl2ml_core.pilot.rollouts.success import Threshold
from rl2ml_core.pilot.rollouts.trouble import bad_row, needs_rule, unreadable

__all__ = ["read_rollouts"]

_ON_ERROR = ("raise", "skip")
_ENGINES = ("duckdb", "ray")


def read_rollouts(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    format: str | None = None,  # noqa: A002  (the field's word)
    success: str | None = None,
    steps: str | tuple[int, int] | None = None,
    prompt: str | None = None,
    reward: str | None = None,
    step: str | None = None,
    group: str | None = None,
    score: str | None = None,
    merge_steps: bool = False,
    on_error: str = "raise",
    engine: str = "duckdb",
    memory_limit: str | None = None,
    threads: int | None = None,
    temp_directory: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Rollouts:
    """A pilot from what trainers and evaluators dump: verl, TRL, SkyRL, lm-evaluation-harness, inspect, verifiers, …

    Args:
        paths: files, directories (searched recursively) and patterns; .gz and .zst are fine.
        format: the format's name; None tells it by each file's fields.
        success: what a success is, such as "score >= 1"; the left side may name one of several scores. None takes
            scores that are 0 and 1 (or true and false, C and I).
        steps: training steps to read, "0:50" or (0, 50), the end excluded; None for all.
        prompt, reward, step, group: names of columns for these roles instead of the format's; dotted paths reach into
            JSON.
        score: which filter (lm-evaluation-harness), scorer (inspect), reward function (TRL, verifiers) or column
            counts, where a dump has several.
        merge_steps: put a prompt's rollouts of all steps together. Else each (step, prompt) is a prompt of its own.
        on_error: "raise", or "skip" to leave out unreadable files and rows and report them.
        engine: "duckdb", in this process; or "ray", which has Ray Data aggregate the files on the running cluster
            (`RAY_ADDRESS`, or where Ray is initialized), else on this machine's cores, and merges here. The result is
            the same. Paths must be on storage that all nodes share; a file is one task, however large.
        memory_limit: of the process, such as "2GB", and of every worker; more is spilled to `temp_directory`. None is
            1 GB.
        threads: None takes the cores, as many as the memory is enough for (128 MB each).
        temp_directory: for what does not fit into memory; None takes the system's.
        cache: a folder that keeps what each file amounts to, so that an interrupted read resumes.
        progress: is called with (bytes done, bytes in all).

    Raises:
        InvalidTable: a file or a row that cannot be read, or scores that need a rule; the file and the row are named.
        InvalidInput: an option that has no meaning, or nothing found.
        MissingExtra: DuckDB or pyarrow is not installed, or Ray.
        OSError: a file cannot be opened.
    """
    choice(engine, "engine", _ENGINES)
    chosen = named_format(format)
    choice(on_error, "on_error", _ON_ERROR)
    options = Options(
        success=None if success is None else Threshold.parse(success),
        steps=_steps(steps),
        prompt=_name(prompt, "prompt"),
        reward=_name(reward, "reward"),
        step=_name(step, "step"),
        group=_name(group, "group"),
        score=_name(score, "score"),
        skip_errors=on_error == "skip",
    )
    if threads is not None:
        threads = integer(threads, "threads", minimum=1, maximum=1024)
    files = expand(paths)
    temp = None if temp_directory is None else os.path.abspath(temp_directory)
    cluster = Cluster(options, memory_limit=memory_limit, threads=threads) if engine == "ray" else None
    with Engine(options, memory_limit=memory_limit, threads=threads, temp_directory=temp) as here:
        reading = _Reading(here, None if cache is None else Store(Path(cache)), progress)
        reading.plan(files, chosen)
        if cluster is None:
            reading.read()
        else:
            with cluster:
                reading.read_on(cluster)
        return reading.result(merge_steps)


def _name(value: Any, field: str) -> str | None:
    if value is not None and (not isinstance(value, str) or not value):
        raise InvalidInput(f"{field} must be the name of a column or field; got {value!r:.60}", field=field)
    return value


def _steps(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    expected = "steps must read like '0:50' (the end excluded) or (0, 50)"
    ends: Any = value
    if isinstance(value, str):
        parts = re.fullmatch(r"\s*(\d{1,18})?\s*:\s*(\d{1,18})?\s*", value)
        if parts is None:
            raise InvalidInput(f"{expected}; got {value!r:.60}", field="steps")
        ends = (int(parts[1] or 0), int(parts[2] or 10**18))
    if not isinstance(ends, (tuple, list)) or len(ends) != 2:
        raise InvalidInput(f"{expected}; got {value!r:.60}", field="steps")
    first, end = (integer(one, "steps", minimum=0, maximum=10**18) for one in ends)
    if first >= end:
        raise InvalidInput(f"{expected}, the first below the end; got {value!r:.60}", field="steps")
    return first, end


@dataclass
class _Reading:
    """One call's way through its files."""

    engine: Engine
    store: Store | None
    progress: Callable[[int, int], object] | None
    plans: list[Plan] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    done: int = 0

    @property
    def skipping(self) -> bool:
        return self.engine.options.skip_errors

    # --- what is to be read -------------------------------------------------------------------------------------------

    def plan(self, files: list[tuple[str, bool]], chosen: Format | None) -> None:
        for path, named in files:
            try:
                self.plans.append(plan_file(self.engine, path, named=named, format=chosen))
            except InvalidTable as error:
                self._refuse(path, type(error)(f"{path}: {error}", field=error.field))
            except InvalidInput as error:
                raise InvalidInput(f"{path}: {error}", field=error.field) from None
            except OSError as error:
                self._refuse(path, error)
        read = [one for one in self.plans if one.scan is not None]
        if not read and not self.errors:
            raise unknown_files([(one.path, one.left_out) for one in self.plans])
        repeated = same_content((one.path, one.size) for one in read)
        self.plans = [
            one if one.path not in repeated else _left_out(one, f"same content as {repeated[one.path]}")
            for one in self.plans
        ]

    def _refuse(self, path: str, error: Exception) -> None:
        if not self.skipping:
            raise error
        self.errors[path] = str(error).removeprefix(f"{path}: ")
        self.plans.append(Plan(path, 0, error=self.errors[path]))

    # --- reading ------------------------------------------------------------------------------------------------------

    def read(self) -> None:
        for batch in self._batches(math.inf):
            self._read(batch)
            self._advance(sum(one.size for one in batch))

    def read_on(self, cluster: Cluster) -> None:
        """The same, on other processes."""
        todo = list(self._batches(BATCH_BYTES))
        for batch, found in zip(todo, cluster.aggregates(todo), strict=True) if todo else ():
            if found is None:
                self._read(batch)  # which says what is wrong, or has more memory
            else:
                part, tallies = found
                self._take(batch, self.engine.receive(part), tallies)
            self._advance(sum(one.size for one in batch))

    def _batches(self, most_flat: float) -> Iterator[list[Plan]]:
        rest = self._cached() if self.store else self.plans
        for batch in batches(rest, most_flat=most_flat):
            yield from [[one] for one in batch] if self.store else [batch]

    def _cached(self) -> list[Plan]:
        """Takes what the cache has; the rest is to be read."""
        assert self.store is not None
        rest = []
        for plan in self.plans:
            table = self.store.load(self.engine, plan) if plan.scan is not None else None
            if table is None:
                rest.append(plan)
                continue
            self._accept([plan], table, self.engine.tallies(table, 1))
            self._advance(plan.size)
        return rest

    def _advance(self, size: int) -> None:
        self.done += size
        if self.progress is not None:
            self.progress(self.done, self._total)

    @property
    def _total(self) -> int:
        return sum(one.size for one in self.plans if one.scan is not None)

    def _read(self, batch: list[Plan]) -> None:
        scan = batch[0].scan
        assert scan is not None
        size, total, report = sum(one.size for one in batch), self._total, self.progress
        done = self.done

        def tick(share: float) -> object:
            return None if report is None else report(done + int(share * size), total)

        try:
            table, tallies = self.engine.aggregate(scan, [one.path for one in batch], tick if report else None)
        except InvalidInput as error:
            if not isinstance(error, InvalidTable) and error.field != "memory_limit":
                raise
            if len(batch) > 1:  # one of them: each by itself tells which
                for one in batch:
                    self._read([one])
                return
            located = _located(scan, batch[0].path, error)
            if not self.skipping:
                raise located from None
            self.errors[batch[0].path] = str(located).removeprefix(f"{batch[0].path}: ")
            return
        self._take(batch, table, tallies)

    def _take(self, batch: list[Plan], table: str, tallies: list[Tally]) -> None:
        if self.store:
            self.store.save(self.engine, batch[0], table)
        self._accept(batch, table, tallies)

    def _accept(self, batch: list[Plan], table: str, tallies: list[Tally]) -> None:
        for plan, tally in zip(batch, tallies, strict=True):
            assert plan.scan is not None
            bad = [reason for reason in tally if reason in BAD]
            if bad and not self.skipping:
                raise bad_row(self.engine, plan.scan, plan.path, bad)
            if self.engine.options.success is None and tally.get(None, (0,) * 6)[3]:
                raise needs_rule(self.engine, plan.scan, plan.path)
            self.tallies[plan.path] = tally
        self.engine.partials.keep(table)

    # --- the result ---------------------------------------------------------------------------------------------------

    def result(self, merge_steps: bool) -> Rollouts:
        reports = tuple(self._report(one) for one in self.plans)
        if not any(one.used for one in reports):
            raise InvalidTable(f"no rollout is left to count in {_why_none(reports)}")
        engine = self.engine
        by_step = "step" in engine.partials.keys
        unit = ("step", "prompt") if by_step and not merge_steps else ("prompt",)
        cells = engine.rows(CELLS.format(prompts=engine.partials.counted(*unit)))
        pilot = PilotHistogram.from_cells(cells)
        steps = None
        if by_step:
            per_step = engine.rows(PER_STEP.format(prompts=engine.partials.counted("step", "prompt")) + " NULLS FIRST")
            steps = tuple(Step(one, int(prompts), int(n), int(k)) for one, prompts, n, k in per_step)
        rule = engine.options.success
        read = findings.Read(engine, self.plans, self.tallies, reports, pilot, steps, merge_steps)
        return Rollouts(
            pilot=pilot,
            findings=tuple(findings.look(read)),
            files=reports,
            steps=steps,
            success="score == 1" if rule is None else str(rule),
            rollouts=sum(int(n) * int(prompts) for n, _, prompts in pilot.cells()),
            successes=sum(int(k) * int(prompts) for _, k, prompts in pilot.cells()),
        )

    def _report(self, plan: Plan) -> FileReport:
        if plan.path in self.errors or plan.scan is None:
            note = self.errors.get(plan.path) or plan.left_out
            return FileReport(plan.path, plan.format, note=note)
        tally = self.tallies[plan.path]
        seen, used = tally.get(None, (0,) * 6)[:2]
        skipped = Counter({reason: counts[0] for reason, counts in tally.items() if reason is not None})
        if seen > used:
            skipped["duplicate"] = seen - used
        rows = sum(counts[0] for counts in tally.values())
        return FileReport(plan.path, plan.format, rows, used, dict(sorted(skipped.items())))


def _located(scan: Scan, path: str, error: InvalidInput) -> InvalidInput:
    """An error with its file, and the row if there is one to blame."""
    if isinstance(error, InvalidTable):
        return unreadable(scan, path, error)
    return InvalidInput(f"{path}: {error}", field=error.field)


def _left_out(plan: Plan, why: str) -> Plan:
    return Plan(plan.path, plan.size, plan.format, left_out=why)


def _why_none(reports: Sequence[FileReport]) -> str:
    """What became of everything, for an error: the files and the commonest reasons."""
    paths = ", ".join(one.path for one in reports[:3])
    more = f" and {len(reports) - 3} more" if len(reports) > 3 else ""
    reasons: Counter[str] = Counter()
    for one in reports:
        reasons.update(one.skipped)
    parts = [f"{count} rows {reason}" for reason, count in reasons.most_common(5)]
    parts += [one.note if len(reports) == 1 else f"{one.path}: {one.note}" for one in reports if one.note][:3]
    return f"{paths}{more}: {'; '.join(parts) or 'no rows'}"
