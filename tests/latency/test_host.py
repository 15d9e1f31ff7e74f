from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from supernet.errors import DeviceError
from supernet.latency import host


def test_the_machine_has_names_and_cores() -> None:
    assert host.machine()
    assert f"{os.cpu_count()} cores" in host.cpu()
    assert host.load_average() >= 0
    assert 0 <= host.busy_cores(0.05) <= host.num_cores()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_a_process_on_one_core_is_on_the_same_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    before = host.cpu()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert host.num_cores() == 1
    assert host.cpu() == before
    assert 0 <= host.busy_cores(0.05) <= 1


@pytest.mark.parametrize("threads", [0, 10_000])
def test_more_threads_than_cores_are_refused(threads: int) -> None:
    with pytest.raises(DeviceError, match=rf"{threads} threads asked for.*ask for 1 to"):
        host.check_threads(threads)


def test_a_busy_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "num_cores", lambda: 4)
    assert host.busy_warning(busy=3.1, threads=1) is None
    assert "3.1 of 4 cores at work" in str(host.busy_warning(busy=3.1, threads=2))


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="Linux only")
def test_a_phone_that_forbids_to_read_its_load_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """giampaolo/psutil#2195 and aristocratos/bpytop#149: Termux on Android."""
    read = Path.read_text

    def refuse(file: Path, *args: Any, **options: Any) -> str:
        if file.parts[:2] == ("/", "proc"):
            raise PermissionError(13, "Permission denied", str(file))
        return read(file, *args, **options)

    monkeypatch.setattr(Path, "read_text", refuse)
    wanted = os.getloadavg()[0]
    monkeypatch.delattr(os, "getloadavg")
    assert host.load_average() == pytest.approx(wanted, abs=0.5)
    assert host.busy_cores(0.01) == pytest.approx(wanted, abs=0.5)
    assert f"{os.cpu_count()} cores" in host.cpu()
