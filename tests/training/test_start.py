"""`train.start`: training starts from a trained stage's weights."""

import hashlib
import shutil

import pytest
import torch
from conftest import ROOT, TINY

from cascade.config import load_config
from cascade.record import load_record
from cascade.stage import load_stage
from cascade.training.trainer import Trainer
from cascade.utils.tensors import read_tensors
from stages import InputError

GLOW8 = ROOT / "configs" / "mnist5k" / "glow8.yaml"
FEW = [*TINY, "train.validate_images=16", "train.init_images=64", "train.steps=2"]
MIXTURE = ["model.steps=0", "model.levels=1", "model.first=mixture", "model.mixture_width=8"]


def run_of(data, out, *more) -> Trainer:
    return Trainer(load_config(GLOW8, [*FEW, f"data.name={data}", f"out={out}", *more]))


def test_training_starts_from_the_weights_and_remembers_whose(few_digits, tmp_path):
    trained, out = tmp_path / "trained", tmp_path / "run"
    assert run_of(few_digits, trained).run()
    options = [f"train.start={trained}", "train.steps=4"]
    begun = run_of(few_digits, out, *options)
    expected = read_tensors(trained / "model.safetensors")
    for flow in (begun.learner.loss.flow, begun.flow):
        assert all(expected[key].equal(value) for key, value in flow.state_dict().items())
    assert begun.run()
    digest = hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest()
    assert load_record(out).start == digest
    assert f"{trained}, SHA-256 {digest[:16]}" in (out / "README.md").read_text()
    moved = read_tensors(out / "model.safetensors")
    assert not all(expected[key].equal(value) for key, value in moved.items())

    shutil.rmtree(trained)  # what is begun needs it no more
    more = run_of(few_digits, out, *options[:1], "train.steps=6")
    assert more.step == 4 and more.run() and load_record(out).start == digest
    with pytest.raises(InputError, match="was trained with train.start="):
        run_of(few_digits, out, "train.steps=6")


def test_a_stage_may_learn_classes_that_its_start_does_not_know(few_digits, tmp_path):
    """Their tables are zero at first, so that every class has the likelihood of the start."""
    trained, out = tmp_path / "trained", tmp_path / "run"
    assert run_of(few_digits, trained, *MIXTURE, "model.classes=0").run()
    run = run_of(few_digits, out, *MIXTURE, f"train.start={trained}", "train.ema=0")
    images = torch.randint(-128, 128, (3, 1, 8, 8)) / 256
    plain = load_stage(trained).flow.log_prob(images)
    with torch.no_grad():
        assert run.flow.eval().log_prob(images, label=torch.tensor([0, 3, 9])).equal(plain)
    assert run.run()
    with pytest.raises(InputError, match=r"labels\.weight is .* this stage's missing"):
        run_of(few_digits, tmp_path / "other", *MIXTURE, "model.classes=0", f"train.start={out}")


def test_a_deeper_stage_starts_as_good_as_the_one_it_grows_from(few_digits, tmp_path):
    """Residual blocks and chains that its start has not change nothing at first, and learn."""
    trained, out = tmp_path / "trained", tmp_path / "run"
    assert run_of(few_digits, trained, *MIXTURE).run()
    deeper = ["model.mixture_blocks=3", "model.mixture_chain=true"]
    deeper += [f"train.start={trained}", "train.steps=3"]
    run = run_of(few_digits, out, *MIXTURE, *deeper)
    images = torch.randint(-128, 128, (3, 1, 8, 8)) / 256
    label = torch.tensor([0, 3, 9])
    before = load_stage(trained).flow.log_prob(images, label=label)
    with torch.no_grad():
        for flow in (run.flow, run.learner.loss.flow):
            assert flow.eval().log_prob(images, label=label).equal(before)
    assert run.run()
    weights = read_tensors(out / "model.safetensors")
    assert all(weights[name].any() for name in weights if ".blocks.2." in name or ".chain." in name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.width=16", r"trained does not fit: its .* is \(.*\), this stage's \(.*\); take"),
        ("train.start=nowhere", "no run folder nowhere"),
        ("train.start=digits", "digits is a cascade: name one of its stages, digits/glow8"),
    ],
)
def test_weights_that_do_not_fit_begin_nothing(few_digits, tmp_path, change, message):
    trained, out = tmp_path / "trained", tmp_path / "run"
    assert run_of(few_digits, trained, "model.width=8").run()
    with pytest.raises(InputError, match=message):
        run_of(few_digits, out, "model.width=8", f"train.start={trained}", change)
    assert not out.exists() and list(tmp_path.glob("trained*")) == [trained]


def test_an_encoder_is_not_pretrained_where_it_comes_trained():
    srf16 = ROOT / "configs" / "mnist5k" / "srf16.yaml"
    with pytest.raises(InputError, match=r"leave train\.pretrain_steps out"):
        load_config(srf16, ["train.start=digits/srf16", "train.pretrain_steps=1"])
