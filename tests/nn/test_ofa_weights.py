"""Once-for-all's checkpoints and networks, read as its package writes them."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from ofa.imagenet_classification.elastic_nn import networks
from torch import Tensor

import supernet
from supernet.errors import CheckpointError, SpaceError
from supernet.nn.count import num_params
from supernet.nn.extract import extract
from supernet.nn.ofa_weights import read_arch, read_supernet
from supernet.space.arch import Arch, Op
from supernet.space.presets import ofa_mbv3
from supernet.train.run import Trained
from tests.builders import randomise_
from tests.conftest import Command
from tests.latency.test_anchors import NETS, published

NETWORKS = {
    "OFAMobileNetV3": (1.0, 1.2),
    "OFAProxylessNASNets": (1.3,),
}
KINDS = [(kind, width) for kind, widths in NETWORKS.items() for width in widths]


def their_net(kind: str, width: float) -> Any:
    torch.manual_seed(0)
    net = getattr(networks, kind)(
        n_classes=10, width_mult=width, ks_list=[3, 5, 7], expand_ratio_list=[3, 4, 6],
        depth_list=[2, 3, 4],
    )  # fmt: skip
    return randomise_(net).eval()


def older(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Spell the names as releases before 0.1.0 did."""
    names = {}
    for name, tensor in state.items():
        old = name.replace("blocks.", "BLOCKS.").replace(".conv.", ".mobile_inverted_conv.", 1)
        old = old.replace("BLOCKS.", "blocks.") if name.startswith("blocks.") else name
        for twice in ("bn", "conv", "linear"):
            old = old.replace(f".{twice}.{twice}.", f".{twice}.")
        names[old] = tensor
    return names


@pytest.mark.parametrize(("kind", "width"), KINDS)
@pytest.mark.parametrize("spelled", ["newer", "older"])
def test_twenty_subnets_have_the_outputs_of_theirs(
    kind: str, width: float, spelled: str, tmp_path: Path
) -> None:
    theirs, file = their_net(kind, width), tmp_path / "weights"
    state = theirs.state_dict()
    torch.save({"state_dict": state if spelled == "newer" else older(state)}, file)
    net, rng = read_supernet(file).double(), random.Random(0)
    theirs.double()
    space = net.space
    count = 20 if spelled == "newer" else 3
    x = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    for _ in range(count):
        arch = Arch(space.sample(rng).ops, 128)
        ops = [Op(3, 3) if op is None else op for op in arch.ops]
        theirs.set_active_subnet(
            ks=[op.kernel_size for op in ops], e=[op.expand_ratio for op in ops],
            d=[sum(op is not None for op in arch.ops[where]) for where in space.stage_slices],
        )  # fmt: skip
        with torch.no_grad():
            want, got = theirs(x), net(x, arch)
        assert (got - want).abs().max() <= 1e-9 * want.abs().max()
        assert num_params(extract(net, arch)) == num_params(theirs.get_active_subnet())


def test_a_run_is_made_of_the_weights(tmp_path: Path, command: Command) -> None:
    file = tmp_path / "weights"
    torch.save(their_net("OFAMobileNetV3", 1.0).state_dict(), file)
    done = command("import", "ofa", str(file), "--out", str(tmp_path / "run"))
    assert done.code == 0, done.err
    run = Trained.open(tmp_path / "run")
    assert (run.net.num_classes, len(run.classes)) == (10, 10)
    assert run.preprocess.mean == (0.485, 0.456, 0.406)
    arch = run.net.space.smallest()
    assert supernet.load(tmp_path / "run").space == run.net.space
    x = torch.randn(1, 3, arch.resolution, arch.resolution)
    torch.testing.assert_close(extract(run.net, arch).eval()(x), run.net(x, arch))
    again = command("import", "ofa", str(file), "--out", str(tmp_path / "run"))
    assert again.code == 2
    assert "holds a run already" in again.err


@pytest.mark.skipif(not NETS.is_dir(), reason="no published nets; see SUPERNET_ANCHORS")
@pytest.mark.parametrize("name", ["note10_lat-16ms_top1-75.5_finetune-25"])
def test_a_published_net_is_an_architecture(name: str, tmp_path: Path, command: Command) -> None:
    file = tmp_path / "weights"
    torch.save(their_net("OFAMobileNetV3", 1.0).state_dict(), file)
    command("import", "ofa", str(file), "--out", str(tmp_path / "run"))
    config, size = published(name)
    done = command(
        "import", "ofa", str(NETS / name / "net.config"), "--run", str(tmp_path / "run"),
        "--resolution", str(size), "--out", str(tmp_path / "arch.json"),
    )  # fmt: skip
    assert done.code == 0, done.err
    arch = Arch.from_dict(json.loads((tmp_path / "arch.json").read_text()))
    net = Trained.open(tmp_path / "run").net
    assert arch in net.space
    ops = [block["mobile_inverted_conv"] for block in config["blocks"][1:]]
    assert [op for op in arch.ops if op is not None] == [
        Op(op["kernel_size"], op["expand_ratio"]) for op in ops
    ]


def test_a_net_config_is_read_as_newer_and_older_releases_write_it(tmp_path: Path) -> None:
    theirs, file = their_net("OFAMobileNetV3", 1.0), tmp_path / "net.config"
    space = ofa_mbv3()
    want = Arch(space.sample(random.Random(0)).ops, 224)
    ops = [Op(3, 3) if op is None else op for op in want.ops]
    theirs.set_active_subnet(
        ks=[op.kernel_size for op in ops], e=[op.expand_ratio for op in ops],
        d=[sum(op is not None for op in want.ops[where]) for where in space.stage_slices],
    )  # fmt: skip
    text = json.dumps(theirs.get_active_subnet().config)
    assert '"conv": {' in text
    for each in (text, text.replace('"conv": {', '"mobile_inverted_conv": {')):
        file.write_text(each)
        assert read_arch(file, space, 224) == want


def test_foreign_files_are_listed_not_loaded_halfway(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    state = their_net("OFAMobileNetV3", 1.0).state_dict()
    for name, change, message in (
        ("lacks", lambda s: s.pop("blocks.3.conv.depth_conv.bn.bn.weight"), "lacks blocks.2.timm"),
        ("extra", lambda s: s.update(more=torch.zeros(1)), "has more, which is not part"),
        ("shape", lambda s: s.update({"final_expand_layer.bn.weight": torch.zeros(3)}), "is \\(3"),
        ("stem", lambda s: s.pop("first_conv.conv.weight"), "no supernet of once-for-all"),
        ("width", lambda s: s.update({"first_conv.conv.weight": torch.zeros(17, 3, 3, 3)}), "no w"),
    ):
        changed = dict(state)
        change(changed)
        torch.save(changed, file)
        with pytest.raises(CheckpointError, match=message):
            read_supernet(file)
        assert name
    torch.save(state, file)
    with pytest.raises(CheckpointError, match="does not fit ofa_mbv3 with expand ratios"):
        read_supernet(file, expand_ratios=(2, 4))
    torch.save({"state_dict": [1]}, file)
    with pytest.raises(CheckpointError, match="not a group of tensors"):
        read_supernet(file)


def test_a_supernet_is_read_as_trainers_wrap_it(tmp_path: Path) -> None:
    state = their_net("OFAMobileNetV3", 1.0).state_dict()
    torch.save({"state_dict": state}, tmp_path / "bare")
    want = read_supernet(tmp_path / "bare").state_dict()
    for start in ("module.", "model.module.", "_orig_mod.module."):
        wrapped = {start + name: tensor for name, tensor in state.items()}
        torch.save({"model": wrapped}, tmp_path / "wrapped")
        got = read_supernet(tmp_path / "wrapped").state_dict()
        torch.testing.assert_close(got, want, rtol=0, atol=0)


@pytest.mark.parametrize("start", ["", "module."])
def test_a_resnet_of_theirs_is_called_one(start: str, tmp_path: Path) -> None:
    names = networks.OFAResNets(n_classes=2, depth_list=[0]).state_dict()
    state = {start + name: torch.zeros(1) for name in names}
    torch.save({"state_dict": state}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"a ResNet of once-for-all, .*ofa_mbv3 and ofa_prox"):
        read_supernet(tmp_path / "weights")


def test_a_network_of_others_is_named(tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(CheckpointError, match=r"not of once-for-all, it is a ResNet; .*net\.init"):
        read_supernet(tmp_path / "weights")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "weights").write_bytes(pickle.dumps({"state_dict": Evil()}))
    with pytest.raises(CheckpointError, match="not written by this program"):
        read_supernet(tmp_path / "weights")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content", [{}, {"blocks": [1, 2]}, {"blocks": [{}, {"mobile_inverted_conv": None}]}, [1]]
)
def test_another_json_is_no_net(content: Any, tmp_path: Path) -> None:
    file = tmp_path / "net.config"
    file.write_text(json.dumps(content))
    with pytest.raises(SpaceError, match=r"not a net\.config of once-for-all"):
        read_arch(file, supernet.space.presets.ofa_mbv3(), 224)
