"""The formats there are, and which of them a file is."""

import os
from collections.abc import Mapping, Sequence
from typing import Final

from rl2ml_core.errors import InvalidInput, InvalidTable, UnknownLayout
from rl2ml_core.pilot.rollouts import inspect_ai, lm_eval, plain, skyrl, tinker, trl, verifiers, verl
from rl2ml_core.pilot.rollouts.format import Format, Head, Options, found, listed

__all__ = ["FORMATS", "detect", "named_format", "unknown", "unknown_files"]

#: In the order in which a file is tried.
FORMATS: Final[Mapping[str, Format]] = {
    known.name: known
    for known in (
        verl.FORMAT,
        trl.FORMAT,
        skyrl.FORMAT,
        lm_eval.FORMAT,
        inspect_ai.FORMAT,
        verifiers.FORMAT,
        verifiers.TRACES,
        tinker.FORMAT,
        plain.FORMAT,
    )
}


def named_format(name: str | None) -> Format | None:
    """The format of a name.

    Raises:
        InvalidInput: there is none.
    """
    if name is None:
        return None
    if not isinstance(name, str) or name not in FORMATS:
        raise InvalidInput(f"format must be one of {', '.join(FORMATS)}; got {name!r:.60}", field="format")
    return FORMATS[name]


def detect(head: Head, options: Options) -> Format | None:
    """The format of a file by its fields; None if it is none that is known."""
    for known in FORMATS.values():
        if known.matches(head):
            return known
    return FORMATS["plain"] if options.prompt and options.reward and head.fields else None


def unknown(head: Head) -> InvalidTable:
    """What to say of a file of no known format."""
    if head.kind == "empty":
        return InvalidTable("the file is empty")
    if head.kind == "json" and head.text.lstrip().startswith("["):
        return UnknownLayout(
            f"a JSON array; expected one object per line, as jq -c '.[]' {os.path.basename(head.path)} prints them"
        )
    shown = found(head) or (f"; found a zip of {listed(head.members, 5)}" if head.members else "")
    return UnknownLayout(f"no known dump of rollouts{shown}. Known are {_known()}")


def unknown_files(files: Sequence[tuple[str, str]]) -> InvalidTable:
    """What to say where no file is to be read."""
    left_out = "; ".join(f"{path}: {why}" for path, why in files[:5]) + ("; …" if len(files) > 5 else "")
    return InvalidTable(f"none of {len(files)} files is a dump of rollouts ({left_out}). Known are {_known()}")


def _known() -> str:
    return "; ".join(f"{one.name} ({one.fields})" for one in FORMATS.values())
