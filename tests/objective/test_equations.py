"""`docs/equations.md` stays true: what it names exists, and every equation that the code cites is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "rl2ml_core").rglob("*.py"))}
NUMBERS = re.findall(r"^### (E\d+)\. ", TEXT, re.MULTILINE)


def test_equations_are_numbered_in_order_and_listed():
    assert [f"E{i}" for i in range(1, 43)] == NUMBERS
    assert re.findall(r"^\| (E\d+) \|", TEXT, re.MULTILINE) == NUMBERS


def test_every_equation_that_the_code_cites_exists():
    cited = set()
    for source in SOURCES.values():
        cited |= set(re.findall(r"\bE\d+\b(?![\[(])", source))
    assert cited
    assert cited <= set(NUMBERS)


@pytest.mark.parametrize("reference", sorted(set(re.findall(r"`(tests/[\w/]+\.py(?:::\w+)?)`", TEXT))))
def test_named_tests_exist(reference):
    path, _, name = reference.partition("::")
    assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(rl2ml_core/[\w/]+\.py)`", TEXT))))
def test_named_modules_exist(path):
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("section", TEXT.split("\n### ")[1:], ids=lambda section: section.split(".")[0])
def test_every_equation_names_a_function_and_a_test(section):
    functions = re.findall(r"^- (?!`tests/)`(\w+)(?:\.(\w+))?`", section, re.MULTILINE)
    assert functions
    code = "\n".join(SOURCES.values())
    for names in functions:
        for name in filter(None, names):
            assert re.search(rf"\b(def|class) {name}\b", code), name
    assert "`tests/" in section
