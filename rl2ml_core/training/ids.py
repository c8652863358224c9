"""Group ids as users write them: integers in a tensor or an array, or hashables such as uid strings. B rows."""

import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rl2ml_core.errors import InvalidInput

__all__ = ["number_keys", "read_keys"]


def read_keys(group_ids: Any) -> Tensor | list[Hashable]:
    """Ids of the rows, [B]: integers of an array as a tensor, anything else as a list.

    Raises:
        InvalidInput: a text, what cannot be listed, or an array of other numbers or dimensions.
    """
    keys = group_ids
    if isinstance(keys, str | bytes):  # its characters would be ids
        raise InvalidInput("group_ids must be one per reward; got a text", field="group_ids")
    if isinstance(keys, np.ndarray) and keys.dtype.kind in "iuf":
        keys = torch.from_numpy(keys if keys.dtype.kind == "f" else keys.astype(np.int64))
    if not isinstance(keys, Tensor):
        try:
            return keys.tolist() if isinstance(keys, np.ndarray) else list(keys)
        except TypeError:
            raise InvalidInput(
                f"group_ids must be one per reward; got {type(keys).__name__}", field="group_ids"
            ) from None
    if keys.ndim != 1 or keys.is_floating_point() or keys.is_complex():
        raise InvalidInput(
            f"group_ids must be a vector of integers or of hashables; got {keys.dtype} of shape {list(keys.shape)}",
            field="group_ids",
        )
    return keys.detach()


def number_keys(keys: Sequence[Hashable]) -> tuple[npt.NDArray[np.int64], list[Hashable]]:
    """Each row's place among the distinct ids, [B], and those, in the order in which they turn up.

    Raises:
        InvalidInput: an id that is not hashable, or not equal to itself.
    """
    place: defaultdict[Hashable, int] = defaultdict(itertools.count().__next__)
    try:
        places = np.fromiter(map(place.__getitem__, keys), np.int64, len(keys))
    except TypeError as error:
        raise InvalidInput(f"group_ids must be integers or hashable; got {error}", field="group_ids") from None
    if any(isinstance(key, Tensor) for key in place):  # hashed by identity: every row would be a group of its own
        raise InvalidInput("group_ids must be one tensor or plain values; got a list of tensors", field="group_ids")
    if any(isinstance(key, float) and math.isnan(key) for key in place):  # NaN is not even itself
        raise InvalidInput("group_ids must be integers or hashable; got nan", field="group_ids")
    return places, list(place)
