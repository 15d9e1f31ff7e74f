"""Profile a board over ssh: copy a bundle to it, run it, fetch its result.

The system's own `ssh` is used, so names, keys, jumps and ports come from the user's configuration;
one connection serves all steps. The board needs Python, numpy and the runtime. Its files lie in
`~/.cache/supernet/` until there is a table; a dropped connection costs a round of visits.

Not here: the content of a bundle, the program that runs on the board.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from supernet.errors import DeviceError, SupernetError, TableError
from supernet.io.read import MAX_JSON, parse_json
from supernet.io.reporter import SILENT, Reporter, phases_of
from supernet.io.validate import construct
from supernet.latency.board.bundle import SCRIPT, write_bundle, write_subnet_bundle
from supernet.latency.board.result import SubnetTimings, import_result, import_subnets
from supernet.latency.board.script import MARK, RUNTIMES
from supernet.latency.plan import Plan
from supernet.latency.request import TimingRequest
from supernet.latency.table import LatencyTable

T = TypeVar("T")
OnProgress = Callable[[str, float], None]

_HOST = re.compile(r"[A-Za-z0-9_.~+@:%\[\]/][A-Za-z0-9_.~+@:%\[\]/-]*")
_LINE = 2**16
_PLAIN = re.compile(r"[A-Za-z0-9_./-]{1,48}")
"""A folder for ssh's socket: ssh splits words and expands variables; the path of a socket has about
100 characters, of which our names and ssh's ending take 40."""
_LOST = 255  # ssh's own exit code; others are the command's
_OVERRIDDEN = {"remotecommand": "none", "stdinnull": "no"}
"""Settings of a host that people log in to, which keep ssh from running our commands."""

# Programs for the board; they have to begin in Python 2 as well, to say that it is too old.
_ASK = """
import hashlib, json, os, sys
sha256, result = sys.argv[1:3]
folder = os.path.join(os.path.expanduser("~"), ".cache", "supernet", sha256[:16])
def content(name):
    with open(os.path.join(folder, name), "rb") as file:
        return file.read()
def sha256_of(name):
    return hashlib.sha256(content(name)).hexdigest()
try:
    files = json.loads(content("manifest.json").decode())["files"]
    whole = sha256_of("manifest.json") == sha256
    whole = whole and all(sha256_of(name) == files[name]["sha256"] for name in files)
except (IOError, ValueError, KeyError):
    whole = False
def lacks(name):
    try:
        __import__(name.replace("-", "_"))
    except ImportError:
        return True
missing = [names for names in (["numpy"], sys.argv[3:]) if all(map(lacks, names))]
done = os.path.exists(os.path.join(folder, result))
facts = {"folder": folder, "whole": whole, "done": done, "missing": missing}
print("supernet-" + "board " + json.dumps(dict(facts, python=list(sys.version_info[:3]))))
"""
_UNPACK = """
import os, shutil, sys, tarfile
folder = sys.argv[1]
new = folder + ".new"
shutil.rmtree(new, ignore_errors=True)
with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as tar:
    if hasattr(tarfile, "data_filter"):
        tar.extraction_filter = tarfile.data_filter
    tar.extractall(new)
for name in os.listdir(folder) if os.path.isdir(folder) else ():
    if name.startswith("result"):
        os.rename(os.path.join(folder, name), os.path.join(new, name))
shutil.rmtree(folder, ignore_errors=True)
os.rename(new, folder)
"""
_READ = """
import sys
with open(sys.argv[1], "rb") as file:
    sys.stdout.buffer.write(b"supernet-" + b"board " + file.read())
"""
_CLEAN = """
import os, shutil, sys
folder, result = sys.argv[1:]
os.remove(os.path.join(folder, result))
if not any(name.startswith("result") for name in os.listdir(folder)):
    shutil.rmtree(folder)
"""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A device that is profiled over ssh.

    Args:
        host: as `ssh` takes it, such as `user@board`.
        python: the board's interpreter; a path is relative to the home directory.
        ssh_config: used in place of `~/.ssh/config`.
    """

    host: str
    python: str = "python3"
    ssh_config: Path | None = None

    def __post_init__(self) -> None:
        if not _HOST.fullmatch(self.host):
            raise DeviceError(f"--host is {self.host!r}; expected a name such as user@board")


def profile_on(
    board: Board,
    plan: Plan,
    request: TimingRequest,
    *,
    reporter: Reporter = SILENT,
) -> LatencyTable:
    """Profile `board` and return its table; `reporter` gets the warnings of the board's program.

    A call with the same arguments resumes one that was cut off. Once there is a table, nothing is
    left on the board.

    Raises:
        DeviceError: if the board cannot be reached, lacks something, or the connection is lost.
        TableError: if its answer is not a result of this bundle.
    """
    return _timed_on(
        board, lambda out: write_bundle(out, plan, request), request, import_result, reporter
    )


def measure_on(
    board: Board,
    folders: Sequence[Path],
    request: TimingRequest,
    *,
    reporter: Reporter = SILENT,
) -> SubnetTimings:
    """Time finished subnets on `board`, as `profile_on` does the layers of a table."""
    return _timed_on(
        board,
        lambda out: write_subnet_bundle(out, folders, request),
        request,
        import_subnets,
        reporter,
    )


def _timed_on(
    board: Board,
    write: Callable[[Path], str],
    request: TimingRequest,
    read: Callable[[Path, Path], tuple[T, list[str]]],
    reporter: Reporter,
) -> T:
    """Have `board` time the bundle that `write` writes; `read` makes something of its result."""
    names = ("threads", "provider", "processes")
    options = [f"--{name}={getattr(request, name)}" for name in names]
    name = f"result-{hashlib.sha256(' '.join(options).encode()).hexdigest()[:8]}.json"
    with (
        tempfile.TemporaryDirectory() as made,
        _Connection(board) as connection,
        reporter.progress(f"{board.host}: start", 100) as progress,
    ):
        show = phases_of(progress, board.host)
        folder, result = Path(made) / "bundle", Path(made) / name
        sha256 = write(folder)
        there = _ask(connection, sha256, name, *RUNTIMES[request.runtime].packages)
        target = there.folder
        if not there.whole:
            _copy(connection, folder, target, show)
        if not there.done:
            _run(connection, [f"{target}/{SCRIPT}", f"--out={target}/{name}", *options], show)
        result.write_bytes(_read(connection, f"{target}/{name}"))
        try:
            found, warnings = read(result, folder)
        except TableError as error:
            reason = str(error).removeprefix(f"{result}: ")
            raise TableError(f"{board.host}:{target}/{name}: {reason}; remove it there") from error
        connection.python(_CLEAN, target, name)
    for warning in warnings:
        reporter.warn(warning)
    return found


class _Connection:
    """One ssh connection that all commands share."""

    def __init__(self, board: Board) -> None:
        self.board = board
        plain = _PLAIN.fullmatch(tempfile.gettempdir())
        self.folder = tempfile.TemporaryDirectory(prefix="supernet-", dir=None if plain else "/tmp")
        config = [] if board.ssh_config is None else ["-F", str(board.ssh_config)]
        socket = f"{self.folder.name}/s"
        alive = ["ConnectTimeout=15", "ServerAliveInterval=10", "ServerAliveCountMax=3"]
        options = [word for option in [*alive, f"ControlPath={socket}"] for word in ("-o", option)]
        self.ssh = ["ssh", *config, *options]

    def __enter__(self) -> _Connection:
        try:
            self.ssh += _overrides([*self.ssh, "-G", "--", self.board.host])
            with tempfile.TemporaryFile() as stderr:  # the process behind would hold a pipe open
                command = [*self.ssh, "-M", "-N", "-f", "--", self.board.host]
                code = subprocess.call(command, stdin=subprocess.DEVNULL, stderr=stderr)
                if code:
                    raise DeviceError(
                        f"cannot connect to {self.board.host}: {_last_line(stderr)}; does "
                        f"`ssh {self.board.host}` work?"
                    )
        except FileNotFoundError:
            self.folder.cleanup()
            raise DeviceError(
                "ssh is not installed on this machine: apt-get install openssh-client"
            ) from None
        except BaseException:
            self.folder.cleanup()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        command = [*self.ssh, "-O", "exit", "--", self.board.host]
        subprocess.call(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.folder.cleanup()

    @contextmanager
    def start(self, words: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
        """Run a command on the board, its words quoted for the board's shell."""
        with (
            tempfile.TemporaryFile() as stderr,
            subprocess.Popen(
                [*self.ssh, "-T", "--", self.board.host, shlex.join(words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            ) as process,
        ):
            try:
                yield process, stderr
            finally:
                process.kill()

    def call(self, words: Sequence[str]) -> bytes:
        """Return the output of a command on the board."""
        with self.start(words) as (process, stderr):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.close()
            printed = process.stdout.read(MAX_JSON + 1)
            if len(printed) > MAX_JSON:
                raise DeviceError(f"on {self.board.host}: {words[0]} prints without end")
            if process.wait():
                self.fail(process.returncode, stderr)
            return printed

    def python(self, program: str, *words: str) -> bytes:
        """Return the output of a Python program on the board."""
        return self.call(self.program(program, *words))

    def program(self, text: str, *words: str) -> list[str]:
        """Return the command that runs a program on the board; one line, for every shell."""
        here = (
            "import sys; sys.path = [place for place in sys.path if place]"  # not the home folder
        )
        return [self.board.python, "-c", f"{here}; exec({text!r})", *words]

    def fail(self, code: int, stderr: IO[bytes]) -> NoReturn:
        """Raise `DeviceError` for a command that ended with `code`."""
        host, python, said = self.board.host, self.board.python, _last_line(stderr)
        if code == _LOST:
            raise DeviceError(
                f"the connection to {host} was lost: {said}; what was timed is kept there: start "
                "the same command again and it goes on"
            )
        if code in (126, 127):
            raise DeviceError(
                f"{host} cannot run {python!r}: install it there (apt-get install python3), or "
                "name one with --python"
            )
        said = said.partition("error: ")[2] or f"ended with code {code}: {said}"
        raise DeviceError(f"on {host}: {said}")


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """The board's answer to `_ASK`."""

    folder: str
    whole: bool
    done: bool
    missing: list[list[str]]
    python: list[int]


@dataclass(frozen=True, kw_only=True)
class _Event:
    """A line of progress from the board."""

    process: int
    phase: str
    share: float
    left_seconds: float | None


def _ask(connection: _Connection, *words: str) -> _Facts:
    """Return facts about the board and about its copy of the bundle."""
    board = connection.board
    printed = connection.python(_ASK, *words)
    _, marked, answer = printed.decode("utf-8", "replace").partition(MARK)
    if not marked:
        raise DeviceError(f"{board.python!r} on {board.host} does not answer as a Python does")
    place = f"{board.python!r} on {board.host}"
    answer = parse_json(answer.partition("\n")[0], place=place, error=DeviceError)
    facts = _made(_Facts, answer, place)
    if facts.python < [3, 8]:
        version = ".".join(map(str, facts.python))
        raise DeviceError(
            f"{board.python!r} on {board.host} is Python {version}; 3.8 or newer is needed: name "
            "another with --python"
        )
    if facts.missing:
        lacks = " and ".join(map(" or ".join, facts.missing))
        needs = " ".join(map(", or ".join, facts.missing))
        raise DeviceError(
            f"{board.host} lacks {lacks}: run there "
            f"{shlex.join([board.python, '-m', 'pip', 'install'])} {needs}"
        )
    return facts


def _read(connection: _Connection, file: str) -> bytes:
    """Return the content of a file of the board."""
    _, _, content = connection.python(_READ, file).partition(MARK.encode())
    return content


def _overrides(ask: Sequence[str]) -> list[str]:
    """Return options for settings of the host that would keep our commands from running.

    `ask` has ssh print the settings. Only those that are set are named: an older ssh refuses
    options that it does not know.
    """
    printed = subprocess.run(ask, capture_output=True, stdin=subprocess.DEVNULL, check=False).stdout
    lines = printed.decode("utf-8", "replace").splitlines()
    found = dict(line.split(" ", 1) for line in lines if " " in line)
    hurt = [name for name, neutral in _OVERRIDDEN.items() if found.get(name, neutral) != neutral]
    return [word for name in hurt for word in ("-o", f"{name}={_OVERRIDDEN[name]}")]


def _made(make: type[T], answer: Any, place: str) -> T:
    """Return a board's answer as a `make`; raise `DeviceError` if it does not fit."""
    try:
        return construct(make, answer, place)
    except SupernetError as error:
        raise DeviceError(f"{error}: not an answer of this program") from error


def _copy(connection: _Connection, folder: Path, target: str, show: OnProgress) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    total, sent = sum(path.stat().st_size for path in files), 0
    with connection.start(connection.program(_UNPACK, target)) as (process, stderr):
        assert process.stdin is not None
        try:
            with tarfile.open(fileobj=process.stdin, mode="w|") as tar:
                for path in files:
                    tar.add(path, arcname=str(path.relative_to(folder)), filter=_anonymous)
                    sent += path.stat().st_size
                    show("copy", sent / total)
            process.stdin.close()
        except BrokenPipeError:
            pass  # its exit code says why
        if process.wait():
            connection.fail(process.returncode, stderr)


def _anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def _run(connection: _Connection, words: Sequence[str], show: OnProgress) -> None:
    command = [connection.board.python, "-u", *words, "--progress=json"]
    with connection.start(command) as (process, stderr):
        assert process.stdout is not None
        for line in iter(partial(process.stdout.readline, _LINE), b""):
            _, marked, text = line.decode("utf-8", "replace").partition(MARK)
            if marked:
                host = connection.board.host
                event = parse_json(text, place=host, error=DeviceError)
                show("time", _made(_Event, event, host).share)
        if process.wait():
            connection.fail(process.returncode, stderr)


def _last_line(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    lines = stderr.read().decode("utf-8", "replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return said[-1] if said else "it did not say why"
