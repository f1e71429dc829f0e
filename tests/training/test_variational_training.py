"""Stages trained on low images disturbed by the frozen stage below."""

import json
import math
import shutil
import warnings

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, run_tool

from cascade import Cascade, InputError
from cascade.config import load_config
from cascade.config.sigma import sigma_at
from cascade.data import open_images
from cascade.pretrained import load_one
from cascade.record import load_record
from cascade.stage import Stage
from cascade.training.augmentation import Augmentation, weights_digest
from cascade.training.trainer import Trainer
from cascade.transforms.pyramid import halve_to
from cascade.utils.seeds import generator
from cascade.utils.tensors import read_tensors, write_tensors

SRF16 = ROOT / "configs" / "mnist5k" / "srf16.yaml"
FEW = [*TINY, "train.steps=6", "train.log_every=1", "train.save_every=3"]
FEW += ["train.validate_images=16", "train.init_images=64"]
SIGMAS = {"range": "[0.1,0.9]", "schedule": "{0: 0.0, 4: 1.0}"}


def train(out, *overrides, config=SRF16, force=False):
    done = run_tool("train", config, f"out={out}", *FEW, *overrides, *(["--force"] * force))
    assert done.returncode == 0, done.stderr
    return done


def same(a, b):
    a, b = (read_tensors(folder / "model.safetensors") for folder in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def rows(folder):
    return [json.loads(row) for row in (folder / "metrics.jsonl").open()]


def augmentation(digits, *overrides) -> Augmentation:
    settings = [f"augment.previous={digits / 'glow8'}", "augment.sigma=0.5", *overrides]
    return Augmentation(load_config(SRF16, settings), torch.device("cpu"))


@pytest.fixture(scope="module")
def low() -> tuple[torch.Tensor, torch.Tensor]:
    source = open_images("mnist5k", "train", 1)
    chosen = torch.arange(0, 4000, 101)
    return halve_to(source.read(chosen), 8), source.labels[chosen]


def test_a_shipped_stage_disturbs_by_name():
    settings = ["augment.previous=digits/glow8", "augment.sigma=0.5"]
    config = load_config(ROOT / "configs" / "mnist5k-haar" / "srf16.yaml", settings)
    disturbs = Augmentation(config, torch.device("cpu"))
    assert disturbs.digest == load_one("digits/glow8").digest and disturbs.labelled


def test_sigma_zero_is_plain_training_bit_for_bit(digits, tmp_path):
    train(tmp_path / "plain")
    train(tmp_path / "zero", f"augment.previous={digits / 'glow8'}", "augment.sigma=0")
    assert same(tmp_path / "plain", tmp_path / "zero")
    train(tmp_path / "half", f"augment.previous={digits / 'glow8'}", "augment.sigma=0.5")
    assert not same(tmp_path / "plain", tmp_path / "half")
    assert [row["replaced"] for row in rows(tmp_path / "zero")] == [0] * 6
    assert all("replaced" not in row for row in rows(tmp_path / "plain"))


@pytest.mark.parametrize("kind", SIGMAS)
def test_a_run_that_stopped_ends_with_the_same_weights(digits, tmp_path, kind):
    source = open_images("mnist5k", "train", 1)
    few = torch.arange(0, len(source), 133)  # so few that images return before they are refreshed
    np.savez(
        tmp_path / "few.npz", images=source.read(few).permute(0, 2, 3, 1).numpy(),
        labels=source.labels[few].numpy(), classes=source.classes,
    )  # fmt: skip
    settings = [f"augment.previous={digits / 'glow8'}", f"augment.sigma={SIGMAS[kind]}"]
    settings += [f"data.name={tmp_path / 'few.npz'}"]
    settings += ["augment.scaling=raw", "augment.refresh=4", "augment.condition=true"]
    settings += ["train.schedule=constant"]
    train(tmp_path / "whole", *settings)
    train(tmp_path / "cut", *settings, "train.steps=3")
    train(tmp_path / "cut", *settings)
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert load_record(tmp_path / "cut").previous == Cascade.load(digits / "glow8").stages[0].digest


def test_what_an_image_becomes_is_its_own(digits, low):
    """A function of seed, block, image and label: in any order, or after a resume.

    Of another number of images at once, but for rounding.
    """
    (images, labels), disturbed = low, augmentation(digits)
    together = disturbed(images, labels, 7).low
    order = torch.randperm(len(images))
    again = augmentation(digits)
    assert torch.equal(again(images[order], labels[order], 7).low, together[order])
    alone = augmentation(digits)(images[5:6], labels[5:6], 7).low.int()
    assert (alone - together[5:6].int()).abs().max() <= 1
    assert not torch.equal(disturbed(images, labels, 8).low, together)
    assert not torch.equal(augmentation(digits, "seed=1")(images, labels, 7).low, together)


def test_disturbed_images_are_kept_for_as_many_steps_as_asked(digits, low, monkeypatch):
    images, labels = low
    kept = augmentation(digits, "augment.refresh=5")
    first = kept(images[:8], labels[:8], 5).low
    calls, run = [], Stage.run
    monkeypatch.setattr(Stage, "run", lambda *inputs: calls.append(1) or run(*inputs))
    assert torch.equal(kept(images[:8], labels[:8], 9).low, first) and not calls
    assert not torch.equal(kept(images[:8], labels[:8], 10).low, first) and calls


def test_raw_latents_are_disturbed_otherwise_than_whitened_ones(digits, low):
    images, labels = low
    distance = {}
    for scaling in ("whitened", "raw"):
        found = augmentation(digits, f"augment.scaling={scaling}")(images, labels, 0)
        distance[scaling] = (found.low.int() - images.int()).abs().double().mean().item()
    assert 0 < distance["whitened"] != distance["raw"] > 0


def test_sigma_as_a_number_a_range_and_a_schedule():
    assert sigma_at(0.3, 99, generator(0)) == 0.3
    drawn = [sigma_at([0.2, 0.6], 0, generator(i)) for i in range(500)]
    assert 0.2 <= min(drawn) < 0.22 and 0.58 < max(drawn) <= 0.6
    schedule = {10: 0.0, 20: 0.5, 40: 0.1}
    found = [sigma_at(schedule, step, generator(0)) for step in (0, 10, 15, 20, 30, 40, 999)]
    assert found == pytest.approx([0, 0, 0.25, 0.5, 0.3, 0.1, 0.1])


@pytest.mark.parametrize(
    "sigma", ["-1", "[0.5]", "[0.5,0.2]", "much", "{}", "{-1: 0.5}", ".nan", "true"]
)
def test_bad_sigmas(tmp_path, sigma):
    with pytest.raises(InputError, match="augment.sigma is a number from 0 to 1e"):
        load_config(SRF16, [f"augment.sigma={sigma}", "augment.previous=x"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["augment.sigma=0.5"], "needs augment.previous"),
        (["augment.previous=nowhere", "augment.sigma=0.5"], "no run folder nowhere"),
        (["augment.previous=DIGITS/srf16"], "each must double"),
        (["augment.previous=DIGITS/glow8", "model.pyramid=haar", "model.residual=false"],
         "has pyramid=bicubic"),
        (["augment.previous=DIGITS/glow8", "augment.scaling=rae"], "whitened, raw"),
        (["augment.previous=DIGITS/glow8", "data.name=UNLABELLED", "model.classes=0"],
         "has no labels"),
        (["augment.previous=DIGITS/glow8", "data.name=OTHERS", "model.classes=0"],
         "was trained on other classes"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_code_two(digits, tmp_path, overrides, message):
    pixels = np.zeros((40, 32, 32, 1), np.uint8)
    np.savez(tmp_path / "plain.npz", images=pixels)
    np.savez(tmp_path / "others.npz", images=pixels, labels=np.arange(40) % 4, classes=list("abcd"))
    places = {"DIGITS": digits, "UNLABELLED": tmp_path / "plain.npz"}
    places["OTHERS"] = tmp_path / "others.npz"
    for name, place in places.items():
        overrides = [word.replace(name, str(place)) for word in overrides]
    done = run_tool("train", SRF16, f"out={tmp_path / 'run'}", *FEW, *overrides)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_stage_without_classes_on_one_that_has_them_and_the_other_way_round(digits, tmp_path):
    previous = f"augment.previous={digits / 'glow8'}"
    train(tmp_path / "plain", previous, "augment.sigma=0.5", "model.classes=0")
    base = ROOT / "configs" / "mnist5k" / "glow8.yaml"
    train(tmp_path / "glow8", "model.classes=0", config=base)
    train(tmp_path / "srf16", f"augment.previous={tmp_path / 'glow8'}", "augment.sigma=0.5")


def test_a_schedule_in_the_file_is_replaced_by_a_setting(tmp_path):
    file = tmp_path / "srf16.yaml"
    file.write_text(SRF16.read_text() + "augment: {previous: x, sigma: {0: 0.0, 1000: 0.5}}\n")
    assert load_config(file).augment.sigma == {0: 0.0, 1000: 0.5}
    assert load_config(file, ["augment.sigma={0: 0.1}"]).augment.sigma == {0: 0.1}
    assert load_config(file, ["augment.sigma=[0.1,0.2]"]).augment.sigma == [0.1, 0.2]


def explode(folder, value):
    """A copy of the base whose deepest prior sends every noisy latent out of range."""
    tensors = read_tensors(folder / "model.safetensors")
    tensors["prior.table.weight"] = torch.full_like(tensors["prior.table.weight"], value)
    write_tensors(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_failures_are_replaced_counted_and_survived(digits, tmp_path, value):
    shutil.copytree(digits / "glow8", tmp_path / "bad")
    explode(tmp_path / "bad", value)
    train(tmp_path / "plain")
    done = train(tmp_path / "run", f"augment.previous={tmp_path / 'bad'}", "augment.sigma=0.5")
    assert [row["replaced"] for row in rows(tmp_path / "run")] == [1] * 6
    assert "100.0% replaced" in done.stdout
    assert all(math.isfinite(row["bpd"]) for row in rows(tmp_path / "run"))
    assert same(tmp_path / "plain", tmp_path / "run"), "every row went back to the clean image"


def test_the_previous_stage_is_untouched(digits, tmp_path, low):
    before = (digits / "glow8" / "model.safetensors").read_bytes()
    trainer = Trainer(
        load_config(
            SRF16,
            [*FEW, f"out={tmp_path / 'run'}", f"augment.previous={digits / 'glow8'}",
             "augment.sigma=0.5"],
        )
    )  # fmt: skip
    assert not any(p.requires_grad for p in trainer.data.augmentation.flow.parameters())
    trainer.run()
    assert (digits / "glow8" / "model.safetensors").read_bytes() == before
    trainer.data.augmentation.flow.body.inner.parts[0].parts[0].norm.bias.data += 1
    with pytest.raises(RuntimeError, match="changed during training"):
        trainer.data.augmentation.verify()
    assert weights_digest(trainer.data.augmentation.flow) != trainer.data.augmentation.weights


def test_a_cascade_with_another_previous_stage_says_so(digits, tmp_path):
    shutil.copytree(digits / "glow8", tmp_path / "run" / "glow8")
    train(tmp_path / "run" / "srf16", f"augment.previous={tmp_path}/run/glow8", "augment.sigma=0.5")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Cascade.load(tmp_path / "run")
    base = ROOT / "configs" / "mnist5k" / "glow8.yaml"
    train(tmp_path / "run" / "glow8", "seed=1", config=base, force=True)
    with pytest.warns(UserWarning, match="srf16 was trained on low images disturbed by another"):
        Cascade.load(tmp_path / "run")
    done = run_tool("sample", tmp_path / "run", "--num", 2, "--out", tmp_path / "grid.png")
    assert "note: srf16 was trained on low images disturbed by another stage" in done.stdout


def test_a_stage_is_told_sigma_and_nought_when_evaluated(digits, tmp_path):
    shutil.copytree(digits / "glow8", tmp_path / "run" / "glow8")
    settings = ["augment.sigma=[0,1]", "augment.condition=true", "train.lr=0.02", "train.warmup=0"]
    train(tmp_path / "run" / "srf16", f"augment.previous={tmp_path}/run/glow8", *settings)
    x = open_images("mnist5k", "test", 1).pixels[:9]
    cascade = Cascade.load(tmp_path / "run")
    untold = cascade.log_prob(cascade.resize(x))
    assert torch.equal(cascade.given_sigma(0.0).log_prob(cascade.resize(x)), untold)
    assert not torch.equal(cascade.given_sigma(0.5).log_prob(cascade.resize(x)), untold)
    assert torch.equal(cascade.log_prob(cascade.resize(x)), untold)  # it is left as it was
    done = run_tool(
        "sample", tmp_path / "run", "--num", 2, "--told-sigma", 0.5, "--out", tmp_path / "grid.png"
    )
    assert done.returncode == 0, done.stderr
    done = run_tool("sample", digits, "--num", 2, "--told-sigma", 0.5, "--out", tmp_path / "g.png")
    assert done.returncode == 2 and "augment.condition=true" in done.stderr


def test_haar_stages_are_trained_on_disturbed_details(tmp_path):
    folder = ROOT / "configs" / "mnist5k-haar"
    previous = []
    for name in ("glow8", "srf16", "srf32"):
        train(tmp_path / name, *previous, config=folder / f"{name}.yaml")
        previous = [f"augment.previous={tmp_path / name}", "augment.sigma=0.5"]
    found = [row["replaced"] for row in rows(tmp_path / "srf32")]
    assert all(0 <= share < 1 for share in found)
    done = run_tool("likelihood", tmp_path, "--limit", 8, "--variational", 0.5)
    assert done.returncode == 0, done.stderr


def test_failures_are_watched(tmp_path):
    train(tmp_path / "run", "train.watch_sigmas=[0.5,1.0]")
    last = rows(tmp_path / "run")[-1]
    for scaling in ("whitened", "raw"):
        for sigma in ("0.5", "1"):
            not_finite, exploded = (
                last[f"{kind}_{scaling}_{sigma}"] for kind in ("not_finite", "exploded")
            )
            assert 0 <= not_finite <= exploded <= 1
