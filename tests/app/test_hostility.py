"""Requests that nobody in their right mind sends, made from the OpenAPI document: none is a failure of ours."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Tables are text to it. Its process reads this before it starts.
HOOKS = """
import schemathesis

for media_type in ("application/jsonl", "application/x-ndjson", "application/vnd.apache.parquet",
                   "application/vnd.apache.arrow.stream"):
    @schemathesis.serializer(media_type)
    def as_bytes(context, value):
        return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
"""


def test_generated_requests_find_nothing(serve, tmp_path):
    # Rules between fields (k ≤ n, lists of one length, a known cursor) have no words in JSON Schema: what fits one
    # may be refused, so the check that it never is stays out.
    pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    (tmp_path / "hooks.py").write_text(HOOKS)
    examples = os.environ.get("RL2ML_HOSTILE_EXAMPLES", "40")
    # Groups of 65,536 are taken and take their time, which is no finding either.
    with serve(RL2ML_REQUESTS_PER_SECOND="0", RL2ML_POOL_WORKERS="1", RL2ML_MAX_NUM_ROLLOUTS="1024") as server:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json"),
                *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
                *(
                    "--max-examples",
                    examples,
                    "--seed",
                    "1",
                    "--no-color",
                    "--request-timeout",
                    "30",
                    "--max-response-time",
                    "30",
                ),
            ],
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert server.http.get("/healthz").status_code == 200
        code, _, err = server.stop()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    (cases,) = re.findall(r"(\d+) generated", done.stdout)
    assert int(cases) >= 2_000
    assert code == 0
    assert "Traceback" not in err
    assert '"failed"' not in err
