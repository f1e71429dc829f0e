"""An SRFlow's encoder: trained alone, kept as it is, then trained along."""

import json

import pytest
import torch
from conftest import ROOT, TINY, randomise, run_tool

from cascade.config import load_config
from cascade.training.trainer import Trainer
from cascade.utils.tensors import read_tensors
from stages import srflow
from stages.encoder import SuperResolution

FEW = [*TINY, "train.log_every=1", "train.save_every=5", "train.keep=9"]
FEW += ["train.validate_images=16", "train.init_images=64", "train.warmup=0", "train.ema=0.5"]
PHASES = ["train.pretrain_steps=10", "train.frozen_steps=10", "train.steps=20"]


@pytest.fixture(scope="module", params=["mnist5k", "mnist5k-haar"])
def trained(request, few_digits, tmp_path_factory):
    """A run through all phases, with every state kept."""
    out = tmp_path_factory.mktemp(request.param) / "srf16"
    config = ROOT / "configs" / request.param / "srf16.yaml"
    settings = [*FEW, *PHASES, f"data.name={few_digits}", f"out={out}"]
    assert Trainer(load_config(config, settings)).run()
    return out


def weights(out, step, part):
    tensors = read_tensors(out / "state" / f"step-{step:08d}.safetensors")
    return {k: v for k, v in tensors.items() if k.startswith(part)}


def same(one, two):
    assert one and one.keys() == two.keys()
    return all(torch.equal(one[key], two[key]) for key in one)


def test_each_phase_trains_what_it_should(trained):
    encoder, body = "model/flow.encoder", "model/flow.body"
    assert not same(weights(trained, 5, encoder), weights(trained, 10, encoder))
    assert same(weights(trained, 5, body), weights(trained, 10, body))
    for step in (15, 20):
        assert same(weights(trained, 10, encoder), weights(trained, step, encoder))
    assert same(weights(trained, 10, encoder), {
        key.replace("ema/module.", "model/"): value
        for key, value in weights(trained, 20, "ema/module.flow.encoder").items()
    })  # fmt: skip
    assert not same(weights(trained, 15, body), weights(trained, 20, body))
    assert not same(weights(trained, 20, encoder), weights(trained, 25, encoder))
    head = {key for key in weights(trained, 5, "encoder/") if ".encoder." not in key}
    assert head and not any("last" in k for k in read_tensors(trained / "model.safetensors")
                            if k.startswith(("middle", "last")))  # fmt: skip


def test_phases_are_logged_and_the_encoder_learns(trained):
    rows = [json.loads(row) for row in (trained / "metrics.jsonl").open()]
    assert [row["phase"] for row in rows] == ["encoder"] * 10 + ["frozen"] * 10 + ["all"] * 10
    held_out = [row["validation_l1"] for row in rows if "validation_l1" in row]
    assert len(held_out) == 2 and held_out[1] < held_out[0]
    assert all("bpd" in row for row in rows[10:]) and not any("bpd" in row for row in rows[:10])


@pytest.mark.parametrize("stop", [5, 20])
def test_a_run_resumes_in_any_phase(trained, few_digits, tmp_path, stop):
    """In the middle of the first, and at the start of the last."""
    config = load_config(trained / "config.yaml", [f"out={tmp_path / 'cut'}"])
    run = Trainer(config)
    plain = run._train_step

    def interrupted(batch):
        if run.step == stop:
            raise KeyboardInterrupt  # as good as killed: nothing is saved
        return plain(batch)

    run._train_step = interrupted
    with pytest.raises(KeyboardInterrupt):
        run.run()
    again = Trainer(load_config(trained / "config.yaml", [f"out={tmp_path / 'cut'}"]))
    assert again.step == stop and again.run()
    one, two = (read_tensors(f / "model.safetensors") for f in (trained, tmp_path / "cut"))
    assert same(one, two)


@pytest.mark.parametrize("details", [False, True])
def test_super_resolution_net(details):
    small = {"levels": 2, "steps": 1, "width": 8, "encoder_features": 4, "encoder_growth": 2}
    flow = srflow((1, 16, 16), details=details, encoder_blocks=2, **small)
    net = randomise(SuperResolution(flow.encoder, flow.shape[0], doubles=not details))
    low = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    assert net(low).shape == (2, *flow.shape)
    net(low).sum().backward()
    assert all(p.grad is not None for p in net.parameters())  # none unused, as DDP demands


@pytest.mark.parametrize(
    ("stage", "setting", "message"),
    [
        ("glow8", "train.pretrain_steps=1", "are for an SRFlow's encoder"),
        ("srf16", "train.frozen_steps=50", "must be at most train.steps"),
        ("srf16", "train.accumulate=3", "train.accumulate must divide train.batch_size=16"),
        ("srf16", "train.trackers=[mlflow]", "train.trackers must list some of tensorboard, wandb"),
        ("srf16", "train.memory=none", "train.memory must be one of store, checkpoint, reversible"),
    ],
)
def test_settings_are_checked_before_any_work(tmp_path, stage, setting, message):
    config = ROOT / "configs" / "mnist5k" / f"{stage}.yaml"
    done = run_tool("train", config, *TINY, f"out={tmp_path / 'run'}", setting)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
