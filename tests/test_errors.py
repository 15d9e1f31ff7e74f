"""Errors as other processes and tools meet them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from supernet.errors import InfeasibleBudget, InfeasibleLimits, SupernetError, shown

SAMPLES = {
    InfeasibleBudget: (1.0, 2.0, 3.0, "ms"),
    InfeasibleLimits: ([(1.0, 2.0, 3.0, "ms"), (4.0, 5.0, 6.0, "MACs")],),
}


def _family(kind: type[SupernetError]) -> list[type[SupernetError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _family(child))]


@pytest.mark.parametrize("kind", _family(SupernetError), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("protocol", [0, pickle.HIGHEST_PROTOCOL])
def test_an_error_is_the_same_in_another_process(kind: type[SupernetError], protocol: int) -> None:
    """python/cpython#103061: a pool never ends if the error of a task cannot be unpickled."""
    error = kind(*SAMPLES.get(kind, ("no such file",)))
    for again in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert vars(again) == vars(error)


def test_a_value_is_shown_in_one_line() -> None:
    assert "\n" not in shown({"weights": torch.ones(3, 4)})
    assert shown("two\nlines") == repr("two\nlines")
