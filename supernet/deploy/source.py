"""Start training from the network of a subnet folder (`net=subnet`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supernet.data.dataset import ImageData
from supernet.deploy.certificate import CERTIFICATE, read_certificate
from supernet.deploy.folder import load_config, load_subnet
from supernet.errors import SupernetError
from supernet.io.atomic import sha256
from supernet.io.reporter import Reporter
from supernet.nn.fixed import PlainNet
from supernet.train.build import build_data
from supernet.train.models import checked_network, with_weights


@dataclass(frozen=True, kw_only=True)
class SubnetSource:
    """The network of a subnet folder, with its weights, input size and normalisation.

    Args:
        dir: the folder; its classifier is dropped where the classes differ.
    """

    dir: str

    def data(self, config: Mapping[str, Any]) -> ImageData:
        folder = load_config(self.dir)
        data = build_data(config, size=folder.arch.resolution, kept=folder.parts)
        if data.in_chans != folder.preprocess.in_chans:
            raise SupernetError(
                f"net.dir: {self.dir} takes images of {folder.preprocess.in_chans} channels, and "
                f"data {data.name} has {data.in_chans}"
            )
        return data.normalised_as(folder.preprocess)

    def net(self, config: Mapping[str, Any], data: ImageData, reporter: Reporter) -> PlainNet:
        folder = load_config(self.dir)
        if folder.parts is None:
            reporter.note(
                f"note: {self.dir} was trained on images that an earlier release did not keep the "
                "ids of, so validation and test images may be among them"
            )
        origin = {
            "subnet": self.dir,
            "arch_id": folder.arch_id,
            "checkpoint_sha256": read_certificate(Path(self.dir)).subnet.checkpoint_sha256,
            "certificate_sha256": sha256(Path(self.dir, CERTIFICATE)),
        }
        made = checked_network({**folder.net, "num_classes": data.num_classes}, folder.arch)
        weights = load_subnet(self.dir).state_dict()
        return with_weights(made, weights, origin, kept=folder.classes == data.classes)
