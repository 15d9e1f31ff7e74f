"""What search algorithms see of a space: which columns each block allows, and how depth works.

numpy only. Not here: costs, scores, weights, data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernet.errors import SpaceError
from supernet.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class Encoding:
    """A space as integers: an architecture is a vector `[B]` of columns; column 0 is skipped."""

    allowed: NDArray[np.bool_]
    """`[B, O]`"""
    stages: tuple[slice, ...]
    depths: tuple[tuple[int, ...], ...]
    skip: str

    @classmethod
    def of(cls, space: SearchSpace) -> Encoding:
        """Encode `space`.

        Raises:
            SpaceError: if it is tied, and so no choice block by block.
        """
        if space.tied:
            raise SpaceError("a space with tied depths and expand ratios is only sampled from")
        return cls(
            allowed=np.array(space.allowed),
            stages=space.stage_slices,
            depths=tuple(stage.depths for stage in space.stages),
            skip=space.skip,
        )
