"""A run's folder: checkpoint, configuration, TensorBoard, the progress on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter

from supernet.data.sets import ImageData
from supernet.evaluate import calibrate_on_, scores_on
from supernet.extraction import extract
from supernet.network import SuperNet
from supernet.screen import progress_bar
from supernet.train import checkpoint
from supernet.train.gate_board import show_gates
from supernet.train.phases import Phase
from supernet.train.targets import Target


class RunFolder:
    """Takes what `fit` reports (`loop.Run`) and keeps it in `folder`.

    Args:
        folder: such as `runs/demo`.
        data: scored at the end of each phase, on its held-out part.
        meta: goes into every checkpoint: space, classes, preprocessing, configuration.
        num_steps: of the whole training, for the progress bar.
        first_step: where a resumed training starts.
        console: where progress is shown.
    """

    def __init__(
        self,
        folder: Path,
        *,
        data: ImageData,
        meta: Mapping[str, Any],
        num_steps: int,
        first_step: int,
        console: Console,
    ) -> None:
        self.folder, self.data, self.meta, self.console = folder, data, meta, console
        self.first_step = first_step
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(meta["config"], indent=2) + "\n")
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)
        self.progress = progress_bar(console)
        self.task = self.progress.add_task("training", total=num_steps, completed=first_step)

    def __enter__(self) -> RunFolder:
        """Show the progress bar."""
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the progress bar and flush TensorBoard."""
        self.progress.stop()
        self.writer.close()

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        """Write scalars and move the bar on."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        loss = metrics.get("loss/subnets", metrics.get("loss/largest", float("nan")))
        text = f"{phase.name:<8} loss {loss:.3f}"
        self.progress.update(self.task, advance=1, description=text)

    def gates_moved(self, targets: Sequence[Target], step: int) -> None:
        """Show the gates in TensorBoard."""
        show_gates(self.writer, targets, step)

    def save(self, state: dict[str, Any]) -> None:
        """Write the checkpoint."""
        checkpoint.save(self.folder / checkpoint.FILE, {**self.meta, **state})

    def phase_done(self, net: SuperNet, phase: Phase, step: int) -> None:
        """Score the largest and the smallest subnet of the phase on held-out images."""
        found = {}
        for name, arch in (
            ("largest", phase.space.largest()),
            ("smallest", phase.space.smallest()),
        ):
            model = extract(net, arch)
            preprocess = self.data.preprocess
            calibrate_on_(model, self.data.train, preprocess, arch.resolution)
            found[name] = scores_on(model, self.data.held_out, preprocess, arch.resolution).top1
            self.writer.add_scalar(f"held_out_top1/{name}", found[name], step)
        parts = ", ".join(f"{name} {100 * value:.1f} %" for name, value in found.items())
        self.console.print(f"phase {phase.name} done: held-out top-1 {parts}")


class Silent:
    """Takes the reports of the other processes of a training, which keep nothing."""

    def log(self, step: int, phase: Phase, metrics: dict[str, float]) -> None:
        """Take nothing."""

    def gates_moved(self, targets: Sequence[Target], step: int) -> None:
        """Take nothing."""

    def save(self, state: dict[str, Any]) -> None:
        """Take nothing."""

    def phase_done(self, net: SuperNet, phase: Phase, step: int) -> None:
        """Take nothing."""
