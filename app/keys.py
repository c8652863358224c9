"""API keys: made and revoked by a command, kept as hashes, looked up by an id that is no secret.

A key is 256 random bits, so a plain SHA-256 keeps it safe: guessing one costs 2^255 hashes however fast each is. Slow
hashes, such as Argon2, are for passwords, which people choose.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from typing import Final

from app.problems import Problem
from app.store import Key, Store, add_key, find_keys, revoke_key

__all__ = ["KeyRing", "create", "listed", "revoke"]

_KEY: Final = re.compile(r"rl2ml_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_NAME_LENGTH: Final = 200
#: Compared with where there is no such id, so that it takes as long as where there is.
_NO_HASH: Final = "0" * 64


def create(store: Store, name: str) -> str:
    """A new key, told once: only its hash is kept.

    Raises:
        ValueError: a name that is empty, too long or not printable.
        Problem: the store fails.
    """
    if not name.strip() or len(name) > _NAME_LENGTH or not name.isprintable():
        raise ValueError(f"a key's name must be of 1 to {_NAME_LENGTH} printable characters")
    identity = secrets.token_hex(6)
    key = f"rl2ml_{identity}_{secrets.token_urlsafe(32)}"
    store.write(add_key, identity, name, _digest(key))
    return key


def listed(store: Store) -> list[Key]:
    """All keys, oldest first, revoked ones too.

    Raises:
        Problem: the store fails.
    """
    return store.read(find_keys)


def revoke(store: Store, identity: str) -> bool:
    """End a key for good; whether there was such a key in force.

    Raises:
        Problem: the store fails.
    """
    return store.write(revoke_key, identity)


class KeyRing:
    """The keys in force, read from the store again every few seconds: a revoked key is good for no longer than that.

    Args:
        store: where they are.
        seconds: how long what was read counts.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        self._store, self._seconds = store, seconds
        self._hashes: dict[str, str] = {}
        self._any = False  # whether a key was ever made
        self._read: float | None = None
        self._reading: asyncio.Lock | None = None

    async def owner_of(self, key: str) -> str | None:
        """The id of a key in force; None for anything else.

        Raises:
            Problem: the store was never reached.
        """
        await self._refresh()
        found = _KEY.fullmatch(key)
        known = self._hashes.get(found[1]) if found else None
        same = hmac.compare_digest(known or _NO_HASH, _digest(key))
        return found[1] if found and known and same else None

    async def has_any(self) -> bool:
        """Whether a key was ever made, revoked ones included: from then on the service is not for everyone.

        Raises:
            Problem: as `owner_of`.
        """
        await self._refresh()
        return self._any

    async def _refresh(self) -> None:
        # No command can have put a key into a store that goes with this process.
        if self._is_fresh() or not self._store.is_lasting:
            return
        self._reading = self._reading or asyncio.Lock()
        async with self._reading:
            if self._is_fresh():
                return
            try:
                keys = await self._store.reading(find_keys)
            except Problem:
                # Whoever had a key a moment ago has it still: what needs no store goes on without it.
                if self._read is None:
                    raise
            else:
                self._any = bool(keys)
                self._hashes = {key.id: key.hash for key in keys if key.revoked is None}
            self._read = time.monotonic()

    def _is_fresh(self) -> bool:
        return self._read is not None and time.monotonic() - self._read < self._seconds


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
