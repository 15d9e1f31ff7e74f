"""What turns the timings of layers into their share of a net's time.

A layer was timed as a model of its own, again and again. In a net it differs in three ways: the net
runs once, not once a layer; layers hand their outputs on as the runtime lays them out; and a
layer's weights are no longer in the nearest cache when its turn comes, but for as many as that
holds. Each is a term that adds up over layers, so that a table stays a sum. Standard library only.
Not here: how the terms are found.
"""

from __future__ import annotations

from dataclasses import dataclass

from supernet.space.layers import LayerKey


@dataclass(frozen=True, kw_only=True)
class Correction:
    """The terms, and their leave-one-out error on the whole networks that they were fitted on.

    Args:
        scale: of all timings.
        overhead_ms: part of each layer's timing that a net has once.
        edge_ms: part of a layer's timing that goes into laying out a million activations at its
            input and its output, which a net does at its own ends only.
        weights_ms: what a million weights take longer inside a net.
        run_ms: what a net takes besides; below zero where part of its weights stays in the cache.
        nets: how many whole nets all this was fitted on; 0 for none.
        error: their mean absolute relative error, leave-one-out: each net is predicted by the fit
            of the others; None of fewer than two nets.
        error_p95: the 95th percentile of the same.
        tau: Kendall's rank correlation of these predictions and the measurements.
        tau_twice: that of two measurements, in two processes; None if there was one.
    """

    scale: float = 1.0
    overhead_ms: float = 0.0
    edge_ms: float = 0.0
    weights_ms: float = 0.0
    run_ms: float = 0.0
    nets: int = 0
    error: float | None = None
    error_p95: float | None = None
    tau: float | None = None
    tau_twice: float | None = None

    def ms(self, key: LayerKey, timed_ms: float, weights: int) -> float:
        """Return the milliseconds that a layer of `weights`, timed at `timed_ms`, adds to a net.

        The stem, which every net has once, carries the overhead of the run and `run_ms`.
        """
        first = key.kind == "stem"
        saved = (0.0 if first else self.overhead_ms) + self.edge_ms * key.inner_activations / 1e6
        ms = self.scale * max(timed_ms - saved, 0.0) + self.weights_ms * weights / 1e6
        return ms + self.run_ms if first else ms
