"""Describe a network and its data in a few lines before training starts."""

from __future__ import annotations

from supernet.data.dataset import ImageData
from supernet.io.reporter import Reporter, in_short
from supernet.nn.count import num_params, size_of
from supernet.nn.fixed import Net, PlainNet

FEW = 250
"""Validation images below which choices by accuracy are mostly noise: one standard error of 80 % is
2.5 points."""


def describe(net: Net, data: ImageData, reporter: Reporter) -> None:
    """Note the data, and the sizes of the smallest and the largest subnet."""
    reporter.note(
        f"data {data.name}: {len(data.train)} train, {len(data.held_out)} validation, "
        f"{len(data.test)} test images; {data.num_classes} classes"
    )
    if len(data.held_out) < FEW:
        reporter.note(
            f"note: one validation image is {100 / len(data.held_out):.2g} points of accuracy and "
            f"one test image {100 / len(data.test):.2g}; runs with data.fold=0, 1, 2, ... have "
            "others, which `supernet predictor` counts together"
        )
    for note in data.notes:
        reporter.note(f"note: {note}")
    reporter.note(summary_of(net))
    for name, arch in reversed(net.space.ends.items()):
        macs, params = size_of(net, arch)
        reporter.note(f"  {name:<8} {macs:>13,} MACs  {params:>10,} parameters")


def summary_of(net: Net) -> str:
    """Return a network in one line."""
    if isinstance(net, PlainNet):
        return f"{net.title}; weights: {weights_of(net)}"
    space = net.space
    return (
        f"space of {in_short(space.size)} architectures in {len(space.blocks)} blocks, "
        f"{num_params(net):,} shared parameters"
    )


def weights_of(net: PlainNet) -> str:
    """Return where the first weights of a network are from."""
    if net.origin is None:
        return "fresh"
    source, classifier = next(iter(net.origin.items())), net.origin["classifier"]
    return f"{source[0]} {source[1]}, classifier {classifier}"
