"""How soon the page is there and how soon it answers, in Debian's Chromium on loopback.

`python benchmarks/page.py` takes half a minute; `--quick` a few seconds. It needs `pip install playwright` and
chromium. Times are those of the browser's own clock; what they are held against is a /healthz asked from the same page.

- First view: a new context, nothing cached: bytes that travelled, and seconds until everything is loaded.
- Answer: from a change of the metric to the new sentence, on a pilot of 10,000 prompts, without the wait for the typist
  (120 ms); the interval follows and is told beside it. Every question is one that was not asked before.
"""

import argparse
import os
import platform
import shutil
import statistics
import sys
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.pop(0)  # this folder: its http.py would hide Python's own http
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.loopback import service

TYPIST = 120  # ms, of app/web/main.js
HEALTH = """async () => {
  const start = performance.now();
  await (await fetch("healthz")).text();
  return performance.now() - start;
}"""
LOADED = """() => {
  const [page] = performance.getEntriesByType("navigation");
  const all = [page, ...performance.getEntriesByType("resource")];
  const bytes = all.reduce((sum, one) => sum + one.transferSize, 0);
  return { milliseconds: Math.max(...all.map((one) => one.responseEnd)), bytes };
}"""
ANSWER = """async (metric) => {
  const field = document.getElementById("metric"), before = document.querySelector("#answer .sentence");
  const start = performance.now();
  field.value = metric;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  const until = async (ready) => {
    while (!ready()) await new Promise(requestAnimationFrame);
    return performance.now() - start;
  };
  const quick = await until(() => document.querySelector("#answer .sentence") !== before);
  const sure = await until(() => document.getElementById("status").textContent.startsWith("Answered"));
  return [quick, sure];
}"""


def first_view(browser: Browser, address: str) -> tuple[float, float]:
    context = browser.new_context()
    page = context.new_page()
    page.goto(address, wait_until="networkidle")
    found = page.evaluate(LOADED)
    context.close()
    return float(found["milliseconds"]), float(found["bytes"])


def give_pilot(page: Page, prompts: int) -> None:
    rng = np.random.default_rng(0)
    successes = rng.binomial(16, rng.beta(0.4, 0.9, prompts))
    rows = "".join(f"{k},16\n" for k in successes)
    page.locator("#file").set_input_files(
        {"name": "pilot.csv", "mimeType": "text/csv", "buffer": f"num_successes,num_rollouts\n{rows}".encode()}
    )
    page.get_by_text("Answered: γ = ").wait_for()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smoke test: two questions")
    chosen = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("This needs chromium: apt-get install chromium")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with service(None) as ((host, port), _), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        address = f"http://{host}:{port}/"
        first_view(browser, address)
        views = [first_view(browser, address) for _ in range(1 if chosen.quick else 5)]
        page = browser.new_page()
        page.goto(address)
        give_pilot(page, 10_000)
        health = statistics.median(page.evaluate(HEALTH) for _ in range(20))
        asked = [f"pass@{k}" for k in range(2, 4 if chosen.quick else 22)]
        taken = [page.evaluate(ANSWER, metric) for metric in asked]
        browser.close()
    milliseconds, size = statistics.median(one[0] for one in views), views[0][1]
    quick, sure = (statistics.median(one[i] for one in taken) - TYPIST for i in (0, 1))
    slowest = max(one[0] for one in taken) - TYPIST
    ratio = milliseconds / health
    print(f"first view   {size / 1e3:.1f} kB, {milliseconds:.0f} ms, {ratio:.0f} × healthz  (goal: 100 kB, 1 s)")
    print(
        f"answer       median {quick:.0f} ms, at most {slowest:.0f} ms, {quick / health:.0f} × healthz  (goal: 150 ms)"
    )
    print(f"with interval median {sure:.0f} ms; healthz {health:.1f} ms")


if __name__ == "__main__":
    main()
