"""Registry of the model sources: the files of `conf/net/`.

A resumed run needs none of them: its checkpoint holds the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from supernet.deploy.source import SubnetSource
from supernet.errors import SupernetError
from supernet.io.validate import construct
from supernet.train.models import ModelSource, Supernet, Timm


def source_of(config: Mapping[str, Any]) -> ModelSource:
    """Read `config["net"]`.

    Raises:
        SupernetError: if there is no such kind, its fields are invalid, or a setting of the
            run needs a supernet and the kind is a single network.
    """
    fields = dict(config["net"])
    kind = fields.pop("kind", None)
    if kind not in KINDS:
        raise SupernetError(f"net.kind is {kind!r}; allowed: {', '.join(KINDS)}")
    source = construct(KINDS[kind], fields, "net")
    if kind != "supernet":
        _check_one(config, kind)
    return source


KINDS = {"supernet": Supernet, "timm": Timm, "subnet": SubnetSource}


def _check_one(config: Mapping[str, Any], kind: str) -> None:
    """Raise `SupernetError` if a setting of the run needs a supernet."""
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
