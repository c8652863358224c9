"""The demonstration of `make run`: post one pilot to our own address and print the recommendation."""

import csv
import http.client
import json
import sys
import time
from pathlib import Path

import uvicorn

__all__ = ["show"]

_METRIC, _ROLLOUTS = {"name": "pass_at_k", "k": 8}, 8


def show(server: uvicorn.Server, host: str, port: int, demo: Path) -> None:
    """Post the demo pilot to our own address and print the recommendation."""
    while not server.started:
        time.sleep(0.02)
        if server.should_exit:
            return
    with demo.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    pilot = {name: [int(row[name]) for row in rows] for name in ("num_successes", "num_rollouts")}
    question = {"pilot": pilot, "metric": _METRIC, "budget": {"num_rollouts": _ROLLOUTS}}
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request("POST", "/v1/recommendations", json.dumps(question), {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status != 200:
        print(f"The demo failed: {answer.get('detail') or answer.get('errors')}", file=sys.stderr, flush=True)
        return
    table = answer["objective"]["advantages"]
    print(f"\nPosted {demo}: {len(rows)} prompts, judged by pass@8, trained with {_ROLLOUTS} rollouts per prompt.")
    print(f"\n  {answer['summary']}\n")
    print("  advantages by success count 0..8")
    for side in ("success", "failure"):
        print(f"    {side}: " + " ".join("    –" if x is None else f"{x:5.2f}" for x in table[side]))
    address = f"http://{host}:{port}/v1/recommendations/{answer['id']}"
    print(f"\n  The whole answer: curl {address}", flush=True)
