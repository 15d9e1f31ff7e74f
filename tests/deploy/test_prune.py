"""Narrowed subnets: the right channels stay, the folder rebuilds, the budget is met or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import supernet
import supernet.nn.timm_registry  # registers subnet folders with timm
from supernet.deploy import prune as pruning
from supernet.deploy.certificate import Promise, hashes_of, read_certificate, write_certificate
from supernet.deploy.compression import compression
from supernet.deploy.extract import write_subnet
from supernet.deploy.folder import SubnetConfig, load_config, load_subnet, save_subnet, write_json
from supernet.deploy.info import facts
from supernet.deploy.prune import prune
from supernet.deploy.prune_channels import hidden_widths, narrowed, shares_of
from supernet.deploy.prune_latency import predictor_of
from supernet.deploy.verify import verify
from supernet.errors import SupernetError
from supernet.io.reporter import SILENT
from supernet.latency.costs import latency_costs
from supernet.latency.plan import Session
from supernet.latency.profile import measure_subnets
from supernet.latency.request import TimingRequest
from supernet.latency.table import LatencyTable
from supernet.nn.block_string import BlockString
from supernet.nn.blocks import net_args
from supernet.nn.extract import extract
from supernet.nn.families import FAMILIES
from supernet.nn.standalone import timm_model
from supernet.search.constraints import Choice
from supernet.space.arch import Arch, Op
from supernet.space.cost import arch_cost
from supernet.space.net_spec import NetSpec
from supernet.train.run import Trained
from tests.builders import (
    HAND_MADE,
    TextReporter,
    assert_same,
    device_here,
    digits_config,
    entry,
    images,
    made_up_table,
    random_net,
    small_space,
    some_archs,
    start_run,
    tiny_table,
)
from tests.conftest import Command

# ---- which channels stay -------------------------------------------------------------------------


@pytest.mark.parametrize("name", HAND_MADE)
@pytest.mark.parametrize("share", [0.01, 0.4, 0.75, 1.0])
def test_a_narrowed_net_is_the_old_one_without_the_least_important_channels(
    name: str, share: float
) -> None:
    """Zero projections of the channels that go, in the old net: the same outputs (no SE)."""
    space = HAND_MADE[name]
    space = replace(space, stages=tuple(replace(s, se=False) for s in space.stages))
    net = random_net(space)
    arch = some_archs(space, 0)[0]
    model = extract(net, arch)
    args = net_args(NetSpec(space=space, in_chans=3, num_classes=5), arch)
    widths = shares_of(hidden_widths(model), share)
    smaller, description = narrowed(model, args, widths)
    assert hidden_widths(smaller) == widths
    for block in (b for stage in model.blocks for b in stage if hasattr(b, "conv_pwl")):
        weight = block.conv_pwl.weight
        width = widths.pop(0)
        order = weight.abs().sum((0, 2, 3)).argsort(descending=True)
        with torch.no_grad():
            weight[:, order[width:]] = 0
    x = images(net, arch.resolution)
    rebuilt = timm_model(description).double().eval()
    rebuilt.load_state_dict(smaller.state_dict())
    with torch.no_grad():
        assert_same(smaller(x), model(x), tolerance=1e-10)
        assert_same(rebuilt(x), model(x), tolerance=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_se_keeps_its_most_important_inner_channels(family: str) -> None:
    """Of a block by itself, by hand: the gate computed from the channels that stay."""
    net = random_net(small_space(family=family, expand_ratios=(6,)))
    arch = net.space.largest()
    model = extract(net, arch)
    args = net_args(NetSpec(space=net.space, in_chans=3, num_classes=5), arch)
    smaller, _ = narrowed(model, args, [16, 16, 24])
    old, new = model.blocks[2][0], smaller.blocks[2][0]
    kept = old.conv_pwl.weight.abs().sum((0, 2, 3)).argsort(descending=True)[:24].sort().values
    inner = new.se.conv_reduce.out_channels
    assert inner <= old.se.conv_reduce.out_channels
    best = old.se.conv_expand.weight[kept].abs().sum((0, 2, 3)).argsort(descending=True)[:inner]
    gone = torch.ones(old.se.conv_reduce.out_channels, dtype=torch.bool)
    gone[best] = False
    x = torch.randn(2, 24, 4, 4, dtype=torch.float64)
    wide = torch.zeros(2, old.conv_dw.out_channels, 4, 4, dtype=torch.float64)
    wide[:, kept] = x
    with torch.no_grad():
        old.se.conv_expand.weight[:, gone] = 0
        assert_same(new.se(x), old.se(wide)[:, kept], tolerance=1e-12)


@pytest.mark.parametrize("in_width", [8, 16, 24, 40, 72, 136, 160])
def test_timm_makes_exactly_the_width_that_is_asked_for(in_width: int) -> None:
    from timm.models._efficientnet_builder import decode_arch_def

    for width in range(8, 6 * in_width + 1, 8):
        string = BlockString.parse(f"ir_r1_k3_s1_e6_c{in_width}_nre")
        string = string.with_(expand_ratio=width / in_width)
        ratio = decode_arch_def([[str(string)]])[0][0]["exp_ratio"]
        assert abs(ratio * in_width - width) < 0.01
        if width % 64 == 8:
            with torch.device("meta"):
                block = FAMILIES["mobilenetv3"].block(in_width, string)
            assert block.conv_dw.out_channels == width


def test_shares_are_in_steps_of_eight() -> None:
    assert shares_of([8, 24, 96], 0.5) == [8, 16, 48]
    assert shares_of([8, 24, 96], 0.001) == [8, 8, 8]
    assert shares_of([8, 24, 96], 1) == [8, 24, 96]
    assert Op(3, 2.3).expand_ratio == 2.3


# ---- the command ---------------------------------------------------------------------------------


@pytest.fixture
def subnet(fast: Path) -> Path:
    return fast


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A made-up device: a millisecond for every hundred hidden channels; returns its readings."""
    readings: list[float] = []

    def session(folders: Sequence[Path], request: TimingRequest, **options: Any) -> Session:
        assert request == TimingRequest(processes=3)
        times = [sum(hidden_widths(load_subnet(folder))) / 100 for folder in folders]
        readings.extend(times)
        return Session(entry(0.1), tuple(entry(ms) for ms in times))

    def save(folder: Path, model: torch.nn.Module, config: SubnetConfig) -> None:
        if folder.name.startswith("."):  # the one that is kept, not one that is only timed
            save_subnet(folder, model, config)
            return
        save_file(model.state_dict(), folder / "model.safetensors")
        write_json(folder / "config.json", config.to_dict())

    monkeypatch.setattr(pruning, "measure_subnets", session)
    monkeypatch.setattr(pruning, "save_subnet", save)
    return readings


def hidden(folder: Path) -> list[int]:
    return hidden_widths(load_subnet(folder))


@pytest.mark.parametrize("finetune", [0, 1])
def test_a_pruned_subnet_meets_its_budget_and_rebuilds(
    command: Command, subnet: Path, device: list[float], finetune: int
) -> None:
    whole = hidden(subnet)
    budget = 0.6 * sum(whole) / 100
    result = command("prune", subnet, "--budget-ms", budget, "--out", "o", "--finetune", finetune)
    assert result.code == 0, result
    assert result.err == ""
    widths = hidden(Path("o"))
    assert sum(widths) / 100 <= budget
    assert all(width % 8 == 0 and width <= old for width, old in zip(widths, whole, strict=True))
    paper = read_certificate(Path("o"))
    assert paper.measured is not None
    assert paper.pruned is not None
    assert paper.measured.median_ms == sum(widths) / 100
    assert paper.promise.budget_ms == budget
    assert paper.promise.predicted_ms is None
    assert paper.pruned.hidden_after == tuple(widths)
    assert paper.pruned.hidden_before == tuple(whole)
    assert paper.pruned.top1_before == read_certificate(subnet).quality.top1
    assert paper.size.params < read_certificate(subnet).size.params
    assert paper.files == hashes_of(Path("o"))
    assert len(device) <= 12, "bisection, not a scan"
    config = load_config("o")
    assert config.arch == load_config(subnet).arch
    x = torch.rand(2, 1, config.arch.resolution, config.arch.resolution)
    want = supernet.load_subnet("o")(x)
    timms = timm.create_model("local-dir:o", pretrained=True).eval()
    for model in (timms, torch.export.load("o/model.pt2").module()):
        torch.testing.assert_close(model(x), want, rtol=1e-4, atol=1e-5)
    assert facts(Path("o"))["pruned"]["finetune_epochs"] == finetune
    assert compression(Path("o")).params == paper.size.params
    checks = {check.name: check.holds for check in verify(Path("o"), reporter=SILENT).checks}
    assert all(checks[name] for name in ("files", "size", "outputs", "accuracy"))


def test_no_wider_share_meets_the_budget(subnet: Path, device: list[float],
                                         reporter: TextReporter) -> None:  # fmt: skip
    whole = hidden(subnet)
    budget = 0.5 * sum(whole) / 100
    prune(subnet, Path("o"), budget, reporter)
    sums = {sum(shares_of(whole, share / 100)) for share in range(1, 101)}
    assert sum(hidden(Path("o"))) == max(total for total in sums if total / 100 <= budget)


@pytest.mark.slow
def test_fine_tuning_helps(subnet: Path, device: list[float], reporter: TextReporter) -> None:
    budget = 0.4 * sum(hidden(subnet)) / 100
    top1 = [
        prune(subnet, Path("o"), budget, reporter, finetune=epochs).quality.top1
        for epochs in (0, 3)
    ]
    assert top1[1] > top1[0]


def test_budgets_that_cannot_be(
    refused: Callable[..., str], subnet: Path, device: list[float]
) -> None:
    whole = hidden(subnet)
    low, high = 8 * len(whole) / 100, sum(whole) / 100
    line = refused("prune", subnet, "--budget-ms", low / 2, "--out", "o")
    assert f"feasible budgets lie between {low:.4g} and {high:.4g} ms" in line
    line = refused("prune", subnet, "--budget-ms", high, "--out", "o")
    assert "there is nothing to prune" in line
    for budget in ("0", "nan", "-1"):
        assert "positive number" in refused("prune", subnet, f"--budget-ms={budget}")


def test_what_is_refused(refused: Callable[..., str], subnet: Path, place: Path) -> None:
    words = ("--budget-ms", 0.1, "--out")
    assert "not a subnet folder" in refused("prune", "nowhere", *words, "o")
    assert "name another --out" in refused("prune", subnet, *words, subnet)
    (place / "thesis").mkdir()
    (place / "thesis" / "chapter.tex").write_text("mine")
    assert "is not a subnet folder" in refused("prune", subnet, *words, "thesis")
    tiny_table().save(place / "T.json")
    line = refused("prune", subnet, *words, "o", "--table", "T.json")
    assert "the table is of nowhere (made up), this is" in line
    assert "extracted with it, which fast was not" in line
    certificate = read_certificate(subnet)
    assert certificate.device is not None
    device = replace(certificate.device, cpu="another")
    write_certificate(subnet, replace(certificate, device=device))
    assert "(another), this is" in refused("prune", subnet, *words, "o")


def test_without_images_nothing_is_pruned(refused: Callable[..., str], subnet: Path) -> None:
    config = json.loads((subnet / "config.json").read_text())
    config["data"]["fields"] = {"name": "folder", "root": "nowhere"}
    (subnet / "config.json").write_text(json.dumps(config))
    assert "images of the subnet" in refused("prune", subnet, "--budget-ms", 0.1)


def test_a_lucky_reading_does_not_count(subnet: Path, device: list[float], reporter: TextReporter,
                                        monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """The network that the bisection ends with is measured again, and left if it is too slow."""
    true, lucky = pruning.measure_subnets, [True]
    budget = 0.5 * sum(hidden(subnet)) / 100

    def session(folders: Sequence[Path], *request: Any, **options: Any) -> Session:
        found = true(folders, *request, **options)
        ms = found.timings[0].median_ms
        if len(folders) == 1 and lucky and budget < ms < 1.3 * budget:
            lucky.clear()
            return Session(found.reference, (entry(0.9 * budget),))
        return found

    monkeypatch.setattr(pruning, "measure_subnets", session)
    paper = prune(subnet, Path("o"), budget, reporter)
    assert not lucky, "there was one"
    assert paper.measured is not None
    assert paper.measured.median_ms <= budget


def test_by_a_table_of_another_device_it_is_predicted(
    command: Command, run: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the ends of the widths that the table holds, the prediction is the table's own."""
    monkeypatch.setattr(pruning, "measure_subnets", lambda *_, **__: pytest.fail("it measures"))
    trained, times = Trained.open(run), LatencyTable.load(table)
    costs = latency_costs(times, trained.net.spec)
    space = trained.net.space
    wide, slim = (
        Arch(tuple(Op(5, ratio) for _ in space.blocks), resolution=16) for ratio in (3, 2)
    )
    whole, least = (arch_cost(space, costs, arch) for arch in (wide, slim))
    choice = Choice(arch=wide, predicted_ms=whole, budget_ms=whole)
    write_subnet(trained, wide, Path("fast"), promise=Promise.of(choice), table=times)
    predict = predictor_of(load_subnet("fast"), load_config("fast").net, 16, times, whole)
    widths = hidden(Path("fast"))
    assert predict(widths) == pytest.approx(whole)
    assert predict([width * 2 // 3 for width in widths]) == pytest.approx(least)
    budget = (whole + least) / 2
    result = command("prune", "fast", "--table", table, "--budget-ms", budget, "--out", "o")
    assert result.code == 0, result
    assert "ms predicted, budget" in result.out
    paper = read_certificate(Path("o"))
    assert paper.measured is None
    assert paper.promise.predicted_ms == predict(hidden(Path("o"))) <= budget


def test_a_negative_number_of_epochs(subnet: Path, reporter: TextReporter) -> None:
    with pytest.raises(SupernetError, match="0 is the least"):
        prune(subnet, Path("o"), 1.0, reporter, finetune=-1)


@pytest.mark.slow
def test_a_pruned_subnet_is_really_faster(place: Path) -> None:
    """Of a wide network, by timings of this machine, compared in one session at the end."""
    start_run(digits_config(
        "space.stages=[{width:32,stride:2,depths:[2]},{width:64,stride:2,depths:[2]}]",
        "space.expand_ratios=[6]", "space.resolutions=[32]", "recipe.epochs=1",
    ), Path("run"))  # fmt: skip
    run = Trained.open(Path("run"))
    arch, request = run.net.space.largest(), TimingRequest()
    device = device_here()
    table = made_up_table(run.net.space, in_chans=1, num_classes=10, device=device)
    chosen = Choice(arch=arch, predicted_ms=1.0, budget_ms=1.0)
    write_subnet(run, arch, Path("wide"), promise=Promise.of(chosen), table=table)
    (before,) = measure_subnets([Path("wide")], request).timings
    budget = 0.65 * before.median_ms
    with pytest.raises(SupernetError, match=r"feasible budgets lie between 0\.\d+ and 0\.\d+ ms"):
        prune(Path("wide"), Path("slim"), 1e-9, SILENT)
    assert not Path("slim").exists()
    paper = prune(Path("wide"), Path("slim"), budget, SILENT)
    assert paper.measured is not None
    assert paper.measured.median_ms < 1.25 * budget, "at another pace, maybe"
    wide, slim = measure_subnets([Path("wide"), Path("slim")], request).timings
    assert slim.median_ms < 0.85 * wide.median_ms
