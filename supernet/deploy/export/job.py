"""The command `export`: a subnet in another format, compared with PyTorch, scored and timed.

Not here: how a format is written, how its files are run.
"""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supernet.data.batches import eval_batches
from supernet.data.dataset import ImageData
from supernet.deploy import export
from supernet.deploy.folder import load_config, load_subnet
from supernet.deploy.images import data_for, made_up, some_of
from supernet.errors import DeviceError, SupernetError
from supernet.io.atomic import check_replaceable, replacing, write_json
from supernet.io.lock import held_beside
from supernet.io.read import read_json
from supernet.io.reporter import SILENT, Reporter
from supernet.io.version import tool_version
from supernet.latency import host, runtimes
from supernet.latency.profile import measure_exports
from supernet.latency.request import TimingRequest
from supernet.train.evaluate import scores

FORMAT, VERSION = "supernet-export", 1
RECORD = "export.json"
REQUEST = TimingRequest()
CALIBRATION_IMAGES, COMPARED_IMAGES = 256, 64
POINT = 0.01
TOLERANCE = 1e-3
"""Tolerance of float32 outputs, relative to the largest one, or to 1 if that is larger."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One precision of a format: size, accuracy and latency of its files."""

    precision: str
    bytes: int
    largest_difference: float
    top1: float | None
    median_ms: float
    interval_ms: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A finished export, with a row for float32 and, if asked for, one for int8."""

    place: Path
    format: str
    images: str
    torch_top1: float | None
    rows: tuple[Row, ...]

    @property
    def warning(self) -> str | None:
        """A warning if int8 costs more than a point of accuracy."""
        if len(self.rows) < 2 or self.rows[0].top1 is None or self.rows[1].top1 is None:
            return None
        lost = self.rows[0].top1 - self.rows[1].top1
        if lost <= POINT:
            return None
        return f"int8 costs {100 * lost:.2f} points of top-1; float32 keeps them"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "format": self.format,
            "place": self.place.as_posix(),
            "images": self.images,
            "torch_top1": self.torch_top1,
            "rows": [asdict(row) for row in self.rows],
            "warning": self.warning,
        }


def is_export(folder: Path) -> bool:
    """Whether `folder` was written by `export_to`."""
    try:
        record = read_json(folder / RECORD, error=SupernetError)
    except SupernetError:
        return False
    return isinstance(record, dict) and record.get("kind") == FORMAT


def export_to(
    folder: Path,
    name: str,
    *,
    int8: bool = False,
    out: Path | None = None,
    request: TimingRequest = REQUEST,
    reporter: Reporter = SILENT,
) -> Exported:
    """Write the subnet in `folder` in the format `name`, compared and timed.

    Args:
        folder: a subnet folder.
        name: one of `export.FORMATS`.
        int8: quantise, with ranges from the training images.
        out: the folder to write; left out: one in `folder`.
        request: threads, and the time limit.
        reporter: gets notes and warnings.

    Raises:
        CheckpointError: if `folder` is not a subnet's.
        DeviceError: if the format is unknown, lacks its package, has no int8, cannot hold this
            network, or computes something else than PyTorch; if there are too few cores.
        SupernetError: if int8 is asked for and the training images are not there, or `out` holds
            something else.
    """
    host.check_threads(request.threads)
    place = out or folder / (f"{name}-int8" if int8 else name)
    subnet = export.Subnet(folder=folder, config=load_config(folder), model=load_subnet(folder))
    check_replaceable(place, is_export, "an export")
    chosen = export.get(name)
    runtimes.get(chosen.RUNTIME)  # a package that is missing is told before anything is computed
    if int8 and chosen.NO_INT8 is not None:
        raise DeviceError(f"format {name!r} has no int8: {chosen.NO_INT8}")
    data = _data(subnet, int8, reporter)
    calibration = None
    if int8 and data is not None:
        calibration = some_of(data.train, subnet.config, CALIBRATION_IMAGES)
    with (
        held_beside(place),
        tempfile.TemporaryDirectory() as temporary,
        replacing(place, is_export, "an export") as to,
    ):
        places = {"fp32": Path(temporary) if int8 else to} | ({"int8": to} if int8 else {})
        for precision, there in places.items():
            chosen.write(subnet, there, calibration if precision == "int8" else None)
        facts = _compared(subnet, name, places, data, request, reporter)
        exported = Exported(place=place, format=name, **facts)
        write_json(to / RECORD, _record(subnet, chosen, exported))
    return exported


def _data(subnet: export.Subnet, int8: bool, reporter: Reporter) -> ImageData | None:
    try:
        return data_for(subnet.config)
    except SupernetError as error:
        if int8:
            raise SupernetError(f"int8 needs images to find its ranges, but {error}") from error
        reporter.note(
            f"note: {error}: outputs are compared on made-up images, and nothing is scored"
        )
        return None


@torch.no_grad()
def _compared(
    subnet: export.Subnet,
    name: str,
    places: dict[str, Path],
    data: ImageData | None,
    request: TimingRequest,
    reporter: Reporter,
) -> dict[str, Any]:
    """Compare, score and time the files in `places`; return fields of `Exported`."""
    if data is None:
        images, of = made_up(subnet.config, COMPARED_IMAGES), "made-up images"
    else:
        images, of = some_of(data.test, subnet.config, COMPARED_IMAGES), "test images"
    want = subnet.model(images)
    limit = TOLERANCE * max(1.0, float(want.abs().max()))
    chosen = export.get(name)
    files = {precision: place / chosen.FILE for precision, place in places.items()}
    facts: dict[str, dict[str, Any]] = {}
    for precision, file in files.items():
        run = runtimes.get(chosen.RUNTIME).load_file(file, threads=request.threads)
        difference = float((torch.from_numpy(run(images.numpy())) - want).abs().max())
        if precision == "fp32" and not difference <= limit:
            raise DeviceError(
                f"{name} computes something else than PyTorch on {len(images)} {of}: outputs are "
                f"up to {difference:.3g} apart, {limit:.3g} is allowed; nothing is written"
            )
        size = sum(path.stat().st_size for path in file.parent.iterdir())
        top1 = _top1(_FileModel(run), subnet, data)
        facts[precision] = {"bytes": size, "largest_difference": difference, "top1": top1}
    shape = (1, *subnet.image_shape)
    timed = [(chosen.RUNTIME, file, shape) for file in files.values()]
    timings = measure_exports(timed, request, reporter=reporter).timings
    rows = tuple(
        Row(precision=precision, **facts[precision], median_ms=timing.median_ms,
            interval_ms=(timing.low_ms, timing.high_ms))
        for precision, timing in zip(facts, timings, strict=True)
    )  # fmt: skip
    torch_top1 = _top1(subnet.model, subnet, data)
    return {"images": f"{len(images)} {of}", "torch_top1": torch_top1, "rows": rows}


def _top1(model: nn.Module, subnet: export.Subnet, data: ImageData | None) -> float | None:
    if data is None:
        return None
    config = subnet.config
    parts = torch.arange(len(data.test)).split(256)
    batches = eval_batches(data.test, config.preprocess, parts, device=torch.device("cpu"))
    return scores(model, batches, config.arch.resolution).top1


class _FileModel(nn.Module):
    """An exported file as a network that can be scored."""

    def __init__(self, run: runtimes.Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of `images`."""
        return torch.from_numpy(self._run(images.contiguous().numpy()))


def _record(subnet: export.Subnet, chosen: export.Format, exported: Exported) -> dict[str, Any]:
    """Return the content of `export.json`: versions, input, classes and the comparison."""
    preprocess = subnet.config.preprocess
    rest = exported.to_dict()
    rest.pop("place")
    return {
        "kind": FORMAT,
        "version": VERSION,
        "tool_version": tool_version(),
        "runtime_version": runtimes.get(chosen.RUNTIME).version(),
        "arch_id": subnet.config.arch_id,
        "input": {
            "layout": chosen.LAYOUT,
            "shape": [1, *subnet.image_shape],
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
        },
        "classes": list(subnet.config.classes),
        **rest,
    }
