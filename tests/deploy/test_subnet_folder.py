"""A subnet folder as others read it: timm, torch.export, and Python without this package."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from supernet.cli.hydra_config import spec_of
from supernet.data.preprocess import Preprocess
from supernet.deploy.folder import SubnetConfig, load_subnet, save_subnet
from supernet.nn import blocks
from supernet.nn.standalone import timm_model
from supernet.space.net_spec import NetSpec

SPACES = {  # one of each family, and a network of timm's
    "fashion": ("fashion",),
    "ofa_proxyless": ("ofa_proxyless",),
    "biased": ("from_timm", "space.model=mobilenetv3_small_050", "space.resolutions=[64]"),
    "universal": ("mobilenetv4", "space.width_mult=0.35", "space.resolutions=[64]"),
    "same": (
        "from_timm",
        "space.model=tf_mobilenetv3_small_minimal_100",
        "space.resolutions=[64]",
    ),
}


@pytest.fixture(scope="module", params=SPACES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name, *overrides = SPACES[request.param]
    spec = spec_of(name, 3, 4, overrides)
    space, chans, classes = spec.space, spec.in_chans, spec.num_classes
    arch = space.smallest()
    net = blocks.net_args(NetSpec(space=space, in_chans=chans, num_classes=classes), arch)
    preprocess = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3, size=arch.resolution)
    config = SubnetConfig(net=net, arch=arch, preprocess=preprocess, classes=tuple("abcd"), data={})
    folder = tmp_path_factory.mktemp(request.param)
    model = timm_model(net)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 1.5)
    save_subnet(folder, model, config)
    torch.save(torch.rand(2, chans, arch.resolution, arch.resolution), folder / "x.pt")
    return folder


def images(folder: Path) -> torch.Tensor:
    return torch.load(folder / "x.pt", weights_only=True)


def outputs_elsewhere(folder: Path, code: str) -> torch.Tensor:
    """Run `code` in `folder` in a process of its own; it computes `y` of `x`."""
    words = [sys.executable, "-c", f"import torch; x = torch.load('x.pt'); {code}; "
             "torch.save(y.detach(), 'y.pt')"]  # fmt: skip
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "y.pt", weights_only=True)


def test_timm_opens_it(folder: Path) -> None:
    code = "y = timm.create_model('local-dir:.', pretrained=True).eval()(x)"
    got = outputs_elsewhere(folder, f"import timm, supernet.nn.timm_registry; {code}")
    torch.testing.assert_close(got, load_subnet(folder)(images(folder)), rtol=1e-4, atol=1e-4)


def test_its_model_py_needs_no_supernet(folder: Path) -> None:
    code = "import sys; from model import load; y = load()[0](x); assert 'supernet' not in {}"
    got = outputs_elsewhere(folder, code.format("sys.modules"))
    torch.testing.assert_close(got, load_subnet(folder)(images(folder)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_its_exported_program_gives_the_same(folder: Path, count: int) -> None:
    x = images(folder)[:count]
    got = torch.export.load(folder / "model.pt2").module()(x)
    torch.testing.assert_close(got, load_subnet(folder)(x), rtol=1e-4, atol=1e-4)


def test_it_gives_feature_maps(folder: Path) -> None:
    import timm

    import supernet.nn.timm_registry  # noqa: F401  (registers with timm)

    model = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    x = images(folder)
    maps = model(x)
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    sides = [math.ceil(x.shape[-1] / reduction) for reduction in model.feature_info.reduction()]
    assert [m.shape[-1] for m in maps] == sides
    whole = load_subnet(folder)
    torch.testing.assert_close(maps[0], whole.forward_intermediates(x, indices=[0],  # type: ignore[operator]
                               intermediates_only=True)[0], rtol=1e-4, atol=1e-4)  # fmt: skip


def test_timm_is_told_the_preprocessing(folder: Path) -> None:
    import timm

    import supernet.nn.timm_registry  # noqa: F401  (registers with timm)

    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    found = timm.data.resolve_model_data_config(model)
    assert (found["mean"], found["std"]) == ([0.5] * 3, [0.25] * 3)
    assert tuple(found["input_size"]) == tuple(images(folder).shape[1:])
