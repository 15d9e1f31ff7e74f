"""Train gates for further devices on frozen weights, and keep them beside the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch.utils.tensorboard import SummaryWriter

from supernet.data.batches import Batch, check_balance, drawn_batch
from supernet.data.dataset import ImageSource
from supernet.io.atomic import written
from supernet.io.reporter import Reporter
from supernet.io.validate import construct
from supernet.search.constraints import Goal
from supernet.train.gates.step import GateConfig, train_gates
from supernet.train.gates.target import Target, new_target
from supernet.train.gates.tensorboard import show_gates
from supernet.train.run import Trained

PICTURES = 5


def specialize(
    run: Trained, goals: Sequence[Goal], reporter: Reporter, config: GateConfig | None = None
) -> list[Target]:
    """Train gates for all `goals` without gates in the run, on the same images.

    They are kept beside the checkpoint, and shown in the run's TensorBoard.

    Args:
        run: whose weights and validation images are used; the weights stay as they are.
        goals: devices and budgets.
        reporter: for progress.
        config: how gates are trained; left out: as the run's configuration says.

    Raises:
        InfeasibleBudget: if no architecture meets a budget.
        SupernetError: if the run's data is not there.
    """
    net = run.net
    config = config or construct(GateConfig, run.config["gates"], "gates")
    missing = {goal.name: goal for goal in goals if goal.name not in run.gates}
    targets = [
        new_target(
            net, table_id=goal.table_id, device=goal.device, budget=goal.budget, lr=config.lr
        )
        for goal in missing.values()
    ]
    if not targets:
        return []
    held_out = run.data.held_out
    names = [goal.text for goal in missing.values()]
    title = f"gates for {names[0] if len(names) == 1 else f'{len(names)} targets'}"
    batches = _shown(_batches(run, held_out, config), reporter, config.steps, title)
    every = max(1, config.steps // PICTURES)
    place = run.file.parent / "tensorboard" / "specialize"
    with written(place), SummaryWriter(str(place)) as writer:

        def note(step: int, metrics: list[dict[str, float]]) -> None:
            for target, values in zip(targets, metrics, strict=True):
                for name, value in values.items():
                    writer.add_scalar(f"gates/{target.name}/{name}", value, step)
            if (step + 1) % every == 0:
                show_gates(writer, targets, step)

        seed = int(run.config["seed"])
        train_gates(net, targets, batches, seed=seed, config=config, on_step=note)
    for target in targets:
        run.keep_gates(target.name, target.state())
        run.gates[target.name] = target.gates
    return targets


def _batches(run: Trained, held_out: ImageSource, config: GateConfig) -> Iterator[Batch]:
    device = next(run.net.parameters()).device
    balance = check_balance(run.config["data"].get("balance"))
    for step in range(config.steps):
        yield drawn_batch(
            held_out, run.preprocess, batch_size=config.batch_size,
            seed=int(run.config["seed"]), step=step, device=device, balance=balance,
            classes=len(run.classes),
        )  # fmt: skip


def _shown(batches: Iterator[Batch], reporter: Reporter, total: int, title: str) -> Iterator[Batch]:
    with reporter.progress(title, total) as progress:
        for number, batch in enumerate(batches, start=1):
            yield batch
            progress.update(number)
