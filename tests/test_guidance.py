"""Labels that are left out: one net with and without them, guidance, what asks for either."""

import json

import pytest
import torch
from conftest import ROOT, TINY, randomise, run_tool
from small_stages import animals, random_cascade
from torch import nn

from cascade import Cascade
from cascade.classifier.judging import Judgement, judge
from cascade.classifier.training import Classifier
from cascade.config import load_config
from cascade.data.arrays import open_npz
from cascade.data.batches import Batches
from cascade.photos.strips import labels_of
from cascade.training.phases import classification
from stages import InputError, MixtureSettings, glow
from stages.labels import NO_LABEL, ClassTable, guided
from stages.prior import ClassPrior, log_normal

HALF = ["train.label_dropout=0.5"]


def optional(kind: str) -> Cascade:
    """A cascade of random weights whose stages may be used without labels."""
    cascade = random_cascade(kind, 10)
    for stage in cascade.stages:
        stage.flow.label_optional, stage.config.train.label_dropout = True, 0.1
    return Cascade([stage.replace(chunk=2) for stage in cascade.stages])


def test_what_classes_add():
    table = randomise(ClassTable(3, 4))
    label = torch.tensor([2, NO_LABEL, 0])
    expected = table.weight[label.clamp(min=0)] * torch.tensor([[1.0], [0.0], [1.0]])
    assert torch.equal(table(label), expected)
    assert torch.allclose(table(guided(label, 3, 1.5)), 1.5 * expected)
    assert torch.equal(table(torch.zeros(1, 3)), torch.zeros(1, 4, dtype=torch.float64))


def test_guidance_of_a_prior_of_equal_deviations_is_classifier_free_guidance():
    """p(z | y)^w · p(z)^(1 − w), normalised, is the Gaussian that w times the table's row gives."""
    prior = ClassPrior(2, 1).double()
    prior.table.weight.data[:, 0] = torch.tensor([1.5, -0.5])
    z = torch.linspace(-30, 30, 20_001, dtype=torch.float64)[:, None, None, None]
    label = torch.zeros(len(z), dtype=torch.int64)

    def density(label):
        y, log_det = prior(z, label)
        return log_normal(y) + log_det

    product = 2.5 * density(label) - 1.5 * density(torch.full_like(label, NO_LABEL))
    found = density(guided(label, 2, 2.5))
    assert torch.allclose(product.softmax(0), found.softmax(0), atol=1e-9)


@pytest.mark.parametrize("first", [None, MixtureSettings(2, width=4)])
def test_every_strength_is_invertible_and_none_is_no_label(first):
    flow = randomise(glow((1, 4, 4), 1, 1, 8, classes=3, first=first, label_optional=True)).eval()
    x = (torch.randint(0, 256, (3, 1, 4, 4)) - 128 + torch.rand(3, 1, 4, 4).double()) / 256
    label = torch.tensor([0, 1, 2])
    for strength in (-1.0, 0.0, 1.0, 3.0):
        given = guided(label, 3, strength)
        z, _ = flow.encode(x, label=given)
        assert torch.allclose(flow.decode(z, label=given), x, atol=1e-6)
    assert torch.equal(flow.log_prob(x), flow.log_prob(x, label=torch.zeros(3, 3)))
    assert torch.allclose(
        flow.log_prob(x, label=label), flow.log_prob(x, label=guided(label, 3, 1))
    )
    assert not torch.allclose(flow.log_prob(x), flow.log_prob(x, label=label))


@pytest.mark.parametrize("kind", ["haar", "mixture"])
def test_a_cascade_with_and_without_labels(kind):
    cascade = optional(kind)
    labels = torch.arange(2)
    plain = cascade.sample(2, labels, seed=1)
    assert torch.equal(plain, cascade.sample(2, labels, seed=1, guidance=1.0))
    none = cascade.sample(2, labels, seed=1, guidance=0)
    assert torch.equal(none, cascade.sample(2, [NO_LABEL] * 2, seed=1))
    assert torch.equal(none, cascade.sample(2, labels.flip(0), seed=1, guidance=0))
    more = cascade.sample(2, labels, seed=1, guidance=3)
    assert not torch.equal(plain, more)
    mixed = cascade.sample(2, [NO_LABEL, 1], seed=1, guidance=3)
    assert torch.equal(mixed, torch.stack([none[0], more[1]]))
    report = cascade.likelihood(plain, [NO_LABEL] * 2)
    assert report.posterior is None and report.nats.shape == (2, 3)
    low = cascade.levels(plain)
    y = cascade.stages[0].coding.dequantise(low[0], 0, 0, 0)
    assert torch.allclose(
        cascade.stages[0].flow.log_prob(y).double() - 64 * torch.tensor(256.0).log(),
        report.nats[:, 0], rtol=1e-4,
    )  # fmt: skip
    noise = cascade.encode(plain, [NO_LABEL] * 2)
    assert torch.equal(cascade.decode(noise, [NO_LABEL] * 2), plain)


def test_what_cannot_be_done_without_labels_is_an_error():
    with pytest.raises(InputError, match="with train.label_dropout=0.1"):
        random_cascade("haar", 10).sample(2, guidance=2)
    with pytest.raises(InputError, match="no stage uses labels"):
        random_cascade("haar", 0).sample(2, guidance=2)
    with pytest.raises(InputError, match=r"must lie in 0\.\.9, got"):
        random_cascade("haar", 10).sample(2, [NO_LABEL, 0])
    cascade = optional("haar")
    with pytest.raises(InputError, match="finite number not below 0, got nan"):
        cascade.sample(2, guidance=float("nan"))
    with pytest.raises(InputError, match=r"or be -1 for none, got -2"):
        cascade.sample(2, [-2, 0])
    with pytest.raises(InputError, match="or -1 to all of them"):
        cascade.log_prob(cascade.sample(2, seed=0), [NO_LABEL, 0])
    images = cascade.sample(2, seed=0)
    with pytest.raises(InputError, match="give no prior"):
        cascade.stage_log_probs(images, [NO_LABEL] * 2, prior=torch.full((10,), 0.1))
    stage = cascade.stages[0]
    assert labels_of(stage, None, 2) is None and labels_of(stage, 3, 2).tolist() == [3, 3]
    for setting, message in (("=1", "lie in"), ("=0.1 model.classes=0", "needs model.classes")):
        words = f"train.label_dropout{setting}".split()
        with pytest.raises(InputError, match=message):
            load_config("mnist5k-haar/glow8", words)


def test_which_labels_are_left_out_depends_on_seed_step_and_place_alone(few_digits):
    config = load_config("mnist5k-haar/glow8", [f"data.name={few_digits}", *HALF])
    source = open_npz(few_digits, 1)
    whole = Batches(source, config)
    label = [whole.without_some_labels(whole(step), step).label for step in range(20)]
    share = (torch.cat(label) == NO_LABEL).double().mean()
    assert 0.45 < share < 0.55 and not torch.equal(label[0] == NO_LABEL, label[1] == NO_LABEL)
    halves = [Batches(source, config, rank, 2) for rank in (0, 1)]
    parts = [half.without_some_labels(half(3), 3).label for half in halves]
    assert torch.equal(torch.cat(parts), label[3])


def test_images_without_a_label_have_no_part_in_the_loss_of_the_read_out():
    """Nor do parts of a batch differ from the whole, however many labels each of them holds."""
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0, 2, 1, NO_LABEL])
    for kind in ("bce", "softmax"):
        whole = classification(logits, label, kind)
        (expected,) = torch.autograd.grad(whole, logits)
        assert (expected[:3] != 0).all() and not expected[3].any()
        parts = sum(classification(logits[i : i + 2], label[i : i + 2], kind) for i in (0, 2)) / 2
        torch.testing.assert_close(torch.autograd.grad(parts, logits)[0], expected)
        torch.testing.assert_close(whole, 0.75 * classification(logits[:3], label[:3], kind))
        nothing = classification(logits[3:], label[3:], kind)
        assert nothing == 0 and nothing.requires_grad


@pytest.mark.parametrize("pyramid", ["mnist5k", "mnist5k-haar"])
def test_trained_without_half_of_the_labels(few_digits, tmp_path, pyramid):
    """A stage of flow steps with a read-out, or a mixture: trained, drawn, scored by the tools."""
    few = [*TINY, "train.steps=10", "train.validate_images=16", "train.init_images=64", *HALF]
    few += ["model.steps=0"] if pyramid == "mnist5k-haar" else []
    config, out = ROOT / "configs" / pyramid / "glow8.yaml", tmp_path / "glow8"
    done = run_tool("train", config, f"out={out}", f"data.name={few_digits}", *few)
    assert done.returncode == 0, done.stderr
    grid = ["sample", out, "--num", 10, "--out", tmp_path / "g.png", "--json", tmp_path / "g.json"]
    assert run_tool(*grid, "--guidance", 2).returncode == 0
    assert json.loads((tmp_path / "g.json").read_text())["guidance"] == 2
    score = ["likelihood", out, "--data", few_digits, "--limit", 8, "--label-mode", "none"]
    done = run_tool(*score, "--json", tmp_path / "none.json")
    assert done.returncode == 0 and "classes none" in done.stdout, done.stderr
    assert json.loads((tmp_path / "none.json").read_text())["accuracy"] is None
    done = run_tool(*score, "--variational", 0.1)
    assert done.returncode == 2 and "leave --label-mode none out" in done.stderr


def test_tools_say_what_guidance_needs(tmp_path):
    run, out = animals(tmp_path / "run"), tmp_path / "grid.png"
    for command in ("sample", run), ("figures", "guidance", run, "--strengths", 1.5):
        words = ["--guidance", 2] if command[0] == "sample" else []
        done = run_tool(*command, *words, "--out", out)
        assert done.returncode == 2 and "train.label_dropout" in done.stderr and not out.exists()
    words = ["--data", "mnist5k", "--label-mode", "none"]
    done = run_tool("likelihood", run, *words)
    assert done.returncode == 2 and "trained with label_dropout" in done.stderr


def test_a_classifier_judges_samples_at_every_strength(few_digits, tmp_path):
    optional("mixture").save(tmp_path / "run")
    out = tmp_path / "guidance.png"
    words = ["--strengths", "0,2", "--num", 20, "--epochs", 1, "--data", few_digits, "--out", out]
    done = run_tool("figures", "guidance", tmp_path / "run", *words)
    assert done.returncode == 0 and out.exists(), done.stderr
    rows = out.with_suffix(".csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["guidance", "real", "0", "2"]
    assert float(rows[1].split(",")[2]) == 1
    done = run_tool(
        "figures", "guidance", tmp_path / "run", "--num", 19, "--out", tmp_path / "a.png"
    )
    assert done.returncode == 2 and "less than two of each" in done.stderr


def test_judgement_of_images_whose_class_is_their_brightness():
    images = torch.tensor([0, 10, 200, 230], dtype=torch.uint8)[:, None, None, None]
    net = Classifier(nn.Flatten(), nn.Linear(1, 2), torch.device("cpu"))
    net.logits.weight.data = torch.tensor([[-1.0], [1.0]])
    net.logits.bias.data = torch.tensor([100.0, -100.0])
    assert judge(net, images, torch.tensor([0, 0, 1, 1])) == Judgement(1.0, 20.0)
    assert judge(net, images, torch.tensor([0, 1, 0, 1])) == Judgement(0.5, 210.0)
