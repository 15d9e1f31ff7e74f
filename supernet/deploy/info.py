"""Facts and test scores of runs and subnet folders, for the commands `info` and `eval`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from supernet.deploy.certificate import read_certificate
from supernet.deploy.folder import is_subnet, load_config, load_subnet
from supernet.deploy.images import data_for
from supernet.errors import SpaceError
from supernet.nn.count import num_params, size_of
from supernet.nn.extract import extract
from supernet.nn.fixed import Net, PlainNet
from supernet.space.arch import Arch, read_arch
from supernet.train.bn_calibration import calibrate_on_
from supernet.train.describe import weights_of
from supernet.train.evaluate import Scores, scores_on
from supernet.train.run import Trained


def facts(path: Path) -> dict[str, Any]:
    """Describe a run, a checkpoint or a subnet folder."""
    return _subnet_facts(path) if is_subnet(path) else _run_facts(path)


def _run_facts(path: Path) -> dict[str, Any]:
    run = Trained.open(path)
    net = run.any_net
    phases = list(run.config["recipe"]["phases"])
    done = run.content.get("position", {}).get("phase", 0)
    found: dict[str, Any] = {
        "checkpoint": str(run.file),
        "sha256": run.sha256,
        "written by": f"supernet {run.content.get('supernet')}",
        "data": run.config["data"]["name"],
        "classes": list(run.classes),
        **_net_facts(net),
        "phases done": f"{done} of {len(phases)} ({', '.join(phases)})",
        "steps": run.content.get("position", {}).get("step", 0),
    }
    for name, arch in reversed(net.space.ends.items()):
        macs, params = size_of(net, arch)
        found[name] = f"{macs:,} MACs, {params:,} parameters"
    return found if isinstance(net, PlainNet) else found | {"gates": sorted(run.gates) or "none"}


def _net_facts(net: Net) -> dict[str, Any]:
    if isinstance(net, PlainNet):
        return {"trained alone": net.title, "first weights": weights_of(net)}
    return {
        "architectures": net.space.size,
        "blocks": len(net.space.blocks),
        "resolutions": list(net.space.resolutions),
        "shared parameters": num_params(net),
    }


def _subnet_facts(path: Path) -> dict[str, Any]:
    config, certificate = load_config(path), read_certificate(path).to_dict()
    del certificate["files"]  # hashes, for `supernet verify`
    return {"folder": str(path), "classes": list(config.classes), **certificate}


def scores(path: Path, arch_file: Path | None) -> list[dict[str, Any]]:
    """Return test scores of a subnet folder, or of some subnets of a run."""
    if is_subnet(path):
        config = load_config(path)
        if arch_file is not None:
            raise SpaceError(f"{path} is one subnet already; --arch goes with a run")
        test, size = data_for(config).test, config.arch.resolution
        found = scores_on(load_subnet(path), test, config.preprocess, size)
        return [_score("subnet", config.arch, found, len(test))]
    run = Trained.open(path)
    net = run.any_net
    archs = net.space.ends if arch_file is None else {arch_file.stem: read_arch(arch_file)}
    rows = []
    for name, arch in archs.items():
        model = extract(net, arch)
        calibrate_on_(model, run.data.train, run.preprocess, arch.resolution)
        found = scores_on(model, run.data.test, run.preprocess, arch.resolution)
        rows.append(_score(name, arch, found, len(run.data.test)))
    return rows


def _score(name: str, arch: Arch, found: Scores, images: int) -> dict[str, Any]:
    arch_id = arch.id if arch.ops else None  # a hand-made network has none
    return {"name": name, **asdict(found), "images": images, "arch_id": arch_id, "arch": str(arch)}
