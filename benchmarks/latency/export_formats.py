"""What does a subnet weigh, compute and take in each export format, in float32 and int8?

    python -m benchmarks.latency.export_formats --json benchmarks/results/export_formats.json

The smallest subnet of the small Fashion-MNIST run through every format of `supernet export`, on one
thread. A format whose packages are missing is named as skipped. What is found is kept beside the
result, format by format, until it is whole: the same command goes on after a stop.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import aim, write_result
from benchmarks.small_run import flags_of, trained
from supernet.deploy import export
from supernet.deploy.compression import compression
from supernet.deploy.export.job import export_to
from supernet.deploy.extract import write_subnet
from supernet.errors import DeviceError
from supernet.io.reporter import Reporter
from supernet.latency import runtimes
from supernet.latency.request import TimingRequest
from supernet.train.run import Trained

SECONDS = 4.0


class _Notes(Reporter):
    """Keeps notes and warnings."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.notes.append(f"warning: {text}")


def main() -> None:
    """Read the flags, export, write the result."""
    flags = flags_of(__doc__)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = trained(Path(folder) / "run" if flags.quick else flags.run, quick=flags.quick)
        request = TimingRequest(seconds=0.2 if flags.quick else SECONDS)
        measure(run, Path(folder), request, flags.json)


def measure(run: Trained, folder: Path, request: TimingRequest, out: Path) -> None:
    """Export one subnet in every format and precision there is."""
    arch = run.net.space.smallest()
    subnet = folder / "subnet"
    certificate = write_subnet(run, arch, subnet)
    found: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    kept = Path(f"{out}.partial")
    kept.mkdir(parents=True, exist_ok=True)
    for name in export.FORMATS:
        file = kept / f"{run.sha256[:12]}-{arch.id}-{name}.json"
        if file.exists():
            found[name] = json.loads(file.read_text(encoding="utf-8"))
            continue
        print(name)
        reporter = _Notes()
        try:
            chosen = export.get(name)
            int8 = chosen.NO_INT8 is None
            place = subnet / name
            exported = export_to(
                subnet, name, int8=int8, out=place, request=request, reporter=reporter
            )
        except DeviceError as error:
            skipped[name] = str(error).replace(str(folder), "")
            print(f"skipped: {skipped[name]}")
            continue
        found[name] = {
            **exported.to_dict(),
            "runtime_version": runtimes.get(chosen.RUNTIME).version(),
            "notes": reporter.notes,
        }
        found[name].pop("place")
        file.write_text(json.dumps(found[name]), encoding="utf-8")
        for row in exported.rows:
            print(f"  {row}")
    rows = [(name, row) for name, each in found.items() for row in each["rows"]]
    apart = [row["largest_difference"] for _, row in rows if row["precision"] == "fp32"]
    lost = [100 * (each["rows"][0]["top1"] - each["rows"][1]["top1"])
            for each in found.values() if len(each["rows"]) == 2]  # fmt: skip
    write_result(
        out,
        question=__doc__.splitlines()[0],
        aims=[
            aim("formats that really ran", len(export.FORMATS), len(found), at_least=True),
            aim("largest difference of float32 to PyTorch", 1e-3, max(apart), at_least=False),
            aim("most points of top-1 that int8 costs", 1.0, max(lost), at_least=False),
        ],
        data={
            "data": run.config["data"]["name"],
            "arch": str(arch),
            "params": certificate.size.params,
            "macs": certificate.size.macs,
            "test_images": certificate.quality.test_images,
            "top1": certificate.quality.top1,
            "compression": compression(subnet).to_dict(),
            "quantisers": {n: _version(n) for n in ("ai-edge-quantizer", "torchao")},
            "formats": found,
            "skipped": skipped,
            "no_int8": {name: export.get(name).NO_INT8 for name in found
                        if export.get(name).NO_INT8 is not None},
        },
    )  # fmt: skip
    shutil.rmtree(kept)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
