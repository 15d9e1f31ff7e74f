"""Build objects from plain configuration values, with one function for each part.

Nothing is instantiated from a path that stands in a file, and an unknown or missing field is one
clear line. Not here: where the values come from (Hydra, a checkpoint for a
resumed run).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info
from torch import nn

from supernet.data.batches import Augment, check_balance
from supernet.data.dataset import ImageData
from supernet.data.ids import Parts
from supernet.data.load import load_data
from supernet.errors import DeviceError, SupernetError
from supernet.io.validate import check_types, construct
from supernet.nn.families import check_space
from supernet.nn.fixed import Net
from supernet.nn.from_timm import from_timm
from supernet.space.presets import mobilenetv4, ofa_mbv3, ofa_proxyless
from supernet.space.search_space import SearchSpace
from supernet.space.single import OneArch
from supernet.train.gates.step import GateConfig
from supernet.train.phases import Choices, Phase, alone, build_phases
from supernet.train.step import Regularize, StepConfig
from supernet.train.strategies import Taught
from supernet.train.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The fields of a `conf/recipe/` file."""

    phases: Mapping[str, Any]
    strategy: Mapping[str, Any]


def build_space(fields: Mapping[str, Any]) -> SearchSpace:
    """Build the space of a `conf/space/` file: a preset with its arguments, or plain fields."""
    rest = dict(fields)
    preset = rest.pop("preset", None)
    if preset is None:
        return check_space(construct(SearchSpace, rest, "space"))
    if preset not in PRESETS:
        raise SupernetError(f"space.preset is {preset!r}; allowed: {', '.join(PRESETS)}")
    return check_space(construct(PRESETS[preset], rest, f"space preset {preset}"))


def build_data(
    config: Mapping[str, Any], *, size: int, kept: Parts | None = None, closed: bool = False
) -> ImageData:
    """Load the run's images; `size` is the largest side in pixels that the net takes."""
    return load_data(config["data"], seed=int(config["seed"]), size=size, kept=kept, closed=closed)


def build_recipe(config: Mapping[str, Any], space: Choices) -> tuple[tuple[Phase, ...], Taught]:
    """Build phases and strategy.

    Of any recipe, one architecture takes epochs, rates and warm-ups: it trains once a step.
    """
    recipe = construct(Recipe, config["recipe"], "recipe")
    strategy = construct(Taught, recipe.strategy, "recipe.strategy")
    phases = build_phases(space, recipe.phases)
    return tuple(map(alone, phases)) if isinstance(space, OneArch) else phases, strategy


def build_teacher(config: Mapping[str, Any], data: ImageData) -> nn.Module | None:
    """Build the network that teaches, if the run names one."""
    if config["teacher"] is None:
        return None
    return construct(Teacher, config["teacher"], "teacher").load(data)


def build_steps(config: Mapping[str, Any]) -> StepConfig:
    """Build the settings of a training step."""
    batch_size = int(config["batch_size"])
    if batch_size < 2:
        raise SupernetError(f"batch_size is {batch_size}; BN needs 2 or more")
    if config["micro_batches"] < 1:
        raise SupernetError(f"micro_batches is {config['micro_batches']}; 1 is the least")
    if config["ema"] is not None and not 0 < config["ema"] < 1:
        raise SupernetError(f"ema is {config['ema']}; it must lie between 0 and 1, or be null")
    evaluate = config["evaluate"]
    if evaluate not in ("phase", "epoch"):
        raise SupernetError(f"evaluate is {evaluate!r}; allowed: phase, epoch")
    for name in ("epoch_batches", "clip_grad", "minutes"):
        if config[name] is not None and not config[name] > 0:
            raise SupernetError(f"{name} is {config[name]}; it must be positive, or null")
    return StepConfig(
        batch_size=batch_size,
        augment=construct(Augment, config["data"].get("augment") or {}, "data.augment"),
        balance=check_balance(config["data"].get("balance")),
        epoch_batches=config["epoch_batches"],
        evaluate=evaluate,
        seed=int(config["seed"]),
        gates=construct(GateConfig, config["gates"], "gates"),
        clip_grad=config["clip_grad"],
        micro_batches=config["micro_batches"],
        amp=config["amp"],
        ema=config["ema"],
        regularize=construct(Regularize, config["regularize"], "regularize"),
    )


def build_optimizer(config: Mapping[str, Any], net: Net) -> torch.optim.Optimizer:
    """Build timm's optimizer; BN and biases get no weight decay. Phases set the rate."""
    if "lr" in config["optimizer"]:
        raise SupernetError(
            "optimizer.lr has no effect, as each phase sets its rate: leave it out, and give "
            "recipe.lr or recipe.phases.NAME.lr"
        )
    fields = {"lr": 1e-3, "filter_bias_and_bn": True, **config["optimizer"]}
    check_types(fields, create_optimizer_v2, "optimizer")
    name = str(fields.get("opt", "sgd")).lower().rpartition("_")[2]  # as timm: lookahead_adam
    try:
        info = get_optimizer_info(name)
        if info.second_order:
            raise ValueError(
                f"{name} wants second derivatives, which are not computed here; choose "
                "one of first order, such as adamw"
            )
        on_cpu = next(net.parameters()).device.type == "cpu"
        if info.opt_class in FUSED and on_cpu and "foreach" not in fields:
            fields = {"fused": True, **fields}
        return create_optimizer_v2(net, **fields)
    except (TypeError, ValueError, AttributeError, AssertionError, RuntimeError) as error:
        raise SupernetError(f"optimizer: {error}") from error


def pick_device(name: str) -> torch.device:
    """Return the device `name`; `auto` is CUDA where there is one, else the CPU.

    Raises:
        DeviceError: if it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(f"device {name!r} cannot be used ({reason}); auto and cpu can") from error
    return device


FUSED = (torch.optim.Adam, torch.optim.AdamW)
"""On a CPU core they step `ofa_mbv3` in 6 ms instead of 26, in one pass over memory. On a card
torch takes its `foreach` form by itself, and the fused one was not tried there."""

PRESETS: dict[str, Callable[..., SearchSpace]] = {
    "ofa_mbv3": ofa_mbv3,
    "ofa_proxyless": ofa_proxyless,
    "mobilenetv4": mobilenetv4,
    "from_timm": from_timm,
}
