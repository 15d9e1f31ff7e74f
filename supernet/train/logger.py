"""Run folder of a training: checkpoints, TensorBoard, progress, and its silent twin."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from supernet.data.preprocess import Preprocess
from supernet.io.atomic import write_json, written
from supernet.io.reporter import Reporter, in_short
from supernet.train import checkpoint
from supernet.train.gates.target import Target
from supernet.train.gates.tensorboard import show_gates
from supernet.train.interrupt import Stopping
from supernet.train.phases import Phase

COLUMNS = ("device", "budget_ms", "predicted_ms", "measured_ms", "top1", "macs", "params", "path")


def show_phase(writer: SummaryWriter, phase: Phase, step: int) -> None:
    """Say at which step a phase begins, and what it trains."""
    subnets = [f"{phase.subnets} {phase.drawn}"] * (phase.subnets > 0)
    subnets += ["the smallest"] * phase.smallest + ["the largest as teacher"] * phase.teach
    tied = ", depths and expand ratios tied" if phase.tied else ""
    text = (
        f"**{phase.name}** from step {step}: {phase.epochs} epochs, {' + '.join(subnets)} in each "
        f"step, of {in_short(phase.space.size)} architectures{tied}; learning rate {phase.lr:g}"
    )
    writer.add_text("phase", text, step)


def show_images(writer: SummaryWriter, images: Tensor, preprocess: Preprocess) -> None:
    """Show normalised training images `[N, C, H, W]` as the net sees them: augmented."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (preprocess.mean, preprocess.std))
    pixels = (images.cpu() * std + mean).clamp(0, 1)
    pixels = pixels[:, :3] if pixels.shape[1] >= 3 else pixels[:, :1]
    writer.add_images("images/augmented", pixels, 0)


def show_settings(
    writer: SummaryWriter, varied: Mapping[str, str], top1: Mapping[str, float], step: int
) -> None:
    """Write what sets this run apart in its sweep, beside its last accuracies."""
    values = {name: _number(text) for name, text in varied.items()}
    metrics = {f"sweep/{name}": value for name, value in top1.items()}
    writer.add_hparams(values, metrics, run_name=".", global_step=step)


def show_subnets(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Show finished subnets: a table as text, and accuracy by budget, a step a microsecond."""
    lines = [" | ".join(COLUMNS), " | ".join("---" for _ in COLUMNS)]
    lines += [" | ".join(_cell(row.get(name)) for name in COLUMNS) for row in rows]
    with written(folder), SummaryWriter(str(folder)) as writer:
        writer.add_text("subnets", "\n".join(f"| {line} |" for line in lines))
        for row in rows:
            if row.get("budget_ms") is not None:
                at = round(1000 * row["budget_ms"])
                writer.add_scalar(f"test_top1_by_budget_us/{row['device']}", row["top1"], at)


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


def _number(text: str) -> float | str:
    """Return a number where there is one, so that TensorBoard sorts it as such."""
    try:
        return float(text)
    except ValueError:
        return text


Watch = Callable[[Mapping[str, float]], None]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What asked for a run: the command, and of one in a sweep the settings that vary."""

    command: str = ""
    varied: Mapping[str, str] = field(default_factory=dict)


UNKNOWN_LAUNCH = Launch()


def varied_by(overrides: Sequence[str]) -> dict[str, str]:
    """Return the settings of Hydra overrides such as `seed=3`."""
    pairs = (word.lstrip("+~").partition("=") for word in overrides)
    return {name: value for name, _, value in pairs}


class RunFolder:
    """Takes what `fit` reports (`loop.Run`) and keeps it in `folder`.

    Args:
        folder: such as `runs/demo`.
        meta: goes into every checkpoint: space, classes, preprocessing, configuration.
        num_steps: of the whole training, for the progress bar.
        first_step: where a resumed training starts.
        save_minutes: how long may pass between two checkpoints.
        stop: whether training was asked to end.
        reporter: where progress is shown.
        watch: called with the accuracies whenever there are some.
        varied: settings that set it apart in a sweep, for TensorBoard.
    """

    def __init__(
        self,
        folder: Path,
        *,
        meta: Mapping[str, Any],
        num_steps: int,
        first_step: int,
        save_minutes: float,
        stop: Stopping,
        reporter: Reporter,
        watch: Watch | None = None,
        varied: Mapping[str, str] | None = None,
    ) -> None:
        self.watch, self.varied = watch, varied
        self.phase = ""
        self.top1: tuple[int, Mapping[str, float]] = (0, {})
        self.folder, self.meta, self.reporter = folder, meta, reporter
        self.save_minutes, self.stop = save_minutes, stop
        self.saved = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", meta["config"])
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)
        self.num_steps, self.first_step = num_steps, first_step
        self.shown = ExitStack()

    def __enter__(self) -> RunFolder:
        """Show the progress."""
        self.progress = self.shown.enter_context(self.reporter.progress("training", self.num_steps))
        self.progress.update(self.first_step)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the progress and flush TensorBoard."""
        self.shown.close()
        if error is None and self.varied and self.top1[1]:
            step, top1 = self.top1
            show_settings(self.writer, self.varied, top1, step)
        self.writer.close()

    def show_images(self, images: Tensor, preprocess: Preprocess) -> None:
        """Show some of the images that the net is trained on."""
        show_images(self.writer, images, preprocess)

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        """Write scalars and move the bar on."""
        if phase.name != self.phase:
            self.phase = phase.name
            show_phase(self.writer, phase, step)
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        loss = metrics.get("loss/random", metrics.get("loss/largest", float("nan")))
        text = f"{phase.name:<8} loss {loss:.3f}"
        self.progress.update(step + 1, text)

    def gates_moved(self, targets: Sequence[Target], step: int) -> None:
        """Show the gates in TensorBoard."""
        show_gates(self.writer, targets, step)

    def due(self) -> bool:
        """Whether the last checkpoint is too old."""
        return time.monotonic() - self.saved >= 60 * self.save_minutes

    def stopping(self) -> bool:
        """Whether training was asked to end."""
        return self.stop.asked

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint."""
        checkpoint.save(self.folder / checkpoint.FILE, {**self.meta, **state})
        self.saved = time.monotonic()

    def scored(self, phase: Phase, step: int, top1: Mapping[str, float], *, last: bool) -> None:
        """Show the accuracies; on the screen those at the end of a phase."""
        for name, value in top1.items():
            self.writer.add_scalar(f"held_out_top1/{name}", value, step)
        if last:
            parts = ", ".join(f"{name} {100 * value:.1f} %" for name, value in top1.items())
            self.reporter.note(f"phase {phase.name} done: held-out top-1 {parts}")
        self.top1 = step, top1
        if self.watch is not None:
            self.watch(top1)


class Silent:
    """Takes the reports of the other processes of a training, which keep nothing."""

    def __init__(self, stop: Stopping) -> None:
        self.stop = stop

    def due(self) -> bool:
        return False  # the first process saves

    def stopping(self) -> bool:
        return self.stop.asked

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None: ...

    def gates_moved(self, targets: Sequence[Target], step: int) -> None: ...

    def save(self, state: dict[str, Any]) -> None: ...

    def scored(self, phase: Phase, step: int, top1: Mapping[str, float], *, last: bool) -> None: ...
