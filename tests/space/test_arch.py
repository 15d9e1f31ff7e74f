from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from supernet.errors import SpaceError
from supernet.space.arch import Arch, Op, read_arch

OLD = Path(__file__).parent / "old"


def test_values_are_attributes_and_their_order_of_naming_is_no_matter() -> None:
    op = Op(expand_ratio=3, kernel_size=5)
    assert op == Op(5, 3) == Op(kernel_size=5, expand_ratio=3.0)
    assert (op.kernel_size, op.expand_ratio) == (5, 3.0)
    assert (str(op), repr(op)) == ("k5e3", "Op(kernel_size=5, expand_ratio=3.0)")
    assert pickle.loads(pickle.dumps(op)) == op
    with pytest.raises(
        AttributeError, match="an op of kernel_size, expand_ratio has no start_kernel_size"
    ):
        _ = op.start_kernel_size


def test_ops_are_ordered_by_the_most_significant_value() -> None:
    ops = [Op(k, e) for k in (3, 5) for e in (1, 2.3, 6)]
    assert sorted(reversed(ops)) == ops
    more = [Op(start_kernel_size=a, kernel_size=k, expand_ratio=4) for a in (0, 3) for k in (0, 5)]
    assert sorted(reversed(more)) == more
    assert str(more[-1]) == "a3k5e4"


def test_any_name_can_be_a_value() -> None:
    op = Op(bottle_ratio=0.25)
    assert str(op) == "bottle_ratio0.25"
    assert op.with_(bottle_ratio=0.5).bottle_ratio == 0.5
    arch = Arch((op, None), 64)
    assert Arch.from_dict(json.loads(json.dumps(arch.to_dict()))) == arch


def test_version_1_is_read_and_ids_stay() -> None:
    arch = read_arch(OLD / "arch_version_1.json")
    assert str(arch) == "r24 k5e3.k5e3.k5e3.k5e2.k5e3.-"
    assert arch.id == "0d6d98b8fa57", "the id is in certificates and tables of searches"
    again = Arch.from_dict(arch.to_dict())
    assert (again, again.id) == (arch, arch.id)
    assert arch.to_dict()["version"] == 2


@pytest.mark.parametrize(
    "op",
    [3, [3], [3, 2, 1], {"kernel_size": "3"}, {"kernel_size": True}, {"Kernel": 3}, {"self": 3},
     {"values": 3}, {"kernel_size": -1}, {"kernel_size": float("nan")}, {"kernel_size": 1e9}],
)  # fmt: skip
def test_what_is_no_op_is_told(op: object) -> None:
    with pytest.raises(SpaceError, match="is no op: expected numbers by name"):
        Op.from_dict(op)


def test_a_version_of_later_is_refused() -> None:
    with pytest.raises(SpaceError, match="version 3; 2 is the newest"):
        Arch.from_dict({"version": 3, "resolution": 24, "ops": []})
