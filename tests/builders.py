"""Small spaces, random nets, synthetic tables and configurations that tests are made of."""

from __future__ import annotations

import io
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn

from supernet.cli.console import ConsoleReporter
from supernet.cli.hydra_config import composed
from supernet.cli.sources import source_of
from supernet.io.reporter import SILENT, Progress, Reporter
from supernet.latency import host
from supernet.latency.correction import Correction
from supernet.latency.table import Device, Entry, LatencyTable
from supernet.nn.families import FAMILIES
from supernet.nn.gates import PathGates
from supernet.nn.kinds import KINDS
from supernet.nn.supernet import SuperNet
from supernet.search.constraints import Goal
from supernet.space.arch import Arch, Op
from supernet.space.cost import Constraint, CostMatrix, Costs
from supernet.space.layers import LayerKey, space_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.space.stage import Block, FixedBlock, Stage
from supernet.train import job as training
from supernet.train.build import build_space


class TextReporter(ConsoleReporter):
    """Keeps in `text` what it is told."""

    def __init__(self, width: int = 200) -> None:
        self.file = io.StringIO()
        super().__init__(Console(file=self.file, width=width))

    @property
    def text(self) -> str:
        """All that was told so far."""
        return self.file.getvalue()


class PhaseReporter(Reporter):
    """Calls `on_phase` with each phase and its share done, and keeps warnings."""

    def __init__(self, on_phase: Callable[[str, float], None] = lambda phase, share: None) -> None:
        self.on_phase, self.warnings = on_phase, list[str]()

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    @contextmanager
    def progress(self, text: str, total: float) -> Iterator[Progress]:
        yield _Phases(self.on_phase, total)


class _Phases(Progress):
    def __init__(self, on_phase: Callable[[str, float], None], total: float) -> None:
        self.on_phase, self.total, self.phase = on_phase, total, ""

    def restart(self, text: str) -> None:
        self.phase = text.rpartition(": ")[2]

    def update(self, done: float, text: str | None = None) -> None:
        self.on_phase(self.phase, done / self.total)


# ---- spaces ------------------------------------------------------------------------------------


def small_space(**changes: Any) -> SearchSpace:
    """Two stages, three blocks, 2 x 72 architectures at 8 and 16 px, unless `changes` differ."""
    hidden = FAMILIES[changes.get("family", "mobilenetv3")].hidden_head
    fields = {
        "family": "mobilenetv3",
        "stem_width": 8,
        "first": FixedBlock(width=8),
        "stages": (
            Stage(width=8, stride=1, depths=(1, 2)),
            Stage(width=16, stride=2, depths=(1,), se=True, act="hard_swish"),
        ),
        "final_width": 32,
        "head_width": 40 if hidden else None,
        "kernel_sizes": (3, 5),
        "expand_ratios": (2, 3),
        "resolutions": (8, 16),
    }
    return SearchSpace(**(fields | changes))


def each_by_itself(stage: Stage) -> tuple[Stage, ...]:
    """Return stages of one block, so that each block but the first can be skipped by itself."""
    rows = stage.allowed or (None,) * max(stage.depths)
    alone = [replace(stage, depths=(1,), allowed=row and (row,)) for row in rows]
    return (alone[0], *(replace(one, stride=1, depths=(0, 1)) for one in alone[1:]))


def ragged_stage(skip: str = "suffix") -> Stage:
    rows = (
        (Op(3, 2), Op(5, 3), Op(3, 1)),
        (Op(5, 2),),
        (Op(3, 3), Op(5, 1), Op(5, 3)),
        (Op(3, 2.3), Op(5, 2)),
    )
    depths, rows = ((1, 2, 3), rows[:3]) if skip == "any" else ((2, 4), rows)
    return Stage(width=16, stride=2, depths=depths, se=True, act="hard_swish", allowed=rows)


def _hand_made(family: str, skip: str) -> SearchSpace:
    """Ragged ops, and depths 2 and 4 without 3 where depth is elastic by suffix."""
    stages = (Stage(width=8, stride=1, depths=(1, 2)), ragged_stage(skip))
    if skip == "any":
        stages = tuple(part for stage in stages for part in each_by_itself(stage))
    return small_space(
        family=family,
        stages=stages,
        expand_ratios=(1, 2, 2.3, 3),
    )


HAND_MADE = {
    f"{family}-{skip}": _hand_made(family, skip)
    for family in FAMILIES
    for skip in ("suffix", "any")
    if skip == "suffix" or family in ("mobilenetv3", "efficientnet")
}
UNIVERSAL = {"start_kernel_size": (0, 3, 5), "kernel_size": (0, 3, 5), "expand_ratio": (2, 3)}
"""Choices of universal inverted bottlenecks."""


def _plain(*kernels: int) -> dict[str, tuple[float, ...]]:
    return {"kernel_size": kernels, "expand_ratio": (1,)}


WITHOUT_FIRST = {
    "separable": small_space(
        family="efficientnet",
        first=None,
        stages=(
            Stage(width=8, stride=2, depths=(1, 2), kind="ds", se=True, act="swish"),
            Stage(width=16, stride=1, depths=(1, 2, 3), kind="dsa", act="relu6"),
            Stage(width=16, stride=1, depths=(1,), kind="ds"),
        ),
        final_width=None,
        expand_ratios=(1, 2),
    ),
    "unlike": small_space(
        family="mobilenetv4",
        first=None,
        stages=(
            Stage(
                width=16,
                stride=2,
                depths=(2,),
                kind="cn",
                act="relu",
                each=(Block(width=24), Block(choices=_plain(1))),
            ),
            Stage(width=16, stride=1, depths=(1, 2), kind="cn", residual="skip"),
            Stage(
                width=16,
                stride=2,
                depths=(1, 3),
                kind="er",
                act="swish",
                each=(Block(), Block(residual="noskip"), Block(kind="ir", se=True)),
            ),
        ),
        final_depth=2,
        padding="same",
    ),
    "universal": small_space(
        family="mobilenetv4",
        first=None,
        stages=(
            Stage(width=16, stride=2, depths=(1, 2), kind="uir", choices=UNIVERSAL),
            Stage(width=24, stride=2, depths=(1, 2), kind="uir", choices=UNIVERSAL, se=True),
        ),
    ),
    "headless": small_space(family="lcnet", final_width=None, padding="same"),
    "biased": small_space(
        first=None,
        stages=(
            Stage(width=8, stride=2, depths=(1,), allowed=((Op(3, 1),),)),
            ragged_stage(),
        ),
        expand_ratios=(1, 2, 2.3, 3),
        head_bias=True,
    ),
}
"""Spaces of other kinds of blocks, unlike blocks, other heads, and `same` padding."""


@st.composite
def spaces(draw: st.DrawFn, *, max_size: int = 2000) -> SearchSpace:
    """Draw a space that can be enumerated: families, depths, kinds, gaps, ragged ops."""
    family = draw(st.sampled_from(tuple(FAMILIES)))
    kernels = draw(st.sets(st.sampled_from((3, 5, 7)), min_size=1, max_size=2))
    expands = draw(st.sets(st.sampled_from((1, 2, 2.5, 4, 6)), min_size=1, max_size=2))

    def stage() -> Stage:
        kind = draw(st.sampled_from(("ir", "ir", "ir", *KINDS)))
        ratios = sorted(expands) if KINDS[kind].hidden else [1]
        choices = {"kernel_size": sorted(kernels), "expand_ratio": ratios}
        choices |= {"start_kernel_size": [0, 3]} if kind == "uir" else {}
        products = itertools.product(*choices.values())
        ops = [Op(**dict(zip(choices, each, strict=True))) for each in products]
        ragged = draw(st.booleans())
        count = draw(st.integers(1, 3))
        depths = draw(st.sets(st.integers(1, count), min_size=1))
        row = st.sets(st.sampled_from(ops), min_size=1, max_size=3)
        return Stage(
            width=draw(st.sampled_from((8, 16))),
            stride=draw(st.sampled_from((1, 2))),
            depths=tuple(depths),
            se=kind != "cn" and draw(st.booleans()),
            act=draw(st.sampled_from(("relu", "hard_swish"))),
            choices=choices if kind == "uir" else None,
            residual=draw(st.sampled_from(("", "", "skip", "noskip"))),
            allowed=tuple(tuple(draw(row)) for _ in range(count)) if ragged else None,
            kind=kind,
        )

    stages = [stage() for _ in range(draw(st.integers(1, 2)))]
    if draw(st.booleans()):
        stages = [part for stage in stages for part in each_by_itself(stage)]
    sizes = draw(st.sets(st.sampled_from((8, 16, 24)), min_size=1, max_size=2))
    changes: dict[str, Any] = {
        "family": family,
        "kernel_sizes": tuple(kernels),
        "expand_ratios": (1, *expands),
        "resolutions": tuple(sizes),
    }
    if draw(st.booleans()):
        bias = FAMILIES[family].hidden_head and not FAMILIES[family].head_norm
        bare = {"head_bias": True} if bias else {"final_width": None}
        changes |= {"first": None, "padding": "same", **bare}
    space = small_space(stages=tuple(stages), **changes)
    while space.size > max_size:  # cut whole stages, so that every drawn space is of use
        stages.pop()
        space = small_space(stages=tuple(stages), **changes)
    return space


def conf_space(name: str) -> SearchSpace:
    """Build a space of `conf/space/`; the published ones narrow and on small images."""
    if name == "from_timm":
        return timm_space("mobilenetv3_small_050")
    fields = composed([f"space={name}"])["space"]
    if "preset" in fields:
        fields |= {"width_mult": 0.35, "resolutions": [32, 64]}
    return build_space(fields)


TIMM = (
    "mobilenetv3_large_100",
    "mobilenetv3_small_050",
    "mobilenetv2_050",
    "mnasnet_small",
    "semnasnet_075",
    "efficientnet_b0",
    "efficientnet_b1",
    "fbnetc_100",
    "mobilenetv1_100",
    "mobilenetv3_rw",
    "tf_mobilenetv3_small_minimal_100",
    "test_efficientnet",
    "lcnet_035",
    "fbnetv3_b",
    "hardcorenas_a",
    "mobilenetv4_conv_small_035",
)
"""One or more of each kind of timm's networks that `space=from_timm` takes."""


def timm_space(model: str, *overrides: str) -> SearchSpace:
    """Build the space of a timm network, on small images."""
    words = ["space=from_timm", f"space.model={model}", "space.resolutions=[32,64]", *overrides]
    return build_space(composed(words)["space"])


def some_archs(space: SearchSpace, count: int, seed: int = 0) -> list[Arch]:
    """Return the largest, the smallest, and `count` drawn architectures."""
    rng = random.Random(seed)
    return [space.largest(), space.smallest(), *(space.sample(rng) for _ in range(count))]


# ---- nets --------------------------------------------------------------------------------------


@torch.no_grad()
def randomise_(module: nn.Module, seed: int = 0) -> nn.Module:
    """Make all random that starts as 0, 1 or the identity; defaults hide slicing bugs.

    Convolutions are scaled to keep the signal, so that deep nets do not forget their input.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)

    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            tensor.copy_(normal(tensor).abs() + 0.5)
        elif "transforms." in name or name.endswith("_matrix"):
            tensor.add_(0.2 * normal(tensor))
        elif tensor.ndim == 4:
            tensor.copy_(normal(tensor) * (3 / tensor[0].numel()) ** 0.5)
        elif tensor.ndim == 1:
            tensor.add_(0.3 * normal(tensor))
    return module


def random_net(
    space: SearchSpace, *, num_classes: int = 5, in_chans: int = 3, seed: int = 0
) -> SuperNet:
    """Return a supernet in float64 and evaluation mode whose BN is not that of a fresh one."""
    torch.manual_seed(seed)
    net = SuperNet(space, num_classes, in_chans).double()
    randomise_(net, seed)
    return net.eval()


def images(net: SuperNet, resolution: int, count: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, net.in_chans, resolution, resolution)
    like = next(net.parameters())
    return torch.randn(shape, generator=generator, dtype=like.dtype)


def assert_same(got: Tensor, want: Tensor, *, tolerance: float = 1e-9) -> None:
    """Compare relative to the largest value, and refuse to compare nothing with nothing."""
    scale = want.detach().abs().max().item()
    assert scale > 1e-6, "the outputs vanish, so that any bug would pass"
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * scale)


# ---- tables ------------------------------------------------------------------------------------

DEVICE = Device(
    machine="nowhere",
    cpu="made up",
    runtime="onnxruntime",
    runtime_version="1.0",
    threads=1,
    precision="fp32",
    batch=1,
)


def device_here() -> Device:
    """Return the device that this machine is with the installed ONNX Runtime."""
    return replace(DEVICE, cpu=host.cpu(), runtime_version=onnxruntime.__version__)


def entry(ms: float) -> Entry:
    return Entry(median_ms=ms, low_ms=ms, high_ms=ms, visits=9, converged=True)


def made_up_table(
    space: SearchSpace, *, in_chans: int, num_classes: int, seed: int = 0, **changes: Any
) -> LatencyTable:
    """Return a table with a time for each layer of `space` that grows with its work."""
    rng = random.Random(seed)
    keys: set[LayerKey] = set()
    for resolution in space.resolutions:
        keys |= set(
            space_keys(
                NetSpec(space=space, in_chans=in_chans, num_classes=num_classes), resolution
            ).distinct()
        )
    entries = {key: entry(_work(key) * rng.uniform(0.9, 1.1)) for key in sorted(keys)}
    fields = {
        "device": DEVICE,
        "entries": entries,
        "weights": {key: key.in_channels * key.out_channels for key in entries},
        "reference_ms": 0.1,
        "load_average": 0.5,
        "created": "2026-01-31",
        "tool_version": "0.1.0",
        "correction": Correction(overhead_ms=0.002, scale=1.1),
    }
    return LatencyTable(**(fields | changes))


def _work(key: LayerKey) -> float:
    area = (key.in_size / key.stride) ** 2
    kernel, ratio = (key.op.to_dict().get(name, 1) for name in ("kernel_size", "expand_ratio"))
    return 0.01 + 1e-6 * area * key.in_channels * ratio * (kernel**2 + 8)


def middle(ends: Sequence[float], share: float = 0.5) -> float:
    low, high = ends
    return low + share * (high - low)


# ---- configurations ----------------------------------------------------------------------------

DEFAULT = (
    "data=synthetic",
    "data.per_class=8",
    "data.size=8",
    "data.augment.pad=1",
    "data.augment.flip=true",
    "space.stages=[{width:16,stride:2,depths:[1,2]},{width:24,stride:2,depths:[1],se:true}]",
    "space.final_width=32",
    "space.head_width=32",
    "space.kernel_sizes=[3,5]",
    "space.expand_ratios=[2,3]",
    "space.resolutions=[8,16]",
    "recipe.epochs=5",
    "recipe.warmup_steps=2",
    "gates.steps=4",
    "gates.batch_size=8",
    "batch_size=12",
    "threads=1",
    "device=cpu",
    "name=tiny",
)
"""Training in about a second by the recipe that is the default."""
TINY = (
    *(word for word in DEFAULT if not word.startswith("recipe.")),
    "recipe=largest_first",
    "recipe.phases.largest.epochs=2",
    "recipe.phases.largest.warmup_steps=2",
    "recipe.phases.all.epochs=3",
    "recipe.phases.all.subnets=2",
    "recipe.phases.all.smallest=false",
    "recipe.phases.all.warmup_steps=0",
)
"""The same by a recipe of two phases, with sorted channels and several subnets a step."""


def tiny_config(*overrides: str) -> dict[str, Any]:
    """Return a configuration that trains in about a second, changed by `overrides`."""
    return composed([*TINY, *overrides])


def start_run(
    config: Mapping[str, Any], folder: Path, reporter: Reporter = SILENT, **options: Any
) -> None:
    """Train from the source that `config` names, as `supernet train` does."""
    training.start(config, folder, reporter, source=source_of(config), **options)


def tiny_space() -> SearchSpace:
    """Return the space of `tiny_config`."""
    return build_space(tiny_config()["space"])


def tiny_table(**changes: Any) -> LatencyTable:
    """Return a made-up table for runs of `tiny_config`."""
    return made_up_table(tiny_space(), in_chans=3, num_classes=4, **changes)


DIGITS = (
    "data=digits",
    "space.stages=[{width:16,stride:2,depths:[1,2]},{width:24,stride:2,depths:[1,2],se:true}]",
    "space.final_width=64",
    "space.head_width=64",
    "space.kernel_sizes=[3,5]",
    "space.expand_ratios=[2,4]",
    "space.resolutions=[8,16]",
    "recipe.epochs=20",
    "recipe.warmup_steps=20",
    "gates.steps=5",
    "threads=1",
    "device=cpu",
    "name=digits",
)


@dataclass(frozen=True)
class MainJob:
    """The main job, done in miniature: its folder, settings, summary and what it printed."""

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    printed: str


def digits_config(*overrides: str) -> dict[str, Any]:
    """Return a configuration that learns the digits somewhat in a few seconds."""
    return composed([*DIGITS, *overrides])


def one_limit(table: LatencyTable | None, costs: Costs, limit: float) -> Goal:
    """Return the goal of meeting one additive limit."""
    constraint = Constraint(costs, limit)
    return Goal(table=table, budget=constraint, constraints=(constraint,))


def random_gates(space: SearchSpace, seed: int = 0) -> PathGates:
    """Return gates in float64 with every logit random, also those that are masked."""
    generator = torch.Generator().manual_seed(seed)
    gates = PathGates(space).double()
    with torch.no_grad():
        for parameter in gates.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(1.5 * noise)
    return gates


def random_costs(space: SearchSpace, seed: int = 0) -> dict[int, CostMatrix]:
    """Return random costs, zero where an op is not allowed."""
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.tensor(space.allowed)
    costs = {}
    for resolution in space.resolutions:
        cell = torch.rand(allowed.shape, generator=generator, dtype=torch.float64) * allowed
        cell[:, 0] = 0.0
        fixed = torch.rand((), generator=generator, dtype=torch.float64)
        costs[resolution] = CostMatrix(fixed.item(), cell.numpy(), "ms")
    return costs
