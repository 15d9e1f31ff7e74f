"""A plain loop around one network, alone in this process: `python alone.py RUNTIME FOLDER`.

None of this project's code: a runtime with one thread, its input and output bound where it can bind
them. It prints the median milliseconds of a run over bursts of 50 ms, after 100 ms of warming up.
A third word, `torch.utils.benchmark`, has PyTorch's own timer take the place of that loop. Files in
other formats than the folder's own lie where `supernet export` writes them.
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
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1,
             "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
    return lambda: request.infer(share_outputs=True)


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


def int8_run(folder: Path, x: np.ndarray) -> Callable[[], object]:
    """Run the quantised model.onnx."""
    return onnxruntime_run(folder / "onnx-int8", x)


def litert_run(folder: Path, x: np.ndarray) -> Callable[[], object]:
    """Run model.tflite, whose input lies channels last."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "litert" / "model.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    interpreter.set_tensor(given["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    return interpreter.invoke


def ncnn_run(folder: Path, x: np.ndarray) -> Callable[[], object]:
    """Run model.ncnn.param in float32."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.load_param(str(folder / "ncnn" / "model.ncnn.param"))
    net.load_model(str(folder / "ncnn" / "model.ncnn.bin"))
    image = ncnn.Mat(x[0]).clone()

    def run() -> object:
        extractor = net.create_extractor()
        extractor.input("in0", image)
        return extractor.extract("out0")

    return run


def executorch_run(folder: Path, x: np.ndarray) -> Callable[[], object]:
    """Run model.pte."""
    import torch
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(1)
    module = portable_lib._load_for_executorch(str(folder / "executorch" / "model.pte"))
    inputs = (torch.from_numpy(x),)
    return lambda: module.forward(inputs)


RUNS = {
    "onnxruntime": onnxruntime_run,
    "onnxruntime-int8": int8_run,
    "openvino": openvino_run,
    "litert": litert_run,
    "ncnn": ncnn_run,
    "executorch": executorch_run,
    "torch": torch_run,
}


def by_bursts(run: Callable[[], object]) -> float:
    """Return the seconds of a run."""
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
    return median(found)


def by_torch(run: Callable[[], object]) -> float:
    """Return the seconds of a run that PyTorch's timer reports."""
    from torch.utils.benchmark import Timer

    timer = Timer("run()", globals={"run": run}, num_threads=1)
    return float(timer.blocked_autorange(min_run_time=0.5).median)


def main() -> None:
    """Time the network of the command line."""
    runtime, folder = sys.argv[1], Path(sys.argv[2])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shape = (1, *config["pretrained_cfg"]["input_size"])
    run = RUNS[runtime](folder, np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    seconds = by_torch(run) if sys.argv[3:] == ["torch.utils.benchmark"] else by_bursts(run)
    print(1e3 * seconds)


if __name__ == "__main__":
    main()
