"""The weight gradient of a depthwise convolution, in loops that numba compiles.

In channels-last memory each tap adds, for every place of the output, a vector of channels of the
gradient times a vector of channels of the input. The loops keep the sums of one row of taps in
registers. LLVM does so only for explicit vectors, hence a numba type for them (`_Vector`) and four
operations. Not here: where the loops pay (`depthwise.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model
from torch import Tensor

from supernet.nn.compiled import VECTOR, channels_last, compiled, in_threads

_CACHED = 64_000
"""Bytes of input and gradient that all rows of taps pass over before the next ones are read."""


def weight_gradient(x: Tensor, grad: Tensor, kernel: tuple[int, int], stride: int) -> Tensor:
    """Return the gradient `[C, 1, K, L]` of a depthwise kernel; the same bits at every call.

    Args:
        x: the input `[N, C, H, W]`, of at least `VECTOR` bytes of channels.
        grad: the gradient `[N, C, H', W']` of the output.
        kernel: K and L, odd; the padding is half of them.
        stride: in both directions.
    """
    lanes = VECTOR // x.element_size()
    blocks = -(-x.shape[1] // lanes)
    found = torch.empty(x.shape[1], 1, *kernel, dtype=x.dtype)
    sums = torch.zeros(blocks, *kernel, lanes, dtype=x.dtype).numpy()
    arrays = channels_last(x), channels_last(grad), sums, found.squeeze(1).numpy()
    taps = (0,) * kernel[1]
    in_threads(lambda first, end: _loops(*arrays, stride, taps, first, end), blocks)
    return found


class _Vector(types.Type):
    """`VECTOR` bytes of floating-point numbers."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(f"Vector({dtype})")


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, vector: _Vector) -> None:
        number = ir.FloatType() if vector.dtype == types.float32 else ir.DoubleType()
        lanes = 8 * VECTOR // vector.dtype.bitwidth
        super().__init__(manager, vector, ir.VectorType(number, lanes))


def _pointer(context: Any, builder: Any, array: Any, value: Any, at: Any) -> Any:
    """Point to the vector that begins at flat index `at` of an array."""
    data = context.make_array(array)(context, builder, value).data
    vector = context.get_value_type(_Vector(array.dtype))
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


def _read(context: Any, builder: Any, array: Any, value: Any, at: Any) -> Any:
    return builder.load(
        _pointer(context, builder, array, value, at), align=array.dtype.bitwidth // 8
    )


@intrinsic
def _load(typing: Any, array: Any, at: Any, step: Any, like: Any) -> Any:
    """Return vectors at `at`, `at + step` and so on, as many as the tuple `like` has items."""
    vectors = types.UniTuple(_Vector(array.dtype), like.count)

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, at, step, _ = arguments
        items = []
        for _ in range(like.count):
            items.append(_read(context, builder, array, value, at))
            at = builder.add(at, step)
        return context.make_tuple(builder, vectors, items)

    return vectors(array, types.intp, types.intp, like), code


@intrinsic
def _store(typing: Any, vectors: Any, array: Any, at: Any, step: Any) -> Any:
    """Write `vectors` to `at`, `at + step` and so on."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, array_value, at, step = arguments
        for number in range(vectors.count):
            pointer = _pointer(context, builder, array, array_value, at)
            item = builder.extract_value(value, number)
            builder.store(item, pointer, align=array.dtype.bitwidth // 8)
            at = builder.add(at, step)
        return context.get_dummy_value()

    return types.void(vectors, array, types.intp, types.intp), code


def _plus_products(builder: Any, sums: Any, factors: list[Any], grad: Any) -> list[Any]:
    """Return each of `sums` plus one of `factors` times `grad`, rounded once where the CPU can."""
    fused = {"flags": ("contract",)}
    return [
        builder.fadd(builder.extract_value(sums, number), builder.fmul(x, grad, **fused), **fused)
        for number, x in enumerate(factors)
    ]


@intrinsic
def _add(typing: Any, sums: Any, x: Any, at: Any, step: Any, grad: Any, place: Any) -> Any:
    """Return `sums` plus `grad` at `place` times `x` at `at`, `at + step` and so on."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, x_value, at, step, grad_value, place = arguments
        factors = []
        for _ in range(sums.count):
            factors.append(_read(context, builder, x, x_value, at))
            at = builder.add(at, step)
        upstream = _read(context, builder, grad, grad_value, place)
        return context.make_tuple(builder, sums, _plus_products(builder, value, factors, upstream))

    return sums(sums, x, types.intp, types.intp, grad, types.intp), code


@intrinsic
def _add_inside(
    typing: Any, sums: Any, x: Any, row: Any, column: Any, width: Any, step: Any, grad: Any,
    place: Any,
) -> Any:  # fmt: skip
    """Return the same from `column` of the `row` at that flat index; 0 beyond its `width`."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        value, x_value, row, column, width, step, grad_value, place = arguments
        zero = ir.Constant(context.get_value_type(_Vector(x.dtype)), None)
        factors = []
        for number in range(sums.count):
            own = builder.add(column, ir.Constant(column.type, number))
            inside = builder.icmp_unsigned("<", own, width)  # negative ones are huge
            nearest = builder.select(inside, own, ir.Constant(column.type, 0))
            at = builder.add(row, builder.mul(nearest, step))
            item = _read(context, builder, x, x_value, at)
            factors.append(builder.select(inside, item, zero))
        upstream = _read(context, builder, grad, grad_value, place)
        return context.make_tuple(builder, sums, _plus_products(builder, value, factors, upstream))

    numbers = (types.intp,) * 4
    return sums(sums, x, *numbers, grad, types.intp), code


def _weight_gradient(
    x: Any, grad: Any, sums: Any, found: Any, stride: int, taps: Any, first: int, end: int
) -> None:
    """Write the gradient of blocks `first` to `end` of the channels.

    Args:
        x: `[N, H, W, C]`.
        grad: `[N, H', W', C]`.
        sums: zeros `[blocks, K, L, lanes]`.
        found: `[C, K, L]`. Where C is not a multiple of the lanes, the last block overlaps the one
            before it.
        stride: in both directions.
        taps: any L integers; numba compiles the loops for each L.
        first: block.
        end: block after the last one.
    """
    images, height, width, channels = x.shape
    out_height, out_width = grad.shape[1:3]
    _, rows, columns, lanes = sums.shape
    top, left = rows // 2, columns // 2
    # the columns of the output whose taps all lie inside the input
    inner = min((left + stride - 1) // stride, out_width)
    outer = max(inner, min((width - columns + left) // stride + 1, out_width))
    size = (height * width + out_height * out_width) * lanes * x.itemsize
    together = max(1, _CACHED // size)
    for start in range(0, images, together):
        for block in range(first, end):
            channel = min(block * lanes, channels - lanes)
            for row in range(rows):
                low = max(0, (top - row + stride - 1) // stride)
                high = min(out_height, (height - 1 + top - row) // stride + 1)
                at = (block * rows + row) * columns * lanes
                total = _load(sums, at, lanes, taps)
                for image in range(start, min(start + together, images)):
                    for y in range(low, high):
                        place = (image * out_height + y) * out_width * channels + channel
                        source = (image * height + y * stride + row - top) * width
                        source = source * channels + channel
                        for z in range(inner):
                            total = _add_inside(
                                total, x, source, z * stride - left, width, channels,
                                grad, place + z * channels,
                            )  # fmt: skip
                        for z in range(inner, outer):
                            total = _add(
                                total, x, source + (z * stride - left) * channels, channels,
                                grad, place + z * channels,
                            )  # fmt: skip
                        for z in range(outer, out_width):
                            total = _add_inside(
                                total, x, source, z * stride - left, width, channels,
                                grad, place + z * channels,
                            )  # fmt: skip
                _store(total, sums, at, lanes)
    for block in range(first, end):
        channel = min(block * lanes, channels - lanes)
        for row in range(rows):
            for column in range(columns):
                for lane in range(lanes):
                    found[channel + lane, row, column] = sums[block, row, column, lane]


_loops = compiled(_weight_gradient)
