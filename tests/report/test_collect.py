"""What a report says of runs: right, and whatever else lies in their folders."""

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer

from supernet.cli import app as cli
from supernet.deploy.certificate import LimitedCost, Promise, Pruned, SubnetId, read_certificate
from supernet.errors import SupernetError
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.report.collect import collect
from supernet.report.schema import Report, best_first
from supernet.space.arch import Arch
from supernet.space.cost import arch_cost
from supernet.train.run import Trained
from tests.conftest import Command
from tests.report.conftest import certificate, write_subnet

COMMAND = "supernet report runs/tiny"


def of(*paths: Path) -> Report:
    return collect(paths, COMMAND)


def test_everything_of_a_run_is_found(filled: Path) -> None:
    report = of(filled)
    assert report.notes == ()
    assert report.devices == ("onnxruntime-fp32-1thread", "torch-fp32-1thread")
    assert len(report.subnets) == 6
    assert len(report.tables) == len(report.gates) == len(report.fronts) == 2
    (run,) = report.runs
    assert (run.name, run.kind) == ("runs/tiny", "subnet")
    assert run.about["data"] == "synthetic"
    assert run.about["blocks"] == 3
    again = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (again["format"], again["version"]) == ("supernet-report", 2)


def test_errors_are_relative_to_what_was_measured(filled: Path) -> None:
    report = of(filled)
    assert [one.error for one in report.subnets] == pytest.approx([0.25] * 6)
    first, second = report.accuracy
    assert (first.mape, first.bias, first.worst) == pytest.approx((0.25, 0.25, 0.25))
    assert first.num_subnets == second.num_subnets == 3
    assert first.pace == pytest.approx(1.02)


def test_bars_share_out_the_predicted_latency(filled: Path) -> None:
    report, run = of(filled), Trained.open(filled)
    for one in report.subnets:
        runtime = one.name.split("-")[0]
        table = LatencyTable.load(filled / "tables" / f"{runtime}.json")
        arch = read_certificate(Path(one.path)).subnet.arch
        want = arch_cost(run.net.space, latency_costs(table, run.net.spec), arch)
        assert one.fixed_share is not None
        spent = sum(bar.ms or 0.0 for bar in one.bars)
        assert spent / (1 - one.fixed_share) == pytest.approx(want)
        assert sum(bar.share or 0.0 for bar in one.bars) + one.fixed_share == pytest.approx(1)
        kernels = [None if op is None else op.kernel_size for op in arch.ops]
        assert [bar.kernel_size for bar in one.bars] == kernels


def test_gates_are_the_runs_marginals(filled: Path) -> None:
    run = Trained.open(filled)
    for one in of(filled).gates:
        want = run.gates[one.name].marginals().detach().double()
        got = torch.tensor([[p or 0.0 for p in row] for row in one.marginals]).double()
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)
        assert sum(one.resolutions.values()) == pytest.approx(1)


def test_curves_and_phases_follow_training(filled: Path) -> None:
    (run,) = of(filled).runs
    names = {curve.name for curve in run.curves}
    assert {"loss/largest", "loss/random", "held_out_top1/largest", "lr"} <= names
    assert [phase.name for phase in run.phases] == ["largest", "all"]
    first, second = run.phases
    steps = Trained.open(filled).content["position"]["step"]
    assert first.first_step == 0
    assert first.end_step == second.first_step == steps * 2 / 5
    assert second.end_step == steps


def test_every_command_is_one_that_the_command_line_reads(filled: Path) -> None:
    report = of(filled)
    groups = (report.subnets, report.tables, report.gates, report.fronts)
    commands = [one.command for group in groups for one in group]
    commands += [point.command for front in report.fronts for point in front.points]
    root = typer.main.get_command(cli.app)
    for text in commands:
        assert text is not None
        program, name, *words = shlex.split(text)
        assert program == "supernet"
        root.commands[name].make_context(name, list(words))  # type: ignore[attr-defined]
    one = report.subnets[0]
    assert one.command == (
        f"supernet extract runs/tiny --table runs/tiny/tables/onnxruntime.json --budget-ms "
        f"{one.budget_ms!r} --out runs/tiny/subnets/onnxruntime-0"
    )


def test_the_command_of_a_searched_point_makes_that_network(filled: Path, command: Command) -> None:
    front = of(filled).fronts[0]
    point = front.points[0]
    assert point.command is not None
    assert f"--arch {front.path} " in point.command
    done = command(*shlex.split(point.command)[1:])
    assert done.code == 0, done.err
    (one,) = (one for one in of(filled).subnets if one.name == point.arch_id)
    assert (one.arch_id, one.budget_ms) == (point.arch_id, point.budget_ms)
    assert one.command == point.command, "and is what makes it again"


def test_a_front_is_what_no_faster_one_beats(filled: Path) -> None:
    front = best_first(of(filled).subnets)
    for one in of(filled).subnets:
        assert any((other.ms or 0) <= (one.ms or 0) and other.top1 >= one.top1 for other in front)
    assert [one.top1 for one in front] == sorted(one.top1 for one in front)


# ---- what belongs to runs but is not of the usual kind ------------------------------------------


def test_baselines_are_known_by_having_nothing_to_choose(filled: Path) -> None:
    table = LatencyTable.load(filled / "tables" / "torch.json")
    alone = SubnetId(arch=Arch((), 8), checkpoint_sha256="0", network="timm's resnet18 at 8 px")
    write_subnet(filled / "baselines" / "small", certificate(alone.arch, table, 1.0, subnet=alone))
    (one,) = (one for one in of(filled).subnets if one.kind == "baseline")
    assert (one.arch, one.command, one.bars) == ("timm's resnet18 at 8 px", None, ())
    other = filled.with_name("hand_made")
    shutil.copytree(filled / "subnets" / "torch-0", other / "subnets" / "a")
    (other / "config.json").write_text(json.dumps({"net": {"kind": "timm"}}))
    report = of(filled, other)
    assert [run.kind for run in report.runs] == ["subnet", "baseline"]
    assert report.subnets[-1].kind == "baseline"
    assert report.subnets[-1].command == (
        "supernet extract runs/hand_made --table runs/tiny/tables/torch.json --out "
        "runs/hand_made/subnets/a"
    )


def test_subnets_and_tables_elsewhere_are_given_by_themselves(filled: Path) -> None:
    shutil.move(filled / "subnets" / "torch-0", "fast")
    shutil.move(filled / "tables" / "torch.json", "T.json")
    report = of(filled, Path("fast"), Path("T.json"))
    assert report.notes == ()
    assert len(report.subnets) == 6
    assert report.subnets[-1].path == "fast"
    assert "--table T.json" in (report.subnets[-1].command or "")
    assert [table.path for table in report.tables][-1] == "T.json"
    assert len(of(filled, filled / "subnets" / "torch-1").subnets) == 5, "once, not twice"


def test_devices_of_one_name_on_two_machines_are_two(filled: Path) -> None:
    table = LatencyTable.load(filled / "tables" / "torch.json")
    board = replace(table, device=replace(table.device, machine="board"))
    board.save(filled / "tables" / "board.json")
    held = certificate(Trained.open(filled).net.space.smallest(), board, 0.5)
    write_subnet(filled / "subnets" / "board-0", held)
    report = of(filled)
    one, other = f"{table.device.name} on nowhere", f"{table.device.name} on board"
    assert set(report.devices) == {"onnxruntime-fp32-1thread", one, other}
    assert {each.device for each in report.subnets} == set(report.devices)
    assert {each.device for each in report.gates} == {"onnxruntime-fp32-1thread", one}


def test_limits_besides_latency_are_in_the_command(filled: Path) -> None:
    limits = {
        "MACs": LimitedCost(limit=2e6, predicted=1e6),
        "KiB": LimitedCost(limit=64.5, predicted=60.0),
    }
    arch = Trained.open(filled).net.space.smallest()
    held = certificate(arch, None, 1.0, promise=Promise(limits=limits), measured=None)
    write_subnet(filled / "subnets" / "small", held)
    (one,) = (one for one in of(filled).subnets if one.name == "small")
    assert one.device == "any device"
    assert one.command == (
        "supernet extract runs/tiny --max-macs 2000000 --max-memory-kib 64.5 --out "
        "runs/tiny/subnets/small"
    )


def test_pruned_subnets_are_not_drawn_as_the_space_has_them(filled: Path) -> None:
    folder = filled / "subnets" / "torch-0"
    pruned = Pruned(
        from_weights_sha256="0",
        hidden_before=(16,),
        hidden_after=(8,),
        finetune_epochs=0,
        top1_before=0.5,
    )
    write_subnet(folder, replace(read_certificate(folder), pruned=pruned))
    (one,) = (one for one in of(filled).subnets if one.name == "torch-0")
    assert (one.kind, one.bars, one.command) == ("pruned", (), None)


def test_cropped_kernels_are_in_the_command(filled: Path) -> None:
    folder = filled / "subnets" / "torch-0"
    held = read_certificate(folder)
    write_subnet(folder, replace(held, subnet=replace(held.subnet, kernels_cropped=True)))
    (one,) = (one for one in of(filled).subnets if one.name == "torch-0")
    assert "--crop-kernels" in (one.command or "")


# ---- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"top1": "high"}',
        '{"top1": NaN}',
        '{"top1": 0.5, "arch": {"ops": [[]]}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_subnet_is_noted(filled: Path, content: str) -> None:  # fmt: skip
    (filled / "subnets" / "torch-1" / "certificate.json").write_text(content)
    report = of(filled)
    assert len(report.subnets) == 5
    (note,) = report.notes
    assert "torch-1/certificate.json" in note
    assert len(note.splitlines()) == 1


def test_damaged_tables_gates_and_curves_are_noted(filled: Path) -> None:
    (filled / "tables" / "torch.json").write_text("{")
    sorted((filled / "gates").glob("*.pt"))[0].write_bytes(b"no gates")
    report = of(filled)
    assert [one.device for one in report.tables] == ["onnxruntime-fp32-1thread"]
    assert len(report.gates) == 1
    assert len(report.subnets) == 6
    assert {Path(note.split(":")[0]).parent.name for note in report.notes} == {"tables", "gates"}
    bare = [one for one in report.subnets if one.device.startswith("torch")]
    assert all(bar.share is None for one in bare for bar in one.bars)


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-5], lambda text: text.replace('"budget_ms"', '"b"', 1)]
)
def test_a_damaged_front_is_noted(filled: Path, damage: Callable[[str], str]) -> None:
    file = filled / "front-torch.json"
    file.write_text(damage(file.read_text()))
    report = of(filled)
    assert len(report.fronts) == 1
    (note,) = report.notes
    assert note.startswith(f"{file}: ")


def test_hidden_files_beside_gates_are_passed_over(filled: Path) -> None:
    """The name is that of macOS for attributes on disks of other systems."""
    count = len(Trained.open(filled).gates)
    (filled / "gates" / "._t@1ms.pt").write_bytes(b"\0\5\x16\7")
    assert len(Trained.open(filled).gates) == count
    assert of(filled).notes == ()


def test_a_damaged_checkpoint_leaves_what_else_there_is(filled: Path) -> None:
    for file in filled.glob("checkpoint*.pt"):
        file.write_bytes(b"no checkpoint")
    report = of(filled)
    assert len(report.subnets) == 6
    assert report.gates == ()
    assert any("checkpoint.pt" in note for note in report.notes)


def test_of_no_run_nothing_is_said(place: Path, filled: Path) -> None:
    (place / "empty").mkdir()
    for paths in ([place / "empty"], [place / "missing"], [filled / "subnets" / "torch-0"], []):
        with pytest.raises(SupernetError):
            of(*paths)


def test_numbers_that_are_not_finite_never_come_through(filled: Path) -> None:
    text = json.dumps(of(filled).to_dict())
    assert "NaN" not in text
    assert math.isfinite(of(filled).accuracy[0].mape)
