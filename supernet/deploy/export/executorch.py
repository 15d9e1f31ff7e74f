"""ExecuTorch's `model.pte`, one image at a time, on the XNNPACK delegate.

int8 is PyTorch's own post-training quantisation (PT2E) with XNNPACK's quantiser: weights by
channel, activations int8, input and output float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
    XNNPACKQuantizer,
    get_symmetric_quantization_config,
)
from executorch.exir import to_edge_transform_and_lower
from torch import Tensor, nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from supernet.deploy.export import Subnet
from supernet.io.quiet import quiet
from supernet.latency.runtimes import refusal

NO_INT8 = None
LAYOUT = "NCHW"
RUNTIME, FILE = "executorch", "model.pte"
_BATCH = 32


def write(subnet: Subnet, place: Path, calibration: Tensor | None) -> None:
    image = (torch.zeros(1, *subnet.image_shape),)
    with quiet():
        try:
            model: Any = subnet.model
            if calibration is not None:
                model = _quantized(model, calibration)
            program = torch.export.export(model, image)
            lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
            content = lowered.to_executorch().buffer
        except (RuntimeError, ValueError, TypeError) as error:
            raise refusal("executorch", subnet.folder, error) from error
    (place / FILE).write_bytes(content)


def _quantized(model: nn.Module, images: Tensor) -> nn.Module:
    quantizer = XNNPACKQuantizer().set_global(
        get_symmetric_quantization_config(is_per_channel=True)
    )
    example = (images[:2],)
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    graph = torch.export.export(model, example, dynamic_shapes=shapes).module()
    prepared = prepare_pt2e(graph, quantizer)
    for batch in images.split(_BATCH):
        prepared(batch)
    return convert_pt2e(prepared)
