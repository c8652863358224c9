"""`docs/evidence.md` has a place for every table, and its tables are what the runs' results say."""

import re
from pathlib import Path

import pytest

from benchmarks.evidence import document
from benchmarks.evidence.report import RULES as ASKED
from benchmarks.evidence.rules import PILOTS

TEXT = document.DOCUMENT.read_text(encoding="utf-8")
TABLES = {**document.SIMULATED, **document.TRAINED}


def test_every_table_has_one_place():
    lines = {name: [f"table {name}", "two lines"] for name in TABLES}
    text = document.filled(TEXT, lines)
    for name in TABLES:
        assert f"<!-- {name} -->\ntable {name}\ntwo lines\n<!-- end -->" in text
    # Prose stays, and filling in again changes nothing.
    assert text.count("\n#") == TEXT.count("\n#")
    assert document.filled(text, lines) == text


def test_a_table_without_a_place_is_an_error():
    with pytest.raises(KeyError, match="one place for the table 'nowhere'"):
        document.filled(TEXT, {"nowhere": ["x"]})


def test_tables_are_filled_in():
    for name in TABLES:
        found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", TEXT, re.DOTALL)
        assert found
        rows = found[1].strip().splitlines()
        assert len(rows) > 3
        assert len({row.count("|") for row in rows}) == 1


def test_figures_are_there():
    for figure in re.findall(r"\]\((evidence/\w+\.png)\)", TEXT):
        assert (Path(document.DOCUMENT).parent / figure).is_file()


def test_the_rules_shown_are_rules_that_are_asked():
    asked = {rule.name for rule in ASKED}
    shown = {name for name in document.RULES if not name.startswith(("always", "constant"))}
    assert shown <= asked
    assert "64x8" in PILOTS


def test_numbers_are_written_with_their_interval():
    value = {"mean": 0.0951, "lower": 0.0788, "upper": 0.1114}
    assert document.percent(value) == "+9.5% [+7.9%, +11.1%]"
    assert document.regret(value) == "0.0951 [0.0788, 0.1114]"
    assert document.regret(None) == ""
