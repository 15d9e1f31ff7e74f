"""From plain configuration values to objects: one constructor for each part.

Nothing is instantiated from a path that stands in a file, and an unknown or missing field is one
clear line. Not here: where the values come from (`config.py` for Hydra, a checkpoint for a
resumed run).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from torch import nn

from supernet.data.batches import Augment, check_balance
from supernet.data.dataset import ImageData
from supernet.data.load import load_data
from supernet.errors import DeviceError, SupernetError
from supernet.io.validate import check_types, construct
from supernet.nn.fixed import Net
from supernet.space.search_space import SearchSpace
from supernet.space.single import OneArch
from supernet.spaces import PRESETS
from supernet.train.gate_step import GateConfig
from supernet.train.loop import StepConfig
from supernet.train.passes import Regularize
from supernet.train.phases import Choices, Phase, alone, build_phases
from supernet.train.strategies import Taught
from supernet.train.teacher import Teacher

BATCHING = ("augment", "balance")
"""Fields of a `conf/data/` file that say how images are batched, not which there are."""


@dataclass
class Schema:
    """The root of the configuration; a key that is not here is an error."""

    name: str = ""
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    batch_size: int = 64
    epoch_batches: int | None = None
    save_minutes: float = 10.0
    evaluate: str = "phase"
    clip_grad: float | None = None
    micro_batches: int = 1
    amp: str | None = None
    sync_bn: bool = False
    ema: float | None = None
    regularize: dict[str, Any] = field(default_factory=dict)
    teacher: Any = None  # OmegaConf cannot merge a group into an optional one that is null
    optimizer: dict[str, Any] = field(default_factory=dict)
    targets: list[dict[str, Any]] = field(default_factory=list)
    init_from: str | None = None
    resume: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    net: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, Any] = field(default_factory=dict)


LATER = ("evaluate", "init_from", "net", "resume", "save_minutes", "sync_bn")
"""Keys that runs of earlier versions have none of."""


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raise `SupernetError` unless `config` has the keys of `Schema`, each of its type."""
    names = [field.name for field in fields(Schema)]
    missing = [name for name in names if name not in config and name not in LATER]
    if missing:
        raise SupernetError(f"{where} lacks {', '.join(missing)}")
    check_types(config, Schema, where)
    if not 0 <= config["seed"] < 2**63:
        raise SupernetError(f"{where}.seed is {config['seed']}; it must lie in 0..{2**63 - 1}")


def build_space(fields: Mapping[str, Any]) -> SearchSpace:
    """Build the space of a `conf/space/` file: a preset with its arguments, or plain fields."""
    rest = dict(fields)
    preset = rest.pop("preset", None)
    if preset is None:
        return construct(SearchSpace, rest, "space")
    if preset not in PRESETS:
        raise SupernetError(f"space.preset is {preset!r}; allowed: {', '.join(PRESETS)}")
    return construct(PRESETS[preset], rest, f"space preset {preset}")


def build_data(config: Mapping[str, Any], *, size: int) -> ImageData:
    """Load the run's images; `size` is the largest side in pixels that the net takes."""
    return data_of(config["data"], seed=int(config["seed"]), size=size)


def data_of(fields: Mapping[str, Any], *, seed: int, size: int) -> ImageData:
    """Load the images of a `conf/data/` file; how they are batched is not part of it."""
    if not isinstance(fields, Mapping) or "name" not in fields:
        raise SupernetError("data lacks name; choose a set, such as data=digits")
    options = {key: value for key, value in fields.items() if key not in ("name", *BATCHING)}
    return load_data(str(fields["name"]), options, seed=seed, size=size)


def build_recipe(config: Mapping[str, Any], space: Choices) -> tuple[tuple[Phase, ...], Taught]:
    """Build phases and strategy.

    Of any recipe, one architecture takes epochs, rates and warm-ups: it trains once a step.
    """
    recipe = construct(_recipe, config["recipe"], "recipe")
    strategy = construct(Taught, recipe["strategy"], "recipe.strategy")
    phases = build_phases(space, recipe["phases"])
    return tuple(map(alone, phases)) if isinstance(space, OneArch) else phases, strategy


def _recipe(*, phases: dict[str, Any], strategy: dict[str, Any]) -> dict[str, Any]:
    return {"phases": phases, "strategy": strategy}


def build_teacher(config: Mapping[str, Any], data: ImageData) -> nn.Module | None:
    """Build the network that teaches, if the run names one."""
    if config["teacher"] is None:
        return None
    return construct(Teacher, config["teacher"], "teacher").load(data)


def build_steps(config: Mapping[str, Any]) -> StepConfig:
    """Build what a training step needs."""
    batch_size = int(config["batch_size"])
    if batch_size < 2:
        raise SupernetError(f"batch_size is {batch_size}; BN needs 2 or more")
    if config["micro_batches"] < 1:
        raise SupernetError(f"micro_batches is {config['micro_batches']}; 1 is the least")
    if config["ema"] is not None and not 0 < config["ema"] < 1:
        raise SupernetError(f"ema is {config['ema']}; it must lie between 0 and 1, or be null")
    evaluate = config.get("evaluate", "phase")  # runs of earlier versions have none
    if evaluate not in ("phase", "epoch"):
        raise SupernetError(f"evaluate is {evaluate!r}; allowed: phase, epoch")
    for name in ("epoch_batches", "clip_grad"):
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
    fields = {"lr": 1e-3, "filter_bias_and_bn": True, **config["optimizer"]}
    check_types(fields, create_optimizer_v2, "optimizer")
    try:
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
