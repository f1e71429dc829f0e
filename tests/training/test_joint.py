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
from cascade.utils.tensors import read_tensors
from stages import InputError

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
    stages = of_mixtures({"glow8": 4, "srf16": 8, "srf32": 16}, bits=8, classes=2, chunk=6)
    images = torch.randint(256, (6, 1, 16, 16), dtype=torch.uint8)
    labels = torch.arange(6) % 2
    cascade = Cascade(stages)
    nats, _ = cascade.stage_log_probs(images, labels)
    for place in (1, 2):
        loss = JointLoss(stages[place].flow, stages[place - 1])
        high = cascade.levels(images)[place]
        y = dequantise(high, torch.rand(high.shape, dtype=torch.float64))
        plain = centre(Stage.lower(without_downscaler(stages[place]), high), torch.float64)
        assert not cascade.levels(images)[place - 1].equal((plain * 256 + 127.5).to(torch.uint8))
        found = loss.log_prob(y, plain, labels) - log_volume(high[0].numel())
        torch.testing.assert_close(found, nats[:, place - 1 : place + 1].sum(1))


def without_downscaler(stage: Stage) -> Stage:
    config = load_config(CONFIGS / "srf16.yaml", [f"data.size={stage.shape[1]}"])
    return Stage(stage.name, config, build(config))


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
    with pytest.raises(InputError, match="was trained with another stage: use another out="):
        Trainer(load_stage(parts / "srf16").config, restart=True)
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


def test_the_stage_below_is_never_written_over(few_digits, apart):
    before = (apart / "glow8" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match=r"glow8, where the stage below would be written, is"):
        above_of(few_digits, apart / "other", *together(apart))
    assert (apart / "glow8" / "model.safetensors").read_bytes() == before
    assert not (apart / "other").exists()


def test_the_stage_below_must_be_of_half_the_size(few_digits, apart, tmp_path):
    options = [*together(apart), f"train.joint={apart / 'srf16'}"]
    with pytest.raises(InputError, match=r"train\.joint=.*srf16: stages in the wrong order"):
        above_of(few_digits, tmp_path / "new" / "srf16", *options)
    assert not (tmp_path / "new" / "srf16").exists()


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
