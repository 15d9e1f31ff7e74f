"""The command line: helpful where it is asked, one clear line where something is wrong."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import supernet
from supernet.cli.errors import reported
from supernet.deploy.folder import load_config
from supernet.errors import SpaceError
from supernet.io import lock
from supernet.latency.costs import latency_costs
from supernet.latency.table import LatencyTable
from supernet.space.net_spec import NetSpec
from supernet.train import checkpoint
from supernet.train import job as training
from tests.builders import TINY, MainJob, made_up_table, small_space
from tests.conftest import Command

COMMANDS = ("train", "demo", "profile", "bundle", "table", "extract", "eval", "info", "predict",
            "export", "verify", "compression", "prune")  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def subnet(main_job_done: MainJob) -> Path:
    return Path(main_job_done.rows[0]["path"])


# ---- asking ------------------------------------------------------------------------------------


def test_the_version(command: Command) -> None:
    result = command("--version")
    assert (result.code, result.out) == (0, f"supernet {supernet.__version__}\n")


@pytest.mark.parametrize("words", [["--help"], []])
def test_help_names_every_command(command: Command, words: list[str]) -> None:
    result = command(*words)
    assert result.code == 0
    assert result.err == ""
    assert all(name in result.out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches(command: Command, name: str) -> None:
    result = command(name, "--help")
    assert result.code == 0
    assert result.err == ""
    assert "Usage:" in result.out
    if name != "demo":
        assert f"supernet {name} " in result.out, "an example to copy"


# ---- answering ---------------------------------------------------------------------------------


def test_training_from_the_command_line(command: Command, place: Path) -> None:
    result = command("train", *TINY, "recipe.phases.largest.epochs=1",
                     "recipe.phases.all.epochs=1", "name=mine")  # fmt: skip
    assert result.code == 0, result
    assert result.err == ""
    for words in ("architectures", "smallest", "largest", "MACs", "supernet info"):
        assert words in result.out
    assert {path.name for path in (place / "runs" / "mine").iterdir()} == {
        "checkpoint.pt", "checkpoint.previous.pt", "config.json", "tensorboard",
    }  # fmt: skip
    assert [path.name for path in place.iterdir()] == ["runs"]
    assert list((place / "runs" / "mine" / "tensorboard").iterdir())

    result = command("train", "resume=runs/mine")
    assert result.code == 0, result
    assert "trained to its end already" in result.out


def test_the_configuration_is_shown_on_request(command: Command, place: Path) -> None:
    result = command("train", "--cfg", "job", "seed=7")
    assert result.code == 0
    assert "seed: 7" in result.out
    assert not list(place.iterdir())


def test_a_profile_from_the_command_line(command: Command, run: Path) -> None:
    result = command(
        "profile", run, "--out", "new/T.json", "--seconds", "0.1", "--resolution", 8,
        "--processes", 1,
    )  # fmt: skip
    assert result.code == 0, result
    assert result.err == ""
    table = LatencyTable.load("new/T.json")
    assert table.id in result.out
    assert table.device.name == "onnxruntime-fp32-1thread"
    assert [path.name for path in Path("new").iterdir()] == ["T.json"]


def test_a_subnet_and_its_facts(command: Command, run: Path, table: Path, place: Path) -> None:
    """Extract, info, eval in a row, as a newcomer would."""
    words = ("extract", run, "--table", table, "--budget-ms", 1000, "--out", "fast")
    result = command(*words)
    assert result.code == 0, result
    assert result.err == ""
    assert "not measured: the table is of nowhere" in result.out
    paper = json.loads((place / "fast" / "certificate.json").read_text())
    assert paper["promise"]["predicted_ms"] <= 1000
    assert paper["measured"] is None
    assert str(load_config("fast").arch) in result.out
    assert len(list((run / "gates").iterdir())) == 1

    result = command("info", "fast", "--json")
    assert json.loads(result.out)["subnet"] == paper["subnet"]
    result = command("info", run)
    assert "@1000ms" in result.out
    result = command("eval", "fast", "--json")
    assert json.loads(result.out)[0]["top1"] == paper["quality"]["top1"]
    result = command("eval", run, "--arch", "fast/arch.json")
    assert "top-1" in result.out


def test_info_and_eval_of_a_run(command: Command, run: Path) -> None:
    found = json.loads(command("info", run, "--json").out)
    assert found["phases done"] == "4 of 4 (largest, kernel, depth, expand)"
    text = command("info", run / "checkpoint.pt").out
    assert all(f"{name}:" in text for name in found)
    rows = json.loads(command("eval", run, "--json").out)
    assert [row["name"] for row in rows] == ["largest", "smallest"]


def test_prediction(command: Command, subnet: Path, place: Path) -> None:
    from tests.cli.test_demo import digit_file

    files = [digit_file(place, number)[0] for number in (0, 1)]
    result = command("predict", subnet, *files, "--top", "2")
    assert result.code == 0
    lines = result.out.splitlines()
    assert [line.split(":")[0] for line in lines] == [str(file) for file in files]
    assert all(line.count("%") == 2 for line in lines)
    result = command("predict", subnet, files[0], "--json")
    answer = json.loads(result.out)
    assert answer["image"] == str(files[0])
    assert len(answer["classes"]) == 3


# ---- refusing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["nope"], ["info"], ["extract", "runs/tiny"], ["--nope"],
                                   ["info", "x", "--nope"], ["profile", "tiny", "--out", "T.json",
                                                             "--threads", "two"]])  # fmt: skip
def test_a_wrong_usage_is_one_line(refused: Callable[..., str], words: list[str]) -> None:
    assert "--help" in refused(*words)


@pytest.mark.parametrize("name", ["info", "eval"])
def test_a_missing_run(refused: Callable[..., str], name: str) -> None:
    line = refused(name, "runs/nowhere")
    assert "runs/nowhere" in line
    assert "name a run such as runs/demo" in line


def test_extract_from_a_missing_run(refused: Callable[..., str], table: Path) -> None:
    line = refused("extract", "runs/nowhere", "--table", table, "--budget-ms", 1, "--out", "o")
    assert "runs/nowhere" in line


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", '{"format": "supernet-latency-table", "version": 9}',
     '{"format": "supernet-latency-table", "version": 1}', "NaN"],
)  # fmt: skip
def test_a_malformed_table(
    refused: Callable[..., str], run: Path, place: Path, content: str
) -> None:
    (place / "bad.json").write_text(content)
    line = refused("extract", run, "--table", "bad.json", "--budget-ms", 1, "--out", "o")
    assert "bad.json" in line
    line = refused("extract", run, "--table", "gone.json", "--budget-ms", 1, "--out", "o")
    assert "gone.json" in line


def test_a_table_that_lacks_entries(refused: Callable[..., str], run: Path, place: Path) -> None:
    made_up_table(small_space(), in_chans=3, num_classes=4).save(place / "other.json")
    line = refused("extract", run, "--table", "other.json", "--budget-ms", 1, "--out", "o")
    net = supernet.load(run)
    other = LatencyTable.load(place / "other.json")
    from supernet.space.layers import space_keys

    keys = {
        key
        for size in net.space.resolutions
        for key in space_keys(NetSpec(space=net.space, in_chans=3, num_classes=4), size).distinct()
    }
    missing = other.missing(keys)
    assert missing
    assert all(str(key) in line for key in missing)
    assert "supernet profile" in line


def test_a_budget_out_of_reach(refused: Callable[..., str], run: Path, table: Path) -> None:
    from supernet.space.cost import cost_range

    net = supernet.load(run)
    low, high = cost_range(net.space, latency_costs(LatencyTable.load(table), net.spec))
    line = refused("extract", run, "--table", table, "--budget-ms", low / 2, "--out", "o")
    named = [float(word) for word in re.findall(r"between (\S+) and (\S+) ms", line)[0]]
    assert named == pytest.approx([low, high], rel=1e-5)
    assert named[0] >= low, "what it names can be met"


@pytest.mark.parametrize("budget", ["0", "-1", "nan", "inf"])
def test_a_budget_that_is_none(
    refused: Callable[..., str], run: Path, table: Path, budget: str
) -> None:
    line = refused("extract", run, "--table", table, f"--budget-ms={budget}", "--out", "o")
    assert "positive number of ms" in line


@pytest.mark.parametrize(
    ("override", "word"),
    [
        ("batchsize=32", "batchsize"),
        ("batch_size=many", "batch_size"),
        ("batch_size=1", "batch_size is 1"),
        ("data=imagenet", "imagenet"),
        ("+gates.rate=1", "gates has 'rate'; allowed:"),
        ("space.resolutions=[4]", "resolutions are (4,)"),
        ("device=quantum", "quantum"),
        ("resume=runs/nowhere", "runs/nowhere"),
        ("targets=[{table: nowhere.json, budget_ms: 1}]", "nowhere.json"),
        ("seed", "seed"),
    ],
)
def test_an_override_that_cannot_be_used(
    refused: Callable[..., str], override: str, word: str
) -> None:
    assert word in refused("train", override)


def test_a_typo_in_a_multirun(refused: Callable[..., str]) -> None:
    assert "batchsize" in refused("train", "-m", "seed=1,2", "batchsize=32")


def test_runs_of_a_sweep_without_a_name_lie_in_one_folder(
    command: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    monkeypatch.setattr(training, "start", lambda config, folder, *_, **__: folders.append(folder))
    for _ in range(2):
        command("train", "-m", "data=synthetic", "seed=1,2,3")
    first, second = (folders[start].parent for start in (0, 3))
    assert folders == [above / str(number) for above in (first, second) for number in range(3)]
    assert first != second, "in one second"
    assert {path.parent.name for path in place.rglob("multirun.yaml")} == {first.name, second.name}


def test_a_second_sweep_of_a_name_changes_nothing(
    refused: Callable[..., str], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hydra writes what a sweep is about before the first run of it is refused."""
    shutil.move(run, "runs/swept/0")
    Path("runs/swept/multirun.yaml").write_text("the first sweep")
    words = ("train", "-m", "data=synthetic", "name=swept", "seed=1,2")
    assert "runs/swept/0 holds a run already; choose another name=" in refused(*words)
    shutil.rmtree("runs/swept/0")
    monkeypatch.setattr(lock, "PATIENCE", 0)
    with lock.held_beside(Path("runs/swept")):
        assert "runs/swept is in use by process" in refused(*words)


def test_resuming_with_other_overrides(refused: Callable[..., str], run: Path) -> None:
    line = refused("train", f"resume={run}", "seed=3", "batch_size=8")
    assert "leave out seed=3 batch_size=8" in line


def test_a_run_that_is_there_already(refused: Callable[..., str], run: Path) -> None:
    line = refused("train", *TINY)
    assert "runs/tiny holds a run already; go on with resume=runs/tiny" in line


BARE = ["--in-chans", 1, "--num-classes", 4]
BARE_LINE = "leave out --in-chans, --num-classes"
SIZED = ["space.width_mult=1", "--resolution", 8, *BARE]
SIZED_LINE = "leave out space.width_mult=1, --resolution, --in-chans, --num-classes"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["bundle", "--subnet", "fast", *SIZED, "--out", "o"], SIZED_LINE),
        (["bundle", "--space", "RUN", *BARE, "--out", "o"], BARE_LINE),
        (["profile", "RUN", *BARE, "--out", "o"], BARE_LINE),
        (["profile", "tiny", "--python", "python3.8", "--out", "o"], "leave out --python"),
        (["table", "check", "TABLE", "--space", "RUN", *BARE], BARE_LINE),
        (["table", "check", "TABLE", "--here", *SIZED], SIZED_LINE),
        (["extract", "RUN", "--ssh-config", "c", "--out", "o"], "leave out --ssh-config"),
        (["extract", "RUN", "--host", "b", "--max-macs", 1e6, "--out", "o"], "leave out --host"),
        (["search", "RUN", "--host", "b", "--max-macs", 1e6], "leave out --host"),
        (["search", "RUN", "--table", "TABLE", "--pareto", "f", "--max-params", 9, "--json", "j"],
         "leave out --max-params, --json"),
        (["import", "ofa", "n", "--run", "RUN", "--out", "o", "--depth", 2], "leave out --depth"),
        (["import", "ofa", "n", "--out", "o", "--resolution", 96], "leave out --resolution"),
    ],
)  # fmt: skip
def test_an_option_that_would_have_no_effect(
    refused: Callable[..., str], run: Path, table: Path, words: list[object], line: str
) -> None:
    """Such an option was passed over without a word."""
    there = {"RUN": run, "TABLE": table}
    assert refused(*(there.get(str(word), word) for word in words)).strip().endswith(line)


@pytest.mark.parametrize("name", ["info", "eval", "extract", "profile", "resume"])
@pytest.mark.parametrize("share", [0, 0.5])
def test_a_damaged_checkpoint(
    refused: Callable[..., str], run: Path, table: Path, name: str, share: float
) -> None:
    file = run / checkpoint.FILE
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    (run / checkpoint.PREVIOUS).unlink()  # which would be used instead
    words = {
        "extract": ["extract", run, "--table", table, "--budget-ms", 1, "--out", "o"],
        "profile": ["profile", run, "--out", "new.json"],
        "resume": ["train", f"resume={run}"],
    }.get(name, [name, run])
    line = refused(*words)
    assert str(file) in line
    assert "damaged" in line


def test_a_profile_of_what_is_not_there(refused: Callable[..., str], run: Path) -> None:
    line = refused("profile", "imagenet", "--out", "T.json")
    assert "imagenet: no such run, and no such space; spaces: " in line
    assert "ofa_mbv3" in line
    line = refused("profile", run, "--runtime", "abacus", "--out", "new/T.json")
    assert "no runtime 'abacus'; there are: " in line
    assert "onnxruntime" in line
    line = refused("profile", run, "--threads", 4096, "--out", "new/T.json")
    assert "4096 threads" in line
    line = refused("profile", run, "--resolution", 13, "--out", "new/T.json")
    assert "13" in line


@pytest.mark.parametrize(
    "option", ["--batch=0", "--num-classes=0", "--in-chans=0", "--seconds=-1", "--seconds=nan"]
)
def test_a_number_that_makes_no_sense(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr("supernet.latency.job.profile", lambda *_, **__: pytest.fail("it times"))
    assert option[2:].partition("=")[0] in refused("profile", "tiny", option, "--out", "T.json")


def test_a_table_that_cannot_be_written(
    refused: Callable[..., str], run: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is noticed before minutes are spent on timing."""
    monkeypatch.setattr("supernet.latency.job.profile", lambda *_, **__: pytest.fail("it times"))
    (place / "folder").mkdir()
    (place / "file").write_text("x")
    for out in ("folder", "file/T.json"):
        assert out.partition("/")[0] in refused("profile", run, "--out", out)


def test_what_is_no_image(refused: Callable[..., str], subnet: Path, place: Path) -> None:
    (place / "notes.txt").write_text("hello")
    line = refused("predict", subnet, "notes.txt")
    assert "notes.txt: not an image that can be read" in line
    assert "nowhere.png: no such image" in refused("predict", subnet, "nowhere.png")
    assert "not a subnet folder" in refused("predict", place, "notes.txt")


def test_an_out_folder_that_holds_something_else(
    refused: Callable[..., str], run: Path, table: Path, place: Path
) -> None:
    """Before gates are trained for it."""
    (place / "thesis").mkdir()
    (place / "thesis" / "chapter.tex").write_text("mine")
    line = refused("extract", run, "--table", table, "--budget-ms", 1000, "--out", "thesis")
    assert "thesis exists and is not a subnet folder; name another --out" in line
    line = refused("extract", run, "--table", table, "--budget-ms", 1000, "--out", "T.json")
    assert "T.json exists and is not a subnet folder" in line


def test_extracting_without_the_data(refused: Callable[..., str], run: Path, table: Path) -> None:
    content = checkpoint.read(run)
    content["config"]["data"] = {"name": "folder", "root": "gone", "size": 8}
    checkpoint.save(run / checkpoint.FILE, content)
    line = refused("extract", run, "--table", table, "--budget-ms", 1000, "--out", "o")
    assert "data" in line
    assert "gone" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "arch.json"),
        ("[]", "arch.json: not an architecture"),
        ('{"resolution": 16, "ops": [[3, 2]]}', "has 1 blocks, the space 3"),
        ('{"resolution": 16, "ops": [[9, 9], null, null]}', "does not have k9e9"),
    ],
)
def test_an_arch_that_is_none(
    refused: Callable[..., str], run: Path, place: Path, content: str, words: str
) -> None:
    (place / "arch.json").write_text(content)
    assert words in refused("eval", run, "--arch", "arch.json")
    assert "gone.json" in refused("eval", run, "--arch", "gone.json")


def test_a_demo_folder_with_another_run(refused: Callable[..., str], run: Path) -> None:
    assert "holds a run with other settings" in refused("demo", "--out", run)


# ---- the frame around all of it ----------------------------------------------------------------


def test_an_expected_error_becomes_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (SpaceError("two\n  lines"), OSError("no space\nleft")):
        with pytest.raises(SystemExit) as stop, reported():
            raise error
        assert stop.value.code == 2
        assert capsys.readouterr().err == f"supernet: error: {' '.join(str(error).split())}\n"
    with pytest.raises(SystemExit) as stop, reported():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert capsys.readouterr().err == "supernet: interrupted\n"
    with pytest.raises(ZeroDivisionError), reported():
        _ = 1 / 0


@pytest.mark.parametrize(
    "words",
    [
        [sys.executable, "-W", "error", "-m", "supernet", "info", "runs/nowhere"],
        [sys.executable, str(ROOT / "train.py"), "batchsize=32"],
        [str(Path(sys.executable).with_name("supernet")), "predict", "nowhere"],
    ],
    ids=["python -m supernet", "train.py", "supernet"],
)
def test_from_a_shell(place: Path, words: list[str]) -> None:
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("supernet: error: ")
    assert done.stderr.count("\n") == 1
    assert not list(place.iterdir())
