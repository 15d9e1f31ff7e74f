"""What turns the timings of layers into the time of a net.

A layer was timed as a model of its own, again and again. In a net it differs in three ways: the net
runs once, not once a layer; layers hand their outputs on as the runtime lays them out; and a
layer's weights are no longer in the nearest caches when its turn comes, but for as many as those
hold. So the time of a net is the larger of two sums over its layers, and one sum where it has no
bend. Standard library only. Not here: how the terms are found.
"""

from __future__ import annotations

from dataclasses import dataclass

from supernet.space.layers import LayerKey


@dataclass(frozen=True, kw_only=True)
class Correction:
    """The terms, and their error on whole networks that they were not fitted on.

    Args:
        scale: of all timings.
        overhead_ms: part of each layer's timing that a net has once.
        edge_ms: part of a layer's timing that goes into laying out a million activations at its
            input and its output, which a net does at its own ends only.
        weights_ms: what a million weights beyond `cached_weights` take longer inside a net.
        cached_weights: how many weights of a net stay in the nearer caches.
        run_ms: what a net takes besides.
        nets: how many whole nets all this was fitted on; 0 for none.
        error: mean absolute relative error of nets that were left out, of the choice of terms as
            well as of the fit, by the timing of each process; None of fewer than three nets.
        error_90: what 90 % of further nets are within, each by itself, from the same errors
            (split conformal); None of fewer than nine nets.
        plain_error: as `error`, of the scale alone.
        tau: Kendall's rank correlation of these predictions and the measurements.
        tau_twice: that of two measurements, in two processes; None if there was one.
    """

    scale: float = 1.0
    overhead_ms: float = 0.0
    edge_ms: float = 0.0
    weights_ms: float = 0.0
    cached_weights: int = 0
    run_ms: float = 0.0
    nets: int = 0
    error: float | None = None
    error_90: float | None = None
    plain_error: float | None = None
    tau: float | None = None
    tau_twice: float | None = None

    @property
    def bends(self) -> bool:
        """Whether the time of a net is the larger of two sums."""
        return self.weights_ms > 0 and self.cached_weights > 0

    def ms(self, key: LayerKey, timed_ms: float, weights: int) -> float:
        """Return the milliseconds that a layer of `weights`, timed at `timed_ms`, adds to a net.

        The stem, which every net has once, carries the overhead of the run and `run_ms`. Where the
        time bends, this is the sum below the bend.
        """
        first = key.kind == "stem"
        saved = (0.0 if first else self.overhead_ms) + self.edge_ms * key.inner_activations / 1e6
        ms = self.scale * max(timed_ms - saved, 0.0)
        if not self.bends:
            ms += self.weights_ms * weights / 1e6
        return ms + self.run_ms if first else ms

    def beyond_ms(self, weights: float) -> float:
        """Return what a net of `weights` takes above that sum; negative below the bend."""
        return self.weights_ms * (weights - self.cached_weights) / 1e6 if self.bends else 0.0

    @property
    def readings(self) -> list[str]:
        """The terms in words; none if nothing was fitted."""
        if not self.nets:
            return []
        beyond = f" beyond {self.cached_weights / 1e6:.3g} million" if self.bends else ""
        terms = {
            f"each layer {self.scale:.3g} times as long as by itself": 1.0,
            f"{self.overhead_ms:.3g} ms a layer less, which a run has once": self.overhead_ms,
            f"{self.edge_ms:.3g} ms a million activations at a layer's ends less": self.edge_ms,
            f"{self.weights_ms:.3g} ms more a million weights{beyond}": self.weights_ms,
            f"{self.run_ms:.3g} ms more a run": self.run_ms,
        }
        return [text for text, value in terms.items() if value]

    @property
    def promise(self) -> str:
        """How far predictions are off, in words."""
        if self.error is None:
            return "never compared with whole nets"
        text = f"nets that were left out are off by {100 * self.error:.1f} % in the mean"
        if self.error_90 is not None:
            text += f", 90 % of nets by at most {100 * self.error_90:.1f} %"
        if self.plain_error is not None:
            text += f" (by one scale alone {100 * self.plain_error:.1f} %)"
        return f"{text}; {self.nets} nets"
