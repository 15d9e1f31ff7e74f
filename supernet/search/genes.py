"""A space as independent integers, which every search method can draw, change and cross freely.

Gene g takes the values 0 to sizes[g] - 1: one gene a block (its op), one a stage (its depth, where
depth is elastic by suffix), the last one the resolution. Any combination is an architecture; the
genes of blocks that are skipped lie idle. A genome `[B + 1]` is what genes decode to: a column a
block, then the place of the resolution. Not here: what a genome is worth or costs (`problem.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from supernet.search.encoding import Encoding
from supernet.search.exact import Floats

Integers = NDArray[np.int64]


class Genes:
    """The genes of a space.

    Args:
        encoding: the space.
        num_resolutions: its input sizes.
    """

    def __init__(self, encoding: Encoding, num_resolutions: int) -> None:
        self.encoding, self.num_resolutions = encoding, num_resolutions
        self.by_suffix = encoding.skip == "suffix"
        first = 1 if self.by_suffix else 0
        rows = [np.flatnonzero(row[first:]) + first for row in encoding.allowed]
        values = [row if len(row) else np.zeros(1, dtype=np.int64) for row in rows]
        if self.by_suffix:
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
        columns = values[:, :blocks]
        if self.by_suffix:
            depths = values[:, blocks:-1]
            columns = np.where(self._position < depths[:, self._stage], columns, 0)
        return np.concatenate([columns, values[:, -1:]], axis=1)

    def encode(self, genome: Integers) -> Integers:
        """Return genes `[G]` of a genome `[B + 1]`; those that lie idle are 0."""
        blocks = len(self.encoding.allowed)
        wanted = [*genome[:blocks]]
        if self.by_suffix:
            wanted += [int(np.count_nonzero(genome[where])) for where in self.encoding.stages]
        wanted.append(genome[-1])
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
