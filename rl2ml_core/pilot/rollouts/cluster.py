"""Ray Data: batches of files aggregated wherever there are cores, by the same statements, and merged here.

What workers send back are partial aggregates, counts per (step, prompt, …), which merge exactly: the result is that of
one machine to the row. A batch that a worker cannot read is read again here, so that errors are the same as well.
"""

import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rl2ml_core.errors import InvalidInput, MissingExtra
from rl2ml_core.pilot.rollouts.engine import Engine, Tally
from rl2ml_core.pilot.rollouts.format import Options
from rl2ml_core.pilot.rollouts.plans import Plan

__all__ = ["Cluster"]


@dataclass(frozen=True)
class _Worker:
    """Aggregates one batch; sent to the workers."""

    options: Options
    memory_limit: str | None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        batch: list[Plan] = pickle.loads(row["batch"])  # noqa: S301  (from the process that started this one)
        for plan in batch:
            if not os.path.isfile(plan.path) or os.path.getsize(plan.path) != plan.size:
                return {"part": b"", "tallies": b"", "unseen": plan.path}
        scan = batch[0].scan
        assert scan is not None
        with Engine(self.options, memory_limit=self.memory_limit, threads=1) as engine:
            try:
                table, tallies = engine.aggregate(scan, [plan.path for plan in batch])
            except InvalidInput:
                return {"part": b"", "tallies": b"", "unseen": ""}
            with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
                engine.partials.save(table, file.name)
                part = Path(file.name).read_bytes()
        return {"part": part, "tallies": pickle.dumps(tallies), "unseen": ""}


class Cluster:
    """The running Ray cluster, or one of this machine's cores for as long as this value is a context.

    Args:
        options: of the read.
        memory_limit: of the engine in each worker; None is its default.
        threads: cores of a cluster of this machine; None takes all.

    Raises:
        MissingExtra: Ray is not installed.
    """

    def __init__(self, options: Options, *, memory_limit: str | None, threads: int | None) -> None:
        try:
            import ray
            import ray.data
        except ImportError:
            raise MissingExtra("Reading rollouts on a cluster", "cluster") from None
        self._ray, self._worker, self._threads = ray, _Worker(options, memory_limit), threads
        self._own = False

    def __enter__(self) -> Self:
        ray = self._ray
        if not ray.is_initialized():
            if os.environ.get("RAY_ADDRESS"):
                ray.init(log_to_driver=False, logging_level="warning")
            else:
                self._own = True
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                ray.init(
                    num_cpus=self._threads,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="warning",
                    _node_ip_address="127.0.0.1",
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own:
            self._ray.shutdown()

    def aggregates(self, batches: Sequence[Sequence[Plan]]) -> Iterator[tuple[bytes, list[Tally]] | None]:
        """The partial aggregate of each batch, in order, as a parquet file and what became of its rows.

        None for a batch that a worker could not read.

        Raises:
            InvalidInput: a worker does not see a file.
        """
        data = self._ray.data
        context = data.DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = True
        with data.DataContext.current(context):
            rows = [{"batch": pickle.dumps([_absolute(plan) for plan in batch])} for batch in batches]
            done = data.from_items(rows, override_num_blocks=len(rows)).map(self._worker, num_cpus=1)
            for row in done.iter_rows():
                if row["unseen"]:
                    raise InvalidInput(
                        f"{row['unseen']} is not seen by a worker, or is another file there; "
                        "paths must be on storage that all nodes share",
                        field="paths",
                    )
                yield (row["part"], pickle.loads(row["tallies"])) if row["part"] else None  # noqa: S301


def _absolute(plan: Plan) -> Plan:
    """Workers have folders of their own."""
    return replace(plan, path=os.path.abspath(plan.path))
