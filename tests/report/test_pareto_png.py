"""The picture of accuracy against latency."""

from __future__ import annotations

import itertools

import pytest

from supernet.report.pareto_png import pareto_figure


@pytest.mark.parametrize("count", [1, 2, 6, 12])
@pytest.mark.parametrize("apart", [1.0, 1.02, 1.3])
def test_labels_of_budgets_do_not_touch_and_the_legend_is_outside(count: int, apart: float) -> None:
    """Budgets of two devices that are near each other were written over each other."""
    rows = [
        {"device": device, "budget_ms": round(1.0371 * apart**number, 4), "predicted_ms": ms,
         "measured_ms": ms, "top1": 0.9 + 0.0002 * number, "test_images": 10_000}
        for device in ("onnxruntime-fp32-1thread", "torch-fp32-1thread")
        for number in range(count)
        for ms in [1.0 * apart**number]
    ]  # fmt: skip
    figure = pareto_figure(rows)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    (legend,) = figure.legends
    assert legend.get_window_extent().y1 <= axes.bbox.y0
    boxes = [one.get_window_extent() for one in axes.texts]
    assert len(boxes) == 2 * count
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    if count <= 6:
        assert max(box.y1 for box in boxes) <= axes.bbox.y1 + 1, "inside the axes"
