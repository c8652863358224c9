"""What `POST /v1/pilots` gives."""

from typing import Annotated

from pydantic import Field

from app.schemas.common import Answer

__all__ = ["PilotAnswer"]


class CellAnswer(Answer):
    """`num_prompts` prompts had `num_successes` of `num_rollouts`."""

    num_rollouts: int
    num_successes: int
    num_prompts: float


class PilotAnswer(Answer):
    """A pilot that was uploaded: requests may name it by its id, or repeat its cells."""

    id: Annotated[str, Field(pattern="^pilot_[0-9a-f]{32}$")]
    num_prompts: float
    cells: list[CellAnswer]
