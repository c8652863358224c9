"""What each file amounts to, kept on disk: an interrupted read of many files goes on where it stopped."""

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rl2ml_core.errors import InvalidInput, InvalidTable
from rl2ml_core.files import write_atomically
from rl2ml_core.pilot.rollouts.engine import Engine
from rl2ml_core.pilot.rollouts.plans import Plan
from rl2ml_core.version import __version__

__all__ = ["Store"]

#: Of the aggregates: another one is another cache.
_LAYOUT = 2


class Store:
    """A folder of partial aggregates, one pair of files each: the rows, and a seal with their MD5.

    The seal is written last: what was interrupted has none, what was damaged does not match, and both are read again.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise InvalidInput(f"cache must be a folder; got {str(folder)!r:.60}", field="cache") from None
        self.folder = folder

    def load(self, engine: Engine, plan: Plan) -> str | None:
        """The table of a file's aggregate, None where there is none that is whole."""
        rows, seal = self._files(engine, plan)
        try:
            if json.loads(seal.read_text()) != {"md5": _md5(rows)}:
                return None
            return engine.partials.load(str(rows))
        except (OSError, ValueError, InvalidTable):
            return None

    def save(self, engine: Engine, plan: Plan, table: str) -> None:
        """Keeps a file's aggregate."""
        rows, seal = self._files(engine, plan)
        handle, name = tempfile.mkstemp(dir=self.folder, suffix=".part")
        os.close(handle)
        try:
            engine.partials.save(table, name)
            text = json.dumps({"md5": _md5(Path(name))})
            os.replace(name, rows)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        write_atomically(seal, text)

    def _files(self, engine: Engine, plan: Plan) -> tuple[Path, Path]:
        """Where a file's aggregate is: by the file, and by all that decides what it amounts to."""
        path = os.path.abspath(plan.path)
        stat = os.stat(path)
        scan = {name: value for name, value in vars(plan.scan).items() if name != "documents"}
        key = [__version__, _LAYOUT, path, stat.st_size, stat.st_mtime_ns, asdict(engine.options), plan.format, scan]
        name = hashlib.md5(json.dumps(key, default=str).encode(), usedforsecurity=False).hexdigest()
        return self.folder / f"{name}.parquet", self.folder / f"{name}.json"


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
