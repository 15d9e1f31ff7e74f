"""Do the parsers stand coverage-guided fuzzing, tens of thousands of executions each?

atheris mutates bytes after what they reach in our own modules, which `reliability_cases.py` cannot
see. Each parser is fuzzed in a process of its own, `python reliability_atheris.py PARSER ...`,
because libFuzzer ends the one that it runs in. Needs `pip install atheris` (Linux, CPython 3.11 to
3.13). A part of `reliability.py`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PARSERS = ("json", "table", "yaml", "arch", "certificate", "overrides")
SECONDS, QUICK_SECONDS = 15, 2
WANTED = 50_000


def measure(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Return aims and data of all parsers; `folder` is worked in."""
    import common

    if importlib.util.find_spec("atheris") is None:
        raise SystemExit("atheris is not installed: pip install atheris")
    found = {name: _fuzzed(name, folder, QUICK_SECONDS if quick else SECONDS) for name in PARSERS}
    runs = sum(row["executions"] for row in found.values())
    faults = sum(row["fault"] is not None for row in found.values())
    return {
        "aims": [
            common.aim("fuzzed executions of parsers", 100 if quick else WANTED, runs,
                       at_least=True),
            common.aim("of them that end in a traceback or a hang", 0, faults, at_least=False),
        ],
        "data": found,
    }  # fmt: skip


def _fuzzed(name: str, folder: Path, seconds: int) -> dict[str, Any]:
    """Fuzz one parser for a while, from its valid documents on."""
    corpus = folder / f"corpus-{name}"
    corpus.mkdir()
    command = [sys.executable, __file__, name, str(corpus), f"-max_total_time={seconds}",
               "-timeout=20", "-rss_limit_mb=4096", "-max_len=4096", "-seed=1",
               f"-artifact_prefix={folder}/"]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False,
        cwd=folder, timeout=seconds + 120, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    told = done.stderr + done.stdout
    ran = [int(count) for count in re.findall(r"^#(\d+)\s", told, re.MULTILINE)]
    covered = [int(count) for count in re.findall(r"\bcov: (\d+)", told)]
    fault = None if done.returncode == 0 else told[-1500:]
    return {
        "executions": max(ran, default=0), "covered": max(covered, default=0), "seconds": seconds,
        "fault": fault,
    }  # fmt: skip


def _fuzz(name: str, corpus: Path, flags: list[str]) -> None:
    """Fuzz one parser in this process, until libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["supernet", "json"], enable_loader_override=False):
        import reliability_kinds as made

        from supernet.cli.hydra_config import composed
        from supernet.deploy.certificate import read_certificate
        from supernet.errors import SupernetError
        from supernet.io.read import parse_json
        from supernet.latency.import_tables import read_tables
        from supernet.latency.table import LatencyTable
        from supernet.space.arch import read_arch

    file = corpus.parent / f"{name}.yaml" if name == "yaml" else corpus.parent / "certificate.json"

    def on_file(read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        def one(content: bytes) -> None:
            file.write_bytes(content)
            read(file)

        return one

    def overrides(content: bytes) -> None:
        composed(["experiment=smoke", content.decode("utf-8", "surrogateescape")])

    parsers: dict[str, tuple[Callable[[bytes], Any], list[bytes]]] = {
        "json": (
            lambda content: parse_json(
                content.decode("utf-8", "surrogateescape"), place="x", error=SupernetError
            ),
            [made.as_json(made.searched())],
        ),
        "table": (on_file(LatencyTable.load), [made.as_json(made.table())]),
        "yaml": (
            on_file(lambda path: read_tables(path, "ofa", made.DEVICE)),
            [made.yaml.safe_dump(made.foreign_table()).encode()],
        ),
        "arch": (
            on_file(read_arch),
            [made.as_json(made.SPACE.largest().to_dict()), made.as_json(made.searched())],
        ),
        "certificate": (
            on_file(lambda path: read_certificate(path.parent)),
            [made.as_json(made.certificate())],
        ),
        "overrides": (overrides, [word.encode() for word in made.OVERRIDES]),
    }
    read, valid = parsers[name]
    for number, content in enumerate(valid):
        (corpus / str(number)).write_bytes(content)

    def one(content: bytes) -> None:
        try:
            read(content)
        except SupernetError as error:
            if len(str(error).splitlines()) != 1:
                raise RuntimeError(f"no line: {str(error)[:300]!r}") from error

    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    _fuzz(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
