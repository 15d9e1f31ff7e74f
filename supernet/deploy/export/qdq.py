"""Static post-training quantisation of an ONNX file, by ONNX Runtime's own tools.

QDQ: float operators between pairs of quantise and dequantise, which ONNX Runtime and OpenVINO
both run in int8. Activations are uint8, weights int8 by channel in 7 bits (in 8, processors without
VNNI overflow), ranges the extremes over the calibration images.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from torch import Tensor

from supernet.io.quiet import quiet

_BATCH = 32


class _Images(CalibrationDataReader):  # type: ignore[misc]  # what the tools ask for
    def __init__(self, images: Tensor) -> None:
        self._batches = iter(images.split(_BATCH))

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by the input's name, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch.numpy()}


def quantize(source: Path, target: Path, images: Tensor) -> None:
    """Write the int8 form of the subnet's `model.onnx` at `source`; ranges from `images`.

    Raises:
        ValueError: if `source` is not an ONNX file.
        OSError: if the disk is full, that of temporary files included.
    """
    try:
        onnx.load(source)
    except DecodeError as error:
        raise ValueError(f"{source} is not an ONNX file ({error})") from error
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(source, folder)  # the tools write beside what they are given
        try:
            with quiet():  # the tools advise a preparation that the export did already
                quantize_static(
                    copy,
                    str(target),
                    _Images(images),
                    quant_format=QuantFormat.QDQ,
                    calibrate_method=CalibrationMethod.MinMax,
                    per_channel=True,
                    reduce_range=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                )
        except DecodeError as error:  # they read back what they wrote, which was not all of it
            reason = errno.ENOSPC
            raise OSError(reason, os.strerror(reason), folder) from error
