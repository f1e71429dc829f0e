"""Scores of features against brute force, closed forms and clean-fid's own pipeline."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cascade.evaluation import distances, features
from cascade.evaluation.distances import compare, frechet_distance, kernel_distance, neighbourhoods
from cascade.evaluation.enlargements.image_metrics import bicubic, mean_squares, psnr, ssim
from cascade.evaluation.features import INCEPTION, INCEPTION_SHA256, FeatureNet, inception, scripted
from stages import InputError


def gaussian(count, seed=0, scale=1.0, shift=0.0, size=8):
    drawn = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    return scale * drawn + shift


def test_frechet_distance_is_clean_fids_and_the_formula():
    from cleanfid.fid import frechet_distance as theirs

    one, two = gaussian(500, scale=2.0), gaussian(400, seed=1, shift=0.5)
    found = frechet_distance(one, two)
    means, covariances = [], []
    for table in (one.double().numpy(), two.double().numpy()):
        means.append(table.mean(0))
        covariances.append(np.cov(table, rowvar=False))
    (m1, m2), (c1, c2) = means, covariances
    assert found == pytest.approx(theirs(m1, c1, m2, c2), rel=1e-6)
    values, vectors = np.linalg.eigh(c1)
    root = vectors * np.sqrt(values) @ vectors.T
    trace = np.sqrt(np.linalg.eigvalsh(root @ c2 @ root)).sum()
    closed = ((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * trace
    assert found == pytest.approx(closed, rel=1e-6)
    assert abs(frechet_distance(one, one)) < 1e-4 < found


def test_kernel_distance_is_the_unbiased_mmd_and_leaves_numpys_generator_alone():
    one, two = gaussian(60), gaussian(60, seed=1, shift=0.3)
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    found = kernel_distance(one, two)
    assert np.random.rand() == expected

    def kernel(a, b):
        return (a.double() @ b.double().T / 8 + 1) ** 3

    def apart(table):  # every subset holds all rows, so the mean is that of the whole sets
        return kernel(table, table).fill_diagonal_(0).sum() / (60 * 59)

    whole = apart(one) + apart(two) - 2 * kernel(one, two).mean()
    assert found == pytest.approx(whole.item(), rel=1e-4)


def test_neighbourhoods_are_those_of_brute_force(monkeypatch):
    real, fake = gaussian(40), gaussian(30, seed=1, shift=0.4)
    found = neighbourhoods(real, fake)
    across = np.array([[np.linalg.norm(r - f) for f in fake.numpy()] for r in real.numpy()])

    def radii(points, k):
        own = [[np.linalg.norm(a - b) for b in points.numpy()] for a in points.numpy()]
        return np.array([sorted(row)[k] for row in own])

    inside = across <= radii(real, 5)[:, None]
    assert found == pytest.approx(
        {
            "precision": (across <= radii(real, 3)[:, None]).any(0).mean(),
            "recall": (across <= radii(fake, 3)).any(1).mean(),
            "density": inside.sum() / (5 * 30),
            "coverage": inside.any(1).mean(),
        }
    )
    monkeypatch.setattr(distances, "POINTS", 7)
    assert neighbourhoods(real, fake) == found


def test_neighbourhoods_of_clear_cases():
    real = gaussian(200)
    same, far = neighbourhoods(real, real.clone()), neighbourhoods(real, real + 100)
    assert (same["precision"], same["recall"], same["coverage"]) == (1, 1, 1)
    assert set(far.values()) == {0}
    one = real[0] + 1e-3 * gaussian(200, seed=1)  # all samples are nearly one real image
    collapsed = neighbourhoods(real, one)
    assert collapsed["precision"] == 1 and collapsed["recall"] <= 1 / 200
    assert collapsed["coverage"] < 0.2


def test_halves_of_one_set_are_near_and_few_images_are_refused():
    table, other = gaussian(600), gaussian(300, seed=1, shift=1.0)
    split = compare(table[::2], table[1::2])
    apart = compare(table[::2], other)
    assert split["frechet"] < apart["frechet"] / 20
    assert abs(split["kernel"]) < apart["kernel"] / 20
    with pytest.raises(InputError, match="6 images of either kind, got 5"):
        compare(table[:5], other)


class StandIn(nn.Module):
    """As Inception's file from the outside: ``layers`` of normalised 299×299 images, or both."""

    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3 * 36, 2048)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(nn.functional.adaptive_avg_pool2d(x, 6).flatten(1))

    def __init__(self):
        super().__init__()
        self.layers = StandIn.Layers()

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = nn.functional.interpolate(x, size=[299, 299], mode="bilinear")
        return self.layers((x - 128) / 128)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    file = tmp_path_factory.mktemp("weights") / INCEPTION
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.jit.script(StandIn()).save(file)
    return file


@pytest.mark.parametrize("mode", ["clean", "legacy_tensorflow"])
@pytest.mark.parametrize("channels", [1, 3])
def test_inception_features_are_clean_fids_own(weights, tmp_path, mode, channels):
    from cleanfid.fid import get_folder_features
    from cleanfid.inception_torchscript import InceptionV3W

    drawn = torch.randint(0, 256, (18, channels, 12, 12), generator=torch.Generator())
    images = drawn.to(torch.uint8)
    for i, image in enumerate(images):
        pixels = image.permute(1, 2, 0).squeeze(2).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
    theirs = get_folder_features(
        str(tmp_path), InceptionV3W(str(weights.parent), False, mode != "clean"), num_workers=0,
        batch_size=16, device="cpu", mode=mode, verbose=False,
    )  # fmt: skip
    renamed = weights.with_name("mine.pt")
    renamed.write_bytes(weights.read_bytes())
    net = inception(renamed, mode)
    ours = net(images)
    assert ours.shape == (18, 2048)
    assert np.allclose(ours.numpy(), theirs, atol=1e-5)
    assert torch.equal(net(images[:5]), ours[:5])  # a row depends on its own image alone
    assert not net.genuine and net.labels["frechet"] == "Fréchet distance, features mine.pt"


def test_only_the_known_weights_give_fid():
    def nothing(images):
        return images

    assert FeatureNet("x.pt", INCEPTION_SHA256, "clean", nothing).labels["frechet"] == "FID"
    assert FeatureNet("x.pt", "0" * 64, "clean", nothing).labels["frechet"] != "FID"
    assert FeatureNet("x.pt", INCEPTION_SHA256, None, nothing).labels["kernel"] != "KID"


def test_missing_and_foreign_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(features, "USUAL", tmp_path / INCEPTION)
    with pytest.raises(InputError, match="curl -O https"):
        inception()
    with pytest.raises(InputError, match="no file nowhere.pt; get them by"):
        inception("nowhere.pt")
    (tmp_path / INCEPTION).write_text("not a net")
    with pytest.raises(InputError, match="is no TorchScript Inception"):
        inception()
    with pytest.raises(InputError, match="is no TorchScript net"):
        scripted(tmp_path / INCEPTION)


def test_pair_figures_are_scikit_images():
    from skimage.metrics import peak_signal_noise_ratio

    one, noise = torch.randint(0, 200, (2, 3, 3, 16, 16), generator=torch.Generator())
    one, two = one.to(torch.uint8), (one + noise // 4).to(torch.uint8)
    found = psnr(mean_squares(one, two))
    for a, b, value in zip(one, two, found, strict=True):
        assert value.item() == pytest.approx(peak_signal_noise_ratio(a.numpy(), b.numpy()))
    assert ssim(one, one).tolist() == pytest.approx([1, 1, 1])
    assert (ssim(one, two) < 1).all()
    flat = torch.full((1, 1, 4, 4), 77, dtype=torch.uint8)
    assert (bicubic(flat, 4) == 77).all() and bicubic(flat, 4).shape == (1, 1, 16, 16)
