from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from supernet.data.batches import Batch
from supernet.data.dataset import Images
from supernet.data.preprocess import Preprocess
from supernet.nn.extract import extract
from supernet.nn.supernet import SuperNet
from supernet.train.bn_calibration import calibrate_, calibrate_on_
from supernet.train.evaluate import scores, scores_on
from tests.builders import small_space


def first_norm(channels: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.Dropout(0.5), nn.Conv2d(channels, 4, 1),
                         nn.BatchNorm2d(4))  # fmt: skip


def state(model: nn.Module) -> list[tuple[object, ...]]:
    return [
        (module.training, getattr(module, "momentum", None), len(module._forward_hooks))
        for module in model.modules()
    ]


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (100.0, 0.01), (-3.0, 5.0)])
def test_statistics_are_those_of_all_images(mean: float, deviation: float) -> None:
    """Batches of different sizes, float32, against float64 over the whole set at once.

    Within 1e-3 of the variance also at mean 100 and variance 1e-4, where E[x^2] - m^2 in float32
    is wrong by a factor of ten.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(500, 4, 6, 6, generator=generator, dtype=torch.float64)
    batches = (mean + deviation * noise).float().split([100, 250, 3, 147])
    model = first_norm()
    calibrate_(model, batches)
    whole = torch.cat(batches).double()
    norm = model[0]
    want_mean = whole.mean((0, 2, 3))
    want_var = whole.var((0, 2, 3))
    torch.testing.assert_close(norm.running_mean.double(), want_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), want_var, rtol=1e-3, atol=0)


def test_a_later_layer_sees_batches_normalised_by_themselves() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [(5.0 * n + torch.randn(64, 4, 5, 5, generator=generator)).double() for n in range(3)]
    model = first_norm().double()
    calibrate_(model, batches)
    with torch.no_grad():
        seen = torch.cat(
            [
                model[2]((b - b.mean((0, 2, 3), keepdim=True))
                         / (b.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt())
                for b in batches
            ]
        )  # fmt: skip
    torch.testing.assert_close(model[3].running_mean, seen.mean((0, 2, 3)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model[3].running_var, seen.var((0, 2, 3)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [False, True])
def test_modes_momenta_and_hooks_come_back(training: bool) -> None:
    model = first_norm().train(training)
    model[3].momentum = None
    model[1].train(not training)
    before = state(model)
    calibrate_(model, torch.randn(2, 8, 4, 3, 3))
    assert state(model) == before

    def broken() -> Iterator[Tensor]:
        yield torch.randn(8, 4, 3, 3)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        calibrate_(model, broken())
    assert state(model) == before
    with pytest.raises(RuntimeError, match="5 elements not 4"):
        calibrate_(model, [torch.randn(8, 5, 3, 3)])
    assert state(model) == before


def test_what_is_behind_the_last_norm_runs_once() -> None:
    """The first batch finds which layer is last, by when it runs and not by where it stands."""

    class Headed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.behind = 0

        def forward(self, maps: Tensor) -> Tensor:
            maps = self.last(2 * self.first(maps).relu())
            self.behind += 1
            return maps

    model = Headed()
    calibrate_(model, torch.randn(5, 64, 4, 3, 3))
    assert model.behind == 1
    assert model.last.running_mean.min() > 0.5
    calibrate_(model, torch.randn(2, 64, 4, 3, 3))
    assert model.behind == 2


def test_weights_stay_and_dropout_plays_no_part() -> None:
    model = first_norm()
    before = {name: p.clone() for name, p in model.named_parameters()}
    batches = [torch.randn(64, 4, 3, 3, generator=torch.Generator().manual_seed(1))]
    calibrate_(model, batches)
    first = model[3].running_mean.clone()
    calibrate_(model, batches)
    assert torch.equal(first, model[3].running_mean), "dropout would draw anew"
    torch.testing.assert_close(dict(model.named_parameters()), before, rtol=0, atol=0)


def test_no_batch_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate_(first_norm(), [])


def test_calibration_on_images_leaves_out_a_last_batch_of_one() -> None:
    space = small_space()
    net = SuperNet(space, 3)
    model = extract(net, space.largest())
    pixels = torch.randint(0, 256, (21, 3, 16, 16), dtype=torch.uint8)
    data = Images(pixels, torch.arange(21) % 3)
    preprocess = Preprocess(mean=(0.5,) * 3, std=(0.3,) * 3, size=16)
    calibrate_on_(model, data, preprocess, 16, batch_size=10)
    stem = net.stem.conv_stem(preprocess.normalise(pixels[:20]))
    torch.testing.assert_close(
        model.bn1.running_mean, stem.mean((0, 2, 3)).detach(), rtol=1e-4, atol=1e-6
    )
    assert torch.equal(net.stem.bn_stem.running_mean, torch.zeros(8)), "the supernet keeps its own"
    again = {name: b.clone() for name, b in model.named_buffers() if "tracked" not in name}
    calibrate_on_(model, data, preprocess, 16, batch_size=10)
    torch.testing.assert_close(
        {n: b for n, b in model.named_buffers() if "tracked" not in n}, again, rtol=0, atol=0
    )


class Table(nn.Module):
    """Answer with the logits that are given as images `[N, classes, 1, 1]`."""

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        return x[:, :, 0, 0]


def test_scores_are_counted_by_hand() -> None:
    right = torch.tensor([[9.0, 1, 1], [9, 1, 1], [1, 9, 1], [9, 1, 1]])[:, :, None, None]
    labels = torch.tensor([0, 0, 1, 1])  # class 0: 2 of 2, class 1: 1 of 2, class 2: not there
    batches = [Batch(right[:3], labels[:3]), Batch(right[3:], labels[3:])]
    found = scores(Table().train(), batches, 1)
    assert (found.top1, found.mean_class, found.top5) == (0.75, 0.75, None)
    lopsided = [Batch(right[:3].repeat(3, 1, 1, 1), labels[:3].repeat(3)), batches[1]]
    found = scores(Table(), lopsided, 1)
    assert found.top1 == pytest.approx(9 / 10)
    assert found.mean_class == pytest.approx((1 + 3 / 4) / 2)


def test_top_five_of_ten_classes() -> None:
    logits = torch.arange(10.0).flip(0).repeat(10, 1)[:, :, None, None]  # always 0, 1, 2, ...
    found = scores(Table(), [Batch(logits, torch.arange(10))], 1)
    assert (found.top1, found.mean_class, found.top5) == (0.1, 0.1, 0.5)


def test_scoring_images_does_not_depend_on_the_batch() -> None:
    space = small_space()
    net = SuperNet(space, 3).eval()
    model = extract(net, space.largest())
    pixels = torch.randint(0, 256, (300, 3, 16, 16), dtype=torch.uint8)
    preprocess = Preprocess(mean=(0.5,) * 3, std=(0.3,) * 3, size=16)
    with torch.no_grad():
        labels = model(preprocess.normalise(pixels)).argmax(1)
    labels[:30] = (labels[:30] + 1) % 3
    found = scores_on(model, Images(pixels, labels), preprocess, 16)
    assert found.top1 == pytest.approx(0.9)
