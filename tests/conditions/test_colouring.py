"""Colours given luma: integers without loss, true probabilities, photos coloured by the tool."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT, randomise, run_tool
from enumeration import all_integers
from PIL import Image
from small_stages import stage_folder

from cascade import Cascade
from cascade.codec.fixed_stages import check_codable
from cascade.conditions.colouring import colourings, colours_bpd
from cascade.config import load_config
from cascade.data import open_images
from cascade.evaluation.robustness import reconstructions
from cascade.stage import load_stage
from cascade.training.metrics_log import read_metrics
from cascade.transforms import colour
from cascade.transforms.coding import coding
from cascade.transforms.dequantise import dequantise
from cascade.web.model import open_model
from stages import InputError, MixtureSettings, srflow
from stages.integers.support import ChromaSupport

CONFIG = ROOT / "configs" / "colour" / "cifar10.yaml"
ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}


def flow(bits, steps=0, levels=1, order="subbands", size=2):
    first = MixtureSettings(2, order=order, width=4)
    options = {"chroma": True, "first": first, "bits": bits, **ENCODER}
    return randomise(srflow((3, size, size), levels, steps, 4, **options), 0.5).eval()


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_every_colour_has_a_luma_and_chroma_of_its_own(bits):
    values = torch.arange(2**bits) if bits < 8 else torch.arange(0, 256, 5)
    image = torch.cartesian_prod(values, values, values).T[:, :, None].to(torch.uint8)
    luma, chroma = colour.split(image)
    assert luma.shape[0] == 1 and luma.max() <= 2**bits - 1
    assert torch.equal(colour.join(luma, chroma, bits), image)
    assert len(torch.unique(torch.cat([luma, chroma]), dim=1).squeeze(2).T) == image.shape[1]
    red, green, blue = image.double()
    assert (luma[0] - (red + 2 * green + blue) / 4).abs().max() < 1


def test_chroma_that_no_colour_has_is_clipped_and_luma_stays():
    luma = torch.randint(0, 256, (1, 9, 9), dtype=torch.uint8)
    chroma = torch.randint(-600, 600, (2, 9, 9))
    image = colour.join(luma, chroma)
    assert torch.equal(colour.split(image)[0], luma)


def test_the_support_is_exactly_the_colours_of_a_luma():
    """By enumeration: for each luma, as many pairs within the bounds as colours."""
    bits = 3
    values = torch.arange(2**bits)
    image = torch.cartesian_prod(values, values, values).T[:, :, None].to(torch.uint8)
    luma, chroma = colour.split(image)
    support = ChromaSupport(bits)
    for y in range(2**bits):
        low = condition_of(torch.full((1, 1, 1, 1), y), bits)
        found = set()
        least, most = support.bounds([], low, low)
        for green in range(int(least), int(most) + 1):
            known = torch.full_like(low, green)
            least_orange, most_orange = support.bounds([known], low, low)
            found |= {(green, o) for o in range(int(least_orange), int(most_orange) + 1)}
        assert found == {tuple(pair) for pair in chroma[:, luma[0] == y].T.tolist()}


def condition_of(luma, bits):
    return dequantise(luma, torch.full((), 0.5, dtype=torch.float64), bits)


@pytest.mark.parametrize("order", ["subbands", "halves", "together"])
@torch.no_grad()
def test_probabilities_of_the_colours_of_every_luma_sum_to_one(order):
    """One-bit images of 2×2 pixels: 4,096 images, 16 lumas."""
    bits, model = 1, flow(1, order=order)
    image = all_integers(0, 2, (3, 2, 2)).to(torch.uint8)
    luma, chroma = colour.split(image)
    y = dequantise(chroma + 1, torch.full((), 0.5, dtype=torch.float64), bits)
    nats = (
        model.log_prob(y, condition_of(luma, bits)) - y[0].numel() * bits * torch.tensor(2.0).log()
    )
    keys, places = torch.unique(luma.flatten(1), dim=0, return_inverse=True)
    total = torch.zeros(len(keys), dtype=torch.float64).index_add(0, places, nats.exp())
    assert len(keys) == 16 and torch.allclose(total, torch.ones(16, dtype=torch.float64))


@pytest.mark.parametrize(("levels", "steps"), [(1, 0), (2, 1)])
def test_real_chroma_comes_back_and_all_noise_makes_colours_of_the_luma(levels, steps):
    model = flow(8, steps, levels, size=4)
    coded = coding(load_config(CONFIG))
    image = torch.randint(0, 256, (3, 3, 4, 4), dtype=torch.uint8)
    luma = colour.split(image)[0]
    low = condition_of(luma, 8)
    y = dequantise(coded.values(image), torch.rand(3, 2, 4, 4, dtype=torch.float64), 8)
    back = model.decode(model.noise_of(y, low), low)
    assert torch.allclose(back, y, atol=1e-6) and torch.equal(coded.image(back, luma)[0], image)
    drawn, clipped = coded.image(model.sample(3 * torch.randn(3, 2, 4, 4).double(), low), luma)
    assert clipped.sum() == 0 and torch.equal(colour.split(drawn)[0], luma)


def test_settings_that_cannot_work():
    for setting, message in (
        ("data.channels=1", "needs data.channels=3"),
        ("model.first=none", "needs model.first=mixture"),
        ("augment.previous=runs/a", "not for a colour"),
        ("model.residual=true", "needs model.residual=false"),
    ):
        with pytest.raises(InputError, match=message):
            load_config(CONFIG, [setting])
    for options, message in (({"details": True}, "set one"), ({"first": None}, "need first")):
        settings = {"first": MixtureSettings(2, width=4), "chroma": True, **ENCODER} | options
        with pytest.raises(InputError, match=message):
            srflow((3, 4, 4), 1, 1, 4, **settings)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """40 small colour images of four kinds, as an .npz."""
    file = tmp_path_factory.mktemp("data") / "images.npz"
    noise = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(file, images=noise // np.array([1, 2, 3], dtype=np.uint8), labels=np.arange(40) % 4)
    return file


FEW = ["data.size=8", "data.flip=false", "model.width=8", "model.steps=1", "model.levels=2"]
FEW += ["train.steps=6", "train.seconds=null", "train.pretrain_steps=4", "train.batch_size=8"]
FEW += ["train.save_every=3", "train.sample_every=6", "train.init_images=16"]


def test_trained_scored_and_looked_at(images, tmp_path):
    out = tmp_path / "colours"
    done = run_tool("train", CONFIG, *FEW, f"data.name={images}", "model.classes=4", f"out={out}")
    assert done.returncode == 0, done.stderr
    assert "is of kind colour, which is used alone" in done.stdout
    assert not (tmp_path / "cascade.yaml").exists()
    assert read_metrics(out)[0]["phase"] == "encoder"
    assert "guessing chroma" in (out / "README.md").read_text()
    score = ["likelihood", out, "--data", images, "--json", tmp_path / "score.json"]
    done = run_tool(*score)
    assert done.returncode == 0 and "log P(image | luma)" in done.stdout, done.stderr
    found = json.loads((tmp_path / "score.json").read_text())
    cascade, source = Cascade.load(out), open_images(str(images), "test", 3)
    pixels = source.read(torch.arange(len(source)))
    report = cascade.likelihood(pixels)
    assert found["bpd"] == pytest.approx(report.bpd) and report.dimensions == 2 * 64
    labels = torch.zeros(len(pixels), dtype=torch.int64)
    noise = cascade.encode(pixels, labels)
    (y,) = cascade.stages[0].run(cascade.stages[0].flow.decode, noise[0], *parts(pixels, labels))[
        None
    ]
    assert torch.equal(cascade.stages[0].coding.image(y, parts(pixels, labels)[0])[0], pixels)
    with pytest.raises(InputError, match="draws nothing without luma"):
        cascade.decode(noise, labels)
    seen = reconstructions(cascade, pixels, labels, 0, [0.0])
    assert torch.equal(seen.images[0], pixels) and seen.distance == [0.0]
    sheet = tmp_path / "sheet.png"
    done = run_tool("figures", "versions", out, "--data", images, "--num", 2, "--out", sheet)
    assert done.returncode == 0 and sheet.exists(), done.stderr
    done = run_tool("sample", out, "--out", tmp_path / "grid.png")
    assert done.returncode == 2 and "draws nothing without luma: see csrflow colour" in done.stderr


def parts(pixels, labels):
    return colour.split(pixels)[0], labels


def test_photos_of_any_mode_are_coloured(tmp_path):
    """By `cascade.commands.colour` and `cascade.commands.shared.completing`."""
    stage = stage_folder(tmp_path / "stage", "model.levels=3", config="colour/cifar10")
    rng = np.random.default_rng(1)
    grey = Image.fromarray(rng.integers(0, 256, (13, 10), dtype=np.uint8))
    alpha = Image.fromarray(rng.integers(0, 256, (8, 9, 4), dtype=np.uint8))
    for name, picture in (("grey", grey), ("alpha", alpha)):
        picture.save(tmp_path / f"{name}.png")
    photos, out = [tmp_path / f"{name}.png" for name in ("grey", "alpha")], tmp_path / "out"
    words = ["colour", stage, *photos, "--out", out, "--num", 2, "--seed", 3]
    more = ["--json", tmp_path / "r.json", "--sheet", tmp_path / "s.png"]
    done = run_tool(*words, *more)
    assert done.returncode == 0, done.stderr
    one, two = (Image.open(out / f"grey-{i}.png") for i in (0, 1))
    assert one.mode == "RGB" and one.size == grey.size and one.tobytes() != two.tobytes()
    for image in (one, two):
        made = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(colour.split(made)[0][0], torch.from_numpy(np.array(grey)))
    made = Image.open(out / "alpha-0.png")
    assert made.mode == "RGBA" and made.getchannel("A").tobytes() == alpha.getchannel("A").tobytes()
    of_grey, of_colour = json.loads((tmp_path / "r.json").read_text())["photos"]
    assert "bpd" not in of_grey and of_colour["bpd"] > 0 and of_grey["spread"] > 0
    loaded = load_stage(stage)
    luma = torch.from_numpy(np.array(grey))[None]
    later = colourings(loaded, luma, 1, temperature=0.8, seed=3, first=1)[0]
    assert torch.equal(later, torch.from_numpy(np.array(two)).permute(2, 0, 1))
    done = run_tool(*words)
    assert done.returncode == 2 and "--force" in done.stderr


def test_what_colours_cannot_be_had_from(tmp_path):
    photo = tmp_path / "p.png"
    Image.new("L", (8, 8), 9).save(photo)
    other = stage_folder(tmp_path / "srf", "model.levels=1")
    plain = stage_folder(tmp_path / "plain", "model.levels=1", config="colour/cifar10")
    classes = stage_folder(tmp_path / "classes", "model.classes=3", config="colour/cifar10")
    for words, message in (
        ([other, photo], "srf is of kind srflow: colours come from a stage of kind colour"),
        (["digits", photo], "digits is a cascade: name one of its stages, digits/glow8, digits"),
        ([plain, photo, "--label", 1], "plain uses no labels"),
        ([classes, photo], "give a label 0..2"),
        ([plain, tmp_path / "none.png"], "cannot read image"),
        ([plain, photo, photo], "one file"),
    ):
        done = run_tool("colour", *words, "--out", tmp_path / "out")
        assert done.returncode == 2 and message in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1 and not list((tmp_path / "out").glob("*.png"))
    with pytest.raises(InputError, match="which belongs to no cascade"):
        Cascade([load_stage(other), load_stage(plain)])
    with pytest.raises(InputError, match="codes no whole images: it is given luma"):
        check_codable(Cascade.load(plain))
    with pytest.raises(InputError, match="draws nothing without luma: see csrflow colour"):
        open_model(plain)
    done = run_tool("evaluate", plain, "--super-resolution", 2)
    assert done.returncode == 2 and "draws nothing without luma: see csrflow colour" in done.stderr
    done = run_tool("upscale", photo, "--model", plain, "--out", tmp_path / "large")
    assert done.returncode == 2 and "enlarge images: csrflow colour is its command" in done.stderr
    with pytest.raises(InputError, match="needs sides of 4 pixels"):
        colours_bpd(load_stage(plain).replace(config=load_config(CONFIG)), torch.zeros(3, 3, 3))
