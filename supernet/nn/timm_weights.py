"""Weights of a timm network as the start of a supernet: they fill its largest subnet.

A tensor is taken where its name and shape are those of the largest subnet. One that is larger is
cropped as smaller ops are cut: first channels, centre of the kernel. Blocks beyond the deepest of a
stage, and the head of other classes, are left out. Anything else that is missing, too small or left
over is listed, and then nothing is loaded. Files are read without running any code in them.

Not here: the space of a timm network; how an op's weights lie in the shared ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.models import is_model_pretrained
from torch import Tensor, nn

from supernet.errors import CheckpointError
from supernet.io.tensors import read_state, tensors_of
from supernet.nn.blocks import frame, net_args, timm_blocks
from supernet.nn.elastic import ElasticBlock
from supernet.nn.from_timm import check_name
from supernet.nn.kinds import KINDS
from supernet.nn.standalone import timm_model
from supernet.nn.supernet import SuperNet
from supernet.space.arch import Op
from supernet.space.net_spec import NetSpec

HUB = "timm:"
STEM, HEAD = "conv_stem.weight", ("classifier.weight", "classifier.bias")
KERNELS = tuple(f".{s.path}.weight" for kind in KINDS.values() for s in kind.kernels.values())
SHOWN = 6
_OTHERS = {
    "layer1.0.conv1.weight": "a ResNet",
    "features.0.0.weight": "a network of torchvision",
    "features.0.weight": "a VGG or AlexNet",
    "patch_embed.proj.weight": "a transformer",
    "first_conv.conv.weight": "a network of once-for-all, which `supernet import ofa` reads",
}
"""Networks without a block of ours, by the end of a name that they have."""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """What became of the tensors of a file.

    Args:
        source: the file, or the network that was fetched.
        taken: how many tensors serve as they are.
        cropped: each with its shapes there and here.
        left_out: tensors of blocks beyond the deepest, of another head, and of other modules that
            a trainer keeps beside the network.
        new_head: whether the classifier starts anew.
    """

    source: str
    taken: int
    cropped: tuple[str, ...]
    left_out: tuple[str, ...]
    new_head: bool

    def __str__(self) -> str:
        """Tell it in a line."""
        words = [f"{self.taken} tensors taken"]
        words += [f"{len(self.cropped)} cropped ({_listed(self.cropped)})"] * bool(self.cropped)
        words += [f"{len(self.left_out)} left out ({_listed(self.left_out)})"] * bool(self.left_out)
        words += ["the head starts anew"] * self.new_head
        return f"largest subnet from {self.source}: {', '.join(words)}"


def read_weights(source: str) -> dict[str, Tensor]:
    """Return the tensors of `timm:NAME`, fetched from the hub, or of a file.

    Raises:
        SupernetError: if timm has no such network, or its weights cannot be fetched.
        CheckpointError: if there is no such file, or it is damaged or holds something else.
    """
    if source.startswith(HUB):
        return _fetched(source.removeprefix(HUB))
    if not Path(source).exists():
        raise CheckpointError(
            f"{source}: no such file; name a .safetensors or .pth file, or {HUB}NAME to fetch one"
        )
    return read_state(Path(source))


def _fetched(name: str) -> dict[str, Tensor]:
    check_name(name)
    if not is_model_pretrained(name):
        raise CheckpointError(f"timm has no weights of {name}; name a file, or another network")
    try:
        net: nn.Module = timm.create_model(name, pretrained=True)
    except Exception as error:  # the hub's client raises many kinds where there is no internet
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(
            f"the weights of {name} cannot be fetched ({reason}); where there is internet, run "
            f"{_fetching(name)} and copy the file here: net.init={name}.safetensors"
        ) from error
    return net.state_dict()


def _fetching(name: str) -> str:
    """Return a command that writes the weights of a network of timm to a file."""
    code = (
        "import timm, safetensors.torch as s; "
        f"s.save_file(timm.create_model('{name}', pretrained=True).state_dict(), "
        f"'{name}.safetensors')"
    )
    return f'python -c "{code}"'


def fill_(net: SuperNet, state: Mapping[str, Tensor], source: str) -> Filled:
    """Fill the largest subnet of `net` with the tensors of `state`, by timm's names.

    Args:
        net: as it was built; its narrower ops and smaller kernels then are parts of the largest.
        state: what `read_weights` returned.
        source: to name it.

    Raises:
        CheckpointError: naming each tensor that is missing, too small or left over; then nothing
            is loaded.
    """
    parts = list(_parts(net))
    wanted = {f"{part.name}.{key}": shape for part in parts for key, shape in part.shapes.items()}
    state, beside = tensors_of(wanted, state, source)
    if state and not any(len(shape) == 4 and name in state for name, shape in wanted.items()):
        raise CheckpointError(
            f"{source} has no convolution of the largest subnet, it is {kind_of(state)}; take a "
            "mobile network of timm, with its space (space=from_timm space.model=NAME), or train "
            "another network of timm alone: net=timm net.name=NAME net.weights=FILE"
        )
    found, faults, cropped = dict[str, Tensor](), list[str](), list[str]()
    new_head = _new_head(state, wanted)
    for name, shape in wanted.items():
        if name in HEAD and new_head:
            continue
        if name not in state:
            if not name.endswith("num_batches_tracked"):  # old files have none
                faults.append(f"lacks {name}")
            continue
        tensor = for_channels(state[name], shape[1]) if name == STEM else state[name]
        cut = _cut(name, tuple(tensor.shape), tuple(shape))
        if cut is None:
            faults.append(f"{name} is {tuple(state[name].shape)}, not {tuple(shape)}")
            continue
        found[name] = tensor[cut] if cut else tensor
        if cut or tensor is not state[name]:
            cropped.append(f"{name} {tuple(state[name].shape)} to {tuple(shape)}")
    extra = [name for name in state if name not in wanted]
    deeper = [name for name in extra if _deeper(name, wanted)]
    faults += [f"has {name}, which is not part of it" for name in extra if name not in deeper]
    if faults:
        raise CheckpointError(
            f"{source} does not fit the largest subnet: {_listed(faults)}; nothing is loaded; the "
            "space of another network of timm is space=from_timm space.model=NAME"
        )
    for part in parts:
        part.load({key: found[n] for key in part.shapes if (n := f"{part.name}.{key}") in found})
    left_out = (*deeper, *(name for name in HEAD if new_head and name in state), *beside)
    return Filled(
        source=source,
        taken=len(found) - len(cropped),
        cropped=tuple(cropped),
        left_out=left_out,
        new_head=new_head,
    )


def kind_of(state: Mapping[str, Tensor]) -> str:
    """Return which kind of network has tensors of these names."""
    for end, kind in _OTHERS.items():
        if any(f".{name}".endswith(f".{end}") for name in state):
            return kind
    return f"another network ({_listed(list(state)[:3])}, ...)"


def for_channels(weight: Tensor, in_chans: int) -> Tensor:
    """Return a stem's weights for images of `in_chans` channels: grey as colour, or the reverse.

    A grey image gives what it gave as three equal channels. Other numbers stay as they are.
    """
    have = weight.shape[1] if weight.ndim == 4 else in_chans
    if have == in_chans or 1 not in (have, in_chans):
        return weight
    return weight.sum(1, keepdim=True).repeat(1, in_chans, 1, 1) / in_chans


@dataclass(frozen=True)
class _Part:
    """A module of the supernet that holds one of the largest subnet, and timm's name of that."""

    name: str
    module: nn.Module
    op: Op | None
    shapes: Mapping[str, torch.Size]

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the tensors; of those that are not given, the own ones stay."""
        if self.op is None:
            self.module.load_state_dict({**self.module.state_dict(), **tensors})
            return
        assert isinstance(self.module, ElasticBlock)
        self.module.fill_(self.op, {**self.module.tensors_for(self.op), **tensors})


def _parts(net: SuperNet) -> Iterator[_Part]:
    """Yield the parts of the supernet in the order of the data's path, by timm's names."""
    space, largest = net.space, net.space.largest()
    with torch.device("meta"):
        model = timm_model(
            net_args(
                NetSpec(space=space, in_chans=net.in_chans, num_classes=net.num_classes), largest
            )
        )
    names = {module: name for name, module in model.named_modules()}

    def part(theirs: nn.Module, ours: nn.Module, op: Op | None) -> _Part:
        shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
        return _Part(names[theirs], ours, op, shapes)

    shared = {**dict(net.stem.named_children()), **dict(net.tail.named_children())}
    for role, module in frame(model, space).items():
        yield part(module, shared[role], None)
    for number, op, module in timm_blocks(model, space, largest):
        yield part(module, net.blocks[number], op)


def _new_head(state: Mapping[str, Tensor], wanted: Mapping[str, torch.Size]) -> bool:
    """Whether the classifier is one for other classes, or not there at all."""
    weight = state.get(HEAD[0])
    if weight is None:
        return not any(name in state for name in HEAD)
    return weight.ndim == 2 and len(weight) != wanted[HEAD[0]][0]


def _cut(name: str, have: tuple[int, ...], want: tuple[int, ...]) -> tuple[slice, ...] | None:
    """Return how `want` is cut out of `have`: () where it is the same, None where it cannot be."""
    if have == want:
        return ()
    if len(have) != len(want) or any(h < w for h, w in zip(have, want, strict=True)):
        return None
    if name == STEM and have[1] != want[1]:
        return None
    sides = list(zip(have, want, strict=True))
    cuts = [slice(w) for _, w in sides[:2]]
    for h, w in sides[2:]:
        if h != w and (not name.endswith(KERNELS) or (h - w) % 2):
            return None
        cuts.append(slice((h - w) // 2, (h - w) // 2 + w))
    return tuple(cuts)


def _deeper(name: str, wanted: Mapping[str, torch.Size]) -> bool:
    """Whether a tensor is of a block beyond the last one of a stage that there is."""
    block = re.match(r"(blocks\.\d+\.)(\d+)\.", name)
    if block is None:
        return False
    known = [re.match(rf"{re.escape(block[1])}(\d+)\.", other) for other in wanted]
    mine = [int(match[1]) for match in known if match]
    return bool(mine) and int(block[2]) > max(mine)


def _listed(words: tuple[str, ...] | list[str]) -> str:
    more = f"; and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return "; ".join(words[:SHOWN]) + more
