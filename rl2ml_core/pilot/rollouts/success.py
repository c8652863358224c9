"""When a rollout succeeded: a rule such as "score >= 1", or scores that are 0 and 1 already."""

import math
import re
from dataclasses import dataclass
from typing import Self

from rl2ml_core.errors import InvalidInput
from rl2ml_core.pilot.rollouts.sql import number

__all__ = ["Threshold", "success_sql"]

#: Left sides that mean whatever the dump's score is.
_SCORE = ("score", "reward")
_SQL = {">=": ">=", ">": ">", "==": "=", "<": "<", "<=": "<="}
_EXAMPLE = "'score >= 1' or 'correctness_reward > 0.5'"


@dataclass(frozen=True)
class Threshold:
    """A rollout succeeded if its score compares so with `value`.

    Args:
        column: the score that is compared, by the dump's name for it; None for the dump's only one.
        operator: one of >=, >, ==, <, <=.
        value: finite.
    """

    column: str | None
    operator: str
    value: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """From text such as "score >= 1".

        Raises:
            InvalidInput: anything else.
        """
        expected = f"success must read like {_EXAMPLE}"
        if not isinstance(text, str):
            raise InvalidInput(f"{expected}; got {text!r:.60}", field="success")
        parts = re.fullmatch(r"\s*([^<>=]*[^<>=\s])\s*(>=|<=|==|>|<)\s*([^<>=]+)", text)
        if parts is None:
            raise InvalidInput(f"{expected}, with one of {', '.join(_SQL)}; got {text!r:.60}", field="success")
        left, operator, right = parts.groups()
        try:
            value = float(right)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InvalidInput(f"{expected}, a finite number on the right; got {right.strip()!r:.60}", field="success")
        return cls(None if left in _SCORE else left, operator, value)

    def __str__(self) -> str:
        value = f"{self.value:.0f}" if self.value.is_integer() and abs(self.value) < 1e15 else repr(self.value)
        return f"{self.column or 'score'} {self.operator} {value}"

    def sql(self, score: str, single: bool) -> str:
        """The rule over an expression.

        Args:
            score: an expression, DOUBLE.
            single: the numbers were stored in 32 bits: 0.9 is then what 0.9 was rounded to.
        """
        value = number(self.value)
        if single:
            return f"CAST({score} AS FLOAT) {_SQL[self.operator]} CAST({value} AS FLOAT)"
        return f"{score} {_SQL[self.operator]} {value}"


def success_sql(rule: Threshold | None, score: str, single: bool = False) -> str:
    """A boolean expression over a score; without a rule scores are 0 or 1, which is checked elsewhere."""
    return f"{score} = 1" if rule is None else rule.sql(score, single)
