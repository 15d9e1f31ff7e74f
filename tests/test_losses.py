from __future__ import annotations

import pytest
import torch

from supernet.losses import distillation, with_latency


def test_distillation_is_the_divergence_from_the_teacher() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(6, 5, generator=generator).double().requires_grad_()
    teacher = torch.randn(6, 5, generator=generator).double().requires_grad_()
    p, q = teacher.softmax(1), student.softmax(1)
    want = (p * (p / q).log()).sum(1).mean()
    got = distillation(student, teacher)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    got.backward()
    assert teacher.grad is None, "the teacher learns nothing from its pupils"
    torch.testing.assert_close(student.grad, (q - p).detach() / 6, rtol=1e-10, atol=1e-12)
    assert distillation(student, student).abs() < 1e-12


def test_the_price_of_latency() -> None:
    ce, expected = torch.tensor(2.0), torch.tensor(3.0, requires_grad=True)
    add = with_latency(ce, expected, 1.5, kind="add", weight=0.5)
    assert add.item() == 2.0 + 0.5 * 3.0 / 1.5
    (slope,) = torch.autograd.grad(add, expected)
    assert slope.item() == pytest.approx(0.5 / 1.5)
    mul = with_latency(ce, expected, 1.5, kind="mul", weight=0.5)
    assert mul.item() == pytest.approx(2.0 * 2.0**0.5)
    (slope,) = torch.autograd.grad(mul, expected)
    assert slope.item() == pytest.approx(2.0 * 0.5 * 2.0**-0.5 / 1.5)
    for kind in ("add", "mul"):
        at_budget = with_latency(ce, torch.tensor(1.5), 1.5, kind=kind, weight=0.25)
        assert at_budget.item() == {"add": 2.25, "mul": 2.0}[kind]
