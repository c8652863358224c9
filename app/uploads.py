"""Tables on their way in: to a file in bounded memory, and from there to a histogram in a process of the pool."""

import re
import resource
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from fastapi import Request
from starlette.requests import ClientDisconnect

from app.bodies import too_large, uncompressed
from app.problems import Problem
from app.settings import Settings
from rl2ml_core.errors import InvalidTable
from rl2ml_core.pilot.untrusted import read_untrusted

__all__ = ["FORMATS", "counted", "received"]

#: Content-Type → format.
FORMATS: Final = {
    "application/vnd.apache.parquet": "parquet",
    "application/vnd.apache.arrow.stream": "arrow",
    "text/csv": "csv",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
}
#: Memory that decoding may take beyond what the process has: compressed pages lie about their size.
_MEMORY: Final = 256 << 20
_QUOTES: Final = re.compile(r"(; got|; found|: got|prompt_id (?=['\"\w(\[{-].* appears twice)).*", re.DOTALL)


@asynccontextmanager
async def received(request: Request, settings: Settings) -> AsyncIterator[tuple[Path, str]]:
    """The body as a file, and its format; the file is gone with the block.

    Raises:
        Problem: 413 or 415; 400 when the client leaves in the middle; 507 where there is no room for it.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in FORMATS:
        raise Problem("unsupported-media-type", f"send one of {', '.join(FORMATS)}")
    uncompressed(request)
    refusal, size = too_large(request, settings.max_pilot_bytes), 0
    with _file() as file:
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > settings.max_pilot_bytes:
                    raise refusal
                file.write(chunk)
            file.flush()
        except ClientDisconnect:
            raise Problem("malformed-table", "the body ended early") from None
        except OSError:
            with suppress(OSError):
                file.close()  # what it has yet to write has no room either, and would hide the problem
            raise Problem("storage-full", "no room for the upload", headers={"Retry-After": "60"}) from None
        yield Path(file.name), FORMATS[media_type]


def _file() -> "tempfile._TemporaryFileWrapper[bytes]":
    try:
        return tempfile.NamedTemporaryFile(prefix="rl2ml-pilot-")
    except OSError:
        raise Problem("storage-full", "no room for the upload", headers={"Retry-After": "60"}) from None


def counted(path: Path, kind: str, max_rows: int, max_cells: int) -> list[tuple[int, int, float]]:
    """The cells of a table; run in a process of the pool.

    Raises:
        Problem: "invalid-request" or "limit-exceeded".
    """
    if kind in ("parquet", "arrow"):
        import pyarrow.parquet  # noqa: F401  (it is large by itself)
    before = resource.getrlimit(resource.RLIMIT_AS)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + _MEMORY
        _, hard = before
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    try:
        pilot = read_untrusted(path, kind, max_rows=max_rows)
    except InvalidTable as error:
        raise Problem("invalid-request", errors=[("#", _unquoted(str(error)))]) from None
    except MemoryError:
        raise Problem("limit-exceeded", "the table takes too much memory once it is decoded") from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    if pilot.num_cells > max_cells:
        raise Problem("limit-exceeded", errors=[("#", f"at most {max_cells:,} distinct cells")])
    return pilot.cells()


def _unquoted(message: str) -> str:
    """What is wrong with a table, without what was in it."""
    return _QUOTES.sub(lambda found: "prompt_id appears twice" if found[0].startswith("prompt_id") else "", message)
