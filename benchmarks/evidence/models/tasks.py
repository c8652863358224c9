"""Three tasks whose answers a program can check: sorting digits, adding numbers, and reaching a target with numbers.

A prompt ends with "=" and a right response with "."; both are characters of the task's vocabulary. Prompts are drawn
together with one right answer each, which only supervised training reads; a search for a target has several.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

__all__ = ["END", "PAD", "TASKS", "Example", "Task", "draw_examples", "value_of"]

SEPARATOR, END, PAD = "=", ".", " "

Example = tuple[str, str]  # a prompt and a right answer, END included


@dataclass(frozen=True)
class Task:
    """A task.

    Args:
        name: as results call it.
        says: what a response has to be, for tables.
        characters: of its prompts and answers, beside SEPARATOR, END and PAD.
        prompt_width, response_width: the longest of each, separator and end included.
        draw: one example.
        verify: (prompt, response up to and including its first END) → whether it is right.
    """

    name: str
    says: str
    characters: str
    prompt_width: int
    response_width: int
    draw: Callable[[np.random.Generator], Example]
    verify: Callable[[str, str], bool]

    @property
    def vocabulary(self) -> str:
        return self.characters + SEPARATOR + END + PAD


def draw_examples(
    task: Task, count: int, rng: np.random.Generator, without: frozenset[str] = frozenset()
) -> list[Example]:
    """Examples whose prompts are not among those of `without`."""
    examples: list[Example] = []
    while len(examples) < count:
        example = task.draw(rng)
        if example[0] not in without:
            examples.append(example)
    return examples


# ---- sorting ----

_LEAST_DIGITS, _MOST_DIGITS = 3, 9


def _draw_digits(rng: np.random.Generator) -> Example:
    """Every length as likely as the next."""
    digits = rng.integers(0, 10, size=rng.integers(_LEAST_DIGITS, _MOST_DIGITS + 1))
    text = "".join(map(str, digits))
    return text + SEPARATOR, "".join(sorted(text)) + END


def _is_sorted(prompt: str, response: str) -> bool:
    return response == "".join(sorted(prompt.removesuffix(SEPARATOR))) + END


# ---- addition ----

_FEWEST, _LARGEST = 2, 5  # digits of a number


def _draw_sum(rng: np.random.Generator) -> Example:
    """Two numbers, the digits of each drawn apart; the sum with its last digit first, so that carries go forward."""
    a, b = (int(rng.integers(10 ** (digits - 1), 10**digits)) for digits in rng.integers(_FEWEST, _LARGEST + 1, size=2))
    return f"{a:>{_LARGEST}}+{b:>{_LARGEST}}{SEPARATOR}", str(a + b)[::-1] + END


def _is_sum(prompt: str, response: str) -> bool:
    a, b = prompt.removesuffix(SEPARATOR).split("+")
    return response == str(int(a) + int(b))[::-1] + END


# ---- a target to reach, as in the game of Countdown ----

_LARGEST_TARGET = 99


def value_of(expression: str) -> int | None:
    """The value of digits with +, - and * between them, products first; None where it is no such expression."""
    numbers, signs = expression[::2], expression[1::2]
    if len(expression) % 2 == 0 or not set(numbers) <= set("0123456789") or not set(signs) <= set("+-*"):
        return None
    total, term = 0, int(numbers[0])
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            term *= int(number)
        else:
            total, term = total + term, int(number) if sign == "+" else -int(number)
    return total + term


def _draw_target(rng: np.random.Generator) -> Example:
    """Three or four numbers of 1 to 9 and the value of a random expression of them; a prompt has its own order."""
    while True:
        numbers = rng.integers(1, 10, size=rng.integers(3, 5))
        signs = rng.choice(list("+-*"), size=len(numbers) - 1)
        expression = "".join(f"{number}{sign}" for number, sign in zip(numbers, [*signs, ""], strict=True))
        value = value_of(expression)
        if value is not None and 0 <= value <= _LARGEST_TARGET:
            return "".join(map(str, rng.permutation(numbers))) + f":{value}{SEPARATOR}", expression + END


def _reaches(prompt: str, response: str) -> bool:
    numbers, target = prompt.removesuffix(SEPARATOR).split(":")
    expression = response.removesuffix(END)
    uses_each_once = sorted(expression[::2]) == sorted(numbers)
    return response.endswith(END) and uses_each_once and value_of(expression) == int(target)


TASKS: Final[dict[str, Task]] = {
    task.name: task
    for task in (
        Task(
            "sorting",
            "3 to 9 digits in order",
            "0123456789",
            _MOST_DIGITS + 1,
            _MOST_DIGITS + 1,
            _draw_digits,
            _is_sorted,
        ),
        Task(
            "addition",
            "the sum of two numbers of 2 to 5 digits, last digit first",
            "0123456789+",
            2 * _LARGEST + 2,
            _LARGEST + 2,
            _draw_sum,
            _is_sum,
        ),
        Task(
            "target",
            "an expression of 3 or 4 given digits that has a given value",
            "0123456789+-*:",
            4 + 1 + 2 + 1,
            4 + 3 + 1,
            _draw_target,
            _reaches,
        ),
    )
}
