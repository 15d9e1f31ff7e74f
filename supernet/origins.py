"""Which network a run trains and where its first weights are from: the group `conf/net/`.

One kind each: a supernet, a hand-made network of timm, the network of a subnet folder. Files are
read without running any code in them. A resumed run looks at none of this: its checkpoint holds
the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from supernet.certificate import CERTIFICATE, read_certificate
from supernet.data.dataset import ImageData
from supernet.errors import SupernetError
from supernet.io.atomic import sha256
from supernet.io.validate import construct
from supernet.nn.fixed import PlainNet
from supernet.subnet import load_config, load_subnet
from supernet.train.build import build_data
from supernet.train.models import Origin, Supernet, Timm, _begun, _built

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


@dataclass(frozen=True, kw_only=True)
class Subnet:
    """The network of a subnet folder, with its weights, input size and normalisation.

    Args:
        dir: the folder; its classifier is dropped where the classes differ.
    """

    dir: str

    def data(self, config: Mapping[str, Any]) -> ImageData:
        """See `Origin`."""
        folder = load_config(self.dir)
        data = build_data(config, size=folder.arch.resolution)
        if data.in_chans != folder.preprocess.in_chans:
            raise SupernetError(
                f"net.dir: {self.dir} takes images of {folder.preprocess.in_chans} channels, and "
                f"data {data.name} has {data.in_chans}"
            )
        return data.normalised_as(folder.preprocess)

    def net(self, config: Mapping[str, Any], data: ImageData, console: Console) -> PlainNet:
        """See `Origin`."""
        folder = load_config(self.dir)
        origin = {"subnet": self.dir, "arch_id": folder.arch_id, **_certified(Path(self.dir))}
        made = _built({**folder.net, "num_classes": data.num_classes}, folder.arch)
        weights = load_subnet(self.dir).state_dict()
        return _begun(made, weights, origin, kept=folder.classes == data.classes)


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


def _certified(folder: Path) -> dict[str, Any]:
    """Return what a subnet's certificate says of where it is from."""
    checkpoint = read_certificate(folder).get("checkpoint_sha256")
    return {"checkpoint_sha256": checkpoint, "certificate_sha256": sha256(folder / CERTIFICATE)}
