"""Training: it learns, its randomness is a function of position, and resuming is exact."""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch

from supernet.data.batches import Augment, Batch
from supernet.data.parts import divide
from supernet.data.preprocess import resize
from supernet.data.synthetic import synthetic
from supernet.errors import CheckpointError, InfeasibleBudget, SupernetError, TableError
from supernet.io.reporter import SILENT
from supernet.latency.costs import latency_costs
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Arch
from supernet.space.cost import Constraint, cost_range
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.train import checkpoint, loop
from supernet.train import job as training
from supernet.train.build import build_optimizer, build_recipe, build_steps
from supernet.train.distillation import kl
from supernet.train.gates.step import GateConfig
from supernet.train.gates.target import Target, new_target
from supernet.train.logger import RunFolder
from supernet.train.loop import fit
from supernet.train.phases import Phase
from supernet.train.position import START, Position, epochs, epochs_before, gates_move
from supernet.train.step import (
    Passes,
    Precision,
    Regularize,
    StepConfig,
    Training,
    weight_step,
)
from supernet.train.strategies import SubnetSampler, Taught
from tests.builders import (
    TextReporter,
    middle,
    small_space,
    start_run,
    tiny_config,
    tiny_space,
    tiny_table,
)

SPACE = small_space()


class Recorder:
    """A run that keeps what it is told."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.metrics: list[dict[str, float]] = []
        self.states: list[dict[str, Any]] = []
        self.done: list[str] = []
        self.moved: list[int] = []

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        assert step == len(self.losses)
        self.losses.append(metrics["loss/random"])
        self.metrics.append(metrics)

    def due(self) -> bool:
        return False

    def stopping(self) -> bool:
        return False

    def gates_moved(self, targets: Sequence[Target], step: int) -> None:
        self.moved.append(step)

    def save(self, state: dict[str, Any]) -> None:
        self.states.append(copy.deepcopy(state))

    def scored(self, phase: Phase, step: int, top1: Mapping[str, float], *, last: bool) -> None:
        assert step == len(self.losses)
        assert set(top1) == {"largest", "smallest"}
        if last:
            self.done.append(phase.name)


def phase_of(space: SearchSpace, **changes: Any) -> Phase:
    return Phase(**{"name": "p", "space": space, "epochs": 2, "lr": 3e-3, **changes})


def steps_of(**changes: Any) -> StepConfig:
    fields = {key: changes.pop(key) for key in list(changes) if hasattr(GateConfig, key)}
    config = build_steps(tiny_config())
    gates = GateConfig(**{"batch_size": 8, **fields})
    return StepConfig(**{**vars(config), "gates": gates, **changes})


def fitted(
    phases: list[Phase], config: StepConfig, targets: list[Target], net: SuperNet
) -> Recorder:
    run = Recorder()
    training = Training(
        net=net, phases=phases, strategy=Taught(), config=config, targets=targets,
        data=divide(synthetic(per_class=12, size=8)),
        optimizer=torch.optim.AdamW(net.parameters()),
    )  # fmt: skip
    fit(training, run)
    return run


def target_of(net: SuperNet, config: StepConfig, name: str = "table") -> Target:
    table = tiny_table()
    costs = latency_costs(table, NetSpec(space=net.space, in_chans=3, num_classes=4))
    budget = Constraint(costs, middle(cost_range(net.space, costs)))
    return new_target(net, table_id=name, device="made up", budget=budget, lr=config.gates.lr)


# ---- learning ----------------------------------------------------------------------------------


def test_training_reduces_the_loss() -> None:
    torch.manual_seed(0)
    net = SuperNet(SPACE, 4)
    phases = [
        phase_of(SPACE.restrict(depths=1, resolutions=1), epochs=6, teach=False, lr=0.02),
        phase_of(SPACE, epochs=4, subnets=2, sort_channels=True, lr=1e-3),
    ]
    run = fitted(phases, steps_of(), [], net)
    first, last = run.losses[:4], run.losses[20:24]
    assert sum(last) < 0.6 * sum(first)
    assert run.done == ["p", "p"]
    assert len(run.losses) == 4 * 10
    assert all({"lr", "grad_norm", "loss/random"} <= set(metrics) for metrics in run.metrics)
    assert "loss/largest" not in run.metrics[0]
    assert "loss/largest" in run.metrics[-1]


def test_a_step_learns_from_the_mean_over_its_subnets() -> None:
    """One step of the strategy against the sum written out, in float64."""
    torch.manual_seed(0)
    net = SuperNet(SPACE, 4).double().train()
    twin = copy.deepcopy(net)
    data = divide(synthetic(size=16))
    x = data.preprocess.normalise(data.train.take(torch.arange(8)).pixels).double()
    labels = data.train.labels[:8]
    archs = [SPACE.sample(random.Random(seed)) for seed in range(2)]
    phase = phase_of(SPACE, subnets=2)
    strategy = Taught(label_smoothing=0.1, hard_share=0.25)
    passes = Passes(net, Precision(None, x.device))
    losses: dict[str, list[float]] = defaultdict(list)
    batch = Batch(x, labels)
    for name, _, loss in strategy.losses(passes, batch, phase=phase, draw=archs.__getitem__):
        (loss / phase.nets).backward()
        losses[name].append(loss.item())

    def cross_entropy(logits: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)

    teacher = twin(x, SPACE.largest())
    total = cross_entropy(teacher)
    taught = []
    for arch in archs:
        logits = twin(resize(x, arch.resolution), arch)
        loss = 0.25 * cross_entropy(logits) + 0.75 * kl(logits, teacher)
        taught.append(loss.item())
        total = total + loss
    (total / 3).backward()
    for got, want in zip(net.parameters(), twin.parameters(), strict=True):
        assert (got.grad is None) == (want.grad is None)
        if want.grad is not None:
            torch.testing.assert_close(got.grad, want.grad, rtol=1e-9, atol=1e-12)
    assert losses["largest"] == pytest.approx([cross_entropy(teacher).item()])
    assert losses["random"] == pytest.approx(taught)


@pytest.mark.parametrize("sort", [False, True])
def test_momenta_go_on_unless_channels_are_sorted(sort: bool) -> None:
    space = tiny_space()
    phases = [phase_of(space, epochs=2), phase_of(space, epochs=1, sort_channels=sort)]
    run = fitted(phases, steps_of(), [], SuperNet(space, 4))
    steps = [
        {int(state["step"]) for state in saved["optimizer"]["state"].values()}
        for saved in run.states
    ]
    per_epoch = len(run.losses) // 3
    last = per_epoch if sort else 3 * per_epoch
    assert [max(counts) for counts in steps] == [per_epoch, 2 * per_epoch, last]


@pytest.mark.parametrize("sort", [False, True])
def test_channels_are_sorted_when_a_phase_says_so(sort: bool) -> None:
    """At a rate that moves nothing."""
    torch.manual_seed(0)
    space = tiny_space()
    net = SuperNet(space, 4)
    fitted([phase_of(space, epochs=1, lr=1e-20, sort_channels=sort)], steps_of(), [], net)
    in_order = []
    for block in net.blocks:
        importance = block.timm.conv_pwl.weight.abs().sum((0, 2, 3)).detach()
        in_order.append(torch.equal(importance, importance.sort(descending=True).values))
    assert in_order == [sort] * len(net.blocks)


def test_no_two_epochs_see_the_same_batches() -> None:
    """Across phases, too."""
    space, seen = tiny_space(), []

    class Spy:
        def losses(
            self, forward: Any, batch: Batch, *, phase: Phase, draw: Any
        ) -> Iterator[tuple[str, Arch, torch.Tensor]]:
            seen.append(batch.images.clone())
            yield "random", phase.space.largest(), torch.zeros((), requires_grad=True)

    net = SuperNet(space, 4)
    training = Training(
        net=net, phases=[phase_of(space), phase_of(space)], strategy=Spy(),
        config=steps_of(clip_grad=None, augment=Augment()),
        data=divide(synthetic(per_class=12, size=8)),
        optimizer=torch.optim.SGD(net.parameters()),
    )  # fmt: skip
    fit(training, Recorder())
    per_epoch = len(seen) // 4
    firsts = seen[::per_epoch]
    assert len(firsts) == 4
    assert not any(torch.equal(a, b) for a, b in combinations(firsts, 2))


# ---- where randomness comes from ---------------------------------------------------------------


def test_epochs_are_counted_through_the_phases() -> None:
    phases = [phase_of(SPACE, epochs=2), phase_of(SPACE, epochs=1), phase_of(SPACE, epochs=2)]
    walked = [position for position, _ in epochs(phases, Position(), 5)]
    assert walked == [
        Position(0, 0, 0), Position(0, 1, 5), Position(1, 0, 10), Position(2, 0, 15),
        Position(2, 1, 20),
    ]  # fmt: skip
    assert [epochs_before(phases, position) for position in walked] == [0, 1, 2, 3, 4]
    for start in walked:
        assert [p for p, _ in epochs(phases, start, 5)] == walked[walked.index(start) :]
    assert list(epochs(phases, Position(3, 0, 25), 5)) == []


def test_a_draw_is_a_function_of_seed_step_and_place() -> None:
    draw = SubnetSampler(SPACE.sample, 0, 7)
    assert [draw(place) for place in range(20)] == [draw(place) for place in range(20)]
    assert len({draw(place) for place in range(20)}) > 5
    assert [SubnetSampler(SPACE.sample, 0, 8)(p) for p in range(9)] != [draw(p) for p in range(9)]
    assert [SubnetSampler(SPACE.sample, 1, 7)(p) for p in range(9)] != [draw(p) for p in range(9)]
    assert all(draw(place) in SPACE for place in range(20))


@pytest.mark.parametrize(("share", "low", "high"), [(0.0, 0, 5), (0.5, 60, 140), (1.0, 200, 200)])
def test_share_says_how_many_subnets_come_from_the_gates(share: float, low: int, high: int) -> None:
    """Gates that are sure of one architecture; 200 draws."""
    space = tiny_space()
    net = SuperNet(space, 4)
    config = steps_of(share=share)
    target = target_of(net, config)
    sure = space.sample(random.Random(5))
    with torch.no_grad():
        for row, column in enumerate(space.encode(sure)):
            target.gates.alpha[row] = -40.0
            target.gates.alpha[row, column] = 40.0
        target.gates.resolution[space.resolutions.index(sure.resolution)] = 80.0

    def draws() -> list[Arch]:
        return [SubnetSampler(space.sample, 0, n, [target], share)(0) for n in range(200)]

    drawn = draws()
    assert low <= drawn.count(sure) <= high
    assert drawn == draws()
    assert SubnetSampler(space.sample, 0, 0, (), share)(0) in space, "no targets, no gates"


# ---- gates along with the weights --------------------------------------------------------------


def test_gates_move_when_the_whole_space_is_open_and_the_warm_up_is_over() -> None:
    narrow = SPACE.restrict(expand_ratios=1)
    phases = [phase_of(narrow, epochs=3), phase_of(SPACE, epochs=2), phase_of(SPACE, epochs=2)]
    moving = {
        warmup: [
            gates_move(phases, position, GateConfig(warmup_epochs=warmup))
            for position, _ in epochs(phases, Position(), 1)
        ]
        for warmup in (None, 0, 1, 3, 9)
    }
    assert moving == {
        None: [False] * 3 + [True] * 4,
        0: [False] * 3 + [True] * 4,
        1: [False] * 4 + [True] * 3,
        3: [False] * 6 + [True],
        9: [False] * 7,
    }


def test_gates_move_in_the_second_half_where_nothing_else_is_said() -> None:
    phases = [phase_of(SPACE, epochs=4)]
    every = [position for position, _ in epochs(phases, Position(), 1)]
    assert [gates_move(phases, at, GateConfig()) for at in every] == [False, False, True, True]


def test_gates_stay_until_then_and_move_afterwards() -> None:
    torch.manual_seed(0)
    space = tiny_space()
    net = SuperNet(space, 4)
    config = steps_of(warmup_epochs=1, share=1.0)
    target = target_of(net, config)
    uniform = target.gates.alpha.detach().clone()
    phases = [
        phase_of(space.restrict(expand_ratios=1), epochs=1),
        phase_of(space, epochs=2),
    ]
    run = fitted(phases, config, [target], net)
    after = [state["gates"][target.name]["gates"]["alpha"] for state in run.states]
    assert torch.equal(after[0], uniform)
    assert torch.equal(after[1], uniform)
    assert not torch.equal(after[2], uniform)
    logged = [any(key.startswith("gates/") for key in metrics) for metrics in run.metrics]
    per_epoch = len(logged) // 3
    assert logged == [False] * 2 * per_epoch + [True] * per_epoch
    assert all(value.grad is not None for value in target.gates.parameters())


def test_gates_do_not_change_how_weights_are_trained() -> None:
    """With share 0 the weights end the same for whatever targets, bit for bit."""
    space, config = tiny_space(), steps_of(share=0.0)
    nets = []
    for count in (1, 2):
        torch.manual_seed(0)
        net = SuperNet(space, 4)
        targets = [target_of(net, config, name) for name in ("one", "two")[:count]]
        fitted([phase_of(space, epochs=1)], config, targets, net)
        nets.append(net.state_dict())
    torch.testing.assert_close(*nets, rtol=0, atol=0)


# ---- resuming ----------------------------------------------------------------------------------


class Stop(Exception):
    pass


def same(a: Any, b: Any, where: str = "") -> None:
    """Compare bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for number, (one, two) in enumerate(zip(a, b, strict=True)):
            same(one, two, f"{where}[{number}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    else:
        assert a == b, where


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two targets, channel sorting, subnets from the gates: all that has a state."""
    file = tmp_path_factory.mktemp("tables") / "T.json"
    table = tiny_table()
    table.save(file)
    space = tiny_space()
    ends = cost_range(space, latency_costs(table, NetSpec(space=space, in_chans=3, num_classes=4)))
    config = tiny_config(
        "gates.warmup_epochs=1", "gates.share=0.5", "+recipe.phases.largest.sort_channels=true"
    )
    budgets = [middle(ends, share) for share in (0.2, 0.7)]
    return {**config, "targets": [{"table": str(file), "budget_ms": b} for b in budgets]}


@pytest.fixture(scope="module")
def undisturbed(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    start_run(config, folder, SILENT)
    return checkpoint.read(folder)


def test_training_twice_gives_the_same_bits(
    config: dict[str, Any], undisturbed: dict[str, Any], tmp_path: Path, reporter: TextReporter
) -> None:
    start_run(config, tmp_path / "run", reporter)
    same(checkpoint.read(tmp_path / "run"), undisturbed)


@pytest.mark.parametrize("stops", [[4], [6], [4, 8, 10, 14]])
def test_resuming_gives_the_same_bits(
    config: dict[str, Any],
    undisturbed: dict[str, Any],
    tmp_path: Path,
    reporter: TextReporter,
    monkeypatch: pytest.MonkeyPatch,
    stops: list[int],
) -> None:
    """Stopped within an epoch, at its end, at the end of a phase (6 steps), again and again."""
    log, folder = RunFolder.log, tmp_path / "run"
    left = list(stops)

    def stopping(self: RunFolder, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        log(self, step, phase, metrics)
        if left and step == left[0]:
            left.pop(0)
            raise Stop

    monkeypatch.setattr(RunFolder, "log", stopping)
    with pytest.raises(Stop):
        start_run(config, folder, reporter)
    for _ in stops[1:]:
        with pytest.raises(Stop):
            training.resume(folder, reporter)
    before = checkpoint.read(folder)
    assert before["position"]["step"] < undisturbed["position"]["step"]
    training.resume(folder, reporter)
    assert not left
    same(checkpoint.read(folder), undisturbed)
    training.resume(folder, reporter)
    assert "is trained to its end already" in reporter.text


def test_the_checkpoint_knows_where_training_is(undisturbed: dict[str, Any]) -> None:
    assert undisturbed["position"] == {"phase": 2, "epoch": 0, "step": 15, "batch": 0}
    assert len(undisturbed["gates"]) == 2
    assert all(name.endswith("ms") for name in undisturbed["gates"])


def test_a_run_is_not_overwritten(trained_run: Path, reporter: TextReporter) -> None:
    before = (trained_run / checkpoint.FILE).read_bytes()
    with pytest.raises(SupernetError, match=r"holds a run already; go on with resume="):
        start_run(tiny_config(), trained_run, reporter)
    assert (trained_run / checkpoint.FILE).read_bytes() == before


def test_resuming_needs_the_position_and_the_tables(
    config: dict[str, Any], undisturbed: dict[str, Any], tmp_path: Path, reporter: TextReporter
) -> None:
    file = tmp_path / checkpoint.FILE
    for where in (None, {"epoch": 1, "hour": 2}, 5):
        checkpoint.save(file, {**undisturbed, "position": where})
        with pytest.raises(CheckpointError, match="lacks the position of training"):
            training.resume(tmp_path, reporter)
    start = {"phase": 0, "epoch": 1, "step": 3}
    other = tiny_table(seed=9)
    other.save(tmp_path / "other.json")
    moved = {**config, "targets": [{**config["targets"][0], "table": str(tmp_path / "other.json")}]}
    checkpoint.save(file, {**undisturbed, "position": start, "config": moved})
    with pytest.raises(CheckpointError, match=r"no gates .*a table of its targets changed"):
        training.resume(tmp_path, reporter)
    gone = {**config, "targets": [{**config["targets"][0], "table": str(tmp_path / "gone.json")}]}
    checkpoint.save(file, {**undisturbed, "position": start, "config": gone})
    with pytest.raises(TableError, match=r"gone\.json: cannot be read"):
        training.resume(tmp_path, reporter)


def test_a_target_out_of_reach_is_refused_before_training(
    config: dict[str, Any], tmp_path: Path, reporter: TextReporter
) -> None:
    table = config["targets"][0]["table"]
    bad = {**config, "targets": [{"table": table, "budget_ms": 1e-6}]}
    with pytest.raises(InfeasibleBudget, match="feasible budgets lie between"):
        start_run(bad, tmp_path / "run", reporter)
    assert not (tmp_path / "run").exists()


def test_the_recipe_of_the_configuration_is_what_is_trained() -> None:
    phases, strategy = build_recipe(tiny_config(), tiny_space())
    assert [phase.name for phase in phases] == ["largest", "all"]
    assert phases[-1].space == tiny_space()
    assert isinstance(strategy, Taught)


def test_a_step_reads_nothing_from_its_device() -> None:
    """On the device `meta`, which has no values; a card would have to be waited for."""
    net = SuperNet(SPACE, 4).to("meta")
    phase = Phase(name="all", space=SPACE, epochs=1, lr=0.1, subnets=2, smallest=True)
    config = StepConfig(
        batch_size=8, augment=Augment(), seed=0, gates=GateConfig(), clip_grad=1.0,
        micro_batches=2, regularize=Regularize(dropout=0.1, drop_path=0.1),
    )  # fmt: skip
    training = Training(
        net=net, phases=[phase], strategy=Taught(hard_share=0.5), config=config,
        data=divide(synthetic(per_class=9, size=16)),
        optimizer=build_optimizer({"optimizer": {"opt": "adamw"}}, net),
    )  # fmt: skip
    side = max(SPACE.resolutions)
    batch = Batch(
        torch.empty(8, 3, side, side, device="meta"),
        torch.empty(8, dtype=torch.int64, device="meta"),
        torch.empty(4, device="meta"),
    )
    draw = SubnetSampler(SPACE.sample, 0, 0)
    metrics = weight_step(training, batch, phase=phase, position=START, draw=draw)
    with pytest.raises((RuntimeError, NotImplementedError)):
        metrics.read()


def test_what_is_logged_late_on_a_card_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU had a queue; the last step of an epoch is logged before its scores."""
    runs = []
    for late in (False, True):
        monkeypatch.setattr(loop, "queues", lambda _, late=late: late)
        torch.manual_seed(0)
        runs.append(fitted([phase_of(SPACE)], steps_of(), [], SuperNet(SPACE, 4)))
    assert len(runs[0].metrics) > 2
    assert runs[1].metrics == runs[0].metrics
    same(runs[1].states, runs[0].states)
