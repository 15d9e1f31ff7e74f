"""Describe a network and its data in a few lines before training starts."""

from __future__ import annotations

from supernet.data.dataset import ImageData
from supernet.io.reporter import Reporter, in_short
from supernet.nn.count import num_params, size_of
from supernet.nn.fixed import Net, PlainNet


def describe(net: Net, data: ImageData, reporter: Reporter) -> None:
    """Print what the data is, and the size of the net: of its smallest and largest subnets."""
    reporter.note(
        f"data {data.name}: {len(data.train)} images for weights, {len(data.held_out)} for gates, "
        f"{len(data.test)} for reports; {data.num_classes} classes"
    )
    for note in data.notes:
        reporter.note(f"note: {note}")
    reporter.note(summary_of(net))
    for name, arch in reversed(net.space.ends.items()):
        macs, params = size_of(net, arch)
        reporter.note(f"  {name:<8} {macs:>13,} MACs  {params:>10,} parameters")


def summary_of(net: Net) -> str:
    """Return in a line what a net is."""
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
