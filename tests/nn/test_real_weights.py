"""ImageNet weights of a registry: the largest subnet sees in photos what timm's network sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from sklearn.datasets import load_sample_images
from timm.data import create_transform, resolve_data_config
from torchvision.transforms.functional import to_pil_image

from benchmarks.accuracy.from_weights import MODEL, fetch_weights
from supernet.nn.extract import extract
from supernet.nn.from_timm import from_timm
from supernet.nn.supernet import SuperNet
from supernet.nn.timm_weights import fill_, read_weights

PALACE, DAISY = 698, 985
"""Classes of ImageNet: what the photos show, of a palace in China and of a flower."""


@pytest.mark.slow
def test_the_largest_subnet_has_timms_top_5_of_two_photos(tmp_path: Path) -> None:
    file = tmp_path / "lite0.safetensors"
    fetch_weights(file)
    weights = read_weights(str(file))
    theirs = timm.create_model(MODEL).eval()
    theirs.load_state_dict(weights)
    net = SuperNet(from_timm(model=MODEL, resolutions=(224,)), 1000).eval()
    assert not fill_(net, weights, "lite0").new_head
    transform = create_transform(**resolve_data_config({}, model=theirs))
    photos = [transform(to_pil_image(photo)) for photo in load_sample_images().images]
    with torch.inference_mode():
        expected = theirs(torch.stack(photos))
        found = extract(net, net.space.largest())(torch.stack(photos))
    assert torch.equal(found.topk(5).indices, expected.topk(5).indices)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.argmax(1).tolist() == [PALACE, DAISY]
