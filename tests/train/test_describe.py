from __future__ import annotations

from dataclasses import replace

import torch

from supernet.nn.supernet import SuperNet
from supernet.train.build import build_data
from supernet.train.describe import FEW, describe
from tests.builders import TextReporter, tiny_config, tiny_space


def test_few_validation_images_are_told_with_what_one_is_worth(reporter: TextReporter) -> None:
    data = build_data(tiny_config(), size=16)
    net = SuperNet(tiny_space(), data.num_classes)
    many = data.held_out.take(torch.zeros(FEW, dtype=torch.long))
    describe(net, replace(data, held_out=many), reporter)
    assert "data.fold" not in reporter.text
    few = data.held_out.take(torch.zeros(20, dtype=torch.long))
    describe(net, replace(data, held_out=few), reporter)
    assert "one validation image is 5 points of accuracy" in reporter.text
    assert "data.fold=0, 1, 2" in reporter.text
