"""Training by several processes: each takes its share of every batch, gradients are averaged.

Processes are started by torch's own `torchrun`; on CPUs they are worth a try where maps are small
and so the work too short to share among threads. Every process draws the same subnets,
since randomness is a function of position, so nothing but gradients is exchanged.

BN normalises each process's share by itself; running statistics are computed anew for every
extracted subnet (`evaluate.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from supernet.data.batches import Batch
from supernet.errors import SupernetError


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together; of one process by default."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that logs, scores and saves."""
        return self.rank == 0

    def share(self, batch: Batch) -> Batch:
        """Return this process's part of `batch`: every `count`-th image.

        A batch too small to leave two images for each, which BN needs, goes whole to all.
        """
        if self.count == 1 or len(batch.labels) < 2 * self.count:
            return batch
        own = slice(self.rank, None, self.count)
        images = batch.images[own].contiguous(memory_format=torch.channels_last)
        return replace(batch, images=images, labels=batch.labels[own])

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace all of `tensors` by their mean over the processes."""
        if self.count == 1 or not tensors:
            return
        flat = self.sum_(torch.cat([tensor.flatten() for tensor in tensors]))
        flat /= self.count
        parts = flat.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replace `tensor` by its sum over the processes, and return it."""
        if self.count > 1:
            with self._together():
                dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any(False)  # dist.barrier() would pass a tensor through the card, if there is one

    def average_gradients_(self, module: nn.Module) -> None:
        """Average the gradients of `module`; a parameter without one has none anywhere."""
        self.average_([p.grad for p in module.parameters() if p.grad is not None])

    def any(self, mine: bool) -> bool:
        """Return whether it is so in any of the processes, in all of them."""
        if self.count == 1:
            return mine
        found = torch.tensor(float(mine))
        with self._together():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def agreed(self, value: Tensor) -> Tensor:
        """Return the first process's `value`, in all of them."""
        if self.count > 1:
            with self._together():
                dist.broadcast(value, 0)
        return value

    def agreed_text(self, text: str) -> str:
        """Return the first process's `text`, in all of them."""
        mine = torch.tensor(list(text.encode()), dtype=torch.uint8)
        size = int(self.agreed(torch.tensor(len(mine))))
        return bytes(self.agreed(mine.resize_(size)).tolist()).decode()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Turn the library's error about a process that is gone into one line."""
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise SupernetError(
                f"process {self.rank} of {self.count} lost the others: one of them ended or was "
                f"killed, which says why if it could ({reason}); what was saved stays"
            ) from error


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Join the processes that `torchrun` started; alone where it did not.

    Raises:
        SupernetError: if they cannot find each other.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield ALONE
        return
    rank = int(os.environ["RANK"])
    place = int(os.environ.get("LOCAL_RANK", "0"))
    if place < torch.cuda.device_count():
        torch.cuda.set_device(place)
    try:  # tensors of either kind, as CPUs may train where there are cards
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (RuntimeError, ValueError) as error:
        raise SupernetError(f"process {rank} of {count} cannot join the others: {error}") from error
    try:
        yield Ranks(rank, count)
    finally:
        dist.destroy_process_group()
