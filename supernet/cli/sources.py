"""Which network a run trains and where its first weights are from: the group `conf/net/`.

One kind each: a supernet, a hand-made network of timm, the network of a subnet folder. Files are
read without running any code in them. A resumed run looks at none of this: its checkpoint holds
the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supernet.deploy.source import Subnet
from supernet.errors import SupernetError
from supernet.io.validate import construct
from supernet.train.models import Origin, Supernet, Timm

EARLIER = {"kind": "supernet", "init": None}
"""What runs of before there was a choice trained."""


def origin_of(config: Mapping[str, Any]) -> Origin:
    """Read `config["net"]`.

    Raises:
        SupernetError: if there is no such kind, its fields cannot be used, or the run wants of one
            network what only a supernet has.
    """
    fields = dict(config.get("net", EARLIER))
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise SupernetError(f"net.kind is {kind!r}; allowed: {', '.join(KINDS)}")
    origin = construct(KINDS[kind], fields, "net")
    if kind != "supernet":
        _check_one(config, kind)
    return origin


KINDS = {"supernet": Supernet, "timm": Timm, "subnet": Subnet}


def _check_one(config: Mapping[str, Any], kind: str) -> None:
    """Raise `SupernetError` if the run wants more than one network can give."""
    if config.get("init_from"):
        raise SupernetError(
            f"init_from takes a supernet's weights, and net={kind} is one network; leave it out"
        )
    if config["targets"]:
        raise SupernetError(
            "targets: gates choose among the subnets of a supernet, and "
            f"net={kind} is one network; leave targets out"
        )
    if config["regularize"].get("drop_path"):
        raise SupernetError(
            "regularize.drop_path goes with a supernet, whose blocks can be dropped; "
            f"net={kind} takes regularize.dropout"
        )
