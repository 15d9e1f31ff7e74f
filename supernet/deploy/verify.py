"""Check whether a subnet's certificate still holds on this machine.

Files, size, outputs, accuracy and latency are determined again and compared with the certificate.
As many test images may be classified otherwise as rounding on another processor can change. Latency
is measured only on the processor that it was measured on, and is compared with the budget and with
the latency then, at the pace of the reference model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from supernet.data.batches import eval_batches
from supernet.data.dataset import ImageData, ImageSource
from supernet.data.preprocess import resize
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

OUTPUT_TOLERANCE = 1e-4
"""Of outputs, relative to the largest one, or to 1 if that is larger."""
BETWEEN_SESSIONS = 0.03
"""Of latency, beside the 95 % intervals: no interval holds how one process differs from the next.
Two processes that time the same file differ by 2.6 % on average and by 8.1 % in one of twenty cases
(`alone_ms` in `benchmarks/results/latency_truth.json`: 132 subnets of three spaces, each in three
processes, ONNX Runtime). Two intervals of 2 % and this term allow 7 %."""


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
    count = len(data.test)
    right, ties = _right_and_ties(model, config, data.test)
    text = f"top-1 {100 * right / count:.2f} % on {count} images, {100 * then.top1:.2f} % then"
    if count != then.test_images:
        gone = len(data.parts.test) == then.test_images
        reason = ", of which some are gone or copied: the two cannot be compared" * gone
        return Check("accuracy", None if gone else False,
                     f"{text}, on {then.test_images} images{reason}")  # fmt: skip
    apart, allowed = abs(right - round(then.top1 * count)), max(1, ties)
    return Check("accuracy", apart <= allowed, f"{text}; they differ by {apart} images, at most "
                 f"{allowed} allowed ({ties} within rounding of a tie)")  # fmt: skip


@torch.no_grad()
def _right_and_ties(model: nn.Module, config: SubnetConfig, images: ImageSource) -> tuple[int, int]:
    """Return how many images are classified right, and of how many rounding may change the class.

    Each of the two best outputs may be off by the tolerance of outputs.
    """
    right = ties = 0
    parts, device = torch.arange(len(images)).split(256), next(model.parameters()).device
    for batch in eval_batches(images, config.preprocess, parts, device=device):
        outputs = model(resize(batch.images, config.arch.resolution))
        best, classes = outputs.topk(2)
        limits = 2 * OUTPUT_TOLERANCE * outputs.abs().amax(1).clamp(min=1)
        right += int((classes[:, 0] == batch.labels).sum())
        ties += int((best[:, 0] - best[:, 1] <= limits).sum())
    return right, ties


def _latency(
    folder: Path, certificate: Certificate, reporter: Reporter, seconds: float | None
) -> Check:
    """Compare latency with the budget, and with the measured one at the pace of this session."""
    device, promise, then = certificate.device, certificate.promise, certificate.measured
    if device is None:
        return Check("latency", None, "none is promised")
    if device.cpu != host.cpu():
        return Check("latency", None, f"it is of {device.cpu}, this is {host.cpu()}")
    request = replace(TimingRequest.like(device), seconds=seconds)
    session = measure_subnets([folder], request, reporter=reporter)
    now = Measurement.of(session.timings[0], session.reference)
    text, limits = f"{now.text} now", dict[str, float]()
    if promise.budget_ms is not None:
        text += f", budget {promise.budget_ms:g} ms"
        limits["the budget"] = promise.budget_ms
    if then is not None:
        pace = now.reference_ms / then.reference_ms
        text += f", {then.text} then; the reference model takes {pace:.2f} times as long as then"
        limits["the latency then at that pace"] = pace * then.high_ms
    if not limits:
        return Check("latency", None, f"{text}; no budget, and none was measured then")
    above = [name for name, ms in limits.items() if now.low_ms > ms * (1 + BETWEEN_SESSIONS)]
    if above:
        text += (
            f"; above {' and '.join(above)} by more than the intervals and {BETWEEN_SESSIONS:.0%} "
            "between two sessions"
        )
    return Check("latency", not above, text)
