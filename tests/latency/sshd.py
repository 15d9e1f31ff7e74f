"""A real OpenSSH server on loopback, for the tests of boards."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

INSTALL = "apt-get install openssh-server"
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def installed() -> bool:
    """Whether a board can be stood in for."""
    return SSHD is not None and shutil.which("ssh") is not None


class Server:
    """An OpenSSH server for this user, with a home directory of its own."""

    def __init__(self, folder: Path) -> None:
        if not installed():
            pytest.skip(f"no OpenSSH server: {INSTALL}")
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        for name in ("host_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name]
            subprocess.run(command, check=True)
        shutil.copy(folder / "user_key.pub", folder / "authorized")
        public = (folder / "host_key.pub").read_text()
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {public}")
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {folder}/authorized\nPidFile {folder}/pid\nStrictModes no\n"
            f"UsePAM no\nPasswordAuthentication no\nSetEnv HOME={self.home}\n"
        )
        self.config = folder / "ssh_config"
        self.config.write_text(
            f"Host board\n HostName 127.0.0.1\n Port {self.port}\n User {getpass.getuser()}\n"
            f" IdentityFile {folder}/user_key\n IdentitiesOnly yes\n IdentityAgent none\n"
            f" UserKnownHostsFile {folder}/known\n StrictHostKeyChecking yes\n BatchMode yes\n"
        )

    def start(self) -> None:
        with contextlib.suppress(PermissionError):
            Path("/run/sshd").mkdir(exist_ok=True)  # what the server asks for, if root starts it
        command = [SSHD, "-D", "-e", "-f", self.folder / "sshd_config"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while time.monotonic() < until and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)
        pytest.skip(f"sshd does not start here: {(self.folder / 'log').read_text()}")

    def connections(self) -> int:
        return (self.folder / "log").read_text().count("Accepted publickey")

    def cut(self) -> None:
        """End every connection at once, as a power cut of the board's network does."""
        listed = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self.process.pid)], capture_output=True, text=True
        )
        for pid in map(int, listed.stdout.split()):
            os.kill(pid, signal.SIGKILL)
