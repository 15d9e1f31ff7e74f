"""Compose the YAML files of `conf/` into plain data with Hydra.

Only this file, `texts.py` and `train.py` know Hydra.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import fields, make_dataclass
from datetime import datetime
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

import supernet
from supernet.cli.flags import leave_out
from supernet.cli.texts import TEXTS, TEXTS_OR_NULL, as_typed
from supernet.errors import SupernetError, shown
from supernet.io.read import read_yaml
from supernet.space.net_spec import NetSpec
from supernet.space.search_space import SearchSpace
from supernet.train.build import build_space
from supernet.train.run import Trained
from supernet.train.schema import Schema, check_config

FAULTS = (HydraException, OmegaConfBaseException, YAMLError, ValueError, TypeError, KeyError,
          AttributeError, RecursionError, OverflowError, AssertionError)  # fmt: skip
"""Errors of Hydra and OmegaConf for overrides that they do not check."""
SHOWN = 600
OF_ALL_PHASES = ("epochs", "lr", "warmup_steps")
"""Fields of a recipe that its phases refer to; a run stores the phases only."""


def register() -> None:
    """Register the schema and the resolvers of the recipes with Hydra."""
    hints = get_type_hints(Schema)
    root = [
        (each.name, Any if each.name in TEXTS | TEXTS_OR_NULL else hints[each.name], each)
        for each in fields(Schema)  # OmegaConf would make a text of a number, without its dashes
    ]
    ConfigStore.instance().store(name="schema", node=make_dataclass("Root", root))
    for resolver in (share_of_epochs, share_of_lr, with_weights):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    OmegaConf.register_new_resolver("start_time", start_time, replace=True, use_cache=True)


def start_time() -> str:
    """Return the time to the millisecond, which names a run that has no name."""
    return datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f")[:-3]


def share_of_epochs(share: Any, *, _root_: Any) -> Any:
    """Return a part, such as `1/3`, of `recipe.epochs`: rounded, and at least one.

    Anything but a valid number of epochs is returned as it is: a phase refuses it, by name.
    """
    epochs = _root_.recipe.epochs
    if type(epochs) is not int or epochs < 1:
        return epochs
    return max(1, floor(epochs * Fraction(str(share)) + Fraction(1, 2)))


def share_of_lr(share: Any, *, _root_: Any) -> Any:
    """Return a part of `recipe.lr`; anything but a number as it is."""
    lr = _root_.recipe.lr
    return float(lr * Fraction(str(share))) if type(lr) in (int, float) else lr


def with_weights(given: Any, fresh: Any, *, _root_: Any) -> Any:
    """Return `given` where a training starts from weights that exist, else `fresh`."""
    net = _root_.net
    named = (_root_.init_from, net.get("init"), net.get("weights"), net.get("dir"))
    return given if any(named) or net.get("pretrained") else fresh


def config_dir() -> Path:
    """Return the folder of the YAML files: inside the wheel, or beside the package's source."""
    package = Path(str(supernet.__file__)).parent
    inside = package / "conf"
    return (inside if inside.is_dir() else package.parent / "conf").resolve()


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the configuration of `overrides` as plain data.

    Raises:
        SupernetError: in one line, if an override or a file cannot be used.
    """
    register()
    try:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            return plain(compose("config", overrides=list(map(as_typed, overrides))))
    except SupernetError:
        raise
    except FAULTS as error:
        raise SupernetError(f"configuration: {_message(error)}") from error


def spec_of(
    of: str,
    in_chans: int | None = None,
    num_classes: int | None = None,
    overrides: Sequence[str] = (),
) -> NetSpec:
    """Return the space, image channels and classes of a run, or of a named space.

    Args:
        of: a run, or a file of `conf/space/`.
        in_chans: channels of the images, for a named space; None: 3.
        num_classes: outputs of the classifier, for a named space; None: 1000.
        overrides: of Hydra's, such as `space.model=mobilenetv2_100`; for a named space.

    Raises:
        SupernetError: if `of` is neither, the overrides cannot be used, or a run is given what is
            for a named space.
    """
    if Path(of).exists():
        leave_out(f"{of} is a run, whose space is fixed", settings=overrides, in_chans=in_chans,
                  num_classes=num_classes)  # fmt: skip
        return Trained.open(of).net.spec
    names = sorted(file.stem for file in (config_dir() / "space").glob("*.yaml"))
    if of not in names:
        raise SupernetError(f"{of}: no such run, and no such space; spaces: {', '.join(names)}")
    fields = composed([f"space={of}", *overrides])["space"]
    return NetSpec(
        space=build_space(fields), in_chans=in_chans or 3, num_classes=num_classes or 1000
    )


def space_of_run(run: str) -> dict[str, Any]:
    """Return the fields of the space of a run.

    Raises:
        SupernetError: if there is no such run, or it is damaged.
    """
    return SearchSpace.from_dict(Trained.open(run).content["space"]).to_dict()


def plan_fields(name: str) -> dict[str, Any]:
    """Return the fields of a plan: a file of `conf/tune/`, or any path.

    Raises:
        SupernetError: if there is none, or it is no YAML of named fields.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = config_dir() / "tune" / f"{name}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise SupernetError(f"{name}: no such plan; plans: {', '.join(names) or 'none'}")
    fields = read_yaml(path, error=SupernetError)
    if not isinstance(fields, dict):
        raise SupernetError(f"{path}: no fields; see {config_dir() / 'tune/digits.yaml'}")
    return {str(key): value for key, value in fields.items()}


def plain(config: Any) -> dict[str, Any]:
    """Resolve a Hydra configuration to plain data."""
    try:
        data = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        written = OmegaConf.to_container(config, resolve=False)
    except FAULTS as error:
        raise SupernetError(f"configuration: {_message(error)}") from error
    assert isinstance(data, dict)
    assert isinstance(written, dict)
    for key in (TEXTS | TEXTS_OR_NULL) & set(data):
        if isinstance(written[key], str) and data[key] is not None:
            data[key] = str(data[key])  # `${seed}`
    values = {str(key): _at_home(v, str(key)) for key, v in data.items() if key != "hydra"}
    known = {field.name for field in fields(Schema)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise SupernetError(
            f"configuration: no such key: {', '.join(map(shown, unknown[:5]))}; keys: "
            f"{', '.join(sorted(known))}"
        )
    check_config(values, "configuration")
    for name in OF_ALL_PHASES:
        values["recipe"].pop(name, None)
    return values


def _at_home(value: Any, where: str) -> Any:
    """Return `value` with `~` as the user's home folder; raise if a text in it is empty.

    A text is empty where a shell's variable is not set: `data.root=$PHOTOS`.
    """
    if isinstance(value, dict):
        return {key: _at_home(inner, f"{where}.{key}") for key, inner in value.items()}
    if isinstance(value, list):
        return [_at_home(inner, f"{where}[{number}]") for number, inner in enumerate(value)]
    if value == "":
        raise SupernetError(f"configuration: {where} is empty; give it a value, or leave it out")
    return os.path.expanduser(value) if isinstance(value, str) else value


def _message(error: BaseException) -> str:
    if isinstance(error, OverrideParseException) and "LexerNoViable" in str(error):
        return (
            f"{shown(error.override)} holds a letter that Hydra takes in quotes only, such as "
            "\"targets=[{table: '~/T.json', budget_ms: 3}]\""
        )
    launcher = re.search(r"Could not find 'hydra/launcher/(\w+)'", str(error))
    if launcher:
        return (
            f"launcher {launcher[1]!r} is not installed; pip install 'supernet[sweep]' brings "
            "joblib, submitit_local and submitit_slurm"
        )
    cause = error.__cause__
    text = str(error)
    text = text if cause is None or str(cause) in text else f"{text} ({cause})"
    line = " ".join(text.split()) or type(error).__name__
    return line if len(line) <= SHOWN else f"{line[:SHOWN]} ..."
