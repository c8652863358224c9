"""The command line `rl2ml`: the same answers as the library and the service, for people and scripts.

Exit codes: 0 an answer (flat ones too), 2 wrong usage or data, 3 a pilot that tells nothing.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Entry point of the `rl2ml` script."""
    try:
        from rl2ml_core.cli.commands import app
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich", "click"):
            raise
        sys.stderr.write("The command line needs an optional dependency: pip install 'rl2ml[cli]'\n")
        sys.exit(2)
    app(prog_name="rl2ml")
