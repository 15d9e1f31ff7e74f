"""Divide the images of a set into training, validation and test images.

Where a set has no validation or test images of its own, they are drawn from its training images by
a hash of their names: adding or deleting an image moves no other one, and no seed plays a part. A
run keeps the ids of its images, hashes of their content, so that a later command finds each image
in the part that it was in, whatever was renamed, moved, added or deleted since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from supernet.data.dataset import ImageData, Images, ImageSource, ids_of
from supernet.data.ids import PARTS, Parts, id_of, no_ids
from supernet.errors import DataError, shown

TRAIN, LEFT_OUT = 0, -1
SHOWN = 5
WORDS = {"train": "training", "held_out": "validation", "test": "test"}


@dataclass(frozen=True, eq=False, kw_only=True)
class Pool:
    """All images of a set, not yet divided.

    Args:
        name: of the set.
        classes: their names.
        images: all of them.
        given: `[N]`, the number of the part that each image is given in: 0 training, 1 validation,
            2 test.
        ids: `[N]`, int64, of their content.
        names: `[N]`, by which parts are drawn.
        shares: of the training images to draw for parts that are not given, by part.
        in_memory: whether each part is to be read into memory.
        notes: remarks for readers of the results.
    """

    name: str
    classes: tuple[str, ...]
    images: ImageSource
    given: Tensor
    ids: Tensor
    names: Sequence[str]
    shares: Mapping[str, float]
    in_memory: bool = False
    notes: tuple[str, ...] = ()


def pool_of(
    name: str, classes: tuple[str, ...], *, shares: Mapping[str, float], **given: Images
) -> Pool:
    """Return the pool of a set in memory.

    Args:
        name: of the set.
        classes: their names.
        shares: to draw from the training images, by part.
        **given: images by part: `train`, and others that are given.
    """
    images = Images(
        torch.cat([part.pixels for part in given.values()]),
        torch.cat([part.labels for part in given.values()]),
    )
    numbers = [torch.full((len(part),), PARTS.index(key)) for key, part in given.items()]
    return Pool(
        name=name, classes=classes, images=images, given=torch.cat(numbers), ids=ids_of(images),
        names=[str(number) for number in range(len(images))], shares=shares,
    )  # fmt: skip


def divide(
    pool: Pool, *, kept: Parts | None = None, closed: bool = False, fold: int = 0
) -> ImageData:
    """Return the images of `pool` in three parts.

    Args:
        pool: the images.
        fold: which of the `1 / share` folds are the validation images, where these are drawn.
        kept: of a run; its images stay in their parts. An image of several parts stays where it is
            given, else it is a training image if it was one.
        closed: leave images out that are not in `kept`.

    Raises:
        DataError: if a part cannot be drawn, or no image of a part of `kept` is there.
    """
    part, notes, changed = _drawn_parts(pool, fold), pool.notes, None
    if kept is not None:
        was = kept.of(pool.ids)
        known = was.any(0)
        stays = was[part, torch.arange(len(part))] | ~known
        part = torch.where(stays, part, was.int().argmax(0))
        if closed:
            part[~known] = LEFT_OUT
            changed = _changes(kept, pool.ids, int((~known).sum()))
        elif known.any():
            notes += (f"{int(known.sum())} images stay in the parts that they had in the training "
                      "of the initial weights",)  # fmt: skip
    places = [(part == number).nonzero()[:, 0] for number in range(len(PARTS))]
    for name, place in zip(PARTS, places, strict=True):
        if not len(place) and closed:
            raise DataError(
                f"data {pool.name} has none of the {WORDS[name]} images that the run was started "
                "with; name their folder with data.root="
            )
        if not len(place):
            raise DataError(
                f"data {pool.name} is left without {WORDS[name]} images, as all of them are of "
                "other parts in the training of the initial weights; add new ones"
            )
    notes += _copies(pool, places)
    sources = (pool.images.pick(place) for place in places)
    train, held_out, test = (s.in_memory() if pool.in_memory else s for s in sources)
    return ImageData(
        name=pool.name, classes=pool.classes, train=train, held_out=held_out, test=test,
        ids=_ids(pool, places, kept, closed),
        notes=notes, changed=changed,
    )  # fmt: skip


def _ids(pool: Pool, places: Sequence[Tensor], kept: Parts | None, closed: bool) -> Parts:
    """Return the ids to keep with a run: a closed one keeps its own, whatever is gone."""
    if closed and kept is not None:
        return kept
    before = no_ids() if kept is None else torch.cat([kept.train, kept.before]).unique()
    ids = [pool.ids[place] for place in places]
    before = before[~torch.isin(before, ids[TRAIN])]
    return Parts(**dict(zip(PARTS, ids, strict=True)), before=before)


def _copies(pool: Pool, places: Sequence[Tensor]) -> tuple[str, ...]:
    """Return a remark for each two parts that share images, byte for byte."""
    notes: tuple[str, ...] = ()
    for first, second in ((0, 2), (0, 1), (1, 2)):
        left, right = places[first], places[second]
        copies = right[torch.isin(pool.ids[right], pool.ids[left])]
        if len(copies):
            copy = int(copies[0])
            of = int(left[pool.ids[left] == pool.ids[copy]][0])
            ours, theirs = (WORDS[PARTS[number]] for number in (second, first))
            notes += (
                f"{len(copies)} of {len(right)} {ours} images are {theirs} images as well, byte "
                f"for byte: {pool.names[copy]} is {pool.names[of]}",
            )
    return notes


def _changes(kept: Parts, ids: Tensor, new: int) -> str | None:
    """Return how the images differ from those of a run, in one line; None if they do not."""
    all_ = (kept.train, kept.held_out, kept.test)
    gone = [int((~torch.isin(one, ids)).sum()) for one in all_]
    if not sum(gone) + new:
        return None
    named = [f"{n} {WORDS[name]}" for n, name in zip(gone, PARTS, strict=True) if n]
    which = f" ({', '.join(named)})" if named else ""
    return (
        f"of its {sum(map(len, all_))} images {sum(gone)} are gone{which}, and {new} new ones are "
        "left out"
    )


def _drawn_parts(pool: Pool, fold: int) -> Tensor:
    """Return the part of each image of `pool`, `[N]`: given, or drawn from the training images."""
    _check_fold(pool, fold)
    part = pool.given.long().clone()
    for name in ("test", "held_out"):
        if name in pool.shares:
            left = (part == TRAIN).nonzero()[:, 0]
            names = [f"{name}/{pool.names[place]}" for place in left.tolist()]
            labels, share = pool.images.labels[left], pool.shares[name]
            _check_drawable(pool.classes, labels, name, share)
            test = name == "test"  # validation images may be drawn of the others
            chosen = drawn(labels, names, share, 2 if test else 1, 0 if test else fold)
            part[left[chosen]] = PARTS.index(name)
    return part


def _check_fold(pool: Pool, fold: int) -> None:
    """Raise `DataError` if there is no such fold."""
    share = pool.shares.get("held_out")
    if share is None and fold:
        raise DataError(
            f"data.fold is {fold}, and data {pool.name} has validation images of its own: leave it "
            "out, or move them to the training images"
        )
    if share is not None and 0 < share < 1 and not 0 <= fold < round(1 / share):
        raise DataError(
            f"data.fold is {fold}; validation images are 1 of {round(1 / share)} folds "
            f"(data.held_out={share:g}), of which the first is 0"
        )


def _check_drawable(classes: Sequence[str], labels: Tensor, name: str, share: float) -> None:
    """Raise `DataError` if a `share` of the images cannot be drawn for the part `name`."""
    if not 0 < share < 1:
        raise DataError(
            f"data.{name} is {share:g}, the share of the images to draw for {WORDS[name]}; it must "
            "lie between 0 and 1, as every run needs training, validation and test images"
        )
    counts = labels.bincount(minlength=len(classes)).tolist()
    few = [shown(word) for word, count in zip(classes, counts, strict=True) if count == 1]
    if few:
        more = f" and {len(few) - SHOWN} more classes" if len(few) > SHOWN else ""
        raise DataError(
            f"too few images to draw {WORDS[name]} images of {', '.join(few[:SHOWN])}{more}: each "
            "class needs one image for each part; add images, or remove the class"
        )


def drawn(
    labels: Tensor, names: Sequence[str], share: float, keep: int = 1, fold: int = 0
) -> Tensor:
    """Draw about a `share` of the images with `labels` `[N]` by a hash of their `names`.

    A class gives its first by hash, and keeps its last `keep`, as far as there are so many others.
    Further folds are drawn from where the one before ended.

    Returns:
        Whether each image is drawn, `[N]`, bool.
    """
    places = np.array([id_of(name.encode("utf-8", "surrogateescape")) for name in names]) / 2.0**63
    places = (places - fold * share) % 1.0
    chosen = places < share
    for label in labels.unique().tolist():
        mine = np.flatnonzero(labels.numpy() == label)
        ranked = mine[np.argsort(places[mine])]
        chosen[ranked[0]] = True
        chosen[ranked[max(1, len(ranked) - keep) :]] = False
    return torch.from_numpy(chosen)
