"""Check whether a subnet's certificate still holds on this machine.

Files, size, outputs, accuracy and latency are determined again and compared with the certificate.
Latency is compared only on the processor that it was measured on; the time of the reference model
tells how much of a difference is due to the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from supernet.data.dataset import ImageData
from supernet.deploy.certificate import Certificate, Measurement, Quality, Size, read_certificate
from supernet.deploy.folder import SubnetConfig, load_config, load_subnet, onnx_outputs
from supernet.deploy.images import data_for, made_up, some_of
from supernet.errors import CheckpointError, SupernetError, shown
from supernet.io.atomic import sha256
from supernet.io.reporter import Reporter
from supernet.latency import host
from supernet.latency.profile import measure_subnets
from supernet.latency.request import TimingRequest
from supernet.nn.count import module_macs, num_params
from supernet.nn.description import FAULTS
from supernet.train.evaluate import scores_on

OUTPUT_TOLERANCE = 1e-4
"""Of outputs, relative to the largest one, or to 1 if that is larger."""
TOP1_TOLERANCE = 0.002
"""Of top-1: rounding on another processor changes one image in a thousand at most."""
LATENCY_TOLERANCE = 0.15
"""Of latency at equal pace. Predictions of a table are off by up to 10 % at times."""


@dataclass(frozen=True)
class Check:
    """One part of a certificate; `holds` is None where it cannot be checked here."""

    name: str
    holds: bool | None
    text: str


@dataclass(frozen=True)
class Verdict:
    """The checks of all parts of a certificate."""

    folder: Path
    checks: tuple[Check, ...]

    @property
    def holds(self) -> bool:
        """Whether no check failed."""
        return all(check.holds is not False for check in self.checks)

    @property
    def line(self) -> str:
        """The verdict in one line."""
        broken = [f"{c.name}: {c.text}" for c in self.checks if c.holds is False]
        if broken:
            return f"{self.folder}: the certificate does not hold: {'; '.join(broken)}"
        open_ = [c.name for c in self.checks if c.holds is None]
        rest = f" (not checked here: {', '.join(open_)})" if open_ else ""
        return f"{self.folder}: the certificate holds on this machine{rest}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        checks = [asdict(check) for check in self.checks]
        return {"subnet": str(self.folder), "holds": self.holds, "checks": checks}


def verify(
    folder: Path,
    *,
    reporter: Reporter,
    seconds: float | None = None,
    programs: bool = False,
) -> Verdict:
    """Check the certificate of `folder`.

    Args:
        folder: a subnet folder, which may be from an untrusted source.
        reporter: told of warnings.
        seconds: of timing, at most.
        programs: run `model.pt2` as well. Torch runs code that is in such a file, so
            this is for folders from a trusted source.

    Raises:
        CheckpointError: if there is no certificate, or one that is malformed.
        DeviceError: if latency is to be measured here and the runtime is not installed.
    """
    certificate = read_certificate(folder)
    try:
        files = _files(folder, certificate.files)
        if not files.holds:  # of another network, whose outputs prove nothing
            return Verdict(folder, (files,))
        config, model = load_config(folder), load_subnet(folder)
        data: ImageData | SupernetError
        try:
            data = data_for(config)
        except SupernetError as error:
            data = error
        checks = (
            files,
            _size(model, config, certificate.size),
            _outputs(folder, model, config, data, programs),
            _accuracy(model, config, data, certificate.quality),
            _latency(folder, certificate, reporter, seconds),
        )
    except SupernetError:
        raise
    except FAULTS as error:
        raise CheckpointError(
            f"{folder}: the subnet cannot be verified ({shown(error, 300)})"
        ) from error
    return Verdict(folder, checks)


def _files(folder: Path, hashes: Mapping[str, str]) -> Check:
    missing = [name for name in hashes if not (folder / name).is_file()]
    there = {name: wanted for name, wanted in hashes.items() if name not in missing}
    changed = [name for name, wanted in there.items() if sha256(folder / name) != wanted]
    if not missing + changed:
        return Check("files", True, f"{len(hashes)} files are as they were")
    parts = {"changed": changed, "missing": missing}
    return Check("files", False, "; ".join(f"{k}: {', '.join(v)}" for k, v in parts.items() if v))


def _size(model: nn.Module, config: SubnetConfig, then: Size) -> Check:
    macs, params = module_macs(model, made_up(config, 1)), num_params(model)
    text = f"{macs:,} MACs, {params:,} parameters"
    if (macs, params) == (then.macs, then.params):
        return Check("size", True, text)
    said = f"{then.macs:,} MACs, {then.params:,} parameters"
    return Check("size", False, f"{text}; the certificate says {said}")


@torch.no_grad()
def _outputs(
    folder: Path,
    model: nn.Module,
    config: SubnetConfig,
    data: ImageData | SupernetError,
    programs: bool,
) -> Check:
    if isinstance(data, SupernetError):
        images, of = made_up(config, 64), "64 made-up images"
    else:
        images = some_of(data.test, config, 64)
        of = f"{len(images)} test images"
    want = model(images)
    limit = OUTPUT_TOLERANCE * max(1.0, float(want.abs().max()))
    others = {"model.onnx": onnx_outputs(folder / "model.onnx", images)}
    if programs:
        others["model.pt2"] = torch.export.load(folder / "model.pt2").module()(images)
    apart = {
        name: float((got - want).abs().max()) if got.shape == want.shape else math.inf
        for name, got in others.items()
    }
    found = ", ".join(f"{name} {value:.2g}" for name, value in apart.items())
    holds = all(value <= limit for value in apart.values())
    rest = "" if programs else "; model.pt2 is a program and was not run"
    return Check("outputs", holds, f"largest difference to PyTorch on {of}: {found} "
                 f"(limit {limit:.2g}){rest}")  # fmt: skip


def _accuracy(
    model: nn.Module, config: SubnetConfig, data: ImageData | SupernetError, then: Quality
) -> Check:
    if isinstance(data, SupernetError):
        return Check("accuracy", None, str(data))
    top1 = scores_on(model, data.test, config.preprocess, config.arch.resolution).top1
    text = f"top-1 {100 * top1:.2f} % on {len(data.test)} images, {100 * then.top1:.2f} % then"
    if len(data.parts.test) == then.test_images != len(data.test):
        return Check("accuracy", None, f"{text}, on {then.test_images} images, of which some are "
                     "gone or copied: the two cannot be compared")  # fmt: skip
    same = len(data.test) == then.test_images and abs(top1 - then.top1) <= TOP1_TOLERANCE
    return Check("accuracy", same, text)


def _latency(
    folder: Path, certificate: Certificate, reporter: Reporter, seconds: float | None
) -> Check:
    """Compare latency with the measured one, or with the budget if none was measured."""
    device, promise, then = certificate.device, certificate.promise, certificate.measured
    if device is None:
        return Check("latency", None, "none is promised")
    if device.cpu != host.cpu():
        return Check("latency", None, f"it is of {device.cpu}, this is {host.cpu()}")
    request = replace(TimingRequest.like(device), seconds=seconds)
    session = measure_subnets([folder], request, reporter=reporter)
    now = Measurement.of(session.timings[0], session.reference)
    budget = "none" if promise.budget_ms is None else f"{promise.budget_ms:g} ms"
    text = f"{now.median_ms:.4g} ms now, budget {budget}"
    if then is None:
        unknown = "; none was measured then" if promise.budget_ms is None else ""
        return Check("latency", promise.kept_at(now.median_ms), f"{text}{unknown}")
    pace = now.reference_ms / then.reference_ms
    text += (
        f", {then.median_ms:.4g} ms then; the reference model takes {pace:.2f} times as long as "
        "then"
    )
    limit = pace * then.median_ms * (1 + LATENCY_TOLERANCE)
    return Check("latency", now.median_ms <= limit, text)
