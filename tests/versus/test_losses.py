"""What a GAN is trained by (`versus.losses`), by what must hold of it, and `versus.learners`."""

import math

import pytest
import torch
from conftest import ROOT
from torch import nn

from cascade.config import load_config
from cascade.data.batches import Batch
from cascade.versus.learners import GANLearner, Learner
from cascade.versus.losses import (
    Guide,
    discriminator_loss,
    feature_distance,
    generator_loss,
    r1_penalty,
    windows,
)
from cascade.versus.nets import Discriminator, Generator, Shape
from cascade.versus.settings import GAN, Net
from stages import InputError

CPU = torch.device("cpu")


def test_r1_of_a_linear_discriminator_is_half_the_square_of_its_weights():
    weights = torch.randn(3, 4, 4, dtype=torch.float64)
    real = torch.rand(5, 3, 4, 4, dtype=torch.float64)
    penalty = r1_penalty(lambda x: (x * weights).flatten(1).sum(1, True), real)
    torch.testing.assert_close(penalty, 0.5 * weights.square().sum())


def test_r1_falls_as_a_discriminator_is_flattened_and_has_gradients():
    torch.manual_seed(0)
    net, real = Discriminator(1, 4).double(), torch.rand(4, 1, 8, 8).double()
    before = r1_penalty(net, real)
    before.backward()
    assert all(p.grad.isfinite().all() for p in net.layers.parameters() if p.grad is not None)
    with torch.no_grad():
        net.last.weight *= 0.1
    torch.testing.assert_close(r1_penalty(net, real), 0.01 * before.detach())


def test_the_losses_of_a_discriminator_that_cannot_tell():
    nothing = torch.zeros(6, requires_grad=True)
    loss = discriminator_loss(nothing, nothing.detach())
    assert loss.item() == pytest.approx(2 * math.log(2))
    loss.backward()
    assert (nothing.grad < 0).all()  # real ones are to have higher logits
    fake = torch.zeros(6, requires_grad=True)
    generator_loss(fake).backward()
    assert generator_loss(fake).item() == pytest.approx(math.log(2)) and (fake.grad < 0).all()


def test_windows_hold_every_pixel_once():
    images = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    cut = windows(images, 4)
    assert cut.shape == (8, 3, 4, 4)
    assert torch.equal(cut[1], images[0, :, :4, 4:]) and torch.equal(cut[6], images[1, :, 4:, :4])
    assert sorted(cut.flatten().tolist()) == sorted(images.flatten().tolist())
    assert windows(images, 3).shape == (8, 3, 3, 3)


def test_a_distance_of_features_has_no_scale():
    one, two = torch.randn(2, 50, 7, dtype=torch.float64)
    found = feature_distance(one, two)
    torch.testing.assert_close(found, feature_distance(3 * one, 0.1 * two))
    assert (found >= 0).all() and (found <= 4).all() and not feature_distance(one, one).any()
    torch.testing.assert_close(feature_distance(one, -one), torch.full((50,), 4.0).double())


class Means(nn.Module):
    """Mean and mean square of each channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.mean((2, 3)), (x / 255).square().mean((2, 3)) * 200], 1)


@pytest.fixture(scope="module")
def means(tmp_path_factory):
    """A file of features that tell bright windows from dark ones."""
    file = tmp_path_factory.mktemp("net") / "means.pt"
    torch.jit.save(torch.jit.script(Means()), file)
    return file


def test_a_guide_has_gradients_and_says_what_it_cannot_take(means, tmp_path):
    guide = Guide(means, 4, CPU)
    one = (torch.rand(2, 1, 12, 12) - 0.5).requires_grad_()
    two = torch.rand(2, 1, 12, 12) - 0.5
    assert guide(one, one.detach()).item() == pytest.approx(0, abs=1e-6)
    guide(one, two, (1, 2)).backward()
    seen = one.grad.abs().sum((0, 1)) > 0
    assert seen[1:9, 2:10].all() and seen.sum() == 64
    places = {guide.place(12, 0, step) for step in range(100)}
    assert {top for top, _ in places} == {left for _, left in places} == set(range(4))
    assert Guide(means, 12, CPU).place(12, 0, 5) == (0, 0)
    torch.jit.save(torch.jit.script(nn.Linear(3, 2)), tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other.pt cannot take 1x4x4 images: "):
        Guide(tmp_path / "other.pt", 4, CPU)(one, two)


@pytest.fixture
def batch():
    """Bright squares, and what is left of them at half the size."""
    torch.manual_seed(0)
    target = torch.zeros(4, 1, 16, 16) - 0.5
    target[:, :, 4:11, 5:12] = 0.4
    return Batch(target, nn.functional.avg_pool2d(target, 2), None)


def learners(means, **settings):
    """A learner by L1 and a GAN's, of the same fresh generator."""
    config = load_config(
        ROOT / "configs" / "mnist5k" / "srf16.yaml",
        ["model.classes=0", "train.steps=10", "train.warmup=0", "train.ema=0"],
    )
    torch.manual_seed(1)
    nets = [Generator(1, Shape(6, (6,), True, True)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    gan = GAN(window=4, width=4, **settings)
    plain = Learner(nets[0], config, Net(lr=0.01))
    return plain, GANLearner(nets[1], config, Net(lr=0.01), gan, Guide(means, 4, CPU), CPU)


def test_l1_falls(means, batch):
    plain, _ = learners(means)
    losses = [plain.held_out(batch, 0).item()]
    for step in range(10):
        assert plain.update(batch, step)
        losses.append(plain.held_out(batch, 0).item())
    assert losses[-1] < 0.95 * losses[0]


def test_a_gan_begins_as_l1_and_then_its_discriminator_learns_too(means, batch):
    plain, gan = learners(means, pretrain=0.2)
    fresh = {name: p.clone() for name, p in gan.discriminator.state_dict().items()}
    for step in range(2):
        assert plain.update(batch, step) and gan.update(batch, step)
    for name, weight in plain.generator.state_dict().items():
        assert torch.equal(weight, gan.generator.state_dict()[name])
    assert all(torch.equal(fresh[n], p) for n, p in gan.discriminator.state_dict().items())
    assert plain.update(batch, 2) and gan.update(batch, 2)
    assert any(not torch.equal(fresh[n], p) for n, p in gan.discriminator.state_dict().items())
    assert not torch.equal(plain.generator.first.weight, gan.generator.first.weight)
    assert all(p.requires_grad for p in gan.discriminator.parameters())


def test_a_step_that_is_not_finite_leaves_the_weights(means, batch):
    plain, gan = learners(means, pretrain=0.0)
    batch.target[0, 0, 0, 0] = torch.nan
    for learner in (plain, gan):
        before = learner.generator.first.weight.clone()
        assert not learner.update(batch, 0)
        assert torch.equal(learner.generator.first.weight, before)


def test_the_weights_to_use_are_averaged(means, batch):
    config = load_config(
        ROOT / "configs" / "mnist5k" / "srf16.yaml", ["model.classes=0", "train.ema=0.99"]
    )
    learner = Learner(Generator(1, Shape(6, (6,), True, True)), config, Net())
    for step in range(3):
        learner.update(batch, step)
    assert not torch.equal(learner.net.last.weight, learner.generator.last.weight)
