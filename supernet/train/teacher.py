"""A teacher for all subnets: a timm network with weights trained on the same classes.

Weights are read without running any code in the file. Images reach the teacher as they reach
the supernet, normalised by the run's own preprocessing, at the size of the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import timm
from torch import nn

from supernet.data.dataset import ImageData
from supernet.errors import SupernetError
from supernet.io.tensors import read_state, tensors_of
from supernet.nn.timm_registry import check_known


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """A network by timm's name and a file with its weights."""

    model: str
    weights: str

    def load(self, data: ImageData) -> nn.Module:
        """Return the network in evaluation mode.

        Raises:
            SupernetError: if timm has no such network, or the file does not fit it and `data`.
        """
        check_known(self.model, "teacher.model")
        net: nn.Module = timm.create_model(
            self.model, num_classes=data.num_classes, in_chans=data.in_chans
        )
        try:
            state = read_state(Path(self.weights))
            net.load_state_dict(tensors_of(net.state_dict(), state, self.weights)[0])
        except SupernetError as error:
            raise SupernetError(f"teacher.weights: {error}") from error
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise SupernetError(
                f"teacher.weights: {self.weights} does not hold {self.model} with "
                f"{data.num_classes} classes and {data.in_chans} channels ({reason})"
            ) from error
        return net.requires_grad_(False).eval()
