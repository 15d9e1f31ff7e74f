"""The commands `supernet import ...`: weights and networks of other projects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from supernet.cli.flags import leave_out
from supernet.cli.say import say

import_app = typer.Typer(
    help="Take over weights of other projects.",
    epilog="Such as `supernet import ofa ofa_mbv3_d234_e346_k357_w1.0 --out runs/ofa`.",
)


@import_app.command()
def ofa(
    file: Annotated[Path, typer.Argument(help="A checkpoint of once-for-all, or a net.config.")],
    out: Annotated[Path, typer.Option(help="Folder of the run, or the arch.json to write.")],
    run: Annotated[
        Path | None, typer.Option(help="For a net.config: the run whose architecture it is.")
    ] = None,
    resolution: Annotated[
        int | None, typer.Option(help="For a net.config: its input size; default: 224.")
    ] = None,
    expand_ratio: Annotated[
        list[float] | None, typer.Option(help="That the weights are for; default: 3, 4 and 6.")
    ] = None,
    depth: Annotated[
        list[int] | None, typer.Option(help="That the weights are for; default: 2, 3 and 4.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(help="Hydra override that says where the images are; may be repeated."),
    ] = None,
) -> None:
    """Make a run of once-for-all's weights, or an arch.json of one of its networks.

    Images are needed only for what looks at them: extract, eval, predictor, search.

    \b
    supernet import ofa ofa_mbv3_d234_e346_k357_w1.0 --out runs/ofa
    supernet import ofa FILE --out runs/ofa --data data=folder --data data.root=IMAGENET
    supernet import ofa net.config --run runs/ofa --out arch.json
    """
    from supernet.cli.hydra_config import composed
    from supernet.io.atomic import write_json
    from supernet.io.reporter import in_short
    from supernet.nn.ofa_weights import read_arch, read_supernet
    from supernet.train.build import build_data
    from supernet.train.init import keep
    from supernet.train.run import Trained

    if run is not None:
        leave_out("an architecture of --run has no weights and images of its own",
                  expand_ratio=expand_ratio, depth=depth, data=data)  # fmt: skip
        arch = read_arch(file, Trained.open(run).net.space, resolution or 224)
        write_json(out, arch.to_dict())
        print(json.dumps({"arch": str(arch), "file": str(out)}))
        return
    leave_out("a net.config has an input size, and --run names its run", resolution=resolution)
    net = read_supernet(file, expand_ratios=expand_ratio or (3, 4, 6), depths=depth or (2, 3, 4))
    config = composed(data or ["data=folder", "data.root=null"])
    config["space"] = net.space.to_dict()
    size = max(net.space.resolutions)
    images = build_data(config, size=size) if data else None
    keep(net, out, config=config, data=images)
    say(f"{out}: {in_short(net.space.size)} architectures, {net.num_classes} classes")
