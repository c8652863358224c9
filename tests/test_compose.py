"""compose.yaml promises what docs/operations.md says of it. No engine is needed to read it."""

import re
from pathlib import Path

TEXT = (Path(__file__).resolve().parent.parent / "compose.yaml").read_text(encoding="utf-8")


def test_only_this_machine_reaches_it_and_its_root_is_read_only():
    assert re.findall(r'^      - "([^"]*:8000)"', TEXT, re.MULTILINE) == ["127.0.0.1:8000:8000"]
    assert len(re.findall(r"^    ports:", TEXT, re.MULTILINE)) == 1, "the database is reached by the service alone"
    service = TEXT[TEXT.index("  rl2ml:") : TEXT.index("\n  postgres:")]
    for promised in (
        "read_only: true",
        "- /tmp",
        "cap_drop: [ALL]",
        "mem_limit:",
        "pids_limit:",
        "data:/data",
        "/readyz",
    ):
        assert promised in service, promised
    assert "profiles: [postgres]" in TEXT
