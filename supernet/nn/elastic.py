"""How weights are shared: one elastic block holds every op of a block in one set of tensors.

`ElasticBlock.tensors_for(op)` is the only place that knows how an op's weights are cut out of
the shared ones: a smaller expand ratio takes the first channels, a smaller depthwise kernel the
centre of the next larger one through a learned matrix. `forward` and `export` both call it, so
an extracted block cannot differ from the one that was trained.

Source: Once-for-All (1908.09791), section 3: elastic kernel size, elastic width with channel
sorting. Not here: which op to run (`network.py`), depth (a block that is skipped is not called).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules._functions import SyncBatchNorm

from supernet.nn.blocks import block_shapes, timm_block
from supernet.nn.depthwise import depthwise
from supernet.space.arch import Op
from supernet.space.search_space import BlockSpec

KERNEL = "conv_dw.weight"
_EXPAND = {"ir": ("conv_pw", "bn1"), "ds": None, "dsa": None}
_DEPTHWISE_BN = {"ir": "bn2", "ds": "bn1", "dsa": "bn1"}
_PROJECT = {"ir": ("conv_pwl", "bn3"), "ds": ("conv_pw", "bn2"), "dsa": ("conv_pw", "bn2")}
"""timm's names of a convolution and the BN after it, by the kind of block."""


class ElasticBlock(nn.Module):
    """An inverted residual with elastic kernel size and expand ratio, or a depthwise-separable one.

    Holds timm's block at its largest kernel and expand ratio, and for each smaller kernel `k` a
    `[k*k, k*k]` matrix that makes it from the centre of the next larger one. The matrices start
    as the identity.
    """

    def __init__(self, spec: BlockSpec, *, family: str, bn_eps: float) -> None:
        super().__init__()
        self.spec = spec
        self.kernel_sizes = sorted({op.kernel_size for op in spec.ops}, reverse=True)
        largest = Op(self.kernel_sizes[0], max(op.expand_ratio for op in spec.ops))
        self.timm: Any = timm_block(spec, largest, family=family, bn_eps=bn_eps)
        self.transforms = nn.ParameterDict(
            {str(k): nn.Parameter(torch.eye(k * k)) for k in self.kernel_sizes[1:]}
        )
        self._family, self._bn_eps = family, bn_eps
        shared = self.timm.state_dict()
        self._cuts = {
            op: {
                name: _cut(shape, shared[name].shape)
                for name, shape in block_shapes(spec, op, family=family).items()
            }
            for op in spec.ops
        }

    # ---- the one place that knows how weights are shared --------------------------------------

    def tensors_for(self, op: Op) -> dict[str, Tensor]:
        """Return the parameters and buffers of `op`, by their names in timm's block.

        All but the depthwise kernel are views of the shared tensors, so BN statistics that are
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
            if name == KERNEL:
                cut = cut[:1]
            tensors[name] = tensor[cut] if cut else tensor
        tensors[KERNEL] = self._kernel(tensors[KERNEL], op.kernel_size)
        return tensors

    def _kernel(self, weight: Tensor, size: int) -> Tensor:
        """Shrink `weight` `[C, 1, K, K]` step by step to `[C, 1, size, size]`."""
        for smaller in self.kernel_sizes[1:]:
            if weight.shape[-1] == size:
                break
            margin = (weight.shape[-1] - smaller) // 2
            centre = weight[:, :, margin:-margin, margin:-margin].flatten(1)
            matrix = self.transforms[str(smaller)]
            weight = F.linear(centre, matrix).unflatten(1, (1, smaller, smaller))
        return weight

    def _mixed_tensors(
        self, ops: Sequence[Op], gates: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
        """Return the largest op's tensors with the kernels of `ops` added up by `gates` `[n]`.

        And the gates of the hidden channels and of SE's inner ones: the sum of those ops' gates
        that have the channel. At a one-hot this is `tensors_for` of that op, padded with zeros.
        """
        size = self.kernel_sizes[0]
        shared = {**dict(self.timm.named_parameters()), **dict(self.timm.named_buffers())}
        kernel = torch.zeros_like(shared[KERNEL])
        for k in {op.kernel_size: None for op in ops}:
            share = gates[[i for i, op in enumerate(ops) if op.kernel_size == k]].sum()
            margin = (size - k) // 2
            kernel = kernel + share * F.pad(self._kernel(shared[KERNEL], k), (margin,) * 4)

        def channels(name: str) -> Tensor:
            counts = [self._cuts[op][name][0].stop if self._cuts[op][name] else None for op in ops]
            return _gates_of_channels(counts, gates, len(shared[name]))

        inner = channels("se.conv_reduce.weight") if self.spec.se else None
        return {**shared, KERNEL: kernel}, channels(KERNEL), inner

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
        return self._run(x, self.tensors_for(op), keep_stats=keep_stats, drop=drop)

    def mixed(self, x: Tensor, ops: Sequence[Op], gates: Tensor) -> Tensor:
        """Run all of `ops` as one, their weights added up by `gates` `[n]`.

        Where one gate is 1 and the others 0 it is `forward` of that op with `keep_stats`, and one
        backward pass gives the gradient of every gate.
        """
        tensors, hidden, inner = self._mixed_tensors(ops, gates)
        return self._run(x, tensors, keep_stats=True, hidden=hidden, inner=inner)

    def _run(
        self,
        x: Tensor,
        t: dict[str, Tensor],
        *,
        keep_stats: bool,
        drop: Callable[[Tensor], Tensor] | None = None,
        hidden: Tensor | None = None,
        inner: Tensor | None = None,
    ) -> Tensor:
        """Run timm's block with the tensors `t`, hidden and SE's inner channels times gates."""
        block = self.timm

        def norm(y: Tensor, name: str) -> Tensor:
            bn = getattr(block, name)
            stats = (t[f"{name}.running_mean"], t[f"{name}.running_var"])
            if keep_stats and self.training:
                stats = (None, None)  # type: ignore[assignment]
            scale, shift = t[f"{name}.weight"], t[f"{name}.bias"]
            if self.training and isinstance(bn, nn.SyncBatchNorm):
                y = _synchronised(y, bn, stats, scale, shift)
            else:
                y = F.batch_norm(y, *stats, scale, shift, self.training, bn.momentum, bn.eps)
            return bn.act(y)

        expand, project = _EXPAND[self.spec.kind], _PROJECT[self.spec.kind]
        y = x if expand is None else norm(F.conv2d(x, t[f"{expand[0]}.weight"]), expand[1])
        y = norm(depthwise(y, t[KERNEL], self.spec.stride), _DEPTHWISE_BN[self.spec.kind])
        if hidden is not None:
            y = y * hidden[:, None, None]
        if self.spec.se:
            y = y * self._excite(y, t, inner)
        y = norm(F.conv2d(y, t[f"{project[0]}.weight"]), project[1])
        if not block.has_skip:
            return y
        return (y if drop is None else drop(y)) + x

    def _excite(self, y: Tensor, t: dict[str, Tensor], inner: Tensor | None) -> Tensor:
        se = self.timm.se
        z = y.mean((2, 3), keepdim=True)
        z = se.act1(F.conv2d(z, t["se.conv_reduce.weight"], t["se.conv_reduce.bias"]))
        if inner is not None:
            z = z * inner[:, None, None]
        return se.gate(F.conv2d(z, t["se.conv_expand.weight"], t["se.conv_expand.bias"]))

    def export(self, op: Op) -> nn.Module:
        """Return timm's own block for `op`, with copies of its weights."""
        block = timm_block(self.spec, op, family=self._family, bn_eps=self._bn_eps)
        tensors = self.tensors_for(op)
        block.to(dtype=tensors[KERNEL].dtype)
        block.load_state_dict({name: tensor.detach() for name, tensor in tensors.items()})
        return block.train(self.training)

    @torch.no_grad()
    def fill_(self, op: Op, tensors: Mapping[str, Tensor]) -> None:
        """Make `op` run with `tensors`, by their names in timm's block; what it does not use stays.

        A kernel that is not the largest one goes to its centre, and the matrices on the way to it
        become the identity.
        """
        for name, shared in self.tensors_for(op).items():
            if name != KERNEL:
                shared.copy_(tensors[name])
        kernel, size = tensors[KERNEL], op.kernel_size
        start = (self.kernel_sizes[0] - size) // 2
        inside = slice(start, start + size)
        self.timm.conv_dw.weight[: len(kernel), :, inside, inside] = kernel
        for smaller in self.kernel_sizes[1:]:
            if smaller >= size:
                self.transforms[str(smaller)].copy_(torch.eye(smaller**2))

    # ---- channel sorting -----------------------------------------------------------------------

    @torch.no_grad()
    def sort_channels_(self) -> None:
        """Reorder hidden channels by importance, so that narrow ops keep the best ones.

        Importance is the L1 norm of the projection's weights that read the channel, as in
        once-for-all. The output of the largest op does not change. A block that does not expand
        has no channels of its own, and no narrow ops: it stays as it is.
        """
        if _EXPAND[self.spec.kind] is None:
            return
        block = self.timm
        order = _by_importance(block.conv_pwl.weight)
        for conv, bn in ((block.conv_pw, block.bn1), (block.conv_dw, block.bn2)):
            _permute_(conv.weight, order)
            for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
                _permute_(tensor, order)
        _permute_(block.conv_pwl.weight, order, dim=1)
        if not self.spec.se:
            return
        reduce, expand = block.se.conv_reduce, block.se.conv_expand
        _permute_(reduce.weight, order, dim=1)
        _permute_(expand.weight, order)
        _permute_(expand.bias, order)
        inner = _by_importance(expand.weight)
        _permute_(reduce.weight, inner)
        _permute_(reduce.bias, inner)
        _permute_(expand.weight, inner, dim=1)


def _synchronised(
    y: Tensor, bn: nn.SyncBatchNorm, stats: tuple[Tensor, ...], scale: Tensor, shift: Tensor
) -> Tensor:
    """Normalise by the statistics of all processes' images; torch has no public function for it."""
    return SyncBatchNorm.apply(
        y, scale, shift, *stats, bn.eps, bn.momentum, dist.group.WORLD, dist.get_world_size()
    )


def _cut(shape: torch.Size, shared: torch.Size) -> tuple[slice, ...]:
    """Return how `shape` is cut out of `shared`; empty where it is the whole."""
    return () if shape == shared else tuple(slice(n) for n in shape)


def _gates_of_channels(counts: Sequence[int | None], gates: Tensor, width: int) -> Tensor:
    """Return `[width]`: for each channel the sum of the gates that reach it; None reaches all."""
    reach = torch.tensor([[c is None or i < c for c in counts] for i in range(width)])
    return reach.to(gates) @ gates


def _by_importance(reader: Tensor) -> Tensor:
    importance = reader.abs().sum(dim=(0, 2, 3))
    return torch.argsort(importance, descending=True, stable=True)


def _permute_(tensor: Tensor, order: Tensor, dim: int = 0) -> None:
    tensor.copy_(tensor.index_select(dim, order))
