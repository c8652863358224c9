"""Rows of documents: what a reader in Python yields, and how they become roles."""

import hashlib
from typing import Any

from rl2ml_core.pilot.rollouts.columns import id_in_file, scoped
from rl2ml_core.pilot.rollouts.format import Scan

__all__ = ["SCHEMA", "digest", "scan_of", "short"]


def SCHEMA() -> Any:
    """Of the rows: texts but for the score and the step."""
    import pyarrow

    texts = ("prompt", "shown", "prompt_id", "sample", "rollout", "completion", "given", "skip_reason", "place")
    fields = [(name, pyarrow.string()) for name in texts]
    return pyarrow.schema([*fields, ("score", pyarrow.float64()), ("step", pyarrow.int64())])


def digest(*texts: str) -> str:
    """The MD5 of texts in hexadecimal: rows carry it instead of whole prompts."""
    return hashlib.md5("\x1f".join(texts).encode(errors="surrogatepass"), usedforsecurity=False).hexdigest()


def short(value: object, most: int = 40) -> str:
    """A value as text for sentences; halves of surrogate pairs, which no table can hold, become question marks."""
    return str(value)[:most].encode(errors="replace").decode()


def scan_of(format: str, reader: Any, *, roles: tuple[str, ...] = (), **more: Any) -> Scan:  # noqa: A002
    """The scan of documents.

    Args:
        format: its name.
        reader: path, options → rows.
        more: of the scan.
        roles: which of prompt_id, sample, rollout, completion and step they have.
    """
    return Scan(
        format=format,
        kind="document",
        prompt="md5_number(prompt)",
        shown="shown",
        score="score",
        given="given",
        skip="skip_reason",
        prompt_id=id_in_file("prompt_id") if "prompt_id" in roles else None,
        shown_id="prompt_id",
        group=scoped("sample") if "sample" in roles else None,
        rollout=scoped("rollout") if "rollout" in roles else None,
        completion="hash(completion)" if "completion" in roles else None,
        step="step" if "step" in roles else None,
        documents=reader,
        **more,
    )
