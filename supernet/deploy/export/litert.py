"""LiteRT's `model.tflite`, one image at a time, channels last.

int8 is Google's own quantiser on the float32 file (`ai-edge-quantizer`): weights by channel,
activations int8, input and output int8 as well; their scales stand in the file.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

from google.protobuf.message import DecodeError
from onnx.shape_inference import InferenceError
from torch import Tensor

from supernet.deploy.export import Subnet
from supernet.errors import MissingPackage, needed_by
from supernet.io.quiet import quiet, silent
from supernet.latency.graphs.tflite import tflite_file
from supernet.latency.runtimes import channels_last, refusal

NO_INT8 = None
LAYOUT = "NHWC"
RUNTIME, FILE = "litert", "model.tflite"
_SIGNATURE, _INPUT = "serving_default", "image"


def write(subnet: Subnet, place: Path, calibration: Tensor | None) -> None:
    try:
        content = tflite_file(subnet.onnx.read_bytes(), (1, *subnet.image_shape))
        if calibration is not None:
            content = _quantized(content, calibration)
    except MissingPackage:
        raise
    except (DecodeError, InferenceError, ValueError, KeyError) as error:
        raise refusal("litert", subnet.folder, error) from error
    (place / FILE).write_bytes(content)


def _quantized(content: bytes, images: Tensor) -> bytes:
    with needed_by("format 'litert' --int8", "litert-int8"):
        from ai_edge_quantizer import quantizer, recipe
    tool = quantizer.Quantizer(content, recipe.static_wi8_ai8())
    batches = [{_INPUT: channels_last(image[None].numpy())} for image in images]
    with quiet(), silent(), redirect_stdout(io.StringIO()):  # bars and counts of its own
        ranges = tool.calibrate({_SIGNATURE: batches}, num_threads=1)
        return bytes(tool.quantize(ranges).quantized_model)
