"""The cascade as a user holds it, on a small one trained on real digits."""

import math
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, run_tool
from small_stages import random_cascade
from torch import nn

from cascade import Cascade, InputError
from cascade.config import load_config
from cascade.data import open_images
from cascade.manifest import check_order
from cascade.transforms.dequantise import centre, expand_bits, log_volume
from cascade.transforms.pyramid import halve, halve_to
from cascade.utils.chunks import CHUNK
from cascade.utils.seeds import sample_noise
from cascade.utils.tensors import read_tensors, write_tensors


@pytest.fixture(scope="module")
def cascade(digits) -> Cascade:
    return Cascade.load(digits)


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    source = open_images("mnist5k", "test", 1)
    chosen = torch.arange(0, 500, 5)
    return halve_to(source.read(chosen), 16), source.labels[chosen]


def test_round_trip_is_exact(cascade, images):
    x, labels = images
    noises = cascade.encode(x, labels)
    assert [tuple(z.shape) for z in noises] == [(100, 1, 8, 8), (100, 1, 16, 16)]
    assert torch.equal(cascade.decode(noises, labels), x)


@pytest.mark.parametrize("kind", ["glow", "srflow"])
@pytest.mark.parametrize("channels", [1, 3])
def test_round_trip_is_exact_for_every_stage_kind(kind, channels):
    from conftest import randomise

    from cascade.transforms.dequantise import centre, quantise
    from stages import glow, srflow

    encoder = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}
    shape, options = (channels, 16, 16), {"levels": 3, "steps": 3, "width": 8, "squish": 0.5}
    flow = glow(shape, **options) if kind == "glow" else srflow(shape, **options, **encoder)
    flow = randomise(flow, 0.1).float()
    x = torch.randint(0, 256, (20, *shape), dtype=torch.uint8)
    low = None if kind == "glow" else centre(halve(x))
    z, _ = flow.encode(centre(x), low)
    assert torch.equal(quantise(flow.decode(z, low)), x)


def test_likelihood_does_not_depend_on_batch_or_order(cascade, images):
    x, labels = images
    together = cascade.log_prob(x)
    order = torch.randperm(len(x))
    assert torch.equal(cascade.log_prob(x[order]), together[order])
    for i in (0, 17, 99):
        assert torch.equal(cascade.log_prob(x[i : i + 1]), together[i : i + 1])
    assert torch.equal(
        torch.cat(
            [cascade.log_prob(part, y) for part, y in zip(x.split(7), labels.split(7), strict=True)]
        ),
        cascade.log_prob(x, labels),
    )


def test_samples_depend_on_seed_and_number_alone(cascade):
    together = cascade.sample(CHUNK + 3, seed=5)
    assert together.dtype == torch.uint8 and together.shape == (CHUNK + 3, 1, 16, 16)
    assert torch.equal(cascade.draw(4, seed=5, first=CHUNK - 1).images[-1], together[-4:])
    assert not torch.equal(cascade.sample(CHUNK + 3, seed=6), together)


def test_temperature_scales_noise(cascade):
    means = [cascade.sample(6, labels=[3] * 6, temperature=0.0, seed=s) for s in (0, 1)]
    assert torch.equal(*means) and (means[0] == means[0][:1]).all()
    per_stage = cascade.sample(6, temperature=[0.0, 1.0])
    assert not torch.equal(per_stage, cascade.sample(6, temperature=[0.0, 0.5]))
    with pytest.raises(InputError, match="3 temperatures for 2 stages"):
        cascade.sample(1, temperature=[1, 1, 1])


def test_labels_change_samples_and_likelihood(cascade, images):
    x, labels = images
    assert not torch.equal(cascade.sample(4, labels=[0] * 4), cascade.sample(4, labels=[1] * 4))
    assert not torch.equal(cascade.log_prob(x, labels), cascade.log_prob(x, (labels + 1) % 10))
    marginal = cascade.log_prob(x)
    given = cascade.log_prob(x, labels) - torch.tensor(10.0).log()
    assert (marginal >= given).all()


def test_report(cascade, images):
    x, labels = images
    report = cascade.likelihood(x, labels)
    assert sum(stage["share"] for stage in report.stages) == pytest.approx(report.bpd)
    assert torch.equal(report.nats.sum(1), cascade.log_prob(x, labels))
    assert cascade.check_samples(8).consistency[0]["mean"] > 0
    assert cascade.likelihood(x).accuracy(labels) > 0.1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([10, 0], "must lie in 0..9"),
        ([-1, 0], "must lie in 0..9"),
        ([1], "2 images need 2 labels"),
    ],
)
def test_bad_labels(cascade, labels, message):
    with pytest.raises(InputError, match=message):
        cascade.sample(2, labels=labels)


def test_bad_images(cascade):
    with pytest.raises(InputError, match="takes uint8 images"):
        cascade.log_prob(torch.rand(2, 1, 16, 16))
    with pytest.raises(InputError, match="takes uint8 images"):
        cascade.log_prob(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match="give labels"):
        cascade.encode(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))


def test_a_stage_alone_and_stages_by_name(digits, cascade, images):
    base = Cascade.load(digits / "glow8")
    x = halve(images[0])
    nats = cascade.stage_log_probs(images[0], images[1])[0]
    assert torch.equal(base.log_prob(x, images[1]), nats[:, 0])
    assert [s.name for s in Cascade.load(digits, ["glow8", "srf16"]).stages] == ["glow8", "srf16"]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("[srf16, glow8]", "first stage must be a Glow; srf16"),
        ("[glow8, glow8]", "only the first stage may be one"),
        ("[srf16]", "needs a 8x8 stage before it"),
        ("[glow8, srf99]", "no stage folder"),
        ("7", "must hold 'stages: "),
    ],
)
def test_broken_cascades(digits, tmp_path, stages, message):
    shutil.copytree(digits, tmp_path / "run")
    (tmp_path / "run" / "cascade.yaml").write_text(f"stages: {stages}\n")
    with pytest.raises(InputError, match=message):
        Cascade.load(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("data.size=32", "wrong order: srf16 .32x32. cannot follow glow8 .8x8."),
        ("data.channels=3", "glow8 has channels=1, but srf16 has channels=3"),
        ("data.bits=5", "glow8 has bits=8, but srf16 has bits=5"),
        ("model.pyramid=haar", "glow8 has pyramid=bicubic, but srf16 has pyramid=haar"),
        ("model.classes=7", "differ in their number of classes"),
    ],
)
def test_stages_that_do_not_follow_one_another(change, message):
    files = {name: ROOT / "configs" / "mnist5k" / f"{name}.yaml" for name in ("glow8", "srf16")}
    low = load_config(files["glow8"])
    high = load_config(files["srf16"], [change, "model.residual=false"])
    with pytest.raises(InputError, match=message):
        check_order([("glow8", low), ("srf16", high)])


def test_weights_that_are_not_weights(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "run")
    weights = tmp_path / "run" / "glow8" / "model.safetensors"
    torch.save({"x": torch.zeros(1)}, weights)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        Cascade.load(tmp_path / "run")
    tensors = read_tensors(digits / "srf16" / "model.safetensors")
    write_tensors(tensors, weights)
    with pytest.raises(InputError, match="another architecture"):
        Cascade.load(tmp_path / "run")


def test_fewer_bits_round_trip(tmp_path):
    config = ROOT / "configs" / "mnist5k" / "glow8.yaml"
    done = run_tool(
        "train", config, f"out={tmp_path / 'glow8'}", *TINY, "data.bits=3", "train.steps=2"
    )
    assert done.returncode == 0, done.stderr
    cascade = Cascade.load(tmp_path / "glow8")
    x, labels = cascade.sample(8), torch.arange(8) % 10
    assert torch.equal(cascade.decode(cascade.encode(x, labels), labels), x)
    assert len(x.unique()) <= 8
    source = open_images("mnist5k", "test", 1)
    floored = halve_to(source.pixels[:8] >> 5, 8, bits=3)  # the full image first, as in training
    assert torch.equal(cascade.resize(source.pixels[:8]), expand_bits(floored, 3))


def test_unconditional_base_under_conditional_stages(digits, images, tmp_path):
    """The base ignores labels: its nats are the same for all, in either mode."""
    shutil.copytree(digits, tmp_path / "run")
    done = run_tool(
        "train", ROOT / "configs" / "mnist5k" / "glow8.yaml",
        f"out={tmp_path / 'run' / 'glow8'}", *TINY, "model.classes=0", "train.steps=2", "--force",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    mixed = Cascade.load(tmp_path / "run")
    x, labels = images
    given, marginal = mixed.stage_log_probs(x, labels)[0], mixed.stage_log_probs(x)[0]
    torch.testing.assert_close(given[:, 0], marginal[:, 0], rtol=0, atol=1e-9)
    assert not torch.allclose(given[:, 1], marginal[:, 1])
    assert torch.equal(mixed.decode(mixed.encode(x, labels), labels), x)
    base = Cascade.load(tmp_path / "run" / "glow8")
    for call in (lambda: base.sample(1, labels=[0]), lambda: base.log_prob(halve(x[:1]), [0])):
        with pytest.raises(InputError, match="no stage of this cascade uses them"):
            call()


def test_a_cascade_is_a_module(digits, images, tmp_path):
    """It moves, it has a state, and what is saved is read back to the same figures."""
    cascade, (x, labels) = Cascade.load(digits), images
    assert isinstance(cascade, nn.Module) and not cascade.training
    keys = {name for stage in cascade.stages for name in stage.flow.state_dict()}
    assert {name.split(".flow.")[1] for name in cascade.state_dict()} == keys
    nats = cascade.log_prob(x, labels)
    double = Cascade.load(digits).to(torch.float64)
    assert next(double.parameters()).dtype == torch.float64
    assert torch.allclose(double.log_prob(x, labels), nats, rtol=1e-5)
    cascade.save(tmp_path / "saved")
    again = Cascade.load(tmp_path / "saved")
    assert torch.equal(again.log_prob(x, labels), nats)
    assert again.class_names == cascade.class_names and again.pyramid == cascade.pyramid
    again.load_state_dict({key: torch.zeros_like(t) for key, t in again.state_dict().items()})
    again.load_state_dict(cascade.state_dict())
    assert torch.equal(again.log_prob(x, labels), nats)


def test_samples_without_a_seed_follow_torch(digits):
    cascade = Cascade.load(digits)
    torch.manual_seed(5)
    one, two = cascade.sample(2), cascade.sample(2)
    torch.manual_seed(5)
    assert torch.equal(cascade.sample(2), one) and not torch.equal(one, two)
    assert torch.equal(cascade.sample(2, seed=3), cascade.sample(2, seed=np.int64(3)))
    assert torch.equal(cascade.sample(2, seed=3), cascade.sample(2, seed=torch.tensor(3)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, x: c.sample(2, seed=1.0), "seed is a whole number"),
        (lambda c, x: c.sample(2, ["a", 1]), "labels are whole numbers"),
        (lambda c, x: c.sample(1, [float("nan")]), "labels are whole numbers"),
        (lambda c, x: c.log_prob(x[:2], [0.9, 1.9]), "labels are whole numbers"),
        (lambda c, x: c.sample(2, temperature="0.8"), "a temperature is a number"),
        (lambda c, x: c.likelihood(x, samples=0), "at least one dequantisation sample"),
        (lambda c, x: c.log_prob(x.numpy()), "a torch.Tensor, got ndarray"),
        (lambda c, x: c.decode(c.encode(x, [0] * len(x))[:1], [0] * len(x)), "a noise a stage"),
        (lambda c, x: c.decode([], []), "a noise a stage"),
        (lambda c, x: c.resize(x.float()), "a uint8 tensor"),
        (lambda c, x: Cascade([]), "at least one stage"),
        (lambda c, x: c.given_sigma(0.5), "no stage of this cascade was trained with"),
    ],
)
def test_arguments_that_mean_nothing(digits, images, call, message):
    with pytest.raises(InputError, match=message):
        call(Cascade.load(digits), images[0])


def test_temperatures_of_any_type(digits):
    cascade = Cascade.load(digits)
    for same in (np.float32(0.5), torch.tensor(0.5), [0.5, 0.5], torch.tensor([0.5, 0.5])):
        one = cascade.sample(2, temperature=same, seed=0)
        assert torch.equal(one, cascade.sample(2, temperature=0.5, seed=0))


def test_a_stage_folder_of_another_format(digits, tmp_path):
    shutil.copytree(digits, tmp_path / "run")
    file = tmp_path / "run" / "glow8" / "config.yaml"
    text = file.read_text()
    assert "format: 2" in text
    file.write_text(text.replace("format: 2", "format: 3"))
    with pytest.raises(InputError, match="is of format 3, this version of csrflow reads format 2"):
        Cascade.load(tmp_path / "run")
    file.write_text(text.replace("format: 2\n", ""))
    with pytest.raises(InputError, match="is of format 1, .*train the stage again"):
        Cascade.load(tmp_path / "run")


@pytest.mark.parametrize("classes", [0, 10])
@torch.no_grad()
def test_what_was_drawn_is_scored_as_it_was_drawn(classes):
    cascade, count = random_cascade("haar", classes), 3
    labels = torch.arange(count) if classes else None
    noises = [sample_noise(s.flow.shape, 0, i, 0, count) for i, s in enumerate(cascade.stages)]
    columns, low, outside = 0, None, []
    for stage, noise in zip(cascade.stages, noises, strict=True):
        y = stage.run(stage.flow.decode, noise, low, labels)
        outside.append((stage.coding.out_of_range(y) > 0).any())  # which rounding would move far
        below = None if low is None else centre(low)
        columns = columns + stage.flow.class_log_probs(y, below).double()
        columns = columns - log_volume(y[0].numel())
        low, _ = stage.coding.image(y, low)
    assert any(outside)
    expected = columns.logsumexp(1) - math.log(max(1, classes))
    torch.testing.assert_close(cascade.drawn_log_prob(noises, labels), expected)
