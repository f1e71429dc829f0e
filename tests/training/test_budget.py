"""`train.seconds`: training that ends by time, goes on with what is left of it, and ends once."""

import itertools
import json

import pytest
from conftest import ROOT, TINY, run_tool

from cascade.config import load_config
from cascade.config.schema import UNLIMITED
from cascade.optimization.rates import learning_rate
from cascade.training.trainer import Trainer
from cascade.utils.tensors import read_tensors
from stages import InputError

GLOW8 = ROOT / "configs" / "mnist5k" / "glow8.yaml"
FEW = [*TINY, "train.validate_images=16", "train.init_images=64", "train.log_every=1"]
FEW += ["train.schedule=cosine", "train.warmup=0", "train.steps=null"]


def settings(data, out, *more):
    return [*FEW, f"data.name={data}", f"out={out}", *more]


def ticking(data, out, *more) -> Trainer:
    """A run whose every step takes a second of its clock."""
    run = Trainer(load_config(GLOW8, settings(data, out, *more)))
    run.clock = itertools.count().__next__
    return run


def rows(out):
    return [json.loads(row) for row in (out / "metrics.jsonl").open()]


def newest(out):
    return read_tensors(max((out / "state").iterdir()))


def test_a_run_ends_with_its_budget_and_then_has_nothing_to_do(few_digits, tmp_path):
    out = tmp_path / "run"
    command = ["train", GLOW8, *settings(few_digits, out, "train.seconds=2")]
    assert run_tool(*command, "--json", tmp_path / "end.json").returncode == 0
    logged = rows(out)
    used = [row["seconds"] for row in logged]
    assert used == sorted(used) and used[-2] < 2 <= used[-1] < 4
    assert logged[0]["lr"] == load_config(GLOW8).train.lr
    assert logged[-1]["lr"] == pytest.approx(0, abs=1e-2 * logged[0]["lr"])
    assert "validation_bpd" in logged[-1] and list((out / "samples").iterdir())
    assert newest(out)["count/seconds"] == used[-1] and newest(out)["count/step"] == len(logged)
    card = (out / "README.md").read_text()
    assert f"train.seconds=2: {len(logged)} steps of 16 images" in card
    end = json.loads((tmp_path / "end.json").read_text())
    assert end["finished"] and end["seconds"] == used[-1]
    before = {file: file.stat().st_mtime_ns for file in (out / "state").iterdir()}
    assert run_tool(*command).returncode == 0
    assert before == {file: file.stat().st_mtime_ns for file in (out / "state").iterdir()}
    assert rows(out) == logged


def test_a_killed_run_goes_on_with_what_is_left(few_digits, tmp_path):
    """What it loses with the steps since its last state, it may use again."""
    more = ("train.seconds=12", "train.save_every=4")
    run = ticking(few_digits, tmp_path / "run", *more)
    plain = run._train_step

    def killed(batch):
        if run.step == 6:
            raise KeyboardInterrupt
        return plain(batch)

    run._train_step = killed
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert newest(tmp_path / "run")["count/seconds"] == 4
    again = ticking(few_digits, tmp_path / "run", *more)
    assert (again.step, again.progress.seconds) == (4, 4) and again.run()
    whole = ticking(few_digits, tmp_path / "whole", *more)
    assert whole.run() and whole.step == again.step == 12
    for one, two in zip(rows(again.out), rows(whole.out), strict=True):
        assert {**one, "images_per_s": 0} == {**two, "images_per_s": 0}


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ("train.seconds=5", "train.seconds=3", "trained for 5.0 seconds, train.seconds asks for 3"),
        ("train.seconds=5", "train.steps=9", "neither begun nor ended"),
        ("train.steps=2", "train.seconds=5", "neither begun nor ended"),
    ],
)
def test_a_budget_may_only_grow(few_digits, tmp_path, before, now, message):
    assert ticking(few_digits, tmp_path, before).run()
    with pytest.raises(InputError, match=message):
        ticking(few_digits, tmp_path, now)


def test_more_seconds_are_gone_on_with(few_digits, tmp_path):
    assert ticking(few_digits, tmp_path, "train.seconds=2").run()
    more = ticking(few_digits, tmp_path, "train.seconds=3")
    assert more.run() and more.step == 3


def test_steps_limit_it_too_and_the_encoder_s_phase_is_free(few_digits, tmp_path):
    assert ticking(few_digits, tmp_path / "a", "train.seconds=9", "train.steps=3").run()
    assert rows(tmp_path / "a")[-1]["seconds"] == 3
    srf16 = ROOT / "configs" / "mnist5k" / "srf16.yaml"
    phases = ["train.seconds=4", "train.pretrain_steps=3", "train.frozen_steps=2"]
    run = Trainer(load_config(srf16, settings(few_digits, tmp_path / "b", *phases)))
    run.clock = itertools.count().__next__
    assert run.run()
    seconds = [(row["phase"], row["seconds"]) for row in rows(tmp_path / "b")]
    assert seconds[:3] == [("encoder", 0)] * 3
    assert seconds[3:] == [("frozen", 1), ("frozen", 2), ("all", 3), ("all", 4)]


def test_without_a_budget_states_and_rows_know_of_none(few_digits, tmp_path):
    assert ticking(few_digits, tmp_path, "train.steps=2").run()
    counts = {key for key in newest(tmp_path) if key.startswith("count/")}
    assert counts == {"count/step", "count/phase", "count/best", "count/skipped"}
    assert all("seconds" not in row for row in rows(tmp_path))


def test_the_rate_follows_what_ends_first():
    train = load_config(
        GLOW8, ["train.schedule=cosine", "train.warmup=0", "train.seconds=60"]
    ).train
    assert learning_rate(0, train, 30) == pytest.approx(train.lr / 2)
    assert learning_rate(train.steps // 2, train, 1) == pytest.approx(train.lr / 2)
    assert learning_rate(0, train, 61) == learning_rate(train.steps, train, 1) == 0


def test_steps_may_be_left_out_beside_seconds(tmp_path):
    file = tmp_path / "glow8.yaml"
    lines = GLOW8.read_text().splitlines()
    start = lines.index("train:")
    kept = [s for i, s in enumerate(lines) if i < start or not s.startswith("  steps:")]
    file.write_text("\n".join(kept))
    assert load_config(file, ["train.seconds=60"]).train.steps == UNLIMITED
    with pytest.raises(InputError, match="train.steps is not set"):
        load_config(file)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.seconds=0"], "train.seconds must lie above 0, up to 10\\^9"),
        (["train.seconds=.nan"], "train.seconds must lie above 0"),
        (["train.seconds=.inf"], "train.seconds must lie above 0"),
        (["train.seconds=60", "train.schedule=halve"], "schedule=halve counts steps"),
        (["train.seconds=60", "train.steps=-1"], "train.steps must be at least 0"),
    ],
)
def test_settings_that_cannot_work(words, message):
    with pytest.raises(InputError, match=message):
        load_config(GLOW8, words)


def test_the_first_process_s_number_is_its_own(few_digits, tmp_path):
    run = ticking(few_digits, tmp_path / "run", "train.seconds=1")
    run.release(discard=True)
    assert run.processes.first(0.1) == 0.1
