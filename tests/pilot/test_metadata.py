"""Conditions of sampling: what is accepted, how a command line reads, what is said of differences."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rl2ml_core as rl2ml
from rl2ml_core.pilot.diagnostics import Diagnostic
from rl2ml_core.pilot.metadata import MAX_STEP, Conditions, conditions_diagnostics

SFT = Conditions(temperature=0.6, policy="sft-3", step=0)

names = st.text(
    st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters=",="), min_size=1, max_size=200
)
conditions = st.builds(
    Conditions,
    temperature=st.none() | st.floats(0, 1e300),
    policy=st.none() | names,
    step=st.none() | st.integers(0, MAX_STEP),
)


# --- values ----------------------------------------------------------------------------------------------------------


def test_what_is_said_is_kept_as_plain_values():
    said = Conditions(temperature=np.float32(0.5), policy="  org/model@rev:step_40 ", step=np.int64(40))
    assert said.to_dict() == {"temperature": 0.5, "policy": "org/model@rev:step_40", "step": 40}
    assert [type(value) for value in said.to_dict().values()] == [float, str, int]
    assert said == Conditions(0.5, "org/model@rev:step_40", 40)
    assert Conditions().to_dict() == {}
    assert Conditions(temperature=0, policy="数学-π").to_dict() == {"temperature": 0.0, "policy": "数学-π"}


@pytest.mark.parametrize(
    ("said", "field", "message"),
    [
        ({"temperature": -0.1}, "temperature", "temperature must be a finite number at least 0; got -0.1"),
        ({"temperature": math.nan}, "temperature", "got nan"),
        ({"temperature": math.inf}, "temperature", "got inf"),
        ({"temperature": "0.6"}, "temperature", "got '0.6'"),
        ({"temperature": True}, "temperature", "got True"),
        ({"policy": ""}, "policy", "policy must be a name of 1 to 200 printable characters; got 0"),
        ({"policy": "  "}, "policy", "got 0"),
        ({"policy": "x" * 201}, "policy", "got 201"),
        ({"policy": "a\x1b[31mb"}, "policy", r"printable characters; got 'a\\x1b"),
        ({"policy": "a\nb"}, "policy", r"got 'a\\nb'"),
        ({"policy": "a\u202eb"}, "policy", r"got 'a\\u202eb'"),
        ({"policy": 3}, "policy", "got 3"),
        ({"policy": b"sft"}, "policy", "got b'sft'"),
        ({"step": -1}, "step", "step must be an integer from 0 to 9007199254740992; got -1"),
        ({"step": 1.0}, "step", "got 1.0"),
        ({"step": True}, "step", "got True"),
        ({"step": MAX_STEP + 1}, "step", "got 9007199254740993"),
    ],
)
def test_other_values_are_refused(said, field, message):
    with pytest.raises(rl2ml.InvalidInput, match=message) as refused:
        Conditions(**said)
    assert refused.value.field == field
    assert len(str(refused.value)) < 160


# --- command lines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("temperature=0.6,policy=sft-3,step=0", SFT),
        (" step = 0 , temperature = .6 , policy = sft-3 ", SFT),
        ("temperature=1", Conditions(temperature=1.0)),
        ("policy=a=b/c:d", Conditions(policy="a=b/c:d")),
        ("step=400", Conditions(step=400)),
    ],
)
def test_command_lines(text, expected):
    assert Conditions.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("", None, "conditions must read like temperature=0.6,policy=sft-3,step=0; got ''"),
        ("temperature", None, "got 'temperature'"),
        ("temperature=0.6,", None, "got ''"),
        ("temp=0.6", None, "got 'temp=0.6'"),
        ("policy=a,b", None, "got 'b'"),
        ("x" * 300, None, "got 'xxx"),
        ("step=1,step=2", "step", "conditions must give step once; got it twice"),
        ("temperature=warm", "temperature", "temperature must be a number; got 'warm'"),
        ("temperature=", "temperature", "temperature must be a number; got ''"),
        ("temperature=-1", "temperature", "temperature must be a finite number at least 0; got -1"),
        ("temperature=nan", "temperature", "got nan"),
        ("step=1.5", "step", "step must be an integer; got '1.5'"),
        ("step=" + "9" * 5000, "step", "step must be an integer; got '999"),
        ("policy=", "policy", "policy must be a name of 1 to 200"),
        ("policy=a\x00b", "policy", r"got 'a\\x00b'"),
    ],
)
def test_command_lines_that_say_something_else_are_refused(text, field, message):
    with pytest.raises(rl2ml.InvalidInput, match=message) as refused:
        Conditions.parse(text)
    assert refused.value.field == field
    assert len(str(refused.value)) < 160


@given(said=conditions)
def test_what_is_written_reads_back(said):
    text = ",".join(f"{name}={value}" for name, value in said.to_dict().items())
    if text:
        assert Conditions.parse(text) == said
    assert Conditions(**said.to_dict()) == said


# --- what is said of them --------------------------------------------------------------------------------------------


def details(sampled, training, code="metadata_mismatch"):
    return [found.detail for found in conditions_diagnostics(sampled, training) if found.code == code]


@pytest.mark.parametrize(
    ("sampled", "listed"),
    [
        (None, "temperature, policy and training step"),
        (Conditions(), "temperature, policy and training step"),
        (Conditions(temperature=1), "policy and training step"),
        (Conditions(policy="sft-3", step=3), "temperature"),
    ],
)
def test_what_is_not_said_of_the_pilot(sampled, listed):
    assert conditions_diagnostics(sampled, None) == [
        Diagnostic("metadata_missing", "info", f"The pilot does not say its {listed}, on which success rates depend.")
    ]


@pytest.mark.parametrize("training", [None, Conditions(), SFT, Conditions(temperature=0.1 * 6)])
def test_nothing_to_say(training):
    assert conditions_diagnostics(SFT, training) == []


@pytest.mark.parametrize(
    ("training", "detail"),
    [
        (
            Conditions(temperature=1),
            "The pilot was sampled at temperature 0.6, training samples at 1: success rates differ.",
        ),
        (
            Conditions(policy="base"),
            "The pilot was sampled from policy sft-3, training starts from base: success rates differ.",
        ),
        (Conditions(step=400), "The pilot is 400 steps old: success rates have moved since."),
        (Conditions(step=1), "The pilot is 1 step old: success rates have moved since."),
    ],
)
def test_each_difference_is_one_sentence(training, detail):
    assert conditions_diagnostics(SFT, training) == [Diagnostic("metadata_mismatch", "warning", detail)]


def test_a_pilot_from_a_later_step():
    assert details(Conditions(step=9), Conditions(step=3)) == [
        "The pilot was sampled at step 9, training is at step 3: success rates differ."
    ]


def test_differences_come_one_by_one():
    found = conditions_diagnostics(Conditions(temperature=1, step=5), Conditions(1.5, "base", 5))
    assert [finding.code for finding in found] == ["metadata_missing", "metadata_mismatch"]
    everything = details(SFT, Conditions(1, "base", 9))
    assert [detail.split(",")[0].split(" ")[5] for detail in everything[:2]] == ["temperature", "policy"]
    assert len(everything) == 3


@given(sampled=conditions, training=conditions)
def test_sentences_are_short_and_printable(sampled, training):
    for found in conditions_diagnostics(sampled, training):
        assert len(found.detail) < 250
        assert found.detail.isprintable()
        assert found.detail.endswith(".")
