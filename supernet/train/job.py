"""A training from start to end: build every part from plain configuration, or resume a run."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from timm.layers import convert_sync_batchnorm

from supernet.data.batches import train_batches
from supernet.data.dataset import ImageData
from supernet.errors import (
    KILLED_WORKER,
    CheckpointError,
    DataError,
    Diverged,
    SupernetError,
    is_killed_worker,
    shown,
)
from supernet.io.atomic import written
from supernet.io.lock import held
from supernet.io.reporter import Reporter
from supernet.io.validate import construct
from supernet.io.version import tool_version
from supernet.latency.costs import costs_of
from supernet.latency.table import LatencyTable
from supernet.nn.description import FAULTS
from supernet.nn.fixed import Net
from supernet.nn.supernet import SuperNet
from supernet.train import checkpoint
from supernet.train.build import (
    build_optimizer,
    build_recipe,
    build_steps,
    build_teacher,
    pick_device,
)
from supernet.train.describe import describe
from supernet.train.distributed import Ranks, joined
from supernet.train.eta import estimate_seconds
from supernet.train.gates.step import GateConfig
from supernet.train.gates.target import Target, new_target
from supernet.train.interrupt import Stopping
from supernet.train.logger import UNKNOWN_LAUNCH, Launch, RunFolder, Silent, Watch
from supernet.train.loop import Run, fit
from supernet.train.malloc import keep_freed_memory
from supernet.train.models import ModelSource
from supernet.train.position import Position
from supernet.train.run import Trained
from supernet.train.step import StepConfig


def start(
    config: Mapping[str, Any],
    folder: Path,
    reporter: Reporter,
    *,
    source: ModelSource,
    watch: Watch | None = None,
    launch: Launch = UNKNOWN_LAUNCH,
) -> None:
    """Train a new network, as a rule a supernet, into `folder`.

    Args:
        config: the whole configuration.
        folder: of the run.
        reporter: told of its progress.
        source: loads the images and builds the network.
        watch: sees every evaluation.
        launch: kept in the checkpoint.

    Raises:
        SupernetError: if the configuration cannot be used, or `folder` holds a run.
    """
    if any((folder / name).exists() for name in (checkpoint.FILE, checkpoint.PREVIOUS)):
        raise SupernetError(
            f"{folder} holds a run already; go on with resume={folder}, or choose another name="
        )
    with joined() as ranks:
        _use_threads(config)
        data = source.data(config)
        torch.manual_seed(int(config["seed"]))
        net = source.net(config, data, reporter)
        _train(net, config, data, folder, reporter, Position(), {}, ranks, launch, watch)


def resume(path: Path, reporter: Reporter) -> None:
    """Go on with the run in the folder `path` from its last checkpoint; the result is the same.

    Raises:
        SupernetError: if there is no such run, or its data or tables are not there any more.
    """
    run = Trained.open(path)
    try:
        position = construct(Position, run.content.get("position"), "position")
    except SupernetError as error:
        raise CheckpointError(f"{run.file}: lacks the position of training ({error})") from error
    phases, _ = build_recipe(run.config, run.any_net.space)
    if position.phase >= len(phases):
        reporter.note(f"{run.file.parent} is trained to its end already")
        return
    with joined() as ranks:
        _use_threads(run.config)
        if "training_model" in run.content:
            try:
                run.any_net.load_state_dict(run.content["training_model"])
            except FAULTS as error:
                raise CheckpointError(f"{run.file} cannot go on: {shown(error, 300)}") from error
        folder = run.file.parent
        if ranks.first and run.file.name == checkpoint.PREVIOUS:
            _set_aside(folder / checkpoint.FILE)
        launch = Launch(
            command=str(run.content.get("command", "")), varied=run.content.get("varied", {})
        )
        _train(
            run.any_net,
            run.config,
            run.data,
            folder,
            reporter,
            position,
            run.content,
            ranks,
            launch,
        )


def _train(
    net: Net,
    config: Mapping[str, Any],
    data: ImageData,
    folder: Path,
    reporter: Reporter,
    position: Position,
    state: Mapping[str, Any],
    ranks: Ranks,
    launch: Launch,
    watch: Watch | None = None,
) -> None:
    keep_freed_memory()
    device = pick_device(str(config["device"]))
    net.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config["sync_bn"] and ranks.count > 1:
        if device.type != "cuda":
            raise SupernetError(
                f"sync_bn=true wants GPUs, and this trains on {device}: torch's SyncBatchNorm "
                "refuses other tensors; leave it out, each process then normalises its own images"
            )
        net = convert_sync_batchnorm(net)
    phases, strategy = build_recipe(config, net.space)
    steps = build_steps(config)
    optimizer = build_optimizer(config, net)
    teacher = build_teacher(config, data)
    if teacher is not None:
        teacher.to(device)
    targets = _targets(net, config, steps.gates)
    if state:
        try:
            optimizer.load_state_dict(state["optimizer"])
            for target in targets:
                target.load_state_(_stored(state, target))
        except SupernetError:
            raise
        except FAULTS as error:
            raise CheckpointError(f"{folder} cannot go on: {shown(error, 300)}") from error
    num_steps = steps.per_epoch(data) * sum(phase.epochs for phase in phases)
    describe(net, data, reporter)
    left = estimate_seconds(net, phases, strategy, data, steps, teacher=teacher, ranks=ranks)
    left *= (num_steps - position.step) / num_steps
    parts = "1 phase" if len(phases) == 1 else f"{len(phases)} phases"
    reporter.note(
        f"training {num_steps - position.step} steps in {parts}, about "
        f"{left / 60:.1f} min on {device}, {ranks.count} x {torch.get_num_threads()} threads, "
        f"into {folder}"
    )
    meta = {
        **checkpoint.shape_of(net),
        "preprocess": data.preprocess.to_dict(),
        "classes": list(data.classes),
        "config": dict(config),
        "supernet": tool_version(),
        "command": launch.command,
        "varied": dict(launch.varied),
    }
    with Stopping() as stop, held(folder) if ranks.first else nullcontext():
        run: AbstractContextManager[Run] = nullcontext(Silent(stop))
        try:
            if ranks.first:
                run = kept = RunFolder(
                    folder, meta=meta, num_steps=num_steps, first_step=position.step,
                    save_minutes=_save_minutes(config), stop=stop, reporter=reporter,
                    watch=watch, varied=launch.varied,
                )  # fmt: skip
                if position == Position():
                    kept.show_images(_some_images(data, steps), data.preprocess)
            with run as reported:
                ended = fit(
                    net, phases=phases, strategy=strategy, data=data, optimizer=optimizer,
                    config=steps, run=reported, targets=targets, teacher=teacher, ranks=ranks,
                    start=position, state=state,
                )  # fmt: skip
        except Diverged as error:
            raise Diverged(f"{error}; {_last_good(folder)}") from error
        except RuntimeError as error:
            if not is_killed_worker(error):
                raise
            onward = checkpoint.onward(folder)
            raise DataError(f"{KILLED_WORKER} ({error}); {onward}") from error
        except OSError:
            with written(folder, again=checkpoint.onward(folder)):
                raise
    if not ended:
        raise KeyboardInterrupt(f"{folder} is saved; go on with resume={folder}")


def _some_images(data: ImageData, steps: StepConfig) -> torch.Tensor:
    """Return the first images that training sees, augmented; 32 at most."""
    batches = train_batches(
        data.train, data.preprocess, batch_size=min(32, steps.batch_size), augment=steps.augment,
        seed=steps.seed, epoch=0, device=torch.device("cpu"), balance=steps.balance, limit=1,
    )  # fmt: skip
    return next(batches).images


def _set_aside(damaged: Path) -> None:
    """Keep a damaged checkpoint from taking the place of the good one before it."""
    if damaged.exists():
        damaged.rename(damaged.with_name("checkpoint.damaged.pt"))


def _save_minutes(config: Mapping[str, Any]) -> float:
    minutes = float(config["save_minutes"])
    if not minutes > 0:
        raise SupernetError(f"save_minutes is {minutes}; it must be positive")
    return minutes


def _last_good(folder: Path) -> str:
    file = folder / checkpoint.FILE
    kept = f"the weights of before are in {file}" if file.exists() else "nothing was saved yet"
    return f"{kept}; train anew with a lower optimizer.lr or recipe lr, or with clip_grad"


def _use_threads(config: Mapping[str, Any]) -> None:
    threads = config["threads"]
    if threads is None:
        return
    if not 1 <= int(threads) <= 1024:
        raise SupernetError(f"threads is {threads}; it must be 1 or more, or null")
    torch.set_num_threads(int(threads))


def _targets(net: Net, config: Mapping[str, Any], gates: GateConfig) -> list[Target]:
    if not isinstance(net, SuperNet):
        return []  # its source has refused targets
    targets = []
    for number, fields in enumerate(config["targets"]):
        wanted = construct(_wanted, fields, f"targets[{number}]")
        table = LatencyTable.load(wanted["table"])
        targets.append(
            new_target(
                net,
                table_id=table.id,
                device=table.device.name,
                budget_ms=float(wanted["budget_ms"]),
                costs=costs_of(net, table),
                lr=gates.lr,
            )
        )
    return targets


def _wanted(*, table: str, budget_ms: float) -> dict[str, Any]:
    return {"table": table, "budget_ms": budget_ms}


def _stored(state: Mapping[str, Any], target: Target) -> Mapping[str, Any]:
    stored = state["gates"].get(target.name)
    if stored is None:
        raise CheckpointError(
            f"the run has no gates {target.name}: a table of its targets changed since it began"
        )
    return stored
