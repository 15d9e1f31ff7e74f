"""How weights are shared: one elastic block holds every op of a block in one set of tensors.

`ElasticBlock.tensors_for(op)` is the only place that knows how an op's weights are cut out of
the shared ones: a smaller expand ratio takes the first channels, a smaller depthwise kernel the
centre of the next larger one through a learned matrix. `forward` and `export` both call it, so
an extracted block cannot differ from the one that was trained.

Source: Once-for-All (1908.09791), section 3: elastic kernel size, elastic width with channel
sorting. Not here: which op to run, depth (a block that is skipped is not called).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm

from supernet.errors import SpaceError
from supernet.nn.blocks import block_outline, timm_block
from supernet.nn.depthwise import depthwise
from supernet.nn.excite import excite
from supernet.nn.kinds import kind_named
from supernet.nn.kinds.conv import SE, Depthwise, child, written
from supernet.nn.norm import norm_act
from supernet.nn.pointwise import convolve
from supernet.space.arch import Op
from supernet.space.stage import BlockSpec


class _Mix(NamedTuple):
    """Sums of gates: of each channel by the path of the module that reads it, of parts by theirs.

    A part is a convolution that some ops leave out.
    """

    channels: Mapping[str, Tensor]
    parts: Mapping[str, Tensor]


class ElasticBlock(nn.Module):
    """A block of convolutions with elastic kernel sizes and an elastic expand ratio.

    Holds timm's block at the largest value of each choice, and for each smaller depthwise kernel
    `k` a `[k*k, k*k]` matrix that makes it from the centre of the next larger one. The matrices
    start as the identity.
    """

    def __init__(self, spec: BlockSpec, *, family: str, bn_eps: float, padding: str = "") -> None:
        super().__init__()
        self.spec, self.kind = spec, kind_named(spec.kind)
        self.kernel_sizes = {
            choice: sorted({getattr(op, choice) for op in spec.ops} - {0}, reverse=True)
            for choice in self.kind.kernels
        }
        self._kernels = {f"{step.path}.weight": name for name, step in self.kind.kernels.items()}
        self._family, self._bn_eps, self._padding = family, bn_eps, padding
        self.timm: Any = self._fresh(_largest(spec.ops))
        self.transforms = nn.ParameterDict(
            {
                _matrix(choice, k): nn.Parameter(torch.eye(k * k))
                for choice, sizes in self.kernel_sizes.items()
                for k in sizes[1:]
            }
        )
        shared = self.timm.state_dict()
        self._outlines = {op: block_outline(spec, op, family=family) for op in spec.ops}
        self._cuts = {
            op: {
                name: _cut(shape, shared[name].shape, f"{name} of {op}")
                for name, shape in outline.shapes.items()
            }
            for op, outline in self._outlines.items()
        }

    def _fresh(self, op: Op) -> nn.Module:
        return timm_block(
            self.spec, op, family=self._family, bn_eps=self._bn_eps, padding=self._padding
        )

    # ---- the one place that knows how weights are shared --------------------------------------

    def tensors_for(self, op: Op) -> dict[str, Tensor]:
        """Return the parameters and buffers of `op`, by their names in timm's block.

        All but elastic kernels are views of the shared tensors, so BN statistics that are
        updated in place are shared as well.
        """
        tensors = {}
        for name, cut in self._cuts[op].items():
            *path, last = name.split(".")
            module = self.timm
            for part in path:
                module = module._modules[part]
            tensor = module._parameters.get(last)
            tensor = module._buffers[last] if tensor is None else tensor
            choice = self._kernels.get(name)
            tensor = tensor[cut if choice is None else cut[:2]] if cut else tensor
            tensors[name] = tensor if choice is None else self._kernel(tensor, choice, op)
        return tensors

    def _kernel(self, weight: Tensor, choice: str, op: Op) -> Tensor:
        """Shrink `weight` `[O, I, K, K]` step by step to the kernel size of `op`."""
        for smaller in self.kernel_sizes[choice][1:]:
            if weight.shape[-1] == getattr(op, choice):
                break
            margin = (weight.shape[-1] - smaller) // 2
            centre = weight[:, :, margin:-margin, margin:-margin].flatten(2).flatten(0, 1)
            shrunk = F.linear(centre, self.transforms[_matrix(choice, smaller)])
            weight = shrunk.view(*weight.shape[:2], smaller, smaller)
        return weight

    def _mixed_tensors(self, ops: Sequence[Op], gates: Tensor) -> tuple[dict[str, Tensor], _Mix]:
        """Return the largest op's tensors with the kernels of `ops` added up by `gates` `[n]`.

        And the sums of the gates of the ops that have a channel, or a convolution. At a one-hot
        this is `tensors_for` of that op, padded with zeros. Where that op leaves a convolution out,
        the kernel is the mean of the others': it tells the gates what they would add.
        """
        shared = {**dict(self.timm.named_parameters()), **dict(self.timm.named_buffers())}
        tensors, parts = dict(shared), dict[str, Tensor]()
        for name, choice in self._kernels.items():
            sizes = {size: op for op in ops if (size := getattr(op, choice))}
            if not sizes:
                tensors.pop(name, None)
                continue
            kernel, largest = torch.zeros_like(shared[name]), self.kernel_sizes[choice][0]
            have = gates[[i for i, op in enumerate(ops) if getattr(op, choice)]].sum()
            lacking = (have.detach() < 0.5) / len(sizes)  # 0 where the op at a one-hot has it
            for k, example in sizes.items():
                share = gates[[i for i, op in enumerate(ops) if getattr(op, choice) == k]].sum()
                padding = ((largest - k) // 2,) * 4
                own = self._kernel(shared[name], choice, example)
                kernel = kernel + (share + lacking) * F.pad(own, padding)
            tensors[name] = kernel
            if any(not getattr(op, choice) for op in ops):
                parts[name.removesuffix(".weight")] = have

        def channels(name: str) -> Tensor:
            cuts = [self._cuts[op].get(name) for op in ops]
            counts = [cut[0].stop if cut else None for cut in cuts]
            return _gates_of_channels(counts, gates, len(shared[name]))

        read = {}
        for group in self.kind.groups:
            normed = [step for step in group.normed if f"{step.path}.weight" in shared]
            if normed:
                reader = group.excites[0] if group.excites else group.reader
                read[reader.path] = channels(f"{normed[0].path}.weight")
            for se in group.excites * self.spec.se:
                reduce, expand = se.ends
                read[expand] = channels(f"{reduce}.weight")
        return tensors, _Mix(read, parts)

    # ---- running and leaving -----------------------------------------------------------------

    def forward(
        self,
        x: Tensor,
        op: Op,
        *,
        keep_stats: bool = False,
        drop: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Run `op` on `x` `[N, in_width, H, W]`.

        Args:
            x: the input.
            op: one of the ops that this block allows.
            keep_stats: in training mode, normalise with batch statistics but leave BN's running
                statistics untouched.
            drop: drops the branch of a residual block for some images.
        """
        return self._run(x, op, self.tensors_for(op), keep_stats=keep_stats, drop=drop)

    def mixed(self, x: Tensor, ops: Sequence[Op], gates: Tensor) -> Tensor:
        """Run all of `ops` as one, their weights added up by `gates` `[n]`.

        Where one gate is 1 and the others 0 it is `forward` of that op with `keep_stats`, and one
        backward pass gives the gradient of every gate. Ops that stride elsewhere than that op have
        maps of other sizes inside: their outputs are added up instead.
        """
        striding = [self._outlines[op].striding for op in ops]
        active = int(gates.argmax())
        alike = [i for i, where in enumerate(striding) if where == striding[active]]
        chosen = [ops[i] for i in alike]
        tensors, mix = self._mixed_tensors(chosen, gates[alike])
        y = self._run(x, ops[active], tensors, keep_stats=True, mix=mix)
        for i in sorted(set(range(len(ops))) - set(alike)):
            with torch.no_grad():
                other = self(x, ops[i], keep_stats=True)
            y = y + gates[i] * other
        return y

    def _run(
        self,
        x: Tensor,
        op: Op,
        t: Mapping[str, Tensor],
        *,
        keep_stats: bool,
        drop: Callable[[Tensor], Tensor] | None = None,
        mix: _Mix | None = None,
    ) -> Tensor:
        """Run the steps with the tensors `t`, striding where `op` does."""

        def gated(z: Tensor, path: str) -> Tensor:
            gates = None if mix is None else mix.channels.get(path)
            return z if gates is None else z * gates[:, None, None]

        y, strides = x, self._outlines[op].strides
        for step in self.kind.steps:
            y = gated(y, step.path)
            if isinstance(step, SE):
                if self.spec.se:
                    y = self._excited(y, step, t, gated, mixed=mix is not None)
            elif (weight := t.get(f"{step.path}.weight")) is not None:
                before, stride = y, strides.get(step.path, 1)
                if isinstance(step, Depthwise):
                    y = depthwise(y, weight, stride, self._padding)
                else:
                    y = convolve(y, weight, None, stride, self._padding)
                y = self._norm(y, step.norm, t, keep_stats)
                if mix is not None and step.path in mix.parts:
                    y = before + mix.parts[step.path] * (y - before)
        if not self.timm.has_skip:
            return y
        return (y if drop is None else drop(y)) + x

    def _norm(self, y: Tensor, name: str, t: Mapping[str, Tensor], keep_stats: bool) -> Tensor:
        bn = child(self.timm, name)
        stats = (t[f"{name}.running_mean"], t[f"{name}.running_var"])
        if keep_stats and self.training:
            stats = (None, None)  # type: ignore[assignment]
        scale, shift = t[f"{name}.weight"], t[f"{name}.bias"]
        if self.training and isinstance(bn, nn.SyncBatchNorm):
            act: Any = bn.act
            return act(_synchronised(y, bn, stats, scale, shift))
        return norm_act(y, bn, stats, scale, shift)

    def _excited(
        self, y: Tensor, step: SE, t: Mapping[str, Tensor],
        gated: Callable[[Tensor, str], Tensor], *, mixed: bool,
    ) -> Tensor:  # fmt: skip
        se, (_, expand) = child(self.timm, step.path), step.ends

        def gate(z: Tensor, *weights: Tensor) -> Tensor:
            first, first_bias, second, second_bias = weights
            z = se.act1(convolve(z, first, first_bias, 1))
            factors: Tensor = se.gate(convolve(gated(z, expand), second, second_bias, 1))
            return factors

        weights = [t[f"{path}.{name}"] for path in step.ends for name in ("weight", "bias")]
        if mixed:  # whose gates get gradients, too
            return y * gate(y.mean((2, 3), keepdim=True), *weights)
        return excite(y, gate, weights)

    def export(self, op: Op) -> nn.Module:
        """Return timm's own block for `op`, with copies of its weights."""
        block = self._fresh(op)
        tensors = self.tensors_for(op)
        block.to(next(iter(tensors.values())))
        block.load_state_dict({name: tensor.detach() for name, tensor in tensors.items()})
        return block.train(self.training)

    @torch.no_grad()
    def fill_(self, op: Op, tensors: Mapping[str, Tensor]) -> None:
        """Make `op` run with `tensors`, by their names in timm's block; what it does not use stays.

        A kernel that is not the largest one goes to its centre, and the matrices on the way to it
        become the identity.
        """
        for name, shared in self.tensors_for(op).items():
            choice = self._kernels.get(name)
            if choice is None:
                shared.copy_(tensors[name])
                continue
            kernel, size = tensors[name], getattr(op, choice)
            start = (self.kernel_sizes[choice][0] - size) // 2
            inside = slice(start, start + size)
            whole = self.timm.get_parameter(name)
            whole[: kernel.shape[0], : kernel.shape[1], inside, inside] = kernel
            for smaller in self.kernel_sizes[choice][1:]:
                if smaller >= size:
                    self.transforms[_matrix(choice, smaller)].copy_(torch.eye(smaller**2))

    # ---- channel sorting -----------------------------------------------------------------------

    @torch.no_grad()
    def sort_channels_(self) -> None:
        """Reorder hidden channels by importance, so that narrow ops keep the best ones.

        Importance is the L1 norm of the weights that read the channel, as in once-for-all. The
        output of the largest op does not change. A block that does not expand has no channels of
        its own, and no narrow ops: it stays as it is.
        """
        state, steps = self.timm.state_dict(), tuple(self.kind.present(self.timm))
        for group in self.kind.hidden:
            reader = state[f"{group.reader.path}.weight"]
            order = by_importance(reader)
            for step in group.normed:
                for name in written(step) if step in steps else ():
                    _permute_(state[name], order)
            _permute_(reader, order, dim=1)
            for se in group.excites * self.spec.se:
                reduce, expand = se.ends
                _permute_(state[f"{reduce}.weight"], order, dim=1)
                _permute_(state[f"{expand}.weight"], order)
                _permute_(state[f"{expand}.bias"], order)
                inner = by_importance(state[f"{expand}.weight"])
                _permute_(state[f"{reduce}.weight"], inner)
                _permute_(state[f"{reduce}.bias"], inner)
                _permute_(state[f"{expand}.weight"], inner, dim=1)


def _synchronised(
    y: Tensor, bn: nn.SyncBatchNorm, stats: tuple[Tensor, ...], scale: Tensor, shift: Tensor
) -> Tensor:
    """Normalise by the statistics of all processes' images; torch has no public function for it."""
    return SyncBatchNorm.apply(
        y, scale, shift, *stats, bn.eps, bn.momentum, dist.group.WORLD, dist.get_world_size()
    )


def _cut(shape: torch.Size, shared: torch.Size, what: str) -> tuple[slice, ...]:
    """Return how `shape` is cut out of `shared`; empty where it is the whole.

    Raises:
        SpaceError: if `shape` is larger: timm rounds the channels of squeeze-and-excite, which may
            give an op of a fractional expand ratio more of them than the largest op.
    """
    if any(own > most for own, most in zip(shape, shared, strict=True)):
        raise SpaceError(
            f"{what} is {tuple(shape)}, of the largest op {tuple(shared)}, so they cannot share "
            "weights; choose another expand ratio, such as a whole number"
        )
    return () if shape == shared else tuple(slice(n) for n in shape)


def _gates_of_channels(counts: Sequence[int | None], gates: Tensor, width: int) -> Tensor:
    """Return `[width]`: for each channel the sum of the gates that reach it; None reaches all."""
    reach = torch.tensor([[c is None or i < c for c in counts] for i in range(width)])
    return reach.to(gates) @ gates


def by_importance(reader: Tensor) -> Tensor:
    """Return the input channels of `reader` `[O, I, K, K]`, those it weighs most (L1) first."""
    return reader.abs().sum(dim=(0, 2, 3)).argsort(descending=True, stable=True)


def _largest(ops: Sequence[Op]) -> Op:
    values = [op.to_dict() for op in ops]
    return Op(**{name: max(each[name] for each in values) for name in values[0]})


def _matrix(choice: str, size: int) -> str:
    """Return the name of the matrix that makes kernels of `size`: its size, for `kernel_size`."""
    return f"{choice.removesuffix('kernel_size')}{size}"


def _permute_(tensor: Tensor, order: Tensor, dim: int = 0) -> None:
    tensor.copy_(tensor.index_select(dim, order))
