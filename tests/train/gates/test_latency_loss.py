from __future__ import annotations

import pytest
import torch

from supernet.train.distillation import adaptive_alpha, alpha_divergence, kl
from supernet.train.gates.latency_loss import with_latency


def test_distillation_is_the_divergence_from_the_teacher() -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(6, 5, generator=generator).double().requires_grad_()
    teacher = torch.randn(6, 5, generator=generator).double().requires_grad_()
    p, q = teacher.softmax(1), student.softmax(1)
    want = (p * (p / q).log()).sum(1).mean()
    got = kl(student, teacher)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)
    got.backward()
    assert teacher.grad is None, "the teacher learns nothing from its pupils"
    torch.testing.assert_close(student.grad, (q - p).detach() / 6, rtol=1e-10, atol=1e-12)
    assert kl(student, student).abs() < 1e-12


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


def _logits(seed: int, spread: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(6, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [-1.0, 0.5, 2.0])
def test_alpha_divergence_is_its_definition_and_has_its_gradient(alpha: float) -> None:
    """D_alpha = E_student[ratio ** alpha - 1] / (alpha (alpha - 1)); nothing is clipped."""
    student, teacher = _logits(0).requires_grad_(), _logits(1)
    p, q = teacher.softmax(1), student.softmax(1)
    want = (q * ((p / q) ** alpha - 1)).sum(1) / (alpha * (alpha - 1))
    got = alpha_divergence(student, teacher, alpha, clip=float("inf"))
    torch.testing.assert_close(got, want)
    gradients = [torch.autograd.grad(y.sum(), student, retain_graph=True)[0] for y in (got, want)]
    torch.testing.assert_close(*gradients)


def test_alpha_one_is_kl() -> None:
    student, teacher = _logits(0).requires_grad_(), _logits(1)
    got = alpha_divergence(student, teacher, 1.0, clip=float("inf")).mean()
    torch.testing.assert_close(got, kl(student, teacher))
    gradients = [torch.autograd.grad(y, student)[0] for y in (got, kl(student, teacher))]
    torch.testing.assert_close(*gradients)


def test_the_adaptive_divergence_takes_the_larger_and_clips() -> None:
    student, teacher = _logits(0, 6.0).requires_grad_(), _logits(1, 6.0)
    both = torch.stack([alpha_divergence(student, teacher, alpha) for alpha in (-1.0, 1.0)])
    loss = adaptive_alpha(student, teacher)
    torch.testing.assert_close(loss, both.max(0).values.mean())
    loss.backward()
    assert student.grad is not None
    assert student.grad.abs().sum(1).max() < 2 * 5.0, "an image weighs at most what is clipped"
    free = alpha_divergence(student, teacher, -1.0, clip=float("inf"))
    assert free.max() > 10 * both[0].max(), "and without clipping it would weigh far more"
