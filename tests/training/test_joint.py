"""`train.joint`: two stages and the low image between them, trained on the composed bound."""

import shutil

import pytest
import torch
from conftest import ROOT, TINY, randomise
from enumeration import all_integers
from test_start import run_of as base_of

from cascade import Cascade
from cascade.building import build
from cascade.config import load_config
from cascade.record import load_record
from cascade.stage import Stage, load_stage
from cascade.training.joint import JointLoss
from cascade.training.trainer import Trainer
from cascade.transforms.dequantise import centre, dequantise, log_volume
from cascade.transforms.pyramid import halve
from cascade.utils.tensors import read_tensors
from stages import InputError
from stages.integers.downscaler import Downscaler

CONFIGS = ROOT / "configs" / "mnist5k"
MIXTURE = ["model.steps=0", "model.levels=1", "model.first=mixture", "model.mixture_width=4"]
FEW = [*TINY, "train.validate_images=16", "train.init_images=64", "train.steps=4"]
FEW += ["train.schedule=constant"]


def of_mixtures(sizes, bits: int, classes: int, chunk: int) -> list[Stage]:
    """A base, and pixels given pixels whose low images a randomised net makes."""
    stages = []
    for name, size in sizes.items():
        options = [*MIXTURE, f"data.size={size}", f"data.bits={bits}", f"model.classes={classes}"]
        above = ["model.downscaler=4", "train.joint=x", "train.start=y", "model.residual=false"]
        above += ["model.conditional_prior=false"]
        options += above if name != "glow8" else []
        config = load_config(CONFIGS / f"{name}.yaml", options)
        flow = randomise(build(config), 0.3, seed=size).eval()
        if flow.downscaler:
            flow.downscaler.last.weight.data *= 8
        stages.append(Stage(name, config, flow, chunk=chunk))
    return stages


def test_it_is_the_cascades_likelihood():
    """Of exact stages, which do not depend on the noise; and the net has moved the low images."""
    base, top = stages = of_mixtures({"glow8": 4, "srf16": 8}, bits=8, classes=2, chunk=6)
    images = torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8)
    labels = torch.arange(6) % 2
    cascade = Cascade(stages)
    y = dequantise(images, torch.rand(images.shape, dtype=torch.float64))
    low = halve(images)
    assert not cascade.levels(images)[0].equal(low)
    found = JointLoss(top.flow, base.flow).log_prob(y, centre(low, torch.float64), labels)
    nats = cascade.log_prob(images, labels)
    torch.testing.assert_close(found - log_volume(images[0].numel()), nats)


def test_it_is_below_what_all_low_images_add_up_to():
    stages = of_mixtures({"glow8": 2, "srf16": 4}, bits=1, classes=0, chunk=66)
    base, top = stages
    images = all_integers(0, 2, (1, 4, 4))[::1000].to(torch.uint8)
    lows = all_integers(0, 2, (1, 2, 2)).to(torch.uint8)
    prior = base.run(base.flow.log_prob, base.coding.centre(lows)) - log_volume(4, 1)
    pairs = images.repeat_interleave(len(lows), 0), lows.repeat(len(images), 1, 1, 1)
    given = top.run(top.flow.log_prob, top.coding.centre(pairs[0]), pairs[1]) - log_volume(16, 1)
    marginal = (given.unflatten(0, (len(images), -1)) + prior).logsumexp(1)
    assert (prior.logsumexp(0).abs() < 1e-6).all()
    bound = Cascade(stages).log_prob(images * 255)
    gap = marginal.double() - bound
    assert (gap > 0).all() and gap.min() < 0.1  # of some images the one low image has nearly all


@pytest.fixture(scope="module")
def apart(few_digits, tmp_path_factory):
    """The two stages, trained apart."""
    folder = tmp_path_factory.mktemp("apart")
    assert base_of(few_digits, folder / "glow8", "train.steps=4").run()
    assert above_of(few_digits, folder / "srf16").run()
    return folder


def above_of(data, out, *more) -> Trainer:
    config = load_config(CONFIGS / "srf16.yaml", [*FEW, f"data.name={data}", f"out={out}", *more])
    return Trainer(config)


def weights_of(folder) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "model.safetensors")


def together(apart) -> list[str]:
    start = [f"train.start={apart / 'srf16'}", f"train.joint={apart / 'glow8'}"]
    return [*start, "model.downscaler=4", "train.ema=0.5"]


def test_both_stages_move_and_a_run_goes_on_without_what_it_began_from(few_digits, apart, tmp_path):
    source = tmp_path / "apart"
    shutil.copytree(apart, source)
    options, whole, parts = together(source), tmp_path / "whole", tmp_path / "parts"
    begun = above_of(few_digits, whole / "srf16", *options)
    before = {name: weights_of(source / name) for name in ("glow8", "srf16")}
    trained = begun.learner.loss
    assert all(trained.flow.state_dict()[key].equal(x) for key, x in before["srf16"].items())
    assert all(trained.below.state_dict()[key].equal(x) for key, x in before["glow8"].items())
    assert begun.run()
    assert above_of(few_digits, parts / "srf16", *options, "train.steps=2").run()
    shutil.rmtree(source)
    assert above_of(few_digits, parts / "srf16", *options).run()
    for name in ("glow8", "srf16"):
        after, again = weights_of(whole / name), weights_of(parts / name)
        assert all(again[key].equal(value) for key, value in after.items())
        assert not all(value.equal(after[key]) for key, value in before[name].items())
    cascade = Cascade.load(whole)
    assert [stage.name for stage in cascade.stages] == ["glow8", "srf16"]
    assert load_record(whole / "glow8").start == load_stage(apart / "glow8").digest
    assert load_stage(whole / "glow8").config.out == str(whole / "glow8")
    images = torch.randint(256, (3, 1, 16, 16), dtype=torch.uint8)
    assert cascade.log_prob(images, [0, 1, 2]).isfinite().all()
    assert "both stages' bits/dim" in (whole / "srf16" / "README.md").read_text()


def test_a_run_that_is_started_over_begins_from_what_it_began_from(few_digits, apart, tmp_path):
    options = [*together(apart), "train.steps=1"]
    assert above_of(few_digits, tmp_path / "srf16", *options).run()
    first = weights_of(tmp_path / "glow8")
    config = load_stage(tmp_path / "srf16").config
    assert Trainer(config, restart=True).run()
    assert all(weights_of(tmp_path / "glow8")[key].equal(value) for key, value in first.items())


def test_the_stage_below_is_never_written_over(few_digits, apart, tmp_path):
    before = (apart / "glow8" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"glow8, where the stage below would be written, is"):
        above_of(few_digits, apart / "other", *together(apart))
    assert (apart / "glow8" / "model.safetensors").read_bytes() == before
    assert not (apart / "other").exists()
    held = above_of(few_digits, tmp_path / "one", *together(apart))
    with pytest.raises(InputError, match="glow8 is being trained by process"):
        above_of(few_digits, tmp_path / "two", *together(apart))
    held.release(discard=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.joint={}/srf16", "srf16: stages in the wrong order"),
        ("model.classes=0", "glow8 has classes: set model.classes=10 here too"),
        ("train.joint=digits/glow8", "low images of one cascade all come from one pyramid"),
    ],
)
def test_what_the_stage_below_must_be(few_digits, apart, tmp_path, change, message):
    options = [*together(apart), change.format(apart)]
    with pytest.raises(InputError, match=rf"train\.joint=.*{message}"):
        above_of(few_digits, tmp_path / "new" / "srf16", *options)
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())


def test_a_mixture_below_gives_its_low_image_no_gradient(few_digits, tmp_path):
    assert base_of(few_digits, tmp_path / "glow8", *MIXTURE).run()
    options = ["model.downscaler=4", "train.start=x", f"train.joint={tmp_path / 'glow8'}"]
    with pytest.raises(InputError, match=r"has a mixture.*name a Glow with model\.first=none"):
        above_of(few_digits, tmp_path / "new" / "srf16", *options)


def test_gradients_are_those_of_the_bound(few_digits, apart):
    """But for the rounding: of the last bias, which moves all of a low image, by differences."""
    stages = [load_stage(apart / name, dtype="float64") for name in ("glow8", "srf16")]
    torch.manual_seed(0)
    flow, below = (stage.flow for stage in reversed(stages))
    flow.downscaler = Downscaler(1, 4).double()
    flow.downscaler._centres = lambda x: x  # no rounding
    x = torch.rand(2, 1, 16, 16, dtype=torch.float64) * 0.8 - 0.4
    low = x[..., ::2, ::2].contiguous()
    loss, bias = JointLoss(flow, below), flow.downscaler.last.bias
    label = torch.tensor([1, 2])
    loss.log_prob(x, low, label).sum().backward()
    step, values = 1e-4, []
    for move in (step, -2 * step):
        bias.data += move
        values.append(loss.log_prob(x, low, label).sum().item())
    assert bias.grad.item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.downscaler=0", "go together: set both or none"),
        ("train.joint=null", "go together: set both or none"),
        ("model.pyramid=haar", "train.joint needs an SRFlow of model.pyramid=bicubic"),
        ("train.start=null", "train.joint needs train.start"),
        ("train.patience=2", "train.joint needs train.patience=0"),
        ("train.label_dropout=0.1", "train.joint needs train.label_dropout=0"),
    ],
)
def test_what_does_not_go_together(change, message):
    changes = ["model.downscaler=4", "train.joint=x", "train.start=y", "model.residual=false"]
    with pytest.raises(InputError, match=message):
        load_config(CONFIGS / "srf16.yaml", [*changes, change])
