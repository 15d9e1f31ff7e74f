"""Training by several processes: each takes its share of every batch, gradients are averaged.

Processes are started by torch's own `torchrun`; on CPUs they are worth a try where maps are small
and so the work too short to share among threads. Every process draws the same subnets,
since randomness is a function of position, so nothing but gradients is exchanged, by torch's
DistributedDataParallel: while the last subnet of a step is still in its backward pass.

BN normalises each process's share by itself; running statistics are computed anew for every
extracted subnet (`evaluate.py`).
"""

from __future__ import annotations

import os
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from supernet.data.batches import Batch
from supernet.errors import SupernetError

JOIN_SECONDS = 300.0  # in which all processes must have started
QUIET_SECONDS = 10.0  # after which a line says who is missing


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
            with self.together():
                dist.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any(False)  # dist.barrier() would pass a tensor through the card, if there is one

    def wrapped(self, module: nn.Module) -> nn.Module:
        """Return `module` as forward passes call it, so that its gradients are averaged."""
        if self.count == 1:
            return module
        with warnings.catch_warnings():  # torch 2.14 renames the flag, torch 2.9 lacks the new name
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                module, broadcast_buffers=False, find_unused_parameters=True,
                gradient_as_bucket_view=True,
            )  # fmt: skip

    def alone(self, module: nn.Module) -> AbstractContextManager[Any]:
        """Return the context of forward passes of what `wrapped` made that exchange nothing."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def any(self, mine: bool) -> bool:
        """Return whether it is so in any of the processes, in all of them."""
        if self.count == 1:
            return mine
        found = torch.tensor(float(mine))
        with self.together():
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def agreed(self, value: Tensor) -> Tensor:
        """Return the first process's `value`, in all of them."""
        if self.count > 1:
            with self.together():
                dist.broadcast(value, 0)
        return value

    def agreed_text(self, text: str) -> str:
        """Return the first process's `text`, in all of them."""
        mine = torch.tensor(list(text.encode()), dtype=torch.uint8)
        size = int(self.agreed(torch.tensor(len(mine))))
        return bytes(self.agreed(mine.resize_(size)).tolist()).decode()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turn the library's error about a process that is gone into one line."""
        try:
            yield
        except RuntimeError as error:
            if self.count == 1 or isinstance(error, torch.OutOfMemoryError):
                raise
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
        SupernetError: if the environment names no place among them, or they cannot find each other.
    """
    ranks, place = _from_environment()
    if ranks.count == 1:
        yield ALONE
        return
    if place < torch.cuda.device_count():
        torch.cuda.set_device(place)
    try:  # tensors of either kind, as CPUs may train where there are cards
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=_store(ranks), rank=ranks.rank, world_size=ranks.count,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        raise SupernetError(
            f"process {ranks.rank} of {ranks.count} cannot join the others: {error}"
        ) from error
    try:
        with warnings.catch_warnings():  # a depthwise kernel has one input channel, of any stride
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield ranks
    finally:
        dist.destroy_process_group()


def _from_environment() -> tuple[Ranks, int]:
    """Return the place among the processes, and the one among those of this machine."""
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK")
    try:
        count = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0" if count == 1 else ""))
        place = int(os.environ.get("LOCAL_RANK", "0"))
        good = 0 <= rank < count and place >= 0
    except ValueError:
        good = False
    if not good:
        given = ", ".join(f"{name}={os.environ[name]!r}" for name in names if name in os.environ)
        raise SupernetError(
            f"the environment says {given}, which names no process of a training: start it by "
            "torchrun, which sets WORLD_SIZE to their number and RANK to 0..WORLD_SIZE-1, or "
            f"unset {' and '.join(names[:2])} to train in one process"
        )
    return Ranks(rank, count), place


def _store(ranks: Ranks) -> Any:
    """Return the store by which the processes find each other, once all of them are there."""
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise SupernetError(
            f"process {ranks.rank} of {ranks.count} cannot find the others by MASTER_ADDR={host!r} "
            f"and MASTER_PORT={port!r}: start them by torchrun, or name the host of process 0 and "
            "a free port there"
        )
    begun, told = time.monotonic(), False

    def wait_for(missing: str) -> None:
        nonlocal told
        gone = time.monotonic() - begun
        text = f"process {ranks.rank} of {ranks.count} waits for {missing} at {host}:{port}"
        if gone > JOIN_SECONDS:
            raise SupernetError(
                f"{text} in vain for {JOIN_SECONDS:g} seconds: start WORLD_SIZE processes with "
                "RANK 0, 1 and so on (torchrun does), or unset WORLD_SIZE and RANK"
            )
        if gone > QUIET_SECONDS and not told:
            print(f"supernet: {text}, {JOIN_SECONDS:g} seconds at most", file=sys.stderr)
            told = True
        time.sleep(0.1)

    first = ranks.first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
    while not first and (reason := _unreachable(host, int(port))):  # torch tries with much noise
        wait_for(f"process 0 ({reason})")
    store = dist.TCPStore(  # type: ignore[attr-defined]
        host, int(port), ranks.count, first, timedelta(seconds=JOIN_SECONDS),
        wait_for_workers=False, multi_tenant=True,
    )  # fmt: skip
    keys = [f"supernet/{rank}" for rank in range(ranks.count)]
    store.set(keys[ranks.rank], "here")
    while missing := [str(rank) for rank, key in enumerate(keys) if not store.check([key])]:
        wait_for(f"process{'es' * (len(missing) > 1)} {', '.join(missing)}")
    return store


def _unreachable(host: str, port: int) -> str:
    """Return why nobody answers there; empty if somebody does."""
    try:
        socket.create_connection((host, port), timeout=QUIET_SECONDS).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
