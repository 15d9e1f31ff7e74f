"""The commands `eval`, `info` and `predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from supernet.cli.flags import Json
from supernet.cli.say import say


def evaluate(
    path: Annotated[Path, typer.Argument(help="A run, a checkpoint file, or a subnet folder.")],
    arch: Annotated[
        Path | None, typer.Option(help="An arch.json to score; default: largest and smallest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score subnets on the test images, extracted and BN-calibrated.

    \b
    supernet eval runs/demo                    the largest and the smallest subnet
    supernet eval runs/demo --arch arch.json   any subnet
    supernet eval fast/                        a finished subnet folder
    """
    from supernet.deploy.info import scores

    rows = scores(path, arch)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        top5 = "" if row["top5"] is None else f", top-5 {100 * row['top5']:.2f} %"
        say(
            f"{row['name']:<10} top-1 {100 * row['top1']:.2f} %{top5}, mean of the classes "
            f"{100 * row['mean_class']:.2f} % on {row['images']} images  {row['arch']}"
        )


def info(
    path: Annotated[Path, typer.Argument(help="A run, a checkpoint file, or a subnet folder.")],
    as_json: Json = False,
) -> None:
    """Say what a run, a checkpoint or a subnet folder is."""
    from supernet.deploy.info import facts

    found = facts(path)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        for part, inner in value.items() if isinstance(value, dict) else [("", value)]:
            say(f"{f'{name} {part}'.strip() + ':':<18} {_text(inner)}")


def predict(
    subnet: Annotated[Path, typer.Argument(help="A subnet folder.")],
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to print.")] = 3,
    as_json: Json = False,
) -> None:
    """Classify image files with a subnet, with the preprocessing that it was trained with."""
    from supernet.deploy.predict import predictions

    for image, classes in predictions(subnet, images, top):
        if as_json:
            print(json.dumps({"image": str(image), "classes": classes}))
        else:
            shown = "  ".join(f"{name} {100 * share:.1f} %" for name, share in classes.items())
            say(f"{image}: {shown}")


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_text, value)) if isinstance(value, list) else str(value)
