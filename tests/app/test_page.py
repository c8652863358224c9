"""`/` and its files, without a browser: who gets what, under which policy, how large."""

import gzip
import hashlib
import re

import pytest

HTML = {"Accept": "text/html,application/xhtml+xml"}
#: Of uplot 1.6.32, as the npm registry has it.
HASHES = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}


def test_people_get_the_page_and_programs_an_index(client):
    page, index = client.get("/", **HTML), client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert index.json()["openapi"] == "openapi.json"
    assert "Accept" in page.headers["vary"]
    assert "Accept" in index.headers["vary"]


def test_the_page_loads_its_own_files_only_and_little(client):
    page = client.get("/", **HTML)
    links = [link for link in re.findall(r'(?:src|href)="([^"#]+)"', page.text) if link not in ("data:,", "docs")]
    assert not [link for link in links if ":" in link or link.startswith("/")]
    assert not re.search(r"<script>|<style|style=|\son\w+=", page.text), "the policy would refuse it"
    size = len(gzip.compress(page.content))
    for link in [*links, "v1/estimators"]:
        answer = client.get(f"/{link}", **{"Accept-Encoding": "gzip"})
        assert answer.status_code == 200, link
        size += len(gzip.compress(answer.content))
    assert size <= 60_000  # bytes that travel; 100 kB were allowed
    assert "script-src 'self'; worker-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]


def test_files_are_compressed_for_who_takes_that(client):
    plain = client.get("/web/main.js", **{"Accept-Encoding": "identity"})
    packed = client.get("/web/main.js", **{"Accept-Encoding": "gzip, br"})
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.content == plain.content
    assert packed.headers["etag"] != plain.headers["etag"]
    for answer in (plain, packed):
        assert "Accept-Encoding" in answer.headers["vary"]
        given = {"Accept-Encoding": "gzip" if answer is packed else "identity", "If-None-Match": answer.headers["etag"]}
        assert client.get("/web/main.js", **given).status_code == 304


@pytest.mark.parametrize(("name", "digest"), HASHES.items())
def test_vendored_files_are_as_they_were_published(client, name, digest):
    assert hashlib.sha256(client.get(f"/web/{name}").content).hexdigest() == digest


@pytest.mark.parametrize("name", ["LICENSE", "..%2Fmain.py", "nothing.js", "%2e%2e", "index.html"])
def test_nothing_else_is_served(client, refused, name):
    refused(client.get(f"/web/{name}"), "not-found")
