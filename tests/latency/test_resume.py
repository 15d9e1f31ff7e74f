"""The resume file of a profiling session is one file for all who wait for it."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from supernet.latency.resume import ResumeFile


def test_who_waits_for_a_file_that_is_removed_takes_a_new_one(tmp_path: Path) -> None:
    """As where a session ends: it removes the file and then closes it."""
    path = tmp_path / "T.json.partial"
    first = ResumeFile(path, {"device": {}})
    first.add({"session": 0, "done": True})

    def end() -> None:
        path.unlink()
        first.file.close()

    timer = threading.Timer(0.3, end)
    timer.start()
    with ResumeFile(path, {"device": {}}) as second:
        timer.join()
        assert second.lines == [], "the rounds of the other are gone with its file"
        second.add({"session": 0, "done": True})
        assert os.path.samestat(os.fstat(second.file.fileno()), path.stat())
