"""Lists in the pages are whole: papers that the code stands on, file formats and their versions."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

import yaml

from benchmarks.reliability.cases import reports
from supernet.deploy import certificate
from supernet.deploy import folder as subnet
from supernet.deploy.export import job as exporting
from supernet.latency import table
from supernet.latency.board import bundle
from supernet.latency.board import script as bundle_script
from supernet.report import schema as records
from supernet.search import predictor
from supernet.search.pareto import FIELDS
from supernet.train import checkpoint
from supernet.train import run as trained
from tests.docs.pages import DOCS, ROOT

ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")


def named_in_code() -> Iterator[str]:
    for pattern in ("supernet/**/*.py", "conf/**/*.yaml"):
        for file in ROOT.glob(pattern):
            yield from ARXIV.findall(file.read_text(encoding="utf-8"))


def test_every_paper_that_the_code_names_is_in_the_list_of_sources() -> None:
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    listed = set(ARXIV.findall(text[text.index("## Sources") :]))
    assert len(listed) > 10
    assert listed == set(named_in_code())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(ARXIV.findall(readme)) <= listed


def test_the_software_is_cited_in_its_version() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (str(cited["version"]), cited["license"]) == (project["version"], project["license"])


def test_every_format_is_listed_with_its_version() -> None:
    modules = (table, checkpoint, subnet, certificate, exporting, predictor, bundle, records)
    kinds = {(module.FORMAT, module.VERSION) for module in modules}
    kinds.add((trained.GATES_FORMAT, trained.GATES_VERSION))
    kinds.add((bundle_script.RESULT_FORMAT, bundle_script.RESULT_VERSION))
    text = (DOCS / "formats.md").read_text(encoding="utf-8")
    listed = re.findall(r"`(supernet-[\w-]+)` \| (\d+) \|", text)
    assert {(name, int(version)) for name, version in listed} == kinds
    written = {name for file in ROOT.glob("supernet/**/*.py")
               for name in re.findall(r'"(supernet-[\w-]+)", \d|FORMAT = "([\w-]+)"',
                                      file.read_text(encoding="utf-8"))}  # fmt: skip
    assert {"".join(name) for name in written} == {name for name, _ in kinds}
    (front,) = (line for line in text.splitlines() if line.startswith("| `front.json`"))
    assert set(re.findall(r"`(\w+)`", front)) - {"extract", "report"} == set(FIELDS)


def test_every_report_from_the_field_has_a_source_and_tests_that_exist() -> None:
    text = (DOCS / "field.md").read_text(encoding="utf-8")
    found = reports()
    assert len(found) >= 9
    for entry in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        source = entry.splitlines()[0]
        assert source in found or source.startswith("Tried"), source
        assert "](https://" in entry, source
    for name in (name for names in found.values() for name in names):
        file, _, test = name.partition("::")
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), name
