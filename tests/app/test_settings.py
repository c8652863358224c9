"""Settings come from the environment, and wrong ones say which."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from app.settings import Settings


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    import os

    for name in os.environ:
        if name.upper().startswith(("RL2ML_", "HOST", "PORT")):
            monkeypatch.delenv(name)


def test_defaults():
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000), "this machine only, unless asked"
    assert settings.pool_workers >= 1
    assert settings.root_path == ""
    assert settings.access_log is False


def test_host_and_port_by_their_usual_names(monkeypatch):
    monkeypatch.setenv("HOST", "0.0.0.0")
    monkeypatch.setenv("PORT", "9000")
    assert (Settings().host, Settings().port) == ("0.0.0.0", 9000)


def test_host_and_port_by_our_names(monkeypatch):
    monkeypatch.setenv("RL2ML_HOST", "::1")
    monkeypatch.setenv("RL2ML_PORT", "0")
    assert (Settings().host, Settings().port) == ("::1", 0)


VALUES = {
    "root_path": "/tools/rl2ml",
    "access_log": True,
    "workers": 2,
    "telemetry": True,
    "allow_anonymous": True,
    "key_seconds": 0.5,
    "requests_per_second": 0,
    "request_burst": 21,
    "max_in_flight": 22,
    "body_seconds": 0.5,
    "max_body_bytes": 1_000,
    "max_cells": 11,
    "max_prompts": 12,
    "max_pilot_bytes": 23,
    "max_pilot_rows": 24,
    "max_num_rollouts": 13,
    "max_run_rollouts": 25,
    "max_work": 14,
    "max_gamma": 1.5,
    "max_bootstrap": 15,
    "max_draw_cells": 16,
    "inline_milliseconds": 0.5,
    "pool_workers": 17,
    "pool_queue": 18,
    "solve_seconds": 0.25,
    "cache_entries": 0,
    "cache_bytes": 0,
    "data_folder": Path("/data"),
    "database_url": SecretStr("postgresql://u:p@h/d"),
    "store_threads": 26,
    "store_seconds": 0.25,
    "store_entries": 27,
    "store_bytes": 28,
    "max_connections": 19,
    "graceful_seconds": 20,
}


def test_every_setting_has_a_variable(monkeypatch):
    assert set(VALUES) == set(Settings.model_fields) - {"host", "port"}
    for name, value in VALUES.items():
        shown = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        monkeypatch.setenv(f"RL2ML_{name.upper()}", shown)
    assert Settings().model_dump(exclude={"host", "port"}) == VALUES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", ""),
        ("port", "http"),
        ("root_path", "tools"),
        ("root_path", "/tools/"),
        ("root_path", "/to ols"),
        ("max_body_bytes", "0"),
        ("max_cells", "0"),
        ("max_num_rollouts", "65537"),
        ("max_gamma", "20.5"),
        ("max_gamma", "nan"),
        ("max_bootstrap", "many"),
        ("inline_milliseconds", "-1"),
        ("inline_milliseconds", "nan"),
        ("solve_seconds", "0"),
        ("store_seconds", "0"),
        ("store_threads", "0"),
        ("store_bytes", "-1"),
        ("solve_seconds", "nan"),
        ("cache_entries", "-1"),
        ("access_log", "perhaps"),
    ],
)
def test_wrong_values(monkeypatch, name, value):
    monkeypatch.setenv(f"RL2ML_{name.upper()}", value)
    with pytest.raises(ValidationError) as wrong:
        Settings()
    assert [error["loc"] for error in wrong.value.errors()] in ([(name,)], [(f"RL2ML_{name.upper()}",)])


def test_settings_do_not_change():
    with pytest.raises(ValidationError):
        Settings().port = 1
