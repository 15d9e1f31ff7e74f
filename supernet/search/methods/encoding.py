"""What search algorithms see of a space: which columns each block allows, and how depth works.

numpy only. Not here: costs, scores, weights, data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from supernet.space.arch import Arch
from supernet.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class Encoding:
    """A space as integers: an architecture is a vector `[B]` of columns; column 0 is skipped."""

    allowed: NDArray[np.bool_]
    """`[B, O]`"""
    stages: tuple[slice, ...]
    depths: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, space: SearchSpace) -> Encoding:
        """Encode `space`."""
        return cls(
            allowed=np.array(space.allowed),
            stages=space.stage_slices,
            depths=tuple(stage.depths for stage in space.stages),
        )


Integers = NDArray[np.int64]


class Genes:
    """The genes of a space.

    Args:
        encoding: the space.
        num_resolutions: its input sizes.
    """

    def __init__(self, encoding: Encoding, num_resolutions: int) -> None:
        self.encoding, self.num_resolutions = encoding, num_resolutions
        rows = [np.flatnonzero(row[1:]) + 1 for row in encoding.allowed]
        values = [row if len(row) else np.zeros(1, dtype=np.int64) for row in rows]
        values += [np.array(depths) for depths in encoding.depths]
        values.append(np.arange(num_resolutions))
        self.sizes: Integers = np.array([len(row) for row in values])
        width = int(self.sizes.max())
        padded = [np.pad(row, (0, width - len(row)), mode="edge") for row in values]
        self._values: Integers = np.stack(padded).astype(np.int64)
        self._stage = np.repeat(
            np.arange(len(encoding.stages)), [w.stop - w.start for w in encoding.stages]
        )
        self._position = np.concatenate([np.arange(w.stop - w.start) for w in encoding.stages])

    @property
    def count(self) -> int:
        """G, the number of genes."""
        return len(self.sizes)

    def values_of(self, block: int) -> Integers:
        """Return the columns that the values of a block's gene mean, in order."""
        return self._values[block, : self.sizes[block]]

    def decode(self, genes: Integers) -> Integers:
        """Return the genomes `[N, B + 1]` of `genes` `[N, G]`."""
        blocks = len(self.encoding.allowed)
        values = self._values[np.arange(self.count), genes]
        depths = values[:, blocks:-1]
        columns = np.where(self._position < depths[:, self._stage], values[:, :blocks], 0)
        return np.concatenate([columns, values[:, -1:]], axis=1)

    def encode(self, genome: Integers) -> Integers:
        """Return genes `[G]` of a genome `[B + 1]`; those that lie idle are 0."""
        blocks = len(self.encoding.allowed)
        depths = [int(np.count_nonzero(genome[where])) for where in self.encoding.stages]
        wanted = [*genome[:blocks], *depths, genome[-1]]
        genes = np.zeros(self.count, dtype=np.int64)
        for gene, value in enumerate(wanted):
            found = np.flatnonzero(self._values[gene, : self.sizes[gene]] == value)
            genes[gene] = found[0] if len(found) else 0
        return genes

    def sample(self, count: int, rng: np.random.Generator) -> Integers:
        """Draw `[count, G]` genes uniformly."""
        return rng.integers(0, self.sizes, size=(count, self.count))

    def mutate(self, genes: Integers, rate: float, rng: np.random.Generator) -> Integers:
        """Draw each gene anew with the chance `rate`."""
        return np.where(rng.random(genes.shape) < rate, self.sample(len(genes), rng), genes)

    def cross(self, a: Integers, b: Integers, rng: np.random.Generator) -> Integers:
        """Take each gene from `a` or `b` by chance."""
        return np.where(rng.random(a.shape) < 0.5, a, b)

    def one_hot(self, genomes: Integers) -> Floats:
        """Return `[N, B * O + R]`: a one for each block's column and for the resolution."""
        blocks, ops = self.encoding.allowed.shape
        hot = np.zeros((len(genomes), blocks * ops + self.num_resolutions))
        rows = np.arange(len(genomes))
        for block in range(blocks):
            hot[rows, block * ops + genomes[:, block]] = 1.0
        hot[rows, blocks * ops + genomes[:, -1]] = 1.0
        return hot

    def scores(self, weights: Floats) -> Floats:
        """Return `[R, B, O]`, what each op adds, of a linear model's `weights` on `one_hot`."""
        blocks, ops = self.encoding.allowed.shape
        sizes = weights[blocks * ops : blocks * ops + self.num_resolutions]
        found: Floats = (
            weights[: blocks * ops].reshape(1, blocks, ops) + sizes[:, None, None] / blocks
        )
        return found


Floats = NDArray[np.float64]


def genes_of(space: SearchSpace) -> Genes:
    """Return the genes of a space."""
    return Genes(Encoding.of(space), len(space.resolutions))


def genomes_of(space: SearchSpace, archs: Sequence[Arch]) -> Integers:
    """Return the genomes `[N, B + 1]` of architectures."""
    rows = [(*space.encode(arch), space.resolutions.index(arch.resolution)) for arch in archs]
    return np.array(rows, dtype=np.int64)


def arch_of(space: SearchSpace, genome: Integers) -> Arch:
    """Return the architecture of a genome `[B + 1]`."""
    *columns, size = genome.tolist()
    return space.decode(columns, space.resolutions[size])
