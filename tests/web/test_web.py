"""What the page does with a model, without the page."""

import asyncio
import configparser
import math
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_tool
from PIL import Image
from small_stages import ANIMALS, animals, random_cascade, random_images, stage_folder

from cascade import InputError
from cascade.data.decoding import decode
from cascade.data.named import open_data_set
from cascade.figures.grid import grid
from cascade.percentiles import Usual
from cascade.photos.deviation import deviation
from cascade.photos.photo import Photo
from cascade.photos.upscaling import upscale
from cascade.transforms.pyramid import halve
from cascade.web import scoring
from cascade.web.drawing import MOST, drawn_stages, labels_in_rows, picture, save_npz, shown
from cascade.web.enlarging import (
    class_names,
    cubic,
    enlarging,
    factors,
    judgement,
    stages_for,
)
from cascade.web.exploring import (
    FRAMES,
    Samples,
    as_colours,
    difference,
    other_versions,
    region_around,
    region_redrawn,
    way,
)
from cascade.web.limits import MESSAGE, Limits
from cascade.web.model import open_model
from cascade.web.page import alone, ending, free_port
from cascade.web.scoring import columns, save_maps, score, usual
from cascade.web.uploads import FILES, middle, open_images, open_photo


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_model(animals(tmp_path_factory.mktemp("runs") / "animals"))


@pytest.fixture(scope="module")
def samples(model):
    labels = torch.tensor([0, 3, 1])
    return Samples(model.cascade.sample(3, labels, 0.8, seed=2), labels)


@pytest.mark.parametrize(("kind", "classes"), [("mixture", 10), ("haar", 0), ("bicubic", 10)])
def test_samples_appear_stage_by_stage_and_are_those_of_the_cascade(kind, classes):
    cascade = random_cascade(kind, classes)
    labels = torch.arange(5) if classes else None
    steps = drawn_stages(cascade, 5, labels, [0.9, 0.8, 0.7], seed=3)
    assert next(steps).shape == (5, 1, 8, 8)
    levels = list(drawn_stages(cascade, 5, labels, [0.9, 0.8, 0.7], seed=3))
    expected = cascade.draw(5, labels, [0.9, 0.8, 0.7], seed=3).images
    assert all(torch.equal(one, two) for one, two in zip(levels, expected, strict=True))


def test_what_cannot_be_drawn_is_refused(model):
    cascade = model.cascade
    assert labels_in_rows(cascade, ["dog", "cat"], 2).tolist() == [1, 1, 0, 0]
    assert labels_in_rows(cascade, [], 3).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert labels_in_rows(random_cascade("haar", 0), [], 9) is None
    for names, each in ((["horse"], 1), ([], MOST), ([], 0)):
        with pytest.raises(InputError):
            labels_in_rows(cascade, names, each)
    for temperature, seed in (([math.nan], 0), ([1.0, 1.0], 0), ([1.0], None), ([1.0], 0.5)):
        with pytest.raises(InputError):
            list(drawn_stages(cascade, 1, torch.tensor([0]), temperature, seed))


def test_pictures_and_files_hold_the_samples(model, tmp_path):
    labels = labels_in_rows(model.cascade, [], 2)
    levels = list(drawn_stages(model.cascade, 8, labels, [0.8], seed=0))
    file = tmp_path / "samples.npz"
    save_npz(levels, labels, file)
    arrays = np.load(file)
    assert {"images", "images_8", "images_16", "labels"} == set(arrays)
    assert np.array_equal(arrays["images"], levels[-1].permute(0, 2, 3, 1).numpy())
    plain = picture(levels[-1], 2)
    assert np.array_equal(np.array(plain), np.array(grid(levels[-1], 2, plain.width)))
    assert picture(levels[-1], 2, ANIMALS).width > plain.width
    one = np.array(shown(levels[0][0], 80))
    assert one.shape == (80, 80, 3) and np.array_equal(one[::10, ::10, 0], levels[0][0, 0])


@pytest.mark.parametrize("kept", [0, 1])
def test_versions_keep_what_is_locked(model, samples, kept):
    low, images = other_versions(model.cascade, samples, 1, kept, 4, [0.8], seed=0)
    assert images.shape == (4, 1, 32, 32) and len(set(map(str, images.tolist()))) == 4
    halved = images
    while halved.shape[-1] > low.shape[-1]:
        halved = halve(halved, 8, "haar")
    assert torch.equal(halved, low.expand_as(halved))
    again = other_versions(model.cascade, samples, 1, kept, 4, [0.8], seed=0)[1]
    assert torch.equal(again, images)
    with pytest.raises(InputError, match="versions at once"):
        other_versions(model.cascade, samples, 1, kept, 99, [0.8], seed=0)


def test_a_way_leads_from_one_sample_to_the_other(model, samples):
    images = way(model.cascade, samples, 0, 2)
    assert images.shape == (FRAMES, 1, 32, 32)
    assert torch.equal(images[0], samples.images[0])
    assert torch.equal(images[-1], samples.images[2])
    with pytest.raises(InputError, match="choose two"):
        way(model.cascade, samples, 1, 1)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_region_changes_where_it_is(model, samples, number):
    """A mixture's order of groups may carry a change on; the low image of a stage never changes."""
    region = region_around(9, 30, 8, model.cascade.shape)
    assert region.sum() == 8 * 6 and region[5:13, 26:].all()
    args = model.cascade, samples, 1, number
    result = region_redrawn(*args, region, [0.8], seed=0)
    far = difference(samples.images[1], result[0])
    assert far[region].max() > 0
    if number:
        before, after = (model.cascade.levels(x)[number - 1] for x in (samples.one(1)[0], result))
        assert torch.equal(before, after)
    nothing = region_redrawn(*args, torch.zeros_like(region), [0.8], seed=0)
    assert torch.equal(nothing[0], samples.images[1])
    assert as_colours(far, 96).size == (96, 96)


def test_scores_are_those_of_the_cascade(model, samples, tmp_path):
    result = score(model.cascade, samples.images)
    report = model.cascade.likelihood(samples.images)
    assert torch.equal(result.report.nats, report.nats)
    reference = Usual(report.image_bpd.sort().values, "themselves")
    rows = result.rows(["a", "b", "c"], reference, model.cascade.class_names)
    assert columns(model.cascade) == [
        *("image", "bits/dim", "percentile", "classes", "PNG", "WebP", "glow8", "srf16", "srf32"),
    ]
    places = report.image_bpd.argsort().argsort()
    for i, row in enumerate(rows):
        assert len(row) == len(columns(model.cascade))
        assert row[0] == "abc"[i] and float(row[1]) == pytest.approx(
            float(report.image_bpd[i]), abs=1e-3
        )
        assert sum(map(float, row[6:])) == pytest.approx(float(row[1]), abs=3e-3)
        assert row[2] == f"{100 * (places[i] + 0.5) / 3:.0f}"
        best = model.cascade.class_names[report.posterior[i].argmax()]
        assert row[3].startswith(f"{best} (")
    save_maps(model.cascade, samples.images, result.report, tmp_path / "maps.png")
    assert Image.open(tmp_path / "maps.png").height > 3 * 160


def test_the_usual_are_held_out_images_or_else_samples(tmp_path):
    """Which it is, is said; nothing is downloaded."""
    cascade = random_cascade("haar", 0)
    assert usual(cascade).what == "64 held-out images of mnist5k"
    cascade.stages[-1].config.data.name = "cifar10"
    drawn = usual(cascade)
    assert "own samples" in drawn.what and len(drawn.bpd) == 64
    assert drawn.percentile(math.inf) == 100 and drawn.percentile(-math.inf) == 0
    for name, split in ((str(tmp_path / "gone.npz"), "train"), ("mnist5k", "all")):
        cascade.stages[-1].config.data.name = name
        cascade.stages[-1].config.data.split = split
        assert "own samples" in usual(cascade).what


def test_a_folder_is_not_decoded_whole_for_some_of_it(tmp_path, monkeypatch):
    for i in range(900):
        Image.new("L", (64, 64), i % 256).save(tmp_path / f"{i}.png")
    cascade, read = random_cascade("haar", 0), []
    cascade.stages[-1].config.data.name = str(tmp_path)
    monkeypatch.setattr(scoring, "decode", lambda *args: read.append(args[0]) or decode(*args))
    assert usual(cascade).what == f"64 held-out images of {tmp_path.name}" and len(read) == 64
    test = open_data_set(str(tmp_path), 1)("test")
    assert set(read) <= set(test.files)
    assert "own samples" in usual(cascade, own=False).what and len(read) == 64
    Image.new("L", (32, 32)).save(read[0])
    assert "own samples" in usual(cascade).what
    for file in test.files:
        file.write_bytes(b"no image")
    assert "own samples" in usual(cascade).what


def test_no_model_has_the_page_download_its_data_set(monkeypatch):
    cascade = random_cascade("haar", 0)
    cascade.stages[-1].config.data.name = "hf:someone/large"
    monkeypatch.setattr("cascade.data.hub._loaded", None)  # calling it is an error
    assert "own samples" in usual(cascade).what


async def status_of(limited, method, path, body=b"", **headers):
    """What a request is answered with; an application behind sees ``body`` or is not asked."""
    sent, messages = [], [{"type": "http.request", "body": b"", "more_body": True}]
    messages.append({"type": "http.request", "body": body, "more_body": False})
    headers = {"content_length": str(len(body))} | headers
    named = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items() if v]

    async def send(message):
        sent.append(message)

    async def receive():
        return messages.pop(0)

    scope = {"type": "http", "method": method, "path": path, "headers": named}
    await limited(scope, receive, send)
    return sent[0]["status"]


async def answered(scope, receive, send):
    body = b""
    while scope["method"] == "POST":
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    assert body == BODY or scope["method"] != "POST"
    await send({"type": "http.response.start", "status": 200, "headers": []})


BODY = b'{"data": [{"path": "/tmp/x.png", "url": "http://127.0.0.1:7860/file=/tmp/x.png"}]}'
UPLOAD, JOIN = "/gradio_api/upload", "/gradio_api/queue/join"


@pytest.mark.parametrize(
    ("length", "stored", "status"),
    [("80", 0, 200), ("81", 0, 413), ("", 0, 411), ("-1", 0, 411), ("60", 41, 507)],
)
def test_uploads_are_refused_before_they_are_read(tmp_path, length, stored, status):
    """Also two at once that there is room for one of."""

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == UPLOAD:
            told.append(await status_of(limited, "POST", UPLOAD + "/", content_length="80"))

    (tmp_path / "file").write_bytes(b"0" * stored)
    limited, told = Limits(app, tmp_path, request=80, stored=100), []
    assert asyncio.run(status_of(limited, "POST", UPLOAD, content_length=length)) == status
    assert told == [507] * (status == 200) and limited.coming == 0
    chunked = status_of(limited, "POST", UPLOAD, content_length="10", transfer_encoding="chunked")
    assert asyncio.run(chunked) == 411


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/", b"", 200),
        ("GET", "/gradio_api/file=/tmp/x.png", b"", 200),
        ("GET", "/gradio_api/file=C:/x.png", b"", 200),
        ("GET", "/gradio_api/file=http://elsewhere/x", b"", 403),
        ("HEAD", "/gradio_api/proxy=https://elsewhere/x", b"", 403),
        ("GET", "/gradio_api/deep_link", b"", 403),
        ("POST", JOIN, BODY, 200),
        ("POST", "/gradio_api/run/predict/", BODY, 200),
        ("POST", JOIN, BODY.replace(b"/tmp", b"http://elsewhere"), 403),
        ("POST", JOIN, BODY.replace(b"/tmp", b"http:\\u002f/elsewhere"), 403),
        ("POST", JOIN, b"[" * 100_000, 403),
        ("POST", JOIN, b" " * (MESSAGE + 1), 413),
        ("POST", "/gradio_api/process_recording", BODY, 404),
        ("POST", "/gradio_api/component_server", BODY, 404),
        ("POST", UPLOAD + "/more", BODY, 404),
    ],
)
def test_nothing_is_asked_of_other_machines_or_stored_unseen(tmp_path, method, path, body, status):
    limited = Limits(answered, tmp_path)
    assert asyncio.run(status_of(limited, method, path, body)) == status
    if status == 200 and method == "POST":
        assert asyncio.run(status_of(limited, method, path, body, transfer_encoding="x")) == 411


def test_uploads_are_made_to_fit_or_refused(tmp_path):
    exact, large, noise = (tmp_path / name for name in ("exact.png", "large.jpg", "noise.png"))
    image = random_images(1)[0]
    Image.fromarray(image[0].numpy()).save(exact)
    Image.new("RGBA", (90, 50), (200, 10, 10, 30)).convert("RGB").save(large)
    noise.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(200)))
    images, changes = open_images([exact, large], (1, 32, 32))
    assert torch.equal(images[0], image) and len(changes) == 2
    assert changes[0].startswith("1 of 2 images were of another size")
    assert changes[1].startswith("1 of 2 images are in colour")
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (32, 32), (9, 9, 9, 254)).save(clear)
    ((change,), none) = (open_images([file], (1, 32, 32))[1] for file in (clear, exact))
    assert change.startswith("1 of 1 images are transparent in places") and none == []
    assert middle(open_photo(large), 40).size == (40, 40)
    assert middle(open_photo(large), 64).size == (50, 64)
    for files, message in (
        (None, "drop an image"),
        ([exact] * (FILES + 1), "too many"),
        ([exact, noise], "^(cannot read image )?noise.png"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            open_images(files, (1, 32, 32))
        assert str(tmp_path) not in str(refused.value)
    program = tmp_path / "program.png"
    Image.open(exact).save(program, format="EPS")
    with pytest.raises(InputError, match=r"program.png is no image of these formats: PNG, JPEG"):
        open_photo(program)
    wide = tmp_path / "wide.png"
    Image.new("1", (6000, 6000)).save(wide)
    with pytest.raises(InputError, match="6000x6000 pixels"):
        open_photo(wide)


def test_enlarging_gives_the_samples_of_upscale_and_can_be_left(model, tmp_path):
    stages = open_model(stage_folder(tmp_path / "srf2x")).doublers
    assert factors(stages) == [2] and factors(model.doublers) == [2, 4]
    assert list(stages_for(model.doublers, 4)) == model.doublers
    with pytest.raises(InputError, match="enlarges by"):
        stages_for(stages, 4)
    pixels = torch.randint(256, (3, 140, 20), generator=torch.Generator().manual_seed(0))
    photo = Photo.of(pixels.to(torch.uint8))
    steps = list(enlarging(stages, photo, 2, 0.8, seed=1))
    expected = upscale(stages, photo.pixels(3), 2, 0.8, seed=1)
    assert torch.equal(torch.stack(steps[-1].samples), expected)
    assert [(step.done, len(step.samples)) for step in steps] == [
        *((0, 0), (1, 0), (2, 0), (2, 1), (3, 1), (4, 1), (4, 2)),
    ]
    assert steps[-1].total == 4
    left = enlarging(stages, photo, 2, 0.8, seed=1)
    next(left), next(left)
    left.close()
    assert list(left) == []
    assert cubic(stages, photo).size == (280, 40)
    assert deviation([expected[0], expected[0]]).max() == 0 < deviation(expected).max()
    assert "bits/dim under srf2x" in judgement(stages, photo, None)
    with pytest.raises(InputError, match="at most"):
        next(enlarging(stages, photo, 99, 0.8, seed=1))


def test_stages_with_classes_enlarge_given_one(model):
    photo = Photo.of(random_images(1)[0])
    assert class_names(model.doublers) == list(ANIMALS)
    for name in (None, "horse"):
        with pytest.raises(InputError, match="there is no class"):
            next(enlarging(model.doublers, photo, 1, 0.8, seed=0, name=name))
    (*_, last) = enlarging(model.doublers, photo, 1, 0.8, seed=0, name="dog")
    assert torch.equal(last.samples[0], upscale(model.doublers, photo.pixels(1), label=1)[0])


def test_without_gradio_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)  # cannot be imported
    folder = stage_folder(tmp_path / "srf2x")
    done = run_tool("explore", folder, "--no-browser")
    assert done.returncode == 2 and "pip install 'csrflow[web]'" in done.stderr
    assert done.stderr.count("\n") == 1
    gone = run_tool("explore", tmp_path / "nothing")
    assert gone.returncode == 2 and "no run folder" in gone.stderr


def test_a_port_that_is_taken_is_an_error():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="--port"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
    with pytest.raises(InputError, match="--port"):
        free_port("127.0.0.1", 99999)
    for host in ("no-machine.invalid", "192.0.2.1"):
        with pytest.raises(InputError, match=f"this machine has no address {host}: .* --host"):
            free_port(host, None)


def test_temporary_files_go():
    with alone("0.0.0.0"):
        folder = Path(tempfile.mkdtemp())
        assert folder.is_dir() and os.environ["no_proxy"].endswith("localhost,0.0.0.0")
    assert not folder.exists()


@pytest.mark.parametrize(
    ("number", "handler", "ends"),
    [
        (signal.SIGTERM, signal.SIG_DFL, True),
        (signal.SIGTERM, signal.SIG_IGN, True),
        (signal.SIGHUP, signal.SIG_DFL, True),
        (signal.SIGHUP, signal.SIG_IGN, False),
    ],
)
def test_the_end_of_a_terminal_is_an_end_too(number, handler, ends):
    """But for nohup, which has SIGHUP ignored."""
    before = signal.signal(number, handler)
    try:
        with ending() as done:
            os.kill(os.getpid(), number)
            assert done.wait(10 if ends else 0.1) == ends
        assert signal.getsignal(number) == handler
    finally:
        signal.signal(number, before)


def test_a_space_asks_for_what_the_page_takes():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = setup["options.extras_require"]
    (hub,) = (line for line in extras["hub"].split() if line.startswith("huggingface_hub"))
    needed = [setup["options"]["install_requires"], extras["web"], hub]
    assert (ROOT / "space" / "requirements.txt").read_text().split() == " ".join(needed).split()
