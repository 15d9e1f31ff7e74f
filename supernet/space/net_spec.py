"""`NetSpec`: a search space with the images and classes its networks are built for."""

from __future__ import annotations

from dataclasses import dataclass

from supernet.errors import SpaceError
from supernet.space.search_space import SearchSpace


@dataclass(frozen=True, kw_only=True)
class NetSpec:
    """A space, image channels and classes: together they fix the layers of its networks.

    Args:
        space: the search space.
        in_chans: channels of the images.
        num_classes: outputs of the classifier.

    Raises:
        SpaceError: if a number is below 1.
    """

    space: SearchSpace
    in_chans: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, number in {"in_chans": self.in_chans, "num_classes": self.num_classes}.items():
            if number < 1:
                raise SpaceError(f"{name} is {number}; it must be 1 or more")
