"""Heat maps: they sum to the log-density, they are local, and the picture shows them."""

import itertools

import numpy as np
import pytest
import torch
from conftest import randomise
from PIL import Image
from torch import Tensor, nn

from cascade.evaluation.bits_by_position import nats_map
from cascade.figures.heatmap import GAP, coloured, save_heatmaps
from stages import InputError, MixtureSettings, glow, srflow

SMALL = {"levels": 2, "steps": 2, "width": 8}
ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 2}
RESIDUAL = {"residual": True, "conditional_prior": True}
SYMMETRIC = {"squish": 0.5, "squish_range": "symmetric"}
FLOWS = {
    "glow grey": lambda: glow((1, 8, 8), **SMALL),
    "glow colour": lambda: glow((3, 8, 8), **SMALL),
    "glow of 3 levels": lambda: glow((1, 8, 16), levels=3, steps=1, width=8),
    "glow classes": lambda: glow((3, 8, 8), **SMALL, classes=3),
    "glow symmetric": lambda: glow((1, 8, 8), **SMALL, **SYMMETRIC),
    "glow additive": lambda: glow((1, 8, 8), **SMALL, coupling="additive"),
    "glow mixture": lambda: glow((1, 8, 8), **SMALL, coupling="mixture", nets="gated"),
    "glow dequantised": lambda: glow((3, 8, 8), **SMALL, dequantise="variational"),
    "glow of integers": lambda: glow((3, 8, 8), **SMALL, first=MixtureSettings(2, width=8)),
    "srflow residual": lambda: srflow((1, 8, 8), **SMALL, **ENCODER, **RESIDUAL),
    "srflow classes": lambda: srflow((3, 8, 8), **SMALL, **ENCODER, **SYMMETRIC, classes=3),
}


def inputs(name: str):
    flow = randomise(FLOWS[name](), scale=0.1)
    channels, height, width = flow.shape
    x = torch.rand(3, channels, height, width, dtype=torch.float64) - 0.5
    low = torch.rand(3, channels, height // 2, width // 2, dtype=torch.float64) - 0.5
    return flow, x, low, torch.tensor([0, 1, 2])


@pytest.mark.parametrize("name", FLOWS)
def test_map_sums_to_log_prob(name):
    flow, x, low, label = inputs(name)
    found = nats_map(flow, x, low, label)
    assert found.shape == (3, *flow.shape[1:])
    expected = flow.log_prob(x, low, label)
    torch.testing.assert_close(found.sum((1, 2)), expected, rtol=1e-9, atol=0)
    assert found.flatten(1).std(1).min() > 0.01


def assert_only_the_top_right_changes(before: Tensor, after: Tensor, reach: int):
    """Not the top left or bottom right, as in a map with its sides exchanged."""
    change = (after - before).abs()[0]
    near = torch.zeros_like(change, dtype=torch.bool)
    near[:reach, -reach:] = True
    assert change[near].max() > 1e-3
    assert change[~near].max() < 1e-12


@pytest.mark.parametrize(("levels", "reach"), [(1, 6), (2, 16)])
def test_a_corner_changes_the_map_only_near_it(levels, reach):
    """A coupling net sees 2 positions far: at one step a level, 6 pixels at most, then 16."""
    flow = randomise(glow((1, 32, 32), levels, steps=1, width=8))
    x = torch.rand(1, 1, 32, 32, dtype=torch.float64) - 0.5
    moved = x.clone()
    moved[..., 0, -1] += 0.5
    assert_only_the_top_right_changes(nats_map(flow, x), nats_map(flow, moved), reach)


class Pointwise(nn.Conv2d):
    """An encoder that sees one pixel of the low image at each position."""

    image_channels = 1

    def forward(self, low: Tensor) -> tuple[Tensor]:
        return (super().forward(low),)


def test_a_corner_of_the_low_image_changes_the_map_only_near_it():
    """Injector and additive coupling see 2 positions each: 10 pixels at most."""
    flow = srflow((1, 32, 32), levels=1, steps=1, width=8, coupling="additive", **ENCODER)
    flow.encoder = Pointwise(1, flow.encoder.channels, 1)
    flow = randomise(flow)
    x = torch.rand(1, 1, 32, 32, dtype=torch.float64) - 0.5
    low = torch.rand(1, 1, 16, 16, dtype=torch.float64) - 0.5
    moved = low.clone()
    moved[..., 0, -1] += 0.5
    assert_only_the_top_right_changes(nats_map(flow, x, low), nats_map(flow, x, moved), reach=10)


def test_a_label_moves_the_coarsest_noise_and_adds_a_constant():
    """One channel keeps the upper row of each 2x2 block, so no noise in the lower ones moves."""
    flow = randomise(glow((1, 16, 16), **SMALL, classes=2))
    x = torch.rand(1, 1, 16, 16, dtype=torch.float64) - 0.5
    maps = [nats_map(flow, x, label=torch.tensor([y]))[0] for y in (0, 1)]
    change = maps[1] - maps[0]
    log_dets = [flow.encode(x, label=torch.tensor([y]))[1].item() for y in (0, 1)]
    constant = torch.full((8, 16), (log_dets[1] - log_dets[0]) / 256).double()
    torch.testing.assert_close(change[1::2], constant, rtol=0, atol=1e-9)
    assert constant.abs().min() > 1e-4 and change[::2].std() > 1e-3


def test_hooks_are_gone_even_after_an_error():
    flow, x, low, _ = inputs("srflow classes")
    with pytest.raises(InputError, match="class-conditional"):
        nats_map(flow, x, low)
    assert not any(module._forward_hooks for module in flow.modules())


def test_the_ramp_runs_from_dark_to_bright():
    ramp = np.asarray(coloured(torch.linspace(2, 5, 64)[None], 2, 5).convert("L"), int)[0]
    assert (np.diff(ramp) >= 1).all() and ramp[0] < 30 and ramp[-1] > 230
    assert np.asarray(coloured(torch.ones(2, 2), 1, 1)).std((0, 1)).max() == 0


@pytest.mark.parametrize(("count", "channels"), [(1, 3), (3, 1)])
def test_the_picture_has_a_row_an_image(tmp_path, count, channels):
    images = torch.randint(0, 200, (count, channels, 16, 16), dtype=torch.uint8)
    maps = [torch.rand(count, 8, 8), 9 * torch.rand(count, 16, 16)]
    save_heatmaps(images, maps, ["base", "finer"], torch.full((count,), 3.21), tmp_path / "m.png")
    picture = np.asarray(Image.open(tmp_path / "m.png"))
    inside = (picture[:, GAP + 1] != 255).any(-1)  # a line down the images' column
    rows = [shown for shown, _ in itertools.groupby(inside)]
    assert sum(rows) == count and picture.std() > 10
    assert [file.name for file in tmp_path.iterdir()] == ["m.png"]


def test_an_exact_stage_spends_what_each_value_costs():
    """Where nothing is dequantised no pixel's bits are negative."""
    first = MixtureSettings(3, width=8)
    flow = randomise(glow((1, 8, 8), levels=1, steps=0, width=8, first=first), scale=0.1)
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64) - 0.5
    found = nats_map(flow, x) - 8 * torch.tensor(2.0).log()
    assert (found < 1e-9).all()
