"""A plain loop around one network, alone in this process: `python alone.py RUNTIME FOLDER`.

None of this project's code: a runtime with one thread, its input and output bound where it can bind
them. It prints the median milliseconds of a run over bursts of 50 ms, after 100 ms of warming up.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

WARM, BURST, BURSTS = 0.1, 0.05, 7


def onnxruntime_run(folder: Path, x: np.ndarray) -> Callable[[], object]:
    """Run model.onnx on values that stay where they are."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    binding = session.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(x, "cpu")
    (y,) = session.run(None, {"image": x})
    result = onnxruntime.OrtValue.ortvalue_from_numpy(y, "cpu")
    binding.bind_ortvalue_input("image", value)
    binding.bind_ortvalue_output("logits", result)
    return lambda held=(value, result): session.run_with_iobinding(binding)


def openvino_run(folder: Path, x: np.ndarray) -> Callable[[], object]:
    """Run model.onnx, compiled for this shape and for the smallest latency."""
    import openvino

    core = openvino.Core()
    model = core.read_model(folder / "model.onnx")
    model.reshape(list(x.shape))
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
    return request.infer


def torch_run(folder: Path, x: np.ndarray) -> Callable[[], object]:
    """Run the network that the folder's own model.py builds."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(folder))
    from model import load  # type: ignore[import-not-found]

    model = load()[0].eval().to(memory_format=torch.channels_last)
    image = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)

    def run() -> object:
        with torch.inference_mode():
            return model(image)

    return run


RUNS = {"onnxruntime": onnxruntime_run, "openvino": openvino_run, "torch": torch_run}


def main() -> None:
    """Time the network of the command line."""
    runtime, folder = sys.argv[1], Path(sys.argv[2])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = (1, *config["pretrained_cfg"]["input_size"])
    run = RUNS[runtime](folder, np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    clock, found = time.perf_counter, []
    gc.collect()
    gc.disable()
    warm = clock() + WARM
    while clock() < warm:
        run()
    for _ in range(BURSTS):
        start, runs = clock(), 0
        while clock() < start + BURST:
            run()
            runs += 1
        found.append((clock() - start) / runs)
    print(1e3 * median(found))


if __name__ == "__main__":
    main()
