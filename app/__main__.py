"""`python -m app`: serve on HOST and PORT; `python -m app keys`: make, list and revoke API keys."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from app import keys
from app.problems import Problem
from app.serving import serve
from app.settings import Settings
from app.store import NewerSchema, Store


def main() -> None:
    """Serve, or do what a command says; exit 0 unless that fails."""
    parser = argparse.ArgumentParser(prog="python -m app", description="The RL2ML service. Without a command: serve.")
    parser.add_argument("--demo", type=Path, metavar="PILOT.CSV", help="post this pilot once, print the answer")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that serve; more than one need PostgreSQL")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for_keys = commands.add_parser("keys", help="API keys").add_subparsers(dest="action", required=True)
    for_keys.add_parser("create", help="make a key and print it, once").add_argument("name", help="whose it is")
    for_keys.add_parser("list", help="keys, revoked ones too")
    for_keys.add_parser("revoke", help="end a key for good").add_argument("id", help="as `keys list` shows it")
    chosen = parser.parse_args()
    if chosen.demo is not None and not chosen.demo.is_file():
        parser.error(f"no such file: {chosen.demo}")
    if chosen.workers is not None and chosen.workers < 1:
        parser.error("--workers must be at least 1")
    settings = _settings()
    if chosen.command == "keys":
        _keys(chosen, settings)
        return
    serve(settings if chosen.workers is None else settings.model_copy(update={"workers": chosen.workers}), chosen.demo)


def _keys(chosen: argparse.Namespace, settings: Settings) -> None:
    store = Store(settings)
    if not store.is_lasting:
        sys.exit("Keys need a store that lasts: set RL2ML_DATA_FOLDER or RL2ML_DATABASE_URL.")
    try:
        if chosen.action == "create":
            print(keys.create(store, chosen.name))
            print("Shown this once: only a hash is kept.", file=sys.stderr)
        elif chosen.action == "revoke":
            if not keys.revoke(store, chosen.id):
                sys.exit("No such key in force; see `python -m app keys list`.")
        else:
            for key in keys.listed(store):
                made = datetime.fromtimestamp(key.created / 1e6, UTC)
                print(f"{key.id}  {made:%Y-%m-%d %H:%M}  {'revoked' if key.revoked else 'in force'}  {key.name}")
    except ValueError as error:
        sys.exit(f"Cannot make that key: {error}.")
    except (Problem, NewerSchema) as error:
        sys.exit(f"Cannot use the store: {error.detail or error.name if isinstance(error, Problem) else error}.")
    finally:
        store.close()


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        name = str(found["loc"][0]).upper()
        name = name if name in ("HOST", "PORT") else f"RL2ML_{name.removeprefix('RL2ML_')}"
        sys.exit(f"Cannot start with {name}={found['input']}: {found['msg']}.")


if __name__ == "__main__":
    main()
