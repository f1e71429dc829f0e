"""The Haar cascade: a pyramid without loss, and a composition that is an equality."""

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, run_tool
from enumeration import all_integers
from skimage.data import astronaut

from cascade import Cascade, InputError
from cascade.config import load_config
from cascade.data import open_images
from cascade.manifest import check_order
from cascade.transforms.coding import Details, Pixels
from cascade.transforms.dequantise import dequantise, integers
from cascade.transforms.haar import join, split
from cascade.transforms.pyramid import halve, halve_to, pyramid


def photograph() -> torch.Tensor:
    return torch.from_numpy(np.array(astronaut())).permute(2, 0, 1)[None]


def extremes() -> torch.Tensor:
    """Every 2×2 image of the values that strain the arithmetic."""
    return torch.cartesian_prod(*[torch.tensor([0, 1, 2, 127, 128, 253, 254, 255])] * 4).reshape(
        -1, 1, 2, 2
    )


@pytest.mark.parametrize(
    "make",
    [photograph, extremes, lambda: torch.randint(0, 256, (50, 3, 16, 32)).to(torch.uint8)],
)
def test_an_image_is_its_low_image_and_its_details(make):
    image = make().to(torch.uint8)
    low, details = split(image)
    assert low.dtype == torch.uint8 and details.dtype == torch.int16
    assert details.shape[1] == 3 * image.shape[1]
    assert torch.equal(join(low, details), image)
    assert torch.equal(halve(image, kind="haar"), low)
    lh, hl, hh = details.chunk(3, dim=1)
    assert max(lh.abs().max(), hl.abs().max()) <= 255 and hh.abs().max() <= 510


def test_every_image_of_two_bits():
    images = all_integers(0, 4, (1, 2, 2)).to(torch.uint8)
    low, details = split(images)
    assert low.max() == 3
    assert len(torch.cat([low.int().flatten(1), details.flatten(1)], 1).unique(dim=0)) == 4**4
    assert torch.equal(join(low, details, bits=2), images)


def test_details_lie_where_their_names_say():
    """lh changes down the columns, hl along the rows, hh both ways."""
    down = torch.tensor([[9, 9], [5, 5]])[None, None]
    along = torch.tensor([[9, 5], [9, 5]])[None, None]
    both = torch.tensor([[9, 5], [5, 9]])[None, None]
    assert split(down)[1].flatten().tolist() == [4, 0, 0]
    assert split(along)[1].flatten().tolist() == [0, 4, 0]
    assert split(both)[1].flatten().tolist() == [0, 0, 8]


def test_the_smallest_level_and_the_details_rebuild_the_image():
    image = photograph()
    levels = pyramid(image, 4, kind="haar")
    rebuilt = levels[0]
    for above in levels[1:]:
        rebuilt = join(rebuilt, split(above)[1])
    assert torch.equal(rebuilt, image)
    assert torch.equal(levels[0], halve_to(image, 64, kind="haar"))
    assert torch.equal(halve(image.flip(3), kind="haar"), levels[-2].flip(3))


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_clipping_keeps_the_low_image_and_every_valid_detail(bits):
    top = 2**bits - 1
    low = torch.randint(0, top + 1, (20_000, 1, 1, 1)).to(torch.uint8)
    wild = torch.randint(-3 * top - 2, 3 * top + 3, (20_000, 3, 1, 1))
    image = join(low, wild, bits)
    assert image.max() <= top
    assert torch.equal(split(image)[0], low)
    valid = split(image)[1]
    assert torch.equal(join(low, valid, bits), image)
    small = torch.randint(-1, 2, (20_000, 3, 1, 1))
    image, clipped = Details(bits).image((small + 2 ** (bits - 1) + 0.5) / 2**bits - 0.5, low)
    kept = (split(image)[1] == small).flatten(1).all(1)
    assert torch.equal(kept, clipped == 0)


def test_clipping_admits_exactly_what_images_have():
    """For each low value, the details that are kept are those of its images: all of two bits."""
    images = all_integers(0, 4, (1, 2, 2)).to(torch.uint8)
    low, details = split(images)
    box = all_integers(-7, 8, (3, 1, 1))
    for value in range(4):
        same = torch.full((len(box), 1, 1, 1), value, dtype=torch.uint8)
        kept = (split(join(same, box, 2))[1] == box).flatten(1).all(1)
        theirs = details[low.flatten() == value].flatten(1).unique(dim=0)
        assert torch.equal(box[kept].flatten(1).unique(dim=0), theirs)


def test_clamping_pixels_would_not_keep_the_low_image():
    low = torch.tensor([[[[250]]]], dtype=torch.uint8)
    details = torch.tensor([40, 0, 0]).reshape(1, 3, 1, 1)
    clamped = torch.tensor([[270, 270], [230, 230]]).clamp(0, 255)[None, None]
    assert halve(clamped, kind="haar") != low
    assert halve(join(low, details), kind="haar") == low


def test_detail_values_and_their_bins():
    coding, image = Details(8), photograph()
    low, details = split(image)
    y = coding.centre(image, torch.float64)
    torch.testing.assert_close(y, (details.double() + 0.5) / 256, rtol=0, atol=1e-12)
    back, clipped = coding.image(y, low)
    assert torch.equal(back, image) and not clipped.any()
    assert torch.equal(integers(coding.dequantise(image, 0, 1, 2)), coding.values(image).int())
    largest = torch.tensor([-510, 510]) + 128
    for u in (2**-15, 1 - 2**-15):  # the outermost noise, see `uniform`
        assert torch.equal(integers(dequantise(largest, torch.tensor(u))), largest.int())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "haar"
    for name in ("glow8", "srf16", "srf32"):
        config = ROOT / "configs" / "mnist5k-haar" / f"{name}.yaml"
        done = run_tool("train", config, f"out={folder / name}", "model.first=none", *TINY)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def digits_of_32():
    source = open_images("mnist5k", "test", 1)
    chosen = torch.arange(0, 500, 12)
    return source.read(chosen), source.labels[chosen]


def test_samples_are_consistent_in_every_pixel(folder):
    draw = Cascade.load(folder).draw(40, temperature=1.2)
    for low, high in zip(draw.images[:-1], draw.images[1:], strict=True):
        assert torch.equal(halve(high, kind="haar"), low)
    assert (draw.clipped > 0).any() and (draw.clipped < 1).all()


def test_likelihood_round_trip_and_heatmap(folder, digits_of_32, tmp_path):
    cascade, (x, labels) = Cascade.load(folder), digits_of_32
    noises = cascade.encode(x, labels)
    assert [tuple(z.shape[1:]) for z in noises] == [(1, 8, 8), (3, 8, 8), (3, 16, 16)]
    assert torch.equal(cascade.decode(noises, labels), x)
    report = cascade.likelihood(x)
    assert sum(stage["share"] for stage in report.stages) == pytest.approx(report.bpd)
    assert report.sizes == [64, 192, 768] and report.dimensions == 1024 == sum(report.sizes)
    pairs = cascade.check_samples(8).consistency
    assert all(pair == {"mean": 0, "worst": 0, "exact": 1} for pair in pairs)
    assert torch.equal(cascade.log_prob(x[7:8]), cascade.log_prob(x)[7:8])
    done = run_tool(
        "likelihood", folder, "--limit", 12, "--heatmap", tmp_path / "h.png",
        "--variational", 0.1, "--json", tmp_path / "r.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "clipped in samples" in done.stdout and "is log P(image) itself" in done.stdout
    assert run_tool("likelihood", folder, "--check").returncode == 0
    done = run_tool("sample", folder, "--num", 4, "--out", tmp_path / "grid.png")
    assert done.returncode == 0 and "clipped in samples" in done.stdout


def test_stages_of_different_pyramids_are_refused(folder, digits):
    with pytest.raises(InputError, match="has pyramid=bicubic, but srf16 has pyramid=haar"):
        Cascade.load(folder, [str(digits / "glow8"), "srf16"])
    manifest = folder / "cascade.yaml"
    before = manifest.read_text()
    assert "pyramid: haar" in before
    manifest.write_text(before.replace("haar", "bicubic"))
    try:
        with pytest.raises(InputError, match="cascade.yaml has pyramid=bicubic, but glow8"):
            Cascade.load(folder)
    finally:
        manifest.write_text(before)
    low, high = (
        load_config(ROOT / "configs" / "mnist5k-haar" / f"{name}.yaml")
        for name in ("glow8", "srf32")
    )
    with pytest.raises(InputError, match="wrong order"):
        check_order([("glow8", low), ("srf32", high)])


def test_residual_details_are_refused():
    with pytest.raises(InputError, match="details are a residual already"):
        load_config(ROOT / "configs" / "cifar10-haar" / "srf16.yaml", ["model.residual=true"])


def test_pixels_count_what_they_clip():
    y = torch.tensor([[[[-0.6, 0.0]]], [[[0.1, 0.2]]]])
    assert Pixels(8).image(y, None)[1].tolist() == [1, 0]
