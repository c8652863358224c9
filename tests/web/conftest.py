"""The page in a real browser: Debian's Chromium by Playwright, on a service of its own that nothing else asks.

Playwright holds an event loop for as long as it is there, in which other tests could not run theirs: so it goes with
the module, whose tests stay together in one process.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def serving(**variables: str) -> Iterator[str]:
    """The service on a free port of this machine, until the block ends."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RL2ML_", "HOST", "PORT"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "app"],
        cwd=ROOT,
        env=kept | {"PORT": "0", "RL2ML_REQUESTS_PER_SECOND": "0"} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[2].rstrip("/")
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving() as found:
        yield found


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Any]]:
    """opened(address, …): a page whose errors and requests are watched; nothing may go beyond this machine."""
    contexts, problems = [], []

    def open_page(address: str, *, allowed: tuple[str, ...] = (), path: str = "/", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()

        def said(message: Any) -> None:
            if message.type in ("error", "warning") and not any(part in message.text for part in allowed):
                problems.append(message.text)

        page.on("console", said)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((address, "blob:", "data:")) else problems.append(f"asked {request.url}")
            ),
        )
        page.goto(address + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.fixture
def answered() -> Callable[[Any], str]:
    """answered(page): waits for the whole answer, and gives its sentence."""

    def wait(page: Any) -> str:
        page.get_by_text("Answered: γ = ").wait_for(timeout=30_000)
        return str(page.locator("#answer .sentence").inner_text())

    return wait
