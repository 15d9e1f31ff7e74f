from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import supernet
import supernet.latency.profile as profiling
from supernet.errors import CheckpointError, DeviceError, SpaceError
from supernet.latency.process import ask, time_in_child
from supernet.latency.profile import measure_subnets, profile
from supernet.latency.request import TimingRequest
from supernet.latency.table import LatencyTable
from supernet.latency.timing import Timing
from supernet.space.layers import space_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from tests.builders import PhaseReporter
from tests.latency.conftest import DEVICE, SHAPES, write_subnet

TORCH = TimingRequest(runtime="torch")
PACKAGES = {"litert": "ai_edge_litert", "ncnn": "ncnn", "openvino": "openvino"}
RUNTIMES = [
    "onnxruntime", "torch", *(pytest.param(n, marks=pytest.mark.runtimes) for n in PACKAGES)
]  # fmt: skip


@pytest.fixture
def runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that is installed; the child of each but torch cannot import torch, nor onnx."""
    pytest.importorskip(PACKAGES.get(request.param, request.param))
    child = "sys.modules.update(torch=None, onnx=None); " + profiling._LIGHT_WORKER
    monkeypatch.setattr(profiling, "_LIGHT_WORKER", child)
    return str(request.param)


def _assert_sound(table: LatencyTable, space: SearchSpace, runtime: str) -> None:
    for resolution in space.resolutions:
        table.require(space_keys(NetSpec(space=space, **SHAPES), resolution).distinct())
    assert table.device.runtime == runtime
    assert table.device.name == f"{runtime}-fp32-1thread"
    fit = table.correction
    assert fit.nets == len(table.nets) > 8
    assert fit.error is not None
    assert fit.error_90 is not None
    assert fit.scale > 0 <= fit.error <= fit.error_90
    assert 0 <= fit.scale * fit.overhead_ms <= min(e.median_ms for e in table.entries.values())
    assert all(e.visits >= 9 for e in table.entries.values())
    assert LatencyTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table


@pytest.mark.parametrize("runtime", RUNTIMES, indirect=True)
def test_a_profile_covers_the_space(small_space: SearchSpace, runtime: str) -> None:
    seen: list[tuple[str, float]] = []
    table = profile(
        NetSpec(space=small_space, **SHAPES),
        TimingRequest(runtime=runtime, seconds=1),
        reporter=PhaseReporter(lambda *progress: seen.append(progress)),
    )
    _assert_sound(table, small_space, runtime)
    assert seen == sorted(seen)
    assert {("load", 1.0), ("time", 1.0)} <= set(seen)


def test_a_stopped_profile_goes_on_from_what_it_has(
    small_space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in its second session; neither the first nor the second's rounds are timed again."""
    partial, timed = tmp_path / "T.json.partial", list[dict[str, Any]]()

    def stopping(command: Any, request: Any, *, on_event: Any, **options: Any) -> None:
        timed.append(request)

        def counted(event: dict[str, Any]) -> None:
            on_event(event)
            if len(timed) == 1 and event["event"] == "round" and count() == 3:
                raise KeyboardInterrupt

        ask(command, request, on_event=counted, **options)

    def count() -> int:
        lines = [json.loads(line) for line in partial.read_text().splitlines()[1:]]
        return sum("round" in line and line["session"] == 1 for line in lines)

    monkeypatch.setattr("supernet.latency.process.ask", stopping)
    request = TimingRequest(processes=2, seconds=0.1)
    spec, options = NetSpec(space=small_space, **SHAPES), {"partial": partial}
    with pytest.raises(KeyboardInterrupt):
        profile(spec, request, **options)
    assert count() == 3
    with pytest.raises(DeviceError, match=r"of a run with other seed"):
        profile(spec, dataclasses.replace(request, seed=1), **options)
    table = profile(spec, request, **options)
    assert [request["sessions"] for request in timed] == [[0, 1], [1]]
    assert [[len(one) for one in request["rounds"]] for request in timed] == [[0, 0], [3]]
    partial.unlink()  # its caller does, once the table is written
    assert table.correction.tau_twice is not None
    assert all(e.visits >= 18 for e in table.entries.values())
    _assert_sound(table, small_space, "onnxruntime")


@pytest.mark.parametrize("runtime", RUNTIMES, indirect=True)
def test_finished_subnets_are_timed(tmp_path: Path, small_space: SearchSpace, runtime: str) -> None:
    folders = [write_subnet(tmp_path / name, small_space) for name in "ab"]
    reporter = PhaseReporter()
    request = TimingRequest(runtime=runtime, seconds=0.2)
    session = measure_subnets(folders, request, reporter=reporter)
    assert len(session.timings) == 2
    timed = [session.reference, *session.timings]
    assert all(t.median_ms > 0 and t.visits >= 9 for t in timed)
    assert all("busy" in w or "did not settle" in w for w in reporter.warnings)


def test_subnets_are_timed_in_fresh_processes(
    tmp_path: Path, small_space: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval reaches from the fastest process to the slowest."""
    folder, spent = write_subnet(tmp_path / "a", small_space), []

    def noted(*args: Any, **options: Any) -> list[list[Timing]]:
        for _, timing in time_in_child(*args, **options):
            spent.append(timing.median_ms)
        return [[Timing(ms, ms, ms, 9, True) for ms in (1.0, one)] for one in spent]

    monkeypatch.setattr("supernet.latency.profile.time_in_child", noted)
    request = TimingRequest(processes=3, seconds=0.05)
    (timing,) = measure_subnets([folder], request).timings
    assert len(set(spent)) == 3
    assert [timing.low_ms, timing.median_ms, timing.high_ms] == sorted(spent)


def test_the_batch_of_an_onnx_file_is_checked(tmp_path: Path, small_space: SearchSpace) -> None:
    folder = write_subnet(tmp_path / "a", small_space, batch=2)
    with pytest.raises(DeviceError, match=r"takes batches of 2; asked to time batches of 1"):
        measure_subnets([folder], TimingRequest())


def test_a_missing_file_is_named(tmp_path: Path, small_space: SearchSpace) -> None:
    folder = write_subnet(tmp_path / "a", small_space)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        measure_subnets([folder], TimingRequest())


def test_bad_arguments_are_refused_before_anything_starts(small_space: SearchSpace) -> None:
    with pytest.raises(SpaceError, match=r"\[20\]"):
        profile(NetSpec(space=small_space, **SHAPES), TORCH, resolutions=(8, 20))
    with pytest.raises(SpaceError, match="resolutions"):
        profile(NetSpec(space=small_space, **SHAPES), TORCH, resolutions=())
    with pytest.raises(DeviceError, match="no runtime"):
        profile(NetSpec(space=small_space, **SHAPES), TimingRequest(runtime="none"))
    with pytest.raises(DeviceError, match="threads"):
        profile(NetSpec(space=small_space, **SHAPES), TimingRequest(threads=10_000))
    with pytest.raises(DeviceError, match="no runtime"):
        measure_subnets([], TimingRequest(runtime="none"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"batch": 0}, "batch is 0, processes 1; they must be 1 or more"),
        ({"processes": 0}, "batch is 1, processes 0"),
        ({"seconds": 0.0}, "seconds is 0.0; it must be a positive number"),
        ({"seconds": float("inf")}, "seconds is inf"),
        ({"seconds": float("nan")}, "seconds is nan"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        TimingRequest(**fields)


def test_a_request_is_limited_once() -> None:
    assert TimingRequest().limited(4, 0.5).seconds == 2.0
    assert TimingRequest(seconds=1.0).limited(4, 0.5).seconds == 1.0


def test_a_request_is_like_a_device() -> None:
    device = dataclasses.replace(DEVICE, threads=2, batch=3, provider="cuda")
    request = TimingRequest(threads=2, batch=3, provider="cuda", processes=3)
    assert TimingRequest.like(device) == request


def test_timing_imports_from_where_the_command_does(tmp_path: Path) -> None:
    """returntocorp/bento#256 and ericvsmith/dataclasses#168.

    The working folder holds a module named as one of the standard library, and so does the folder
    of the packages, as that of the old package `dataclasses`.
    """
    here, packages = tmp_path / "here", tmp_path / "packages"
    here.mkdir()
    packages.mkdir()
    (here / "statistics.py").write_text("raise ImportError('a script of the user')\n")
    (packages / "dataclasses.py").write_text("raise ImportError('a package for Python 3.6')\n")
    (packages / "supernet").symlink_to(Path(supernet.__file__).parent)
    program = f"""
        import sys
        own = [number for number, place in enumerate(sys.path) if "packages" in place]
        sys.path.insert(own[0], {str(packages)!r})
        import supernet
        assert supernet.__file__.startswith({str(packages)!r}), supernet.__file__
        from supernet.latency.plan import REFERENCE
        from supernet.latency.profile import time_chains
        from supernet.latency.request import TimingRequest
        (session,) = time_chains([(REFERENCE,)], TimingRequest(seconds=0.05), nets=0)
        print(session.timings[0].median_ms > 0)
    """
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(program))
    done = subprocess.run([sys.executable, script], cwd=here, capture_output=True, text=True,
                          env={}, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
