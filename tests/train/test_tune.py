"""`supernet tune`: plans, conditional names, early stops, and going on after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from supernet.cli.hydra_config import composed, config_dir, plan_fields
from supernet.cli.sources import source_of
from supernet.errors import SupernetError
from supernet.io.reporter import SILENT
from supernet.train import job as training
from supernet.train.tune import SamplerOfTrials, tune
from supernet.train.tune_space import Plan, overrides_of, plan_of, space_of
from tests.builders import TINY, TextReporter

RATES = {"low": 1e-3, "high": 1e-1, "log": True, "sets": ["recipe.phases.all.lr"]}
SEARCH: dict[str, Any] = {
    "optimizer.opt": {
        "choices": {
            "adamw": {"lr": RATES},
            "sgd": {"optimizer.momentum": {"low": 0.5, "high": 0.9}},
        }
    },
    "batch_size": {"low": 8, "high": 16},
}
FIELDS = {"overrides": list(TINY), "search": SEARCH, "trials": 6, "sampler": "random"}


def plan(**changes: Any) -> Plan:
    return plan_of({**FIELDS, **changes}, "plan")


def run(folder: Path, **changes: Any) -> tuple[dict[str, Any], str]:
    reporter = TextReporter()
    found = tune(plan(**changes), composed, source_of, folder, reporter)
    return found, reporter.text


def test_names_of_a_choice_are_there_when_it_is_taken() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = set()
    for _ in range(20):
        trial = study.ask()
        keys = dict(
            word.removeprefix("++").split("=")
            for word in overrides_of(trial, space_of(SEARCH, "search"))
        )
        taken = keys.pop("optimizer.opt")
        seen.add(taken)
        assert 8 <= int(keys.pop("batch_size")) <= 16
        (key,) = keys
        assert key == {"adamw": "recipe.phases.all.lr", "sgd": "optimizer.momentum"}[taken]
        prefix = f"optimizer.opt={taken}/"
        assert {name for name in trial.params if "/" in name} == {
            prefix + {"adamw": "lr", "sgd": "optimizer.momentum"}[taken]
        }
    assert seen == {"adamw", "sgd"}


def test_shipped_plans_compose_at_both_ends() -> None:
    for file in (config_dir() / "tune").glob("*.yaml"):
        shipped = plan_of(plan_fields(file.stem), file.stem)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(10):
            composed([*shipped.overrides, *overrides_of(study.ask(), shipped.search)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "grid"}, "sampler is 'grid'; allowed: tpe, gp, random"),
        ({"pruner": "median"}, "pruner is 'median'; allowed: asha, hyperband, none"),
        ({"trials": 0}, "trials is 0"),
        ({"search": {}}, "search names nothing to vary"),
        ({"search": [1]}, "must be a group of names"),
        ({"search": {"seed": {"low": 2, "high": 1}}}, r"search\.seed: a range from 2 to 1 is none"),
        ({"search": {"lr": {"low": 0.0, "high": 1.0, "log": True}}}, "above 0 where log is true"),
        ({"search": {"a": {"choices": {"x": None}}}}, r"search\.a: choices must name two"),
        ({"search": {"a": {"choices": {"x": {"b": 3}, "y": None}}}}, r"a\.choices\.x\.b is 3"),
        ({"search": {"a": {"low": 1}}}, r"search\.a lacks high"),
        ({"other": 1}, "'other'; allowed"),
    ],
)
def test_a_bad_plan_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SupernetError, match=message):
        plan(**changes)


def test_bad_files_and_storages_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(SupernetError, match=r"no such plan; plans: digits"):
        plan_fields("nope")
    for text in ("a: [", "- 1", ""):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(SupernetError, match=r"bad\.yaml"):
            plan_fields(str(tmp_path / "bad.yaml"))
    with pytest.raises(SupernetError, match="storage nope://x"):
        tune(plan(), composed, source_of, tmp_path / "t", SILENT, storage="nope://x")
    with pytest.raises(SupernetError, match="configuration"):
        run(tmp_path / "u", overrides=["data=nope"])


@pytest.mark.parametrize("pruner", ["asha", "hyperband"])
def test_trials_report_every_epoch_and_some_are_stopped_early(pruner: str, tmp_path: Path) -> None:
    found, printed = run(tmp_path / "t", pruner=pruner, trials=8)
    assert sum(found["count"].values()) == len(found["trials"]) == 8
    assert found["count"]["stopped early"] >= 1
    assert found["count"]["diverged"] == 0
    for trial in found["trials"]:
        epochs = len(trial["reports"])
        assert epochs == 5 if trial["state"] == "complete" else 1 <= epochs < 5
        assert all(0 <= top1 <= 1 for top1 in trial["reports"])
        assert trial["ended"] > trial["begun"] >= 0
    best = max(t["top1"] for t in found["trials"] if t["state"] == "complete")
    assert found["best"]["top1"] == best
    composed([*found["overrides"], *found["best"]["overrides"]])
    assert json.loads((tmp_path / "t" / "tune.json").read_text()) == found
    assert (tmp_path / "t" / "history.png").stat().st_size > 1000
    assert printed.count("stopped early") == found["count"]["stopped early"]


def test_a_tuning_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, calls = training.start, []

    def stopping(*args: Any, **rest: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        start(*args, **rest)

    monkeypatch.setattr(training, "start", stopping)
    with pytest.raises(KeyboardInterrupt, match="go on with the same command"):
        run(tmp_path / "t", trials=4)
    found, printed = run(tmp_path / "t", trials=4)
    assert "2 of 4 trials to go" in printed
    assert sum(found["count"].values()) == 4
    again, printed = run(tmp_path / "t", trials=4)
    assert "0 of 4 trials to go" in printed
    assert again["best"] == found["best"]


def test_a_trial_that_diverges_is_said_so_and_the_others_go_on(tmp_path: Path) -> None:
    rates = {"low": 1e29, "high": 1e30, "sets": ["recipe.phases.largest.lr"]}
    wild = [*TINY, "optimizer.opt=sgd", "clip_grad=null"]
    found, printed = run(tmp_path / "t", overrides=wild, search={"lr": rates}, trials=2)
    assert found["count"]["diverged"] == 2
    assert found["best"] is None
    assert "diverged" in printed


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_other_samplers(sampler: str, tmp_path: Path) -> None:
    found, _ = run(tmp_path / "t", sampler=sampler, pruner="none", trials=3)
    assert found["count"]["complete"] == 3


def test_the_plan_on_the_digits_names_what_is_varied() -> None:
    fields = yaml.safe_load((config_dir() / "tune" / "digits.yaml").read_text())
    assert set(fields["search"]["optimizer.opt"]["choices"]) == {"adamw", "sgd", "muon"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a trial make its folder and report once, in place of a training."""

    def start(config: Any, place: Path, *_: Any, watch: Any, **__: Any) -> None:
        place.mkdir()
        watch({"largest": 0.5})

    monkeypatch.setattr(training, "start", start)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"search": {"batch_size": {"low": 8, "high": 17}}}, "search"),
        ({"overrides": [*TINY, "seed=1"]}, "overrides"),
        ({"sampler": "tpe", "seed": 3}, "sampler, seed"),
    ],
)
def test_another_plan_in_the_same_folder_is_refused(
    tmp_path: Path, changes: dict[str, Any], names: str
) -> None:
    run(tmp_path / "t", trials=1)
    before = (tmp_path / "t" / "tune.json").read_bytes()
    with pytest.raises(
        SupernetError, match=f"of another plan, with other {names}; .*another --out"
    ):
        run(tmp_path / "t", trials=2, **changes)
    assert (tmp_path / "t" / "tune.json").read_bytes() == before
    found, _ = run(tmp_path / "t", trials=2)
    assert found["count"]["complete"] == 2, "more trials are the same plan"
    (tmp_path / "t" / "plan.json").unlink()
    with pytest.raises(SupernetError, match=r"holds trials, and no plan\.json says of which plan"):
        run(tmp_path / "t", trials=2)


@pytest.mark.usefixtures("quick")
def test_plans_share_a_storage_only_if_they_are_the_same(tmp_path: Path) -> None:
    def found(place: str, **changes: Any) -> dict[str, Any]:
        url = f"sqlite:///{tmp_path}/shared.db"
        return tune(plan(**changes), composed, source_of, tmp_path / place, SILENT, storage=url)

    first = found("a/t", trials=2)
    assert found("b/t", trials=2, seed=1)["trials"] != first["trials"]
    assert found("c/t", trials=3)["trials"][:2] == first["trials"]
    assert (tmp_path / "c" / "t" / "trial_2").exists()
    assert not (tmp_path / "c" / "t" / "trial_1").exists()


AT_ONCE = """
import sys
from pathlib import Path
from supernet.train import tune
print("ready", flush=True)
sys.stdin.readline()
tune._storage("sqlite:///" + sys.argv[1])
"""


def test_three_that_start_at_once_on_a_new_file_all_live(tmp_path: Path) -> None:
    words = [sys.executable, "-c", AT_ONCE, str(tmp_path / "new.db")]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    three = [subprocess.Popen(words, text=True, **pipes) for _ in range(3)]
    for process in three:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in three:
        assert process.stdin is not None
        process.stdin.write("\n" * 9)
        process.stdin.flush()
    for process in three:
        _, said = process.communicate()
        assert process.returncode == 0, said


def test_processes_that_share_a_study_draw_different_trials() -> None:
    study = optuna.create_study()
    drawn = set()
    for _ in range(3):  # each a process that begins
        sampler = SamplerOfTrials(lambda seed: optuna.samplers.RandomSampler(seed=seed), 0)
        study.sampler = sampler
        drawn.add(study.ask().suggest_float("x", 0, 1))
    assert len(drawn) == 3


@pytest.mark.slow
def test_a_killed_tuning_goes_on(tmp_path: Path) -> None:
    """Kill -9 in the midst of a trial: its trial is made up for, the others are kept."""
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**FIELDS, "pruner": "none", "trials": 4}))
    words = [sys.executable, "-m", "supernet", "tune", str(tmp_path / "plan.yaml"), "--out",
             str(tmp_path / "t")]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "t" / "trial_2").exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    found, printed = run(tmp_path / "t", trials=4, pruner="none")
    assert "2 of 4 trials to go" in printed
    assert found["count"]["complete"] == 4
