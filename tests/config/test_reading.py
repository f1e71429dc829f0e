"""Configurations: typos are errors, every shipped one builds and takes a training step."""

from pathlib import Path

import pytest
import torch
from conftest import ROOT

from cascade.building import build
from cascade.config import load_config, save_config
from cascade.optimization.optimizers import optimiser
from cascade.training.phases import classification
from cascade.transforms.dequantise import density_bpd
from stages import InputError, InputWarning, StageLoss, initialise

OTHERS = ("tables", "versus")  # of several stages
CONFIGS = [file for file in sorted(ROOT.glob("configs/*/*.yaml")) if file.parent.name not in OTHERS]
GLOW8 = ROOT / "configs" / "mnist5k" / "glow8.yaml"
THIN = ["model.steps=1", "model.encoder_blocks=2"]
THINNER = {"glow": THIN[:1], "srflow": THIN, "colour": THIN, "inpaint": THIN}


@pytest.mark.parametrize("classes", [0, 10])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_shipped_config_builds_and_takes_a_step(path, classes):
    kind = load_config(path).model.kind
    config = load_config(path, [*THINNER[kind], f"model.classes={classes}"])
    loss = StageLoss(build(config))
    high = torch.rand(2, *loss.flow.shape) - 0.5
    channels, size = config.data.channels, config.data.size
    given = {"colour": (1, size, size), "inpaint": (channels + 1, size, size)}
    low = torch.rand(2, *given.get(kind, (channels, size // 2, size // 2))) - 0.5
    label = torch.tensor([0, 1]) if classes else None
    initialise(loss, high, low, label)
    optimizer = optimiser(loss, config.train)
    before = [p.detach().clone() for p in loss.parameters()]
    nats, logits = loss(high, low, label)
    bpd = density_bpd(nats, high, config.data.bits).mean()
    class_loss = 0 if logits is None else classification(logits, label, config.model.class_loss)
    (bpd + 0.01 * class_loss).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    optimizer.step()
    assert any(not torch.equal(a, p) for a, p in zip(before, loss.parameters(), strict=True))


def test_thesis_sizes():
    glow = load_config(ROOT / "configs" / "cifar10" / "glow8.yaml")
    assert (glow.model.levels, glow.model.steps, glow.model.width) == (3, 32, 512)
    assert (glow.train.lr, glow.train.betas, glow.train.weight_decay) == (5e-4, [0.9, 0.999], 5e-5)
    srf = load_config(ROOT / "configs" / "celeba" / "srf64.yaml")
    assert (srf.model.levels, srf.model.steps, srf.model.width) == (4, 16, 64)
    assert (srf.model.squish, srf.model.encoder_blocks, srf.model.residual) == (0.5, 23, False)
    encoder = build(load_config(ROOT / "configs" / "cifar10" / "srf16.yaml")).encoder
    assert encoder.taps == [1, 8, 15, 22] and encoder.channels == 320


def test_no_is_a_precision_though_yaml_reads_a_truth_value():
    assert load_config(CONFIGS[0], ["train.precision=no"]).train.precision == "no"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.widht=3", "no setting model.widht; did you mean model.width"),
        ("batch_size=3", "no setting batch_size; did you mean train.batch_size"),
        ("model.residual=true", "a glow stage has no setting model.residual"),
        ("train.steps=many", "could not be converted to Integer"),
        ("model.kind=gan", "model.kind must be one of glow, srflow"),
        ("train.optimizer=sgd", "train.optimizer must be one of adamax, adam, muon"),
        ("model.coupling=spline", "model.coupling must be one of affine, additive, mixture"),
        ("model.components=0", "model.components must be at least 1"),
        ("model.nets=mlp", "model.nets must be one of conv, gated, vit"),
        ("model.net_blocks=0", "model.net_blocks must be at least 1"),
        ("data.bits=9", "data.bits must be at most 8"),
        ("train.batch_size=0", "train.batch_size must be at least 1"),
        ("steps", "not of the form key=value"),
    ],
)
def test_bad_settings(override, message):
    with pytest.raises(InputError, match=message):
        load_config(GLOW8, [override])


def test_settings_that_do_nothing_are_said_and_left_out():
    path = ROOT / "configs" / "photos" / "srf2x.yaml"
    with pytest.warns(InputWarning, match="conditional_prior does nothing at model.levels=1"):
        config = load_config(path, ["model.levels=1"])
    assert not config.model.conditional_prior and load_config(path).model.conditional_prior
    with pytest.warns(InputWarning, match="net_blocks does nothing with model.nets=conv"):
        assert load_config(path, ["model.net_blocks=2"]).model.net_blocks == 1
    settings = ["train.milestones=[5]", "train.schedule=cosine"]
    with pytest.warns(InputWarning, match="milestones do nothing with train.schedule=cosine"):
        assert load_config(path, settings).train.milestones == []


def test_missing_file_and_missing_value(tmp_path):
    with pytest.raises(InputError, match="no configuration file"):
        load_config(tmp_path / "none.yaml")
    incomplete = tmp_path / "a.yaml"
    incomplete.write_text("out: x\nmodel: {kind: glow}\n")
    with pytest.raises(InputError, match="is not set"):
        load_config(incomplete)


def test_saved_config_is_whole(tmp_path):
    config = load_config(GLOW8, ["model.squish=0.25"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert "weight_decay" in Path(tmp_path / "config.yaml").read_text()
