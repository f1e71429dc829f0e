"""A run's parts: its images, what is trained phase by phase, what is saved, who is told."""

import pytest
import torch
from conftest import ROOT, TINY

from cascade.config import load_config
from cascade.data import open_images
from cascade.record import load_record
from cascade.training.learner import Learner
from cascade.training.saving import Progress, Saver
from cascade.training.stage_data import open_stage_data
from cascade.training.trainer import Trainer
from cascade.utils.processes import Processes, lost_a_process
from stages import InputError

SETTINGS = [*TINY, "train.validate_images=16", "train.init_images=32", "train.save_every=2"]


def config_of(data, out, *changes):
    settings = [*SETTINGS, f"data.name={data}", f"out={out}", *changes]
    return load_config(ROOT / "configs" / "mnist5k" / "srf16.yaml", settings)


def test_the_images_are_those_of_the_split_and_are_recorded(few_digits, tmp_path):
    data = open_stage_data(config_of(few_digits, tmp_path / "run"), torch.device("cpu"))
    expected = open_images(str(few_digits), "train", 1)
    assert torch.equal(data.source.read(torch.arange(9)), expected.read(torch.arange(9)))
    assert data.labelled and data.augmentation is None and data.record.previous == ""
    assert data.record.counts == expected.labels.bincount().tolist()
    assert data.record.classes == list(expected.classes) and len(data.record.images) == 64
    assert data.held_out.split == "validation"


def test_phases_follow_one_another_and_the_rate_follows_the_flow_s_steps(few_digits, tmp_path):
    changes = ["train.pretrain_steps=2", "train.frozen_steps=2", "train.steps=6", "train.warmup=4"]
    changes.append("train.schedule=constant")
    run = Trainer(config_of(few_digits, tmp_path / "run", *changes))
    learner: Learner = run.learner
    names, train = [], run.config.train
    for step in range(learner.steps):
        learner.enter_due(step)
        assert not learner.enter_due(step)
        names.append(learner.phase.name)
        rate = learner.set_rate(step)
        assert rate == learner.optimizer.param_groups[0]["lr"]
        rising = train.lr * (step - 1) / 4
        assert rate == (train.pretrain_lr if step < 2 else pytest.approx(min(rising, train.lr)))
    assert names == ["encoder"] * 2 + ["frozen"] * 2 + ["all"] * 4
    run.release(discard=True)


def test_what_is_saved_is_gone_on_from(few_digits, tmp_path):
    run = Trainer(config_of(few_digits, tmp_path / "run", "train.steps=2"))
    assert run.saver.last_state() == "nothing was saved yet"
    assert run.run()
    assert "step-00000002.safetensors is whole" in run.saver.last_state()
    again = Trainer(config_of(few_digits, tmp_path / "run", "train.steps=2"))
    record = load_record(tmp_path / "run")
    assert record == run.data.record
    progress = Saver(again.config, again.learner).resume(record)
    assert progress == Progress(2, progress.best) and progress.best < 8
    ours, theirs = (trainer.learner.flow.state_dict() for trainer in (run, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    again.release()
    for state in (tmp_path / "run" / "state").iterdir():
        state.unlink()
    with pytest.raises(InputError, match="holds weights, but no state to continue from"):
        Saver(again.config, again.learner).resume(record)


def test_one_process_tells_itself(few_digits, tmp_path):
    run = Trainer(config_of(few_digits, tmp_path / "run"))
    run.release(discard=True)
    processes = Processes(run.accelerator)
    assert (processes.count, processes.main) == (1, True)
    assert processes.agree(lambda: 3) == 3 and processes.gather("x") == ["x"]
    assert processes.any(torch.tensor(True)) and not processes.any(False)

    def wrong():
        raise InputError("wrong")

    with pytest.raises(InputError, match="wrong"):
        processes.agree(wrong)
    assert lost_a_process(RuntimeError("Connection closed by peer"))
    assert not lost_a_process(RuntimeError("shapes do not fit"))
