"""NIQE, BRISQUE and PIQE against direct computations in numpy and scipy, from the papers."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.io import savemat
from scipy.special import gamma
from skimage import data

from cascade.evaluation.enlargements import niqe, no_reference
from cascade.evaluation.enlargements.brisque import Brisque
from cascade.evaluation.enlargements.natural_scenes import asymmetric, luma
from cascade.evaluation.enlargements.niqe import Pristine
from cascade.evaluation.enlargements.piqe import piqe
from cascade.utils.tensors import write_tensors
from stages import InputError

RATIOS = np.arange(0.2, 10.0005, 0.001)
MOMENTS = gamma(2 / RATIOS) ** 2 / (gamma(1 / RATIOS) * gamma(3 / RATIOS))
WINDOW = np.exp(-(np.arange(-3, 4) ** 2) / (2 * (7 / 6) ** 2))
WINDOW /= WINDOW.sum()


def photo(rows: slice = slice(40, 200), columns: slice = slice(60, 260)) -> torch.Tensor:
    return torch.from_numpy(data.chelsea()[rows, columns].copy()).permute(2, 0, 1)


def grey_of(image: torch.Tensor) -> np.ndarray:
    red, green, blue = image.numpy().astype(float)
    return np.round(0.299 * red + 0.587 * green + 0.114 * blue)


def scaled(grey: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray]:
    def mean(x: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            x = ndimage.correlate1d(x, WINDOW, axis, mode=mode, cval=0)
        return x

    deviation = np.sqrt(np.abs(mean(grey**2) - mean(grey) ** 2))
    return (grey - mean(grey)) / (deviation + 1), deviation


def moments(x: np.ndarray) -> tuple[float, float, float]:
    """Shape, and root mean squares of the left and the right side."""
    left, right = (np.sqrt(np.mean(side**2)) for side in (x[x < 0], x[x > 0]))
    ratio = left / right
    r = np.mean(np.abs(x)) ** 2 / np.mean(x**2)
    r *= (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1) ** 2
    return RATIOS[np.argmin((MOMENTS - r) ** 2)], left, right


def half(grey: np.ndarray) -> np.ndarray:
    """At half the size by a cubic kernel of a = -0.5, twice as wide, mirrored at the edges."""
    offsets = np.arange(-3.5, 4) / 2
    x = np.abs(offsets)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0))
    weights /= weights.sum()
    for axis in (0, 1):
        pad = [(4, 4) if i == axis else (0, 0) for i in (0, 1)]
        lines = np.moveaxis(np.pad(grey, pad, "symmetric"), axis, 0)
        count = grey.shape[axis] // 2
        sums = sum(w * lines[1 + k : 1 + k + 2 * count : 2] for k, w in enumerate(weights))
        grey = np.moveaxis(sums, 0, axis)
    return grey


def niqe_features(image: torch.Tensor, patch: int) -> tuple[np.ndarray, np.ndarray]:
    grey = grey_of(image)
    tall, wide = (side // patch * patch for side in grey.shape)
    grey = grey[:tall, :wide]
    rows, sharpness = [], []
    scales = [(scaled(grey, "nearest"), patch), (scaled(half(grey), "nearest"), patch // 2)]
    for i in range(tall // patch):
        for j in range(wide // patch):
            row = []
            for k, ((values, deviation), side) in enumerate(scales):
                place = np.s_[i * side : (i + 1) * side, j * side : (j + 1) * side]
                if k == 0:
                    sharpness.append(deviation[place].mean())
                block = values[place]
                for shift in (None, (0, 1), (1, 0), (1, 1), (1, -1)):
                    x = block if shift is None else block * np.roll(block, shift, (0, 1))
                    shape, left, right = moments(x.ravel())
                    left, right = (
                        s * np.sqrt(gamma(1 / shape) / gamma(3 / shape)) for s in (left, right)
                    )
                    mean = (right - left) * gamma(2 / shape) / gamma(1 / shape)
                    row += (
                        [shape, (left + right) / 2] if shift is None else [shape, mean, left, right]
                    )
            rows.append(row)
    return np.array(rows), np.array(sharpness)


@pytest.fixture(scope="module")
def pristine():
    """Of two textures, each of many sharp patches, and an image that is too small for one."""
    textures = [torch.from_numpy(kind()[:176, :176].copy()) for kind in (data.grass, data.gravel)]
    images = [texture.expand(3, -1, -1) for texture in textures]
    return images, Pristine.fit([*images, torch.zeros(3, 8, 8, dtype=torch.uint8)], 16)


def test_niqe_is_the_papers(pristine):
    images, model = pristine
    known = [niqe_features(image, 16) for image in images]
    sharp = np.concatenate([f[s > 0.75 * s.max()] for f, s in known])
    assert 37 < len(sharp) < sum(len(f) for f, _ in known)
    assert np.allclose(model.mean, sharp.mean(0)) and np.allclose(model.covariance, np.cov(sharp.T))
    found, _ = niqe_features(photo(), 16)
    mine, _ = niqe.patches(photo(), 16)
    assert np.allclose(mine, found, atol=1e-9)
    apart, joint = found.mean(0) - sharp.mean(0), (np.cov(found.T) + np.cov(sharp.T)) / 2
    assert model(photo()) == pytest.approx(np.sqrt(apart @ np.linalg.inv(joint) @ apart))


def distorted(image: torch.Tensor) -> dict[str, torch.Tensor]:
    noise = 25 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    blurred = ndimage.gaussian_filter(image.numpy(), (0, 2.5, 2.5))
    return {
        "noise": (image + noise).clamp(0, 255).to(torch.uint8),
        "blur": torch.from_numpy(blurred),
    }


def test_what_is_distorted_is_worse(pristine):
    whole = distorted(photo())
    for image in whole.values():
        assert pristine[1](image) > pristine[1](photo()) + 1 and piqe(image) > piqe(photo()) + 10


def test_piqe_is_the_papers_block_by_block():
    image = photo(slice(40, 171), slice(60, 250))  # 16 divides neither side
    grey = np.pad(grey_of(image), ((0, 13), (0, 2)), "edge")
    values, _ = scaled(grey, "nearest")
    total, busy, kinds = 0.0, 0, set()
    for i in range(0, grey.shape[0], 16):
        for j in range(0, grey.shape[1], 16):
            block = values[i : i + 16, j : j + 16]
            variance = block.var(ddof=1)
            if variance <= 0.1:
                continue
            edges = (block[0], block[-1], block[:, 0], block[:, -1])
            pieces = [edge[k : k + 6].std(ddof=1) for edge in edges for k in range(11)]
            surround = np.delete(np.delete(block, 7, 1), 8, 1)
            ratio = block[:, 7:9].std(ddof=1) / surround.std(ddof=1)
            deviation = np.sqrt(variance)
            noisy = deviation > 2 * abs(deviation - ratio) / max(deviation, ratio)
            flat = min(pieces) < 0.1
            kinds.add((flat, bool(noisy)))
            busy, total = busy + 1, total + flat * (1 - variance) + noisy * variance
    assert piqe(image) == pytest.approx(100 * (total + 1) / (busy + 1))
    assert len(kinds) > 2 and piqe(torch.full((1, 20, 20), 7, dtype=torch.uint8)) == 100
    assert piqe(image[:1]) == piqe(image[:1].expand(3, -1, -1))


def brisque_weights(file) -> tuple[np.ndarray, np.ndarray]:
    source = torch.Generator().manual_seed(0)
    coefficients = torch.randn(20, 1, generator=source)
    vectors = 2 * torch.rand(20, 36, generator=source) - 1
    torch.save((coefficients, vectors), file)
    return coefficients.double().numpy(), vectors.double().numpy()


def test_brisque_is_the_papers(tmp_path):
    """By weights of chance: what is sought is that the features reach the regression."""
    coefficients, vectors = brisque_weights(tmp_path / "weights.pt")
    model = Brisque.load(tmp_path / "weights.pt")
    before = torch.hub.get_dir()
    score = model(photo())
    assert torch.hub.get_dir() == before and model(photo()) == score
    from piq.brisque import _scale_features

    grey, features = grey_of(photo()), []
    for _ in range(2):
        values, _ = scaled(grey, "constant")
        rho = np.mean(values**2) / np.mean(np.abs(values)) ** 2
        features += [RATIOS[np.argmin(np.abs(1 / MOMENTS - rho))], np.mean(values**2)]
        for shift in ((0, 1), (1, 0), (1, 1), (-1, 1)):
            shape, left, right = moments((values * np.roll(values, shift, (0, 1))).ravel())
            scale = gamma(2 / shape) / np.sqrt(gamma(1 / shape) * gamma(3 / shape))
            features += [shape, (right - left) * scale, left**2, right**2]
        grey = half(grey)
    seen = _scale_features(torch.tensor([features])).numpy()
    kernel = np.exp(-0.05 * ((seen - vectors) ** 2).sum(1))
    assert score == pytest.approx(kernel @ coefficients[:, 0] + 153.591, abs=0.01)
    assert abs(score - model(distorted(photo())["noise"])) > 0.1


def test_a_known_law_is_recovered():
    source = np.random.default_rng(0)
    for shape, left, right in ((0.7, 1.0, 3.0), (2.0, 2.0, 2.0), (4.0, 3.0, 0.5)):
        sizes = source.gamma(1 / shape, size=200_000) ** (1 / shape)
        negative = source.random(200_000) < left / (left + right)
        values = torch.from_numpy(np.where(negative, -left, right) * sizes)[None]
        found = torch.stack(asymmetric(values))[:, 0]
        assert found.tolist() == pytest.approx([shape, left, right], rel=0.04)


def test_files(pristine, tmp_path):
    """What is written is what is read; the authors' file is read; others are one clear line."""
    model, file = pristine[1], tmp_path / "pristine.safetensors"
    model.save(file)
    again = Pristine.load(file)
    assert torch.equal(again.covariance, model.covariance) and again.patch == 16
    savemat(
        tmp_path / "theirs.mat",
        {"mu_prisparam": model.mean[None].numpy(), "cov_prisparam": model.covariance.numpy()},
    )
    theirs = Pristine.load(tmp_path / "theirs.mat")
    assert torch.equal(theirs.mean, model.mean) and theirs.patch == 96
    savemat(tmp_path / "other.mat", {"a": 1})
    torch.save({"a": 1}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("no weights")
    brisque_weights(tmp_path / "weights.pt")
    unsized = {"mean": model.mean, "covariance": model.covariance}
    write_tensors(unsized, tmp_path / "unsized.safetensors")
    names = {"niqe": file, "brisque": tmp_path / "weights.pt", "with_piqe": True}
    judges = no_reference.judges(**names)
    assert list(no_reference.scores_of(photo(), judges)) == ["niqe", "brisque", "piqe"]
    assert no_reference.origins(judges)["piqe"] == {"file": None, "sha256": None}
    small, flat = photo()[:, :15, :15], torch.full((1, 40, 40), 7, dtype=torch.uint8)
    for says, attempt in (
        ("csrflow pristine", lambda: Pristine.load(tmp_path / "none")),
        ("no .mat that holds mu_prisparam", lambda: Pristine.load(tmp_path / "other.mat")),
        ("holds no model of good photos", lambda: Pristine.load(tmp_path / "unsized.safetensors")),
        ("not a readable safetensors", lambda: Pristine.load(tmp_path / "weights.pt")),
        ("curl -LO", lambda: Brisque.load(tmp_path / "none.pt")),
        ("is not piq's", lambda: Brisque.load(tmp_path / "other.pt")),
        ("is not piq's", lambda: Brisque.load(tmp_path / "text.pt")),
        ("sharp patches of 96x96", lambda: Pristine.fit([photo()])),
        ("even side", lambda: Pristine.fit([photo()], 17)),
        ("lacks", lambda: again(small)),
        ("lacks", lambda: again(flat)),
        ("16x16", lambda: judges[1].score(small)),
        ("flat", lambda: judges[1].score(flat)),
    ):
        with pytest.raises(InputError, match=says):
            attempt()


def test_luma():
    image = photo()
    assert np.array_equal(luma(image), grey_of(image)) and torch.equal(luma(image[:1]), image[0])
