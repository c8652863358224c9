"""Runs: γ over a training run, decided here and kept in the store.

A window's decision is solved outside of any transaction. Then one transaction moves the run on from the state that was
solved for and keeps the window; where another was first it does nothing, and the run is looked at anew.
"""

import asyncio
import hashlib
import json
import re
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from sqlalchemy.exc import IntegrityError

import rl2ml_core as rl2ml
from app.answers import as_json
from app.database_errors import BUSY
from app.pool import Pool
from app.problems import Problem
from app.settings import Settings
from app.stepping import Start, Step, begin, cells_of, state_of, take
from app.store import Store
from app.stored_runs import (
    Decided,
    Past,
    StoredRun,
    Summary,
    add_run,
    add_window,
    delete_run,
    find_run,
    find_window,
    list_runs,
    list_windows,
    rewind_run,
    run_of_key,
)
from rl2ml_core.selection.controller import ControllerSettings, ControllerState

__all__ = ["Put", "Runs"]

T = TypeVar("T")
S = TypeVar("S", Start, Step)

#: States kept in memory, and the most cells of one: some 100 bytes each.
_MOST_KNOWN: Final = 500
_MOST_CELLS: Final = 500
_ID: Final = re.compile("run_[0-9a-f]{32}")
#: Solves that a child has before it, so that it need not wait for this process between two.
_AHEAD: Final = 3
#: Times that another process may be first before a client is asked to come back.
_ATTEMPTS: Final = 5


@dataclass(frozen=True)
class _Known:
    """A run whose state is at hand: good as long as the store's generation and next number are these."""

    owner: str
    summary: Summary
    state: ControllerState


@dataclass(frozen=True)
class Put:
    """A window as it was kept."""

    is_new: bool
    run: str
    number: int
    generation: int
    num_prompts: float
    after: Decided


class Runs:
    """What can be done with runs; each belongs to an owner, and others have no such run."""

    def __init__(self, settings: Settings, pool: Pool, store: Store) -> None:
        self._settings, self._pool, self._store = settings, pool, store
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._turns, self._away = asyncio.Semaphore(_AHEAD * settings.pool_workers), 0
        self._here = asyncio.Lock()

    async def create(self, owner: str | None, start_of: Start, key: str | None) -> tuple[bool, StoredRun]:
        """A new run, or the one that was created with the same key and content; whether it is new.

        Raises:
            Problem: "idempotency-key-reused", and those of solves and of the store.
        """
        pilot = None if start_of.pilot is None else start_of.pilot.cells()
        content = as_json({"settings": start_of.settings.to_dict(), "pilot": pilot})
        request_hash = hashlib.sha256(content).hexdigest()
        for _ in range(_ATTEMPTS):
            if key is not None:
                found = await self._store.reading(run_of_key, _name(owner), key)
                if found is not None and found[1] != request_hash:
                    raise Problem("idempotency-key-reused")
                run = None if found is None else await self._store.reading(find_run, _name(owner), found[0])
                if run is not None:
                    return False, run
            state, first = await self._solve(begin, start_of)
            settings = as_json(start_of.settings.to_dict()).decode()
            identity = f"run_{secrets.token_hex(16)}"
            arguments = (_name(owner), identity, settings, first, key, request_hash)
            try:
                run = await self._store.writing(add_run, *arguments)
            except IntegrityError:
                continue  # the key was used in the meantime
            self._remember(_Known(_name(owner), run.summary, state))
            return True, run
        raise Problem(BUSY, headers={"Retry-After": "1"})

    async def put(self, owner: str | None, identity: str, number: int, window: rl2ml.PilotHistogram | None) -> Put:
        """Take a window, or give what was decided when it was put.

        Raises:
            Problem: "not-found", "window-conflict", and those of solves and of the store.
        """
        cells = cells_of(window)
        digest = hashlib.sha256(cells.encode()).hexdigest()
        num_prompts = 0.0 if window is None else window.total_prompts
        for _ in range(_ATTEMPTS):
            known = self._at_hand(owner, identity, number)
            if known is None:
                stored = await self.get(owner, identity)
                if stored.summary.next_number != number:
                    return await self._again(stored.summary, number, digest, num_prompts)
                known = _restored(owner, stored)
            asked = Step(known.state, window)
            asked.check(self._settings)
            state, after = await self._solve(take, asked)
            run = known.summary
            if await self._kept(run, digest, cells, after):
                self._remember(_Known(known.owner, run._replace(next_number=number + 1), state))
                return Put(True, identity, number, run.generation, num_prompts, after)
            self._known.pop(identity, None)
        raise Problem(BUSY, headers={"Retry-After": "1"})

    async def rewind(self, owner: str | None, identity: str, number: int) -> StoredRun:
        """Make a window the next one again; nothing where it is.

        Raises:
            Problem: "not-found", "window-conflict" for windows ahead, and those of the store.
        """
        self._known.pop(_valid(identity), None)
        run = await self._store.writing(rewind_run, _name(owner), identity, number)
        if run is None:
            raise Problem("not-found")
        expected = run.summary.next_number
        if number > expected:
            detail = f"the run takes window {expected} next: there is nothing to rewind"
            raise Problem("window-conflict", detail, members={"expected_index": expected})
        return run

    async def get(self, owner: str | None, identity: str) -> StoredRun:
        """A run as it stands.

        Raises:
            Problem: "not-found", and those of the store.
        """
        run = await self._store.reading(find_run, _name(owner), _valid(identity))
        if run is None:
            raise Problem("not-found")
        return run

    async def newest(self, owner: str | None, limit: int, after: tuple[int, str] | None) -> list[Summary]:
        """Runs from the newest on, after a place (created, id without its prefix).

        Raises:
            Problem: those of the store.
        """
        place = None if after is None else (after[0], f"run_{after[1]}")
        return await self._store.reading(list_runs, _name(owner), limit, place)

    async def history(self, owner: str | None, identity: str, limit: int, after: tuple[int, int] | None) -> list[Past]:
        """Windows in the order in which they were put, after a place (generation, number).

        Raises:
            Problem: "not-found", and those of the store.
        """
        await self.get(owner, identity)
        return await self._store.reading(list_windows, identity, limit, after)

    async def delete(self, owner: str | None, identity: str) -> None:
        """Remove a run.

        Raises:
            Problem: "not-found", and those of the store.
        """
        self._known.pop(_valid(identity), None)
        if not await self._store.writing(delete_run, _name(owner), identity):
            raise Problem("not-found")

    def _at_hand(self, owner: str | None, identity: str, number: int) -> _Known | None:
        """The run from memory, where that has it before this window."""
        known = self._known.get(_valid(identity))
        if known is None or known.owner != _name(owner) or known.summary.next_number != number:
            return None
        self._known.move_to_end(identity)
        return known

    async def _again(self, run: Summary, number: int, digest: str, num_prompts: float) -> Put:
        """A window that the run does not take next: put before with the same counts, or a conflict."""
        found = await self._store.reading(find_window, run.id, number) if number < run.next_number else None
        if found is not None and found[0] == digest:
            return Put(False, run.id, number, found[1], num_prompts, found[2])
        detail = f"the run takes window {run.next_number} next"
        if found is not None:
            detail += ", and this one was put with other counts"
        raise Problem("window-conflict", detail, members={"expected_index": run.next_number})

    async def _kept(self, run: Summary, digest: str, cells: str, after: Decided) -> bool:
        try:
            return await self._store.writing(add_window, run, digest, cells, after)
        except IntegrityError:
            return False

    async def _solve(self, function: Callable[[S], T], asked: S) -> T:
        """In a child: this process has the requests and the store to see to, and solves only while children cannot."""
        milliseconds = asked.milliseconds
        if asked.is_trivial or self._pool.takes(milliseconds):
            return await self._pool.solve(milliseconds, function, asked)
        async with self._turns:
            # Behind another's long job a window could wait for a minute.
            if self._pool.jobs - self._away >= self._settings.pool_workers:
                async with self._here:
                    result = await self._pool.solve(milliseconds, function, asked)
                    await asyncio.sleep(0)  # answers, new requests and `/healthz` come before the next solve
                    return result
            self._away += 1
            try:
                return await self._pool.run(function, asked)
            except asyncio.CancelledError:
                raise Problem("not-ready", "the service is stopping") from None
            finally:
                self._away -= 1

    def _remember(self, known: _Known) -> None:
        evidence = known.state.evidence
        if evidence is not None and evidence.num_cells > _MOST_CELLS:
            self._known.pop(known.summary.id, None)
            return
        self._known[known.summary.id] = known
        self._known.move_to_end(known.summary.id)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)


def _restored(owner: str | None, run: StoredRun) -> _Known:
    settings = ControllerSettings.from_dict(json.loads(run.summary.settings))
    return _Known(_name(owner), run.summary, state_of(settings, run.last.state))


def _name(owner: str | None) -> str:
    return owner or ""


def _valid(identity: str) -> str:
    """An id that could be one: anything else need not reach a database.

    Raises:
        Problem: "not-found".
    """
    if not _ID.fullmatch(identity):
        raise Problem("not-found")
    return identity
