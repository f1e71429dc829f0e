"""Super-resolution of photos of any size, mode and format.

What is said of them is `cascade.commands.shared.upscaling_report`'s.
"""

import json

import numpy as np
import pytest
import torch
from conftest import run_tool
from PIL import Image
from small_stages import small_stage, stage_folder

from cascade import InputError
from cascade.data.arrays import open_npz
from cascade.evaluation.enlargements.image_metrics import bicubic, psnr_between
from cascade.photos.deviation import deviation
from cascade.photos.fidelity import lowered
from cascade.photos.photo import Photo
from cascade.photos.tiling import Tiling, mirrored
from cascade.photos.typicality import recorded_bpd, typicality
from cascade.photos.upscaling import upscale
from cascade.stage import load_stage
from cascade.transforms.dequantise import centre, density_bpd
from cascade.utils.seeds import generator
from stages.prior import log_normal

PYRAMIDS = {  # overrides of configs/photos/srf2x.yaml
    "bicubic": [],
    "haar": ["model.pyramid=haar", "model.residual=false"],
}


@pytest.fixture(scope="module", params=PYRAMIDS)
def stage(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages") / "srf2x"
    return small_stage(folder, *PYRAMIDS[request.param])


def photograph(height: int, width: int, channels: int = 3) -> torch.Tensor:
    """Smooth colours with some texture, uint8 (C, h, w)."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    waves = [torch.sin(rows / (3.0 + c)) + torch.cos(columns / (4.0 + c)) for c in range(channels)]
    return (128 + 50 * torch.stack(waves)).to(torch.uint8)


def test_mirrored():
    assert mirrored(range(-3, 5), 2).tolist() == [1, 1, 0, 0, 1, 1, 0, 0]
    assert mirrored(range(-2, 3), 1).tolist() == [0] * 5
    assert mirrored(range(2, 6), 9).tolist() == [2, 3, 4, 5]


def test_tiles_leave_no_trace(stage):
    low = photograph(21, 36)
    whole = upscale([stage], low, tiling=Tiling(128, 32)).int()
    tiled = upscale([stage], low, tiling=Tiling(32, 32)).int()
    assert (whole - tiled).abs().max() <= 1
    abrupt = upscale([stage], low, tiling=Tiling(32, 0)).int()
    assert (whole - abrupt).abs().max() > 1


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (16, 5)])
def test_any_size(stage, size):
    low = photograph(*size)
    images = upscale([stage], low, 2, seed=3)
    assert images.shape == (2, 3, 2 * size[0], 2 * size[1]) and images.dtype == torch.uint8
    assert not torch.equal(images[0], images[1])
    assert torch.equal(upscale([stage], low, 1, seed=3)[0], images[0])
    assert not torch.equal(upscale([stage], low, 1, seed=4)[0], images[0])


def test_details_halve_to_the_photo_exactly(stage):
    low = photograph(11, 18)
    found = lowered([stage, stage], upscale([stage, stage], low, temperature=[1.0, 0.5]))
    if stage.config.model.pyramid == "haar":
        assert torch.equal(found[0], low)
    assert found.shape[1:] == low.shape


def test_temperature_zero_is_one_image(stage):
    images = upscale([stage], photograph(9, 9), 2, temperature=0)
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"low": torch.zeros(1, 8, 8, dtype=torch.uint8)}, "takes uint8 images (3, h, w)"),
        ({"low": torch.zeros(3, 8, 8)}, "takes uint8 images (3, h, w)"),
        ({"low": torch.zeros(3, 0, 8, dtype=torch.uint8)}, "takes uint8 images (3, h, w)"),
        ({"label": 1}, "no stage uses them"),
        ({"num": 0}, "at least one sample"),
        ({"temperature": [0.8, 0.8]}, "2 temperatures for 1 stages"),
        ({"temperature": -1.0}, "not below 0"),
        ({"tiling": Tiling(30, 32)}, "tile must be a multiple of 4"),
        ({"tiling": Tiling(32, 2)}, "overlap must be a multiple of 4"),
        ({"tiling": Tiling(0, 0)}, "from 4 on, got 0"),
    ],
)
def test_wrong_arguments(stage, change, says):
    with pytest.raises(InputError) as error:
        upscale(**{"stages": [stage], "low": photograph(8, 8)} | change)
    assert says in str(error.value)


def test_psnr_and_interpolation():
    image = photograph(32, 32)
    assert psnr_between(image, image) == float("inf")
    assert psnr_between(image, image + 1) == pytest.approx(48.13, abs=0.01)
    assert psnr_between(bicubic(image, 2)[:, ::2, ::2], image) > 30


MODES = {  # how a picture is made of an RGBA one, and the mode its enlarged copy has
    "1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA",
    "P": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "I;16": "L",
}  # fmt: skip


def coloured() -> Image.Image:
    pixels = torch.cat([photograph(10, 14), 128 + photograph(10, 14, 1) // 2])
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy(), "RGBA")


def saved(mode: str, folder) -> str:
    suffix = "tif" if mode in ("CMYK", "YCbCr", "I;16") else "png"
    file = str(folder / f"photo.{suffix}")
    if mode == "I;16":
        Image.fromarray(np.asarray(coloured().convert("L")).astype(np.uint16) * 257).save(file)
    else:
        coloured().convert("RGBA" if mode.endswith("A") else "RGB").convert(mode).save(file)
    return file


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 3])
def test_modes(mode, channels, tmp_path):
    photo = Photo.open(saved(mode, tmp_path))
    low = photo.pixels(channels)
    assert low.shape == (channels, 10, 14) and low.dtype == torch.uint8
    large = photo.enlarged(bicubic(low, 2)).picture
    assert large.mode == MODES[mode] and large.size == (28, 20)
    cubic = photo.picture.resize((28, 20), Image.Resampling.BICUBIC)
    difference = np.asarray(large).astype(int) - np.asarray(cubic)
    assert np.abs(difference).mean() < 3  # colours and alpha are where they were
    if mode.endswith("A"):
        assert np.array_equal(np.asarray(large)[..., -1], np.asarray(cubic)[..., -1])


def test_palette_with_transparency(tmp_path):
    palette = coloured().convert("RGB").quantize(8)
    palette.save(tmp_path / "p.png", transparency=3)
    assert Photo.open(tmp_path / "p.png").picture.mode == "RGBA"


def test_orientation_and_what_is_kept(tmp_path):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"  # turned by a quarter
    picture = coloured().convert("RGB")
    picture.save(tmp_path / "turned.jpg", exif=exif, icc_profile=b"a profile", quality=95)
    photo = Photo.open(tmp_path / "turned.jpg")
    assert photo.size == (14, 10)
    upright = np.asarray(picture.rotate(-90, expand=True)).astype(int)
    assert np.abs(upright - np.asarray(photo.picture)).mean() < 8
    photo.enlarged(bicubic(photo.pixels(3), 2)).save(tmp_path / "large.png")
    large = Image.open(tmp_path / "large.png")
    assert large.size == (20, 28) and large.info["icc_profile"] == b"a profile"
    assert dict(large.getexif()) == {0x010F: "maker"}


def test_a_stage_folder(tmp_path):
    folder = stage_folder(tmp_path / "srf2x")
    coloured().save(tmp_path / "photo.png")
    command = ["upscale", folder, tmp_path / "photo.png", "--num", 2, "--out", tmp_path / "out"]
    done = run_tool(*command, "--json", tmp_path / "r.json", "--deviation")
    assert done.returncode == 0, done.stderr
    files = [tmp_path / "out" / f"photo-x2-{i}.png" for i in range(2)]
    pictures = [Image.open(file) for file in files]
    assert all(p.size == (28, 20) and p.mode == "RGBA" for p in pictures)
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["stages"] == ["srf2x"] and len(result["lr_psnr"]) == 2
    spread = Image.open(tmp_path / "out" / "photo-x2-deviation.png")
    assert (spread.size, spread.mode) == ((28, 20), "L") and spread.getextrema()[1] == 255
    expected = deviation(Photo.open(file).pixels(3) for file in files)
    assert result["deviation"]["largest"] == pytest.approx(expected.max().item())
    assert f"white {expected.max():.2f}" in done.stdout
    assert "surprise" in result and "bits/dim under srf2x" in done.stdout
    again = run_tool(*command)
    assert again.returncode == 2 and "--force" in again.stderr
    before = files[0].read_bytes()
    other = run_tool(*command, "--force", "--num", 1)
    assert other.returncode == 0 and files[0].read_bytes() == before


def test_halve_compares_with_the_photo(tmp_path):
    folder = stage_folder(tmp_path / "srf2x")
    Photo.of(photograph(41, 53)).save(tmp_path / "photo.png")
    sheet, report = tmp_path / "sheet.png", tmp_path / "r.json"
    done = run_tool(
        "upscale", folder, tmp_path / "photo.png", "--halve", "--out", tmp_path / "out",
        "--sheet", sheet, "--json", report,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "out" / "photo-x2-0.png").size == (52, 40)
    assert Image.open(sheet).width >= 4 * 52  # low, cubic, sample, truth
    result = json.loads(report.read_text())
    assert result["cubic_psnr"] > 30 and len(result["psnr"]) == 1
    assert "cubic interpolation: PSNR" in done.stdout


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    """A cascade folder with a Glow and two SRFlow stages."""
    folder = tmp_path_factory.mktemp("runs") / "deep"
    stage_folder(folder / "glow8", "data.size=8", config="cifar10/glow8")
    for size in (16, 32):
        stage_folder(folder / f"srf{size}", f"data.size={size}", f"seed={size}")
    (folder / "cascade.yaml").write_text("pyramid: bicubic\nstages: [glow8, srf16, srf32]\n")
    Photo.of(photograph(9, 12)).save(folder / "photo.png")
    return folder


def test_a_cascade_folder_gives_its_last_stages(deep, tmp_path):
    report = tmp_path / "r.json"
    for factor, options, stages in (
        (2, (), ["srf32"]),
        (4, (), ["srf16", "srf32"]),
        (4, ("--stages", "srf16,srf16"), ["srf16", "srf16"]),
    ):
        done = run_tool(
            "upscale", deep, deep / "photo.png", "--factor", factor, *options,
            "--out", tmp_path, "--json", report, "--force",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert json.loads(report.read_text())["stages"] == stages
        made = Image.open(tmp_path / f"photo-x{factor}-0.png")
        assert made.size == (12 * factor, 9 * factor)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["photo.png", "--factor", 3], "the factor is 2, 4, 8, ..., not 3"),
        (["photo.png", "--factor", 8], "glow8 is of kind glow, and cannot enlarge images: take a"),
        (["photo.png", "--stages", "glow8"], "glow8 is of kind glow, and cannot enlarge images"),
        (["photo.png", "--tile", 30], "tile must be a multiple of 4"),
        (["photo.png", "--temperature", "warm"], "--temperature takes finite numbers"),
        (["photo.png", "--temperature", "nan"], "finite number"),
        (
            ["photo.png", "--overlap", 1024],
            "overlap must be at most 32 for an image",
        ),
        (["photo.png", "--num", 10**8], "--num is at most 10,000 samples of a photo"),
        (["photo.png", "--deviation"], "--deviation is that of several samples"),
        (["none.png"], "cannot read image"),
        (["cascade.yaml"], "not an image of a known format"),
        (["photo.png", "--sheet", "sheet.txt"], "not a picture's file name"),
    ],
)
def test_wrong_words(deep, tmp_path, words, says):
    photo, *options = words
    done = run_tool("upscale", deep, deep / photo, *options, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert says in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_conditional_stage_needs_its_label(digits, tmp_path, few_digits):
    source = open_npz(few_digits, 1)
    low = Photo.of(source.read(torch.tensor([40]))[0])
    low.save(tmp_path / "one.png")
    command = ["upscale", digits, tmp_path / "one.png", "--out", tmp_path]
    refused = run_tool(*command)
    assert refused.returncode == 2 and "give a label 0..9" in refused.stderr
    done = run_tool(*command, "--label", 1)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "one-x2-0.png").size == (64, 64)


@pytest.mark.parametrize("config", ["mnist5k/srf16", "mnist5k-haar/srf16"])
def test_a_stage_with_classes_works_at_any_size(tmp_path, config):
    stage = load_stage(stage_folder(tmp_path / "stage", config=config), dtype="float64")
    low, labels = photograph(8, 24, 1)[None].expand(3, -1, -1, -1), torch.tensor([0, 3, 9])
    noise = torch.randn(3, *stage.coding.values(photograph(16, 48, 1)[None]).shape[1:])
    y = stage.run(stage.flow.sample, noise, low, labels)
    nats = stage.run(stage.flow.log_prob, y, low, labels)
    of_classes = stage.run(stage.flow.class_log_probs, y, low)
    torch.testing.assert_close(nats, of_classes.gather(1, labels[:, None])[:, 0])
    assert typicality(stage, photograph(9, 11, 1), 3).expected > 0
    assert upscale([stage], photograph(9, 7, 1), label=3).shape == (1, 1, 18, 14)


@pytest.mark.parametrize("config", ["photos/srf2x", "mnist5k-haar/srf16"])
def test_samples_are_scored_as_they_were_drawn(tmp_path, config):
    """Their density is that of their noise, however far outside an image's values they lie."""
    folder = stage_folder(tmp_path / "stage", "model.first=none", config=config)
    stage = load_stage(folder, dtype="float64")
    low = torch.zeros(1, stage.shape[0], 8, 8, dtype=torch.uint8)  # black, so most are outside
    channels, side = stage.flow.shape[0], 16 if config.startswith("photos") else 8
    noise = torch.randn((1, channels, side, side), generator=generator("typical"))
    label = torch.full((1,), 3) if stage.classes else None
    given = (centre(low, torch.float64), label)
    y = stage.flow.decode(noise.double(), *given)
    assert (stage.coding.out_of_range(y) > 0).all()
    nats = log_normal(noise.double()) + stage.flow.encode(y, *given)[1]
    found = typicality(stage, torch.zeros(stage.shape, dtype=torch.uint8), stage.classes and 3)
    assert found.expected == pytest.approx(density_bpd(nats, y, 8).item(), rel=1e-6)


def test_noise_is_outside_the_training_data(digits, few_digits):
    stage = load_stage(digits / "srf16")
    source = open_npz(few_digits, 1)
    digit = typicality(stage, source.read(torch.tensor([40]))[0], 1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (1, 32, 32), generator=generator, dtype=torch.uint8)
    strange = typicality(stage, noise, 1)
    assert digit.usual and not strange.usual
    assert typicality(stage, noise[:, :3, :3], 1) is None
    assert recorded_bpd(digits / "srf16") > 0 and recorded_bpd(digits) is None
