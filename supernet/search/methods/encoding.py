"""A space as integers, for search methods.

A genome `[B + 1]` holds the column of each block's op, 0 where it is skipped, and the number of the
resolution. Genes `[G]` are the choices behind it: an op for each block, a depth for each stage, the
resolution. Any genes decode to an architecture of the space. Not here: costs, scores, weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from supernet.space.arch import Arch
from supernet.space.cost import Floats, Integers
from supernet.space.search_space import SearchSpace


class SpaceEncoding:
    """Genes and genomes of a space."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.allowed = np.array(space.allowed)  # `[B, O]`
        self.num_resolutions = len(space.resolutions)
        rows = [np.flatnonzero(row[1:]) + 1 for row in self.allowed]
        values = [row if len(row) else np.zeros(1, dtype=np.int64) for row in rows]
        values += [np.array(stage.depths) for stage in space.stages]
        values.append(np.arange(self.num_resolutions))
        self.sizes: Integers = np.array([len(row) for row in values])
        width = int(self.sizes.max())
        padded = [np.pad(row, (0, width - len(row)), mode="edge") for row in values]
        self._values: Integers = np.stack(padded).astype(np.int64)
        self._stage = np.array([block.stage for block in space.blocks])
        self._position = np.array([block.position for block in space.blocks])

    @property
    def count(self) -> int:
        """G, the number of genes."""
        return len(self.sizes)

    def values_of(self, block: int) -> Integers:
        """Return the columns that the values of a block's gene mean, in order."""
        return self._values[block, : self.sizes[block]]

    def decode(self, genes: Integers) -> Integers:
        """Return the genomes `[N, B + 1]` of `genes` `[N, G]`."""
        blocks = len(self.allowed)
        values = self._values[np.arange(self.count), genes]
        depths = values[:, blocks:-1]
        columns = np.where(self._position < depths[:, self._stage], values[:, :blocks], 0)
        return np.concatenate([columns, values[:, -1:]], axis=1)

    def encode(self, genome: Integers) -> Integers:
        """Return genes `[G]` of a genome `[B + 1]`; genes of skipped blocks are 0."""
        depths = [int(np.count_nonzero(genome[where])) for where in self.space.stage_slices]
        wanted = [*genome[:-1], *depths, genome[-1]]
        genes = np.zeros(self.count, dtype=np.int64)
        for gene, value in enumerate(wanted):
            found = np.flatnonzero(self._values[gene, : self.sizes[gene]] == value)
            genes[gene] = found[0] if len(found) else 0
        return genes

    def genomes(self, archs: Sequence[Arch]) -> Integers:
        """Return the genomes `[N, B + 1]` of architectures."""
        space = self.space
        rows = [(*space.encode(arch), space.resolutions.index(arch.resolution)) for arch in archs]
        return np.array(rows, dtype=np.int64)

    def arch(self, genome: Integers) -> Arch:
        """Return the architecture of a genome `[B + 1]`."""
        *columns, size = genome.tolist()
        return self.space.decode(columns, self.space.resolutions[size])

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
        blocks, ops = self.allowed.shape
        hot = np.zeros((len(genomes), blocks * ops + self.num_resolutions))
        rows = np.arange(len(genomes))
        for block in range(blocks):
            hot[rows, block * ops + genomes[:, block]] = 1.0
        hot[rows, blocks * ops + genomes[:, -1]] = 1.0
        return hot

    def scores(self, weights: Floats) -> Floats:
        """Return `[R, B, O]`, what each op adds, of a linear model's `weights` on `one_hot`."""
        blocks, ops = self.allowed.shape
        sizes = weights[blocks * ops : blocks * ops + self.num_resolutions]
        found: Floats = (
            weights[: blocks * ops].reshape(1, blocks, ops) + sizes[:, None, None] / blocks
        )
        return found
