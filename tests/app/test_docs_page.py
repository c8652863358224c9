"""`/docs`: a page from files of our own, under a policy that allows nothing else."""

import hashlib
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "app" / "static" / "docs"
#: Of swagger-ui-dist 5.35.0, as the npm registry has it.
HASHES = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
}


def test_the_page_loads_its_own_files_only(client):
    page = client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert "openapi.json" in links
    assert not [link for link in links if (":" in link and link != "data:,") or link.startswith("/")]
    assert not re.search(r"<script>|<style|style=|\son\w+=", page.text), "the policy would refuse it"
    for link in links:
        if link != "data:,":
            assert client.get(f"/{link}").status_code == 200, link
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(("name", "digest"), HASHES.items())
def test_files_are_as_they_were_published(client, name, digest):
    answer = client.get(f"/docs/{name}")
    assert hashlib.sha256(answer.content).hexdigest() == digest
    assert answer.headers["content-type"].startswith("text/")
    assert answer.headers["cache-control"] == "public, max-age=3600"
    again = client.get(f"/docs/{name}", **{"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["LICENSE", "..%2Fdocs.py", "nothing.js", "%2e%2e", "README.md"])
def test_nothing_else_is_served(client, refused, name):
    refused(client.get(f"/docs/{name}"), "not-found")


def test_licenses_are_kept():
    assert "Apache License" in (FOLDER / "LICENSE").read_text(encoding="utf-8")
    assert "SmartBear" in (FOLDER / "NOTICE").read_text(encoding="utf-8")
    assert (FOLDER / "swagger-ui-bundle.js.LICENSE.txt").exists()
