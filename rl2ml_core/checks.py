"""Domain checks shared by every constructor: "expected …; got …", before any work is done."""

import math
import operator
from collections.abc import Collection
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from rl2ml_core.errors import InvalidInput

__all__ = ["Array", "choice", "finite_array", "finite_number", "integer"]

Array = npt.NDArray[np.float64]


def integer(value: SupportsIndex, field: str, *, minimum: int, maximum: int | None = None) -> int:
    """An int within [minimum, maximum]; booleans and floats are refused, numpy integers are welcome."""
    expected = f"an integer of at least {minimum}" if maximum is None else f"an integer from {minimum} to {maximum}"
    if isinstance(value, (bool, np.bool_)):
        raise InvalidInput(f"{field} must be {expected}; got {value}", field=field)
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidInput(f"{field} must be {expected}; got {_show(value)}", field=field) from None
    if number < minimum or (maximum is not None and number > maximum):
        raise InvalidInput(f"{field} must be {expected}; got {_show(number)}", field=field)
    return number


def finite_number(
    value: float, field: str, *, minimum: float = -math.inf, maximum: float = math.inf, above: float = -math.inf
) -> float:
    """A finite float with above < value, minimum ≤ value ≤ maximum."""
    try:
        if isinstance(value, (bool, np.bool_, str, bytes)):
            raise TypeError
        number = float(value)
        if math.isfinite(number) and number > above and minimum <= number <= maximum:
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    limits = [f"above {above:g}"] * (above > -math.inf)
    limits += [f"at least {minimum:g}"] * (minimum > -math.inf) + [f"at most {maximum:g}"] * (maximum < math.inf)
    expected = " ".join(["a finite number", " and ".join(limits)]).strip()
    raise InvalidInput(f"{field} must be {expected}; got {_show(value)}", field=field)


def finite_array(values: npt.ArrayLike, field: str, *, minimum: float = -np.inf, maximum: float = np.inf) -> Array:
    """A float64 array, finite and within [minimum, maximum]; the first offender is named by its index."""
    try:
        raw = np.asarray(values)
        if raw.dtype.kind in "US":  # numpy would read numbers from text
            raise TypeError
        array = raw.astype(np.float64, copy=False)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput(f"{field} must be numbers in a regular array; got {_show(values)}", field=field) from None
    # Two reductions in the usual case; NaN fails both comparisons.
    largest = np.finfo(np.float64).max
    low, high = max(minimum, -largest), min(maximum, largest)
    if array.size and not (low <= array.min() and array.max() <= high):
        wrong = ~((array >= low) & (array <= high))
        where = np.unravel_index(int(np.argmax(wrong)), array.shape)
        at = f" at index {', '.join(str(int(i)) for i in where)}" if array.ndim else ""
        raise InvalidInput(
            f"{field} must be finite and within [{minimum:g}, {maximum:g}]; got {array[where]:g}{at}", field=field
        )
    return array


def choice(value: Any, field: str, options: Collection[str]) -> str:
    """One of the named options."""
    if not isinstance(value, str) or value not in options:
        raise InvalidInput(f"{field} must be one of {', '.join(options)}; got {_show(value)}", field=field)
    return value


def _show(value: Any) -> str:
    text = repr(value.item() if isinstance(value, np.generic) else value)
    return text if len(text) <= 60 else f"{text[:57]}…"
