"""How what the pages say is run here: by the same words, made smaller.

A page is written for real photos, a real board and some hours. Everything that a test types in
another way stands in `CHANGES`, everything that it does not type at all in `ELSEWHERE`, each with
the reason; `test_typed.py` fails where an entry changes nothing, or a command has none and fails.
"""

from __future__ import annotations

import re
from collections.abc import Callable

QUICK = "threads=1 device=cpu"
ONE_BATCH = "epoch_batches=1 batch_size=8"

CHANGES: tuple[tuple[str, str, str], ...] = (
    # ---- the same, in one process ----
    (r"^python train\.py\b", "supernet train", "the same command, in this process"),
    # ---- training ----
    (r"^(supernet train (?!.*(?:experiment=|resume=|--cfg)).+)", r"\1 experiment=smoke",
     "seconds, not minutes"),
    (r"^(supernet train net=subnet (?!.*\bname=).+)", r"\1 name=on",
     "in a run of its own, beside the hand-made network's"),
    (r"experiment=(folder|demo|mobilenetv4)\b", rf"experiment=\1 {ONE_BATCH} "
     "recipe.epochs=1", "the same, of one step"),
    (r"data=fashion_mnist", "data=fashion_mnist data.held_out=0.002", "scored on 120 images"),
    (r"^(supernet train (?!.*(?:resume=|--cfg)).+)", rf"\1 {QUICK}", "one thread"),
    (r"(experiment=folder(?!.*from_timm).*)",
     r"\1 space.resolutions=[32] space.kernel_sizes=[3] space.expand_ratios=[3]",
     "few layers, on small images"),
    (r"(experiment=mobilenetv4.*)", r"\1 space.resolutions=[32] space.width_mult=0.25",
     "narrow, on small images"),
    (r"(space=tiny.*)", r"\1 space.resolutions=[16] space.kernel_sizes=[3]",
     "few layers to be timed"),
    (r"(supernet train .*space=from_timm.*)", r"\1 space.resolutions=[32]", "small images"),
    (r"net\.init=timm:(\S+)", r"net.init=\1.safetensors",
     "the hub is out of reach; a file holds the same"),
    (r" minutes=\d+", "", "one step of each phase, not minutes"),
    (r"^(.*)experiment=demo\b(.*)$", r"\1experiment=demo\2 name=demo_again", "runs/demo is there"),
    (r"(space=from_timm .*) name=photos\b", r"\1 name=warm",
     "shown in the place of the line above, which made runs/photos"),
    # ---- timing ----
    (r"^supernet profile (.*)", r"supernet profile \1 --processes 1 --seconds 0.1",
     "a rough table in seconds"),
    (r"^supernet bundle (.*)", r"supernet bundle \1 --seconds 0.1", "a rough table in seconds"),
    (r"^(python3 bundle/profile_board\.pyz)", r"\1 --processes 1", "one process, not three"),
    (r"^(supernet (?:profile|bundle) .*)\b(ofa_mbv3|from_timm)\b",
     r"\1\2 space.resolutions=[32] space.kernel_sizes=[3] space.expand_ratios=[3]",
     "few layers, on small images"),
    (r"^(supernet (?:profile|bundle) .*)--resolution (?:160|224)", r"\1--resolution 32",
     "the one there is then"),
    (r"--host user@board", "--host board", "the stand-in has no other user"),
    (r"(--host board)(?!.*--python)", r"\1 --python venv/bin/python",
     "this machine's own python3 has more than a board, or less"),
    (r"(--host board)", r"\1 --ssh-config ssh_config", "how to reach the stand-in"),
    # ---- looking at many ----
    (r"^(supernet predictor \S+)(?: --num-archs 300)?((?: --fold \S+)*)$",
     r"\1 --num-archs 20\2", "20, not 300"),
    (r"^(supernet tune digits)$", r"\1.yaml --trials 1",
     "one trial, not 20, of the same plan with two steps"),
    (r"--trials 100", "--trials 2", "two trials, not 100"),
    # ---- what is there already ----
    (r"^(supernet import ofa .*) --out runs/ofa (--data .*)", r"\1 --out runs/again \2",
     "shown in the place of the line above, which made runs/ofa"),
    (r"^supernet prune fast/ --budget-ms 0\.04 (.*)",
     r"supernet extract runs/mine --table U.json --budget-ms 9 --out phone && "
     r"supernet prune phone --table U.json --budget-ms 0.04 \1",
     "by a phone's table: a test measures no milliseconds"),
    (r"^supernet prune fast/ --budget-ms 1\.5 (.*)",
     r"supernet prune fast/ --table T.json --budget-ms 1.5 \1",
     "by that table, which is a phone's: a test measures no milliseconds"),
)  # fmt: skip
"""A pattern, what stands in its place, and why; each is applied to what those before it left."""

ELSEWHERE: tuple[tuple[str, str], ...] = (
    (r"^make (demo|test|test RUNTIMES=1)$", "installs: CI is `make test`; what `supernet demo` "
     "does is done in miniature by tests/cli/test_demo.py, at length by its slow test"),
    (r"^make test-oldest$", "an environment of its own; its outcome is in results/supply"),
    (r"^python docs/reference\.py$", "writes the reference: test_the_reference_is_fresh"),
    (r"^python docs/networks\.py$", "tries every network: tests/nn/test_timm_networks.py"),
    (r"^python -m benchmarks\.", "in short form: tests/benchmarks/test_benchmarks.py"),
    (r"^torchrun ", "several processes: tests/train/test_distributed.py"),
    (r"^python train\.py -m ", "tests/cli/test_launchers.py"),
    (r"^supernet table learn ", "measured subnets: tests/deploy/test_learn.py"),
    (r"^supernet table check \S+ --here$", "this machine's table: tests/latency/test_today.py"),
    (r"^supernet extract .*--host ", "tests/latency/board/test_subnets.py"),
    (r"^supernet bundle --subnet ", "tests/latency/board/test_subnets.py"),
    (r"^python3 finished/profile_board\.pyz", "tests/latency/board/test_subnets.py"),
    (r"^python3 -m pip install numpy onnxruntime$",
     "the package index: a slow test of tests/latency/board/test_board_commands.py"),
    (r"^tensorboard --logdir ", 
     "a server that never ends; tests/train/test_tensorboard.py reads the files"),
)  # fmt: skip
"""What is not typed by this test, and what runs it."""

EXTRAS = {"openvino": "openvino", "executorch": "executorch"}
"""Words of commands that need a package beyond the test extras: without it they must say so."""


def changed(line: str, used: Callable[[str], object] = lambda pattern: None) -> str:
    """Return a command as it is typed here; `used` is told each pattern that changed something."""
    for pattern, instead, _ in CHANGES:
        line, count = re.subn(pattern, instead, line)
        if count:
            used(pattern)
    return line


def elsewhere(line: str) -> str | None:
    """Return the pattern of those commands that are run elsewhere, if `line` is one."""
    return next((pattern for pattern, _ in ELSEWHERE if re.search(pattern, line)), None)
