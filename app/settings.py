"""Settings from the environment: HOST, PORT and RL2ML_*."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from rl2ml_core.objective.family import MAX_GAMMA, MAX_ROLLOUTS

__all__ = ["Settings"]

Positive = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """What an operator may change; the defaults suit one small machine."""

    model_config = SettingsConfigDict(env_prefix="RL2ML_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", validation_alias=AliasChoices("host", "HOST", "RL2ML_HOST"))
    port: int = Field(8000, ge=0, le=65535, validation_alias=AliasChoices("port", "PORT", "RL2ML_PORT"))
    root_path: str = Field("", pattern=r"^(/[\w.~-]+)*$", description="path prefix that a proxy strips")
    access_log: bool = False
    workers: Positive = Field(1, description="processes that serve; more than one need PostgreSQL")
    telemetry: bool = Field(False, description="send traces and metrics to OTEL_EXPORTER_OTLP_ENDPOINT")

    allow_anonymous: bool = Field(False, description="serve whoever asks, from anywhere, without an API key")
    key_seconds: float = Field(5, ge=0, description="how long a revoked key may still be good")
    requests_per_second: float = Field(1_000, ge=0, description="of one API key or address; 0: no limit")
    request_burst: Positive = Field(2_000, description="requests above that rate that one may save up")
    max_in_flight: Positive = Field(256, description="requests at once; more are answered 429")
    body_seconds: float = Field(60, gt=0, description="how long a request's body may take to arrive")

    max_body_bytes: Positive = Field(2 << 20, description="larger request bodies are refused unread")
    max_cells: Positive = Field(20_000, description="distinct (num_rollouts, num_successes) of a pilot")
    max_prompts: Positive = Field(500_000, description="entries of a pilot given prompt by prompt")
    max_pilot_bytes: Positive = Field(64 << 20, description="of an uploaded table")
    max_pilot_rows: Positive = Field(5_000_000, description="of an uploaded table")
    max_num_rollouts: int = Field(MAX_ROLLOUTS, ge=1, le=MAX_ROLLOUTS, description="rollouts per prompt in training")
    max_run_rollouts: int = Field(
        4_096, ge=1, le=MAX_ROLLOUTS, description="the same of a run, whose objectives are kept"
    )
    max_work: Positive = Field(
        20_000_000,
        description="cells × rollouts per prompt, and the like: numbers that a solve computes or holds at a time",
    )
    max_gamma: float = Field(MAX_GAMMA, ge=0, le=MAX_GAMMA)
    max_bootstrap: Positive = 2_000
    max_draw_cells: Positive = Field(20_000_000, description="bootstrap draws × cells")

    inline_milliseconds: float = Field(25, ge=0, description="solves predicted to take longer go to the pool")
    pool_workers: Positive = Field(default_factory=lambda: max(1, (os.cpu_count() or 2) - 1))
    pool_queue: Positive = Field(16, description="solves waiting for the pool; more are answered 503")
    solve_seconds: float = Field(60, gt=0, description="deadline of a solve in the pool")

    cache_entries: int = Field(1_000, ge=0, description="recommendations kept in memory for GET")
    cache_bytes: int = Field(64 << 20, ge=0, description="and their size together")

    data_folder: Path | None = Field(None, description="of the SQLite file; none: one that is gone with the process")
    database_url: SecretStr | None = Field(None, description="of PostgreSQL, instead of SQLite")
    store_threads: Positive = Field(4, description="transactions at once; SQLite has one writer at most")
    store_seconds: float = Field(5, ge=0.1, description="how long a transaction may wait for a lock or a connection")
    store_entries: Positive = Field(10_000, description="recommendations, and pilots, kept; the oldest go first")
    store_bytes: int = Field(0, ge=0, description="of the SQLite file; a full one takes no more; 0: no limit")

    max_connections: Positive = 512
    graceful_seconds: Positive = Field(10, description="how long TERM waits for requests under way")
