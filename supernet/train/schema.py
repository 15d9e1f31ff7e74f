"""Root schema of the configuration, to catch misspelt keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from supernet.errors import SupernetError
from supernet.io.validate import check_finite, check_types


@dataclass
class Schema:
    """The root of the configuration; a key that is not here is an error."""

    name: str = ""
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    batch_size: int = 64
    epoch_batches: int | None = None
    minutes: float | None = None
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


LATER: dict[str, Any] = {"minutes": None}
"""Keys that runs of earlier releases lack, with what they were trained by."""


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raise `SupernetError` unless `config` has the keys of `Schema`, each of its type."""
    names = [field.name for field in fields(Schema)]
    missing = [name for name in names if name not in config]
    if missing:
        raise SupernetError(f"{where} lacks {', '.join(missing)}")
    check_types(config, Schema, where)
    check_finite(config, where)
    if not 0 <= config["seed"] < 2**63:
        raise SupernetError(f"{where}.seed is {config['seed']}; it must lie in 0..{2**63 - 1}")
