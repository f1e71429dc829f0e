"""`train.patience`: training ends when held-out bits/dim fall no more, with the best weights."""

import json

import pytest
from conftest import ROOT, TINY, launch

from cascade.config import load_config
from cascade.training.trainer import Trainer
from cascade.utils.tensors import read_tensors

GLOW8 = ROOT / "configs" / "mnist5k" / "glow8.yaml"
FEW = [*TINY, "train.validate_images=16", "train.init_images=64", "train.log_every=1"]
FEW += ["train.steps=12", "train.save_every=2", "train.keep=9"]
HELD_OUT = {2: 3.0, 4: 2.0, 6: 2.5, 8: 2.0, 10: 1.0, 12: 4.0}  # at each save


def following(data, out, *more) -> Trainer:
    """A run whose held-out figures are `HELD_OUT`."""
    run = Trainer(load_config(GLOW8, [*FEW, f"data.name={data}", f"out={out}", *more]))
    run.data.held_out.bpd = lambda flow: HELD_OUT[run.step]
    return run


def weights_at(out, step):
    """The averaged weights of a state."""
    state = read_tensors(out / "state" / f"step-{step:08d}.safetensors")
    start = "ema/module.flow."
    return {k.removeprefix(start): v for k, v in state.items() if k.startswith(start)}


def equal(one, two):
    return one.keys() == two.keys() and all(one[key].equal(two[key]) for key in one)


@pytest.mark.parametrize(
    ("patience", "last", "best"), [(0, 12, 12), (1, 6, 4), (2, 8, 4), (3, 12, 10)]
)
def test_training_ends_when_it_has_waited_long_enough(few_digits, tmp_path, patience, last, best):
    """Equal figures are no improvement; without patience the last weights are used."""
    out = tmp_path / "run"
    run = following(few_digits, out, f"train.patience={patience}")
    assert run.run() and run.step == last
    used = read_tensors(out / "model.safetensors")
    assert equal(used, weights_at(out, best)) and equal(used, run.flow.state_dict())
    again = following(few_digits, out, f"train.patience={patience}")
    assert again.finished and again.run() and again.step == last
    assert equal(used, read_tensors(out / "model.safetensors"))


def test_a_stopped_run_waits_for_what_is_left_and_goes_on_with_more(few_digits, tmp_path):
    out = tmp_path / "run"
    run = following(few_digits, out, "train.patience=2")
    plain = run._train_step

    def killed(batch):
        if run.step == 7:
            raise KeyboardInterrupt
        return plain(batch)

    run._train_step = killed
    with pytest.raises(KeyboardInterrupt):
        run.run()
    again = following(few_digits, out, "train.patience=2")
    assert (again.step, again.progress.waited) == (6, 1) and again.run() and again.step == 8
    more = following(few_digits, out, "train.patience=3")
    assert not more.finished and more.run() and more.step == 12
    whole = following(few_digits, tmp_path / "whole", "train.patience=3")
    assert whole.run() and equal(whole.flow.state_dict(), more.flow.state_dict())


def test_two_processes_end_together_and_say_why(few_digits, tmp_path):
    """So small a rate changes no weights: nothing improves after the first save.

    And both know the seconds that the first has used, or their rates would differ.
    """
    words = [*FEW, f"data.name={few_digits}", f"out={tmp_path / 'run'}", "train.patience=1"]
    words += ["train.seconds=600"]
    done = launch(
        "torchrun", "--standalone", "--nproc_per_node", "2", "tools/train.py", GLOW8, *words,
        "train.lr=1e-30",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no lower figure in train.patience=1: training ends at step 4, " in done.stdout
    card = (tmp_path / "run" / "README.md").read_text()
    assert "train.patience=1: 4 steps of 16 images" in card
    rows = [json.loads(row) for row in (tmp_path / "run" / "metrics.jsonl").open()]
    assert 0 < rows[0]["seconds"] < rows[-1]["seconds"] < 600
