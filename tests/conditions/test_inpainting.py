"""Holes in images: true probabilities of what is missing; photos filled by the tool."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT, randomise, run_tool
from enumeration import all_integers
from PIL import Image
from small_stages import stage_folder
from torch.autograd.functional import jacobian

from cascade.conditions.inpainting import completions, hole_bpd
from cascade.config import load_config
from cascade.data import open_images
from cascade.data.batches import Batches
from cascade.stage import load_stage
from cascade.training.held_out import HeldOut
from cascade.transforms.coding import condition, with_hole
from cascade.transforms.dequantise import dequantise, integers
from stages import InputError, MixtureSettings, StageLoss, srflow
from stages.integers.support import HoleSupport

NAME = "inpaint/mnist5k"
CONFIG = ROOT / "configs" / f"{NAME}.yaml"
ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}


def flow(bits, steps=0, levels=1, order="subbands", channels=1):
    first = MixtureSettings(2, order=order, width=4)
    options = {"holes": True, "first": first, "bits": bits, **ENCODER}
    return randomise(srflow((channels, 4, 4), levels, steps, 4, **options), 0.2).eval()


def middle(values, bits):
    return dequantise(values, torch.full((), 0.5, dtype=torch.float64), bits)


def filled(image: torch.Tensor, hole: torch.Tensor, bits: int) -> torch.Tensor:
    """Every image (n, C, H, W) that is ``image`` (C, H, W) outside of the hole (H, W)."""
    if not hole.any():
        return image[None]
    values = all_integers(0, 2**bits, (len(image) * int(hole.sum()),))
    result = image.repeat(len(values), 1, 1, 1)
    result[:, hole.expand_as(image)] = values.to(image.dtype)
    return result


@pytest.mark.parametrize("order", ["subbands", "halves", "together"])
@torch.no_grad()
def test_probabilities_of_all_fillings_of_any_hole_sum_to_one(order):
    bits, model = 2, flow(2, order=order)
    image = torch.randint(0, 4, (1, 4, 4), dtype=torch.uint8)
    for places in ([0, 1, 4, 5], [3, 6, 9, 12, 15], [7], []):
        hole = torch.zeros(16, dtype=torch.bool)
        hole[places] = True
        every = filled(image, hole.reshape(4, 4), bits)
        given = middle(
            with_hole(every, hole.reshape(1, 4, 4).expand(len(every), -1, -1), bits), bits
        )
        nats = model.log_prob(middle(every, bits), given) - 16 * bits * np.log(2)
        assert len(every) == 4 ** len(places)
        assert nats.exp().sum() == pytest.approx(1, abs=1e-9)


def test_with_flow_steps_it_is_a_density_too():
    """What is given is noise within its bin: the log-determinant is that of all pixels' map."""
    first = MixtureSettings(2, width=4)
    options = {"holes": True, "first": first, "bits": 1, **ENCODER}
    model = randomise(srflow((1, 2, 2), 1, 1, 4, **options), 0.1).eval()
    image = torch.tensor([[[[0, 1], [1, 0]]]], dtype=torch.uint8)
    given = middle(with_hole(image, torch.tensor([[[True, False], [False, True]]]), 1), 1)
    y = dequantise(image, torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64), 1)
    matrix = jacobian(lambda x: model.encode(x, given)[0], y).reshape(4, 4)
    assert torch.allclose(matrix.slogdet()[1], model.encode(y, given)[1][0], atol=1e-8)


@pytest.mark.parametrize(("levels", "steps", "channels"), [(1, 0, 3), (2, 1, 3), (1, 1, 1)])
def test_what_is_given_stays_and_what_is_missing_is_drawn(levels, steps, channels):
    model = flow(8, steps, levels, "halves", channels)
    image = torch.randint(0, 256, (3, channels, 4, 4), dtype=torch.uint8)
    hole = torch.rand(3, 4, 4) < 0.5
    given = middle(with_hole(image, hole), 8)
    y = dequantise(image, torch.rand(image.shape, dtype=torch.float64), 8)
    assert torch.equal(integers(model.decode(model.noise_of(y, given), given)), image.int())
    drawn = integers(model.sample(2 * torch.randn(6, channels, 4, 4).double(), given))
    assert drawn.min() >= 0 and drawn.max() <= 255
    there = ~hole[:, None].expand_as(image).repeat_interleave(2, 0)
    assert torch.equal(drawn[there], image.repeat_interleave(2, 0).int()[there])
    assert not torch.equal(drawn[~there], image.repeat_interleave(2, 0).int()[~there])
    assert model.mixture.support.groups == HoleSupport(8).groups


def test_places_of_holes_are_those_of_seed_step_and_place_or_of_the_image(few_digits):
    config = load_config(CONFIG, [f"data.name={few_digits}", "train.batch_size=8"])
    source = open_images(str(few_digits), "train", 1)
    whole, halves = Batches(source, config), [Batches(source, config, r, 2) for r in (0, 1)]
    low = whole(3).low
    assert torch.equal(low, torch.cat([half(3).low for half in halves]))
    assert not torch.equal(low, whole(4).low) and low.shape == (8, 2, 32, 32)
    assert ((low[:, 1] < 0).flatten(1).sum(1) == 12**2).all()
    images = source.read(torch.arange(4))
    one, again = condition(config, images), condition(config, images.flip(0)).flip(0)
    assert torch.equal(one, again) and len(torch.unique(one[:, 1], dim=0)) > 1


FEW = ["model.width=8", "model.mixture_width=8", "model.steps=1", "data.size=16", "model.hole=6"]
FEW += ["train.steps=6", "train.seconds=null", "train.batch_size=8", "train.sample_every=6"]
FEW += ["train.init_images=16", "train.validate_images=16"]


def test_trained_and_scored_by_what_is_missing(few_digits, tmp_path):
    out = tmp_path / "holes"
    done = run_tool("train", CONFIG, *FEW, f"data.name={few_digits}", f"out={out}")
    assert done.returncode == 0 and "which is used alone" in done.stdout, done.stderr
    assert "a hole of 6x6" in (out / "README.md").read_text()
    score = ["likelihood", out, "--limit", 8, "--json", tmp_path / "score.json"]
    done = run_tool(*score)
    assert done.returncode == 0 and "log P(image | surroundings)" in done.stdout, done.stderr
    found = json.loads((tmp_path / "score.json").read_text())
    (stage,) = found["stages"]
    assert found["bpd"] == pytest.approx(stage["share"]) == pytest.approx(stage["bpd"])
    assert stage["bpd"] == pytest.approx(-stage["nats"] / (36 * np.log(2)))
    assert stage["constant"] == pytest.approx(-256 * np.log(256))  # of all values' bins
    loaded = load_stage(out)
    held_out = HeldOut(loaded.config, open_images(str(few_digits), "validation", 1), "cpu")
    assert 0 < held_out.bpd(StageLoss(loaded.flow)) < 10
    sheet = tmp_path / "sheet.png"
    words = ["--data", few_digits, "--num", 2, "--out", sheet]
    done = run_tool("figures", "versions", out, *words)
    assert done.returncode == 0 and sheet.exists(), done.stderr


def test_photos_are_filled_where_the_mask_is_white(tmp_path):
    stage = stage_folder(tmp_path / "stage", "model.levels=2", "model.hole=4", config=NAME)
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (75, 90, 3), dtype=np.uint8))
    mask = np.zeros((75, 90), np.uint8)
    mask[70:, 2:7] = 255
    picture.save(tmp_path / "photo.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    out, words = tmp_path / "out", ["inpaint", stage, tmp_path / "photo.png", "--mask"]
    more = ["--num", 2, "--out", out, "--json", tmp_path / "r.json", "--sheet", tmp_path / "s.png"]
    done = run_tool(*words, tmp_path / "mask.png", *more)
    assert done.returncode == 0 and "25 pixels filled" in done.stdout, done.stderr
    one, two = (Image.open(out / f"photo-{i}.png") for i in (0, 1))
    assert one.mode == "RGB" and one.tobytes() != two.tobytes()
    loaded, hole = load_stage(stage), torch.from_numpy(mask) > 0
    luma = torch.from_numpy(np.array(picture.convert("L")))[None]
    images = completions(loaded, luma, hole, 2, temperature=0.8)
    assert (images[:, :, ~hole] == luma[:, ~hole]).all()
    assert (images[0] != images[1]).sum() > 10
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["bpd"] == pytest.approx(hole_bpd(loaded, luma, hole)) and found["spread"] > 0
    near = luma.clone()
    near[:, :30] = 0  # beyond what the stage sees
    assert torch.equal(
        completions(loaded, near, hole, 1)[0, :, hole], images_at(loaded, luma, hole)
    )
    small, black = Image.new("L", (8, 8)), Image.new("L", (90, 75))
    for name, wrong, message in (
        ("small", small, "the mask is 8x8, the image 75x90"), ("black", black, "marks no pixel"),
    ):  # fmt: skip
        wrong.save(tmp_path / f"{name}.png")
        done = run_tool(*words, tmp_path / f"{name}.png", "--out", tmp_path / "none")
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    other = stage_folder(tmp_path / "srf", "model.levels=1")
    done = run_tool("inpaint", other, *words[2:], tmp_path / "mask.png")
    assert done.returncode == 2 and "filled by a stage of kind inpaint" in done.stderr


def images_at(stage, luma, hole):
    return completions(stage, luma, hole, 1)[0, :, hole]


def test_settings_that_cannot_work():
    for setting, message in (
        ("model.hole=33", "larger than data.size=32"),
        ("model.hole=0", "at least 1"),
        ("model.first=none", "needs model.first=mixture"),
        ("train.pretrain_steps=1", "for an SRFlow's encoder"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(CONFIG, [setting])
    with pytest.raises(InputError, match="set one of them"):
        first = MixtureSettings(2, width=4)
        srflow((3, 4, 4), 1, 1, 4, chroma=True, holes=True, first=first, **ENCODER)
