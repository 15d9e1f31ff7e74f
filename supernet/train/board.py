"""What TensorBoard shows besides scalars of steps and gates: phases, images, sweeps, subnets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from supernet.data.preprocess import Preprocess
from supernet.io.atomic import written
from supernet.io.console import in_short
from supernet.train.phases import Phase

COLUMNS = ("device", "budget_ms", "predicted_ms", "measured_ms", "top1", "macs", "params", "path")


def show_phase(writer: SummaryWriter, phase: Phase, step: int) -> None:
    """Say at which step a phase begins, and what it trains."""
    subnets = [f"{phase.subnets} {phase.drawn}"] * (phase.subnets > 0)
    subnets += ["the smallest"] * phase.smallest + ["the largest as teacher"] * phase.teach
    text = (
        f"**{phase.name}** from step {step}: {phase.epochs} epochs, {' + '.join(subnets)} in each "
        f"step, of {in_short(phase.space.size)} architectures; learning rate {phase.lr:g}"
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
