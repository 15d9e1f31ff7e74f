"""Full disks, read-only folders, clocks that are set, killed workers and ranks: nothing is lost."""

from __future__ import annotations

import ast
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import supernet
from supernet.cli.hydra_config import composed
from supernet.deploy.folder import FORMAT, copy_subnet, load_config
from supernet.errors import DeviceError, SupernetError
from supernet.io.atomic import whole, write_json
from supernet.io.reporter import SILENT
from supernet.latency.resume import ResumeFile
from supernet.report import page
from supernet.search.pareto import FIELDS, write_front
from supernet.train import checkpoint
from supernet.train.logger import RunFolder
from supernet.train.run import Trained
from tests.builders import TINY, start_run, tiny_config, tiny_table
from tests.conftest import Command, tree
from tests.train.test_loop import same

ROOT = Path(supernet.__file__).resolve().parent.parent
QUIET = SILENT
OFTEN = "save_minutes=0.0001"
WORDS = [word for word in TINY if not word.startswith("name=")]


@contextmanager
def room_for(most: int) -> Iterator[None]:
    """Let no file of this process grow beyond `most` bytes, as on a disk that is full then."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder in which nothing can be written, not even by root."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o755)
        return
    words = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("root may not mount here, and no other folder is closed to it")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


# ---- full disks --------------------------------------------------------------------------------

ROW = dict.fromkeys(FIELDS, 1.0) | {"device": "d", "table_id": "t"}


def _page(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "render", lambda report: "x" * 1000)
        page.write(None, path)  # type: ignore[arg-type]


def _subnet(path: Path) -> None:
    made = path.with_name("made")
    if not made.exists():
        made.mkdir()
        write_json(made / "config.json", {"format": FORMAT, "labels": ["a"] * 99})
        (made / "model.safetensors").write_bytes(bytes(9999))
    copy_subnet(made, path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "json": lambda path: write_json(path, list(range(1000))),
    "table": lambda path: tiny_table().save(path),
    "checkpoint": lambda path: checkpoint.save(path, {"model": torch.zeros(9999)}),
    "gates": lambda path: checkpoint.write(path, {"gates": torch.zeros(99_999)}),
    "front": lambda path: write_front([ROW] * 40, path),
    "page": _page,
    "subnet": _subnet,
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("most", [0, 900])
def test_a_full_disk_is_told_in_a_line_and_nothing_changes(
    name: str, most: int, tmp_path: Path
) -> None:
    path = tmp_path / "deep.json"
    WRITERS[name](path)
    before = dict(tree(tmp_path))
    with room_for(most), pytest.raises(SupernetError) as refusal:
        WRITERS[name](path)
    text = str(refusal.value)
    assert re.match(rf"{path} cannot be written \(File too large\); .* make room and ", text)
    assert dict(tree(tmp_path)) == before
    WRITERS[name](path)


def test_a_full_disk_costs_a_round_of_timing(tmp_path: Path) -> None:
    path, line = tmp_path / "T.json.partial", {"session": 0, "done": True}
    with room_for(0), pytest.raises(SupernetError, match=r"partial cannot be written .*too large"):
        ResumeFile(path, {"device": {}})
    assert not path.exists()
    with ResumeFile(path, {"device": {}}) as resume:
        resume.add(line)
    size = path.stat().st_size
    with (
        room_for(size + 5), pytest.raises(SupernetError, match=r"before stays: make room"),
        ResumeFile(path, {"device": {}}) as resume,
    ):  # fmt: skip
        resume.add(line)
    with ResumeFile(path, {"device": {}}) as resume:
        assert resume.lines == [line]
    assert path.stat().st_size == size


def test_who_times_is_named_to_who_would_time_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supernet.latency.resume._LOCK_SECONDS", 0.0)
    path = tmp_path / "result.json.partial"
    with (
        ResumeFile(path, {"device": {}}),
        pytest.raises(DeviceError, match="in use by another process"),
    ):
        ResumeFile(path, {"device": {}})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    start_run(tiny_config(OFTEN), folder, QUIET)
    return checkpoint.read(folder)


@pytest.mark.parametrize("what", ["configuration", "record", "checkpoint"])
def test_training_on_a_full_disk(
    what: str, command: Command, place: Path, undisturbed: dict[str, Any]
) -> None:
    """The first of its files that is too large; TensorBoard's are written by a thread."""
    most = {"configuration": 100, "record": 20_000, "checkpoint": 60_000}[what]
    size = len(Path(checkpoint.__file__).read_bytes())
    assert size < 60_000, "only files of the run are to be refused"
    with room_for(most):
        result = command("train", *WORDS, OFTEN, "name=run")
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("supernet: error: runs/run")
    assert "cannot be written (File too large)" in line
    assert "make room and give the same command again" in line
    assert not [name for name, _ in tree(place) if name.endswith((".tmp", ".lock"))]
    result = command("train", *WORDS, OFTEN, "name=run")
    assert result.code == 0
    same(checkpoint.read(place / "runs/run")["model"], undisturbed["model"])


def test_a_disk_that_fills_up_in_training_says_how_to_go_on(
    place: Path, command: Command, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    log = RunFolder.log
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(self: RunFolder, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", filling)
        try:
            result = command("train", *WORDS, OFTEN, "name=run")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert "make room and go on with resume=runs/run" in line
    assert checkpoint.read(place / "runs/run")["position"]["step"] == 5
    assert command("train", "resume=runs/run").code == 0
    for part in ("model", "optimizer", "gates", "position"):
        same(checkpoint.read(place / "runs/run")[part], undisturbed[part], part)


def test_a_subnet_that_does_not_fit_leaves_the_one_before(
    command: Command, run: Path, place: Path
) -> None:
    words = ["extract", run, "--max-macs", "1e9", "--out", "out"]
    assert command(*words).code == 0
    before = dict(tree(place))
    size = (place / "out" / "model.onnx").stat().st_size
    with room_for(size - 1):
        result = command(*words)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert line.startswith("supernet: error: out cannot be written (File too large); what was")
    assert dict(tree(place)) == before


@pytest.mark.parametrize("most", [5_000, None])
def test_tuning_on_a_full_disk(
    most: int | None, command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite meets it when the database is made, or in the middle of a trial."""
    plan = {"overrides": WORDS, "search": {"batch_size": {"low": 8, "high": 16}}, "trials": 1,
            "sampler": "random"}  # fmt: skip
    write_json(place / "plan.yaml", plan)
    words = ["tune", "plan.yaml", "--out", "tuned"]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = RunFolder.log

    def filling(self: RunFolder, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", log if most else filling)
        try:
            with room_for(most or 10_000_000):
                result = command(*words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert re.match(r"supernet: error: .*tuned/study\.db", line), line
    assert command(*words).code == 0
    assert (place / "tuned" / "tune.json").exists()


# ---- folders that are replaced -----------------------------------------------------------------


def test_a_stop_while_a_subnet_is_replaced_leaves_a_whole_one(
    fast: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill would, it comes when some of the old one's files are removed."""

    def stopped(folder: Path, **options: Any) -> None:
        (Path(folder) / "config.json").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stopped)
        with pytest.raises(KeyboardInterrupt), whole(fast) as beside:
            shutil.copytree(fast, beside)
    assert load_config(fast)
    with whole(fast) as beside:
        shutil.copytree(fast, beside)
    assert [path.name for path in Path().iterdir()] == ["fast"], "the next writer clears up"


@pytest.mark.parametrize("killed", [False, True])
def test_a_stop_between_two_renames_leaves_the_old_one(
    killed: bool, fast: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill the next writer puts it back, even if that one gets no further."""
    before = dict(tree(fast))
    code = (
        "import os, signal, sys; from pathlib import Path; from supernet.io.atomic import whole\n\
replace, seen = os.replace, []\n\
def stopping(*places):\n    seen.append(places)\n    if len(seen) == 2:\n        \
os.kill(os.getpid(), signal.SIGKILL) if sys.argv[1] == 'True' else sys.exit('stopped')\n    \
replace(*places)\n\
os.replace = stopping\n\
with whole(Path('fast')) as beside:\n    beside.mkdir()"
    )
    subprocess.run([sys.executable, "-c", code, str(killed)], check=False,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    assert fast.exists() is not killed
    with pytest.raises(ZeroDivisionError), whole(fast):
        raise ZeroDivisionError
    assert dict(tree(fast)) == before
    assert [path.name for path in Path().iterdir()] == ["fast"]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "T[1].json"
    write_json(path, 1)
    code = f"import os, signal; from pathlib import Path; from supernet.io.atomic import whole\n\
with whole(Path({str(path)!r})) as beside:\n    beside.mkdir() if {{folder}} else \
beside.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)"
    for folder in (True, False):
        subprocess.run([sys.executable, "-c", code.format(folder=folder)], check=False)
    (one,) = set(tmp_path.iterdir()) - {path}
    assert one.read_text() == "half", "and what the first one left is gone by now"
    others = {
        one.with_name(re.sub(r"-\d+\.tmp$", f"-{os.getppid()}.tmp", one.name)),  # still at work
        one.with_name(re.sub(r"json\..*-", "json.elsewhere-", one.name)),
        one.with_name(one.name.replace("T[1]", "T1")),
    }
    for other in others:
        other.write_text("of others")
    write_json(path, 2)
    assert set(tmp_path.iterdir()) == {path, *others}
    assert path.read_text() == "2\n"


def test_a_file_takes_the_place_of_files_only(tmp_path: Path) -> None:
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    (folder / "file").write_text("kept")
    with pytest.raises(OSError, match="Is a directory"):
        write_json(folder, 1)
    assert (folder / "file").read_text() == "kept"
    os.mkfifo(pipe)
    with pytest.raises(SupernetError, match="pipe is neither a file nor a folder"):
        write_json(pipe, 1)
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [folder, pipe]


# ---- read-only folders -------------------------------------------------------------------------


def test_read_only_folders_are_refused_before_any_work(
    command: Command, run: Path, table: Path, fast: Path, read_only: Path
) -> None:
    Path("runs/read_only").symlink_to(read_only)
    asked: dict[str, list[Any]] = {
        "train": ["train", *WORDS, "name=read_only/run"],
        "profile": ["profile", run, "--out", read_only / "tables" / "T.json"],
        "extract": ["extract", run, "--out", read_only / "out"],
        "export": ["export", fast, "--format", "onnx", "--out", read_only / "onnx"],
        "report": ["report", run, "--out", read_only / "report.html"],
        "bundle": ["bundle", "--space", run, "--out", read_only / "bundle"],
        "tune": ["tune", "digits", "--out", read_only / "tuned"],
        "search": ["search", run, "--table", table, "--budget-ms", "1000", "--method", "gates",
                   "--json", read_only / "found.json"],
    }  # fmt: skip
    for name, words in asked.items():
        result = command(*words)
        assert result.code == 2, (name, result)
        (line,) = result.err.splitlines()
        places = rf"(?:{read_only}|runs/read_only)"
        assert re.match(rf"supernet: error: {places}/\S+ cannot be written \(", line), line
        assert "name a folder that can be written to" in line


# ---- clocks ------------------------------------------------------------------------------------


def test_no_duration_is_read_off_the_clock_on_the_wall() -> None:
    """Dates and the names of runs are; time.time() and its like are nowhere."""
    seen = {}
    for file in sorted((ROOT / "supernet").rglob("*.py")):
        nodes = ast.walk(ast.parse(file.read_text()))
        names = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
        wall = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow"} & names
        if wall:
            seen[file.relative_to(ROOT / "supernet").as_posix()] = wall
    dated = ("cli/hydra_config.py", "deploy/extract.py", "report/collect.py")
    assert seen == {name: {"datetime.now"} for name in dated}


def test_training_does_not_mind_a_clock_that_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    days = iter(range(10_000))
    monkeypatch.setattr(time, "time", lambda: 1.7e9 + 86400.0 * (-1) ** next(days) * 5)
    start_run(tiny_config(OFTEN), tmp_path / "run", QUIET)
    assert next(days) > 20, "TensorBoard looked at it"
    same(checkpoint.read(tmp_path / "run"), undisturbed)


JUMPING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
static long day(void) {
    static unsigned calls;
    calls = calls * 1664525u + 1013904223u;
    return -86400L * (long)(calls >> 16 & 7u);  /* ahead of the kernel's, a wait would last days */
}
int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(which, now);
    if (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE) now->tv_sec += day();
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *out) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}
"""


@pytest.fixture(scope="module")
def jumping(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that sets the clock back and forth by days at every look at it.

    Never ahead of the kernel's, which would wait for days where a deadline is given by that clock.
    """
    if shutil.which("cc") is None or sys.platform != "linux":
        pytest.skip("no C compiler: apt-get install gcc")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(JUMPING)
    words = ["cc", "-shared", "-fPIC", "-O1", "-o", "clock.so", "clock.c", "-ldl"]
    subprocess.run(words, cwd=folder, check=True)
    return str(folder / "clock.so")


@pytest.mark.slow
def test_commands_do_not_mind_a_clock_that_jumps_by_days(
    jumping: str, run: Path, place: Path, undisturbed: dict[str, Any]
) -> None:
    plan = {"overrides": WORDS, "search": {"batch_size": {"low": 8, "high": 16}}, "trials": 3,
            "sampler": "random"}  # fmt: skip
    write_json(place / "plan.yaml", plan)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def ended(words: list[str], **more: str) -> None:
        done = subprocess.run([sys.executable, *words], cwd=place, env={**environment, **more},
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 0, done.stderr

    looks = "import time; seen = [time.time() for _ in range(20)]; assert seen != sorted(seen)"
    ended(["-c", looks], LD_PRELOAD=jumping)
    supernet = ["-m", "supernet"]
    ended([*supernet, "train", *WORDS, OFTEN, "name=run"], LD_PRELOAD=jumping)
    same(checkpoint.read(place / "runs/run")["model"], undisturbed["model"])
    ended([*supernet, "profile", str(run), "--out", "T.json", "--seconds", "1", "--processes", "1"],
          LD_PRELOAD=jumping)  # fmt: skip
    tune = [*supernet, "tune", "plan.yaml", "--out"]
    ended([*tune, "tuned"], LD_PRELOAD=jumping)
    ended([*tune, "steady/tuned"])
    found, wanted = (_tuned(place / name) for name in ("tuned", "steady/tuned"))
    assert [trial["reports"] for trial in found] == [trial["reports"] for trial in wanted]
    assert all(0 < trial["ended"] - trial["begun"] < 3600 for trial in found)


def _tuned(folder: Path) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = json.loads((folder / "tune.json").read_text())["trials"]
    return trials


# ---- killed workers and ranks ------------------------------------------------------------------


@pytest.fixture
def photos(place: Path) -> list[str]:
    """The words of a training on image files, read by workers."""
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "val", "test"):
        for number in range(24):
            folder = place / "photos" / part / "abcd"[number % 4]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(256, (10, 12, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
    words = [word for word in WORDS if not word.startswith("data")]
    return [*words, OFTEN, "data=folder", f"data.root={place / 'photos'}", "data.memory_gb=0"]


def test_a_killed_worker_is_told_in_a_line_and_costs_nothing(
    command: Command, photos: list[str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run(composed([*photos, "name=x"]), place / "whole", QUIET)
    log = RunFolder.log

    def killing(self: RunFolder, step: int, *rest: Any) -> None:
        log(self, step, *rest)
        if step == 5:
            for worker in active_children():
                os.kill(worker.pid or 0, signal.SIGKILL)
            time.sleep(60)  # interrupted by the news

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log", killing)
        result = command("train", *photos, "name=run")
    assert result.code == 2
    (line,) = result.err.splitlines()
    assert re.search(r"a process that reads images was killed.*resume=runs/run", line), line
    assert checkpoint.read(place / "runs/run")["position"]["step"] == 5
    assert command("train", "resume=runs/run").code == 0
    for part in ("model", "optimizer", "position"):
        same(checkpoint.read("runs/run")[part], checkpoint.read(place / "whole")[part])


SUICIDE = """
import os, signal
from supernet.train.logger import Silent
def log(self, step, *rest):
    if step == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Silent.log = log
from supernet.cli import app
app.main()
"""


def test_the_others_stop_and_say_why_when_a_rank_is_killed(place: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-c", SUICIDE, "train", *WORDS, OFTEN, "name=run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1",
                   "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
    silent = SUICIDE.replace("step == 3", "False")
    ranks = [
        subprocess.Popen(
            [*words[:2], SUICIDE if rank == 1 else silent, *words[3:]], cwd=place,
            env={**environment, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]  # fmt: skip
    ranks[1].communicate(timeout=300)
    start = time.monotonic()
    _, said = ranks[0].communicate(timeout=60)
    assert ranks[0].returncode == 2, said
    (line,) = [line for line in said.splitlines() if line.startswith("supernet: ")]
    assert "process 0 of 2 lost the others: one of them ended or was killed" in line
    assert "Traceback" not in said
    assert time.monotonic() - start < 60
    assert checkpoint.read(place / "runs/run")["position"]["step"] == 3


@pytest.mark.slow
def test_torchrun_ends_when_a_rank_is_killed(place: Path) -> None:
    (place / "train.py").write_text(
        SUICIDE.replace("step == 3", "step == 3 and os.environ['RANK'] == '1'")
    )
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=3", "--standalone",
             "train.py", "train", *WORDS, OFTEN, "name=run"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True,
                          check=False, timeout=300)  # fmt: skip
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("supernet: ")]
    assert len(said) <= 2
    assert all("lost the others" in line or "is saved" in line for line in said)
    assert checkpoint.read(place / "runs/run")["position"]["step"] == 3
    assert Trained.open(place / "runs/run").net
