"""Against a real OpenSSH server on loopback, which each test starts itself."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy
import pytest

from supernet.errors import DeviceError, TableError
from supernet.latency.board import ssh as remote
from supernet.latency.board.ssh import Board, profile_on
from supernet.latency.plan import Plan, plan_for
from supernet.latency.request import TimingRequest
from supernet.space.layers import space_keys
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from tests.builders import PhaseReporter
from tests.latency.conftest import SHAPES, python_with
from tests.latency.sshd import Server


@pytest.fixture
def plan(small_space: SearchSpace) -> Plan:
    space = dataclasses.replace(small_space, final_width=64, head_width=128, resolutions=(8,))
    return plan_for(NetSpec(space=space, **SHAPES))


def _board(server: Server, python: Path | str) -> Board:
    return Board(host="board", python=str(python), ssh_config=server.config)


QUICK = TimingRequest(processes=2, seconds=0.1)


def test_a_board_is_profiled(server: Server, plan: Plan, board_python: Path) -> None:
    seen: list[tuple[str, float]] = []
    reporter = PhaseReporter(lambda *step: seen.append(step))
    table = profile_on(_board(server, board_python), plan, QUICK, reporter=reporter)
    table.require(plan.layers)
    assert table.correction.nets == len(plan.nets)
    assert all("busy" in w or "did not settle" in w for w in reporter.warnings)
    steps = [step for step, _ in seen]
    assert steps == ["copy"] * steps.count("copy") + ["time"] * steps.count("time")
    assert [share for step, share in seen if step == "copy"][-1] == 1.0
    assert seen[-1] == ("time", 1.0)
    assert server.connections() == 1
    assert not list((server.home / ".cache" / "supernet").iterdir())


@pytest.mark.runtimes
def test_a_board_with_litert_is_profiled(
    server: Server, plan: Plan, board_python: Path, tmp_path: Path
) -> None:
    litert = pytest.importorskip("ai_edge_litert")
    request = dataclasses.replace(QUICK, runtime="litert")
    lacks = "board lacks ai-edge-litert or tflite-runtime: run there .* ai-edge-litert, or tflite-"
    with pytest.raises(DeviceError, match=lacks):
        profile_on(_board(server, board_python), plan, request)
    python = python_with(tmp_path / "board", numpy, litert)
    table = profile_on(_board(server, python), plan, request)
    table.require(plan.layers)
    assert table.device.runtime_version == litert.__version__


def test_a_dropped_connection_costs_a_round(server: Server, plan: Plan, board_python: Path) -> None:
    rounds = 0

    def cut(step: str, share: float) -> None:
        nonlocal rounds
        rounds += step == "time" and share > 0
        if rounds == 3:
            server.cut()

    board = _board(server, board_python)
    with pytest.raises(DeviceError, match=r"connection to board was lost.*it goes on"):
        profile_on(board, plan, QUICK, reporter=PhaseReporter(cut))
    (kept,) = (server.home / ".cache" / "supernet").glob("*/result-*.partial")
    before = kept.read_bytes()
    assert before.count(b'"round"') >= 3
    seen: list[tuple[str, bytes]] = []

    def look(step: str, share: float) -> None:
        seen.append((step, kept.read_bytes() if kept.exists() else b""))

    table = profile_on(board, plan, QUICK, reporter=PhaseReporter(look))
    assert {step for step, _ in seen} == {"time"}
    assert all(content.startswith(before) for _, content in seen[:-1])
    table.require(plan.layers)


def _left_there(server: Server, board: Board, plan: Plan) -> Path:
    """Profile until the result is about to be read; return it, as it lies on the board."""

    def lost(path: Path, folder: Path) -> None:
        raise DeviceError("the power went here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "import_result", lost)
        with pytest.raises(DeviceError, match="power"):
            profile_on(board, plan, QUICK)
    (result,) = (server.home / ".cache" / "supernet").glob("*/result-*.json")
    return result


def test_a_finished_result_is_fetched_without_timing_again(
    server: Server, plan: Plan, board_python: Path
) -> None:
    board = _board(server, board_python)
    result = _left_there(server, board, plan)
    seen: list[str] = []
    profile_on(board, plan, QUICK, reporter=PhaseReporter(lambda phase, share: seen.append(phase)))
    assert not seen
    assert not result.exists()


def test_a_changed_result_is_refused(server: Server, plan: Plan, board_python: Path) -> None:
    board = _board(server, board_python)
    result = _left_there(server, board, plan)
    result.write_text(result.read_text().replace('"python": "3', '"python": "4'))
    with pytest.raises(TableError, match=r"board:.*result-.*does not have the sha256.*remove it"):
        profile_on(board, plan, QUICK)


def test_a_damaged_bundle_is_copied_again(server: Server, plan: Plan, board_python: Path) -> None:
    def interrupt(step: str, share: float) -> None:
        if step == "time":
            raise KeyboardInterrupt

    board = _board(server, board_python)
    with pytest.raises(KeyboardInterrupt):
        profile_on(board, plan, QUICK, reporter=PhaseReporter(interrupt))
    (model,) = (server.home / ".cache" / "supernet").glob("*/models/0001.onnx")
    model.write_bytes(b"x")
    seen: list[str] = []
    profile_on(board, plan, QUICK, reporter=PhaseReporter(lambda phase, share: seen.append(phase)))
    assert "copy" in seen


def test_what_the_board_lacks_is_said(
    server: Server, plan: Plan, bare_python: Path, tmp_path: Path
) -> None:
    with pytest.raises(DeviceError, match=r"board lacks numpy and onnxruntime: run there .* -m"):
        profile_on(_board(server, bare_python), plan, QUICK)
    with pytest.raises(DeviceError, match="board cannot run 'nopython': install it there"):
        profile_on(_board(server, "nopython"), plan, QUICK)
    with pytest.raises(DeviceError, match="'echo' on board does not answer as a Python does"):
        profile_on(_board(server, "echo"), plan, QUICK)
    old = tmp_path / "old"
    old.write_text(f"#!/bin/sh\nexec {bare_python} -c 'import sys; sys.version_info = (3, 7, 9);"
                   f" sys.argv.pop(1); exec(sys.argv.pop(1))' \"$@\"\n")  # fmt: skip
    old.chmod(0o755)
    with pytest.raises(DeviceError, match=r"is Python 3\.7\.9; 3\.8 or newer is needed"):
        profile_on(_board(server, old), plan, QUICK)
    assert not list(server.home.iterdir())


def test_an_error_of_the_script_is_one_line(server: Server, plan: Plan, board_python: Path) -> None:
    with pytest.raises(DeviceError, match=r"^on board: 10000 threads asked for"):
        profile_on(_board(server, board_python), plan, dataclasses.replace(QUICK, threads=10_000))


def test_a_board_out_of_reach_is_said(
    server: Server, plan: Plan, board_python: Path, tmp_path: Path
) -> None:
    board = _board(server, board_python)
    (server.folder / "authorized").write_text("")
    with pytest.raises(DeviceError, match=r"cannot connect to board: .*Permission denied.*`ssh "):
        profile_on(board, plan, QUICK)
    (server.folder / "known").write_text("")
    with pytest.raises(DeviceError, match=r"cannot connect to board: Host key verification failed"):
        profile_on(board, plan, QUICK)
    server.process.kill()
    server.process.wait()
    with pytest.raises(DeviceError, match=r"cannot connect to board: .*Connection refused"):
        profile_on(board, plan, QUICK)


def test_words_are_not_run_by_a_shell(server: Server, plan: Plan, tmp_path: Path) -> None:
    python = f"python3; touch {tmp_path}/a; $(touch {tmp_path}/b) `touch {tmp_path}/c`"
    request = dataclasses.replace(QUICK, provider=f"; touch {tmp_path}/d")
    with pytest.raises(DeviceError, match="cannot run"):
        profile_on(_board(server, python), plan, request)
    assert not [name for name in "abcd" if (tmp_path / name).exists()]


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "", "a b", "x;y", "$(x)", "a\nb"])
def test_a_host_is_a_name(host: str) -> None:
    with pytest.raises(DeviceError, match="expected a name such as user@board"):
        Board(host=host)


def test_a_machine_without_ssh_is_told_so(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="ssh is not installed on this machine"):
        profile_on(Board(host="board"), plan, QUICK)


def test_the_space_is_covered(small_space: SearchSpace, plan: Plan) -> None:
    space = dataclasses.replace(small_space, final_width=64, head_width=128, resolutions=(8,))
    assert plan.layers == space_keys(NetSpec(space=space, **SHAPES), 8).distinct()


GREETING = """printf '{ "welcome": "no newline here'\nls /none 2>&1\necho '{'\n"""


def test_a_greeting_of_the_boards_shell_is_passed_over(
    server: Server, plan: Plan, board_python: Path
) -> None:
    """ansible/ansible#2268."""
    (server.home / ".bashrc").write_text(GREETING)
    (server.home / ".zshenv").write_text(GREETING)
    board = _board(server, board_python)
    with remote._Connection(board) as connection:
        printed = connection.call(["echo", "answer"])
    if printed == b"answer\n":
        pytest.skip("the shell of this user reads no file of the home folder over ssh")
    seen: list[str] = []
    reporter = PhaseReporter(lambda phase, share: seen.append(phase))
    profile_on(board, plan, QUICK, reporter=reporter).require(plan.layers)
    assert "time" in seen


@pytest.mark.parametrize("setting", ["RemoteCommand tmux attach\n RequestTTY yes", "StdinNull yes"])
def test_settings_for_people_who_log_in_do_not_matter(server: Server, setting: str) -> None:
    """microsoft/vscode-remote-release#481."""
    server.config.write_text(f"{server.config.read_text()} {setting}\n")
    program = "import sys; print(sys.stdin.read())"
    with (
        remote._Connection(_board(server, "python3")) as connection,
        connection.start(["python3", "-c", program]) as (process, _),
    ):
        assert process.communicate(b"given")[0] == b"given\n"


def test_a_long_folder_of_temporary_files_is_no_place_for_sockets(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dooblem/bsync#44."""
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with remote._Connection(_board(server, "python3")) as connection:
        assert connection.call(["echo", "here"]) == b"here\n"


def test_packages_are_not_looked_for_in_the_boards_home(server: Server) -> None:
    """returntocorp/bento#256: a file or a clone there, as of numpy, hides the installed package."""
    with remote._Connection(_board(server, "python3")) as connection:
        printed = connection.python("import sys; print([p for p in sys.path if not p])")
    assert printed == b"[]\n"
