"""The page in Chromium, as a user sees it: `make test-web`. Not of the ordinary suite.

It drives `cascade.web.tabs.draw`, `cascade.web.tabs.explore`, `cascade.web.tabs.score` and
`cascade.web.tabs.enlarge` (with `cascade.web.tabs.controls`, `cascade.web.tabs.serving`) by way of
`cascade.commands.explore`, in a process of its own.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from skimage.data import chelsea
from small_stages import animals, stage_folder

from cascade import Cascade
from cascade.web.uploads import MEGABYTES

PATIENCE = 60_000  # milliseconds: a slow machine, shared with others
WIDE = {"width": 1180, "height": 900}
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def run(request, tmp_path_factory) -> Path:
    given = request.config.getoption("--run")
    return Path(given).resolve() if given else animals(tmp_path_factory.mktemp("runs") / "animals")


@pytest.fixture(scope="module")
def shots(request, tmp_path_factory) -> Path:
    folder = Path(request.config.getoption("--shots") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def served(folder: Path, *command: object, **settings: str):
    """A server's address and process; it runs in ``folder``, and has its home there."""
    home = folder / "home"
    home.mkdir(parents=True)
    temporary = folder / "temporary"
    temporary.mkdir()
    log = folder / "log"
    env = os.environ | {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    env |= settings
    with open(log, "w") as out:
        words = [sys.executable, *map(str, command)]
        server = subprocess.Popen(words, cwd=home, env=env, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + PATIENCE / 1000
        while "http://" not in log.read_text():
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield log.read_text().split()[0], server
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
        server.wait(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def address(run, folder):
    command = [ROOT / "tools" / "explore.py", run, "--no-browser", "--port", 0]
    with served(folder, *command) as (address, _):
        yield address


@pytest.fixture(scope="module")
def doubler(request, tmp_path_factory) -> Path:
    given = request.config.getoption("--doubler")
    return Path(given).resolve() if given else stage_folder(tmp_path_factory.mktemp("s") / "srf2x")


@pytest.fixture(scope="module")
def browser():
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        launched = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def user(browser, address):
    """A new user on a page; nothing may be asked of any other machine, and nothing fail."""
    opened, foreign, failed = browser.new_context(viewport=WIDE).new_page(), [], []
    local = (address, "data:", "blob:", address.replace("http", "ws"))
    opened.on("request", lambda asked: asked.url.startswith(local) or foreign.append(asked.url))
    opened.on("pageerror", lambda error: failed.append(str(error)))
    opened.goto(address)
    yield opened
    opened.context.close()
    assert foreign == [] and failed == []


@pytest.fixture
def page(browser, address):
    with user(browser, address) as opened:
        yield opened


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def pictures(page: Page, caption: str):
    """The picture under a caption, once it is there."""
    return page.get_by_role("img", name=caption, exact=True)


def shoot(page: Page, file: Path) -> None:
    """A screenshot of few colours, so that it stays small."""
    page.wait_for_timeout(700)  # what fades in has done so
    page.mouse.move(0, 0)
    page.screenshot(path=file, full_page=True)
    Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)


def choose(page: Page, *files: Path) -> None:
    """Drop files on the tab that is open."""
    shown = page.get_by_role("tabpanel").locator("visible=true")
    shown.locator("input[type=file]").first.set_input_files(files)


def upload(page: Page, *files: Path) -> None:
    """The same, and wait until they are there."""
    choose(page, *files)
    shown = page.get_by_role("tabpanel").locator("visible=true")
    expect(shown.get_by_text(f"{files[-1].stem[:-3]}").first).to_be_visible()


def told(page: Page, message: str) -> None:
    """A message appears; it is closed."""
    expect(page.get_by_text(message)).to_be_visible()
    page.locator(".toast-close").first.click()


def downloaded(page: Page, name: str, folder: Path) -> Path:
    button = page.get_by_role("button", name=name)
    expect(button).to_be_enabled()
    with page.expect_download() as download:
        button.click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


def nothing_failed(folder: Path) -> None:
    """No traceback leads through this package, but for the layer around all of the server.

    A connection may be cut at any time.
    """
    lines = (folder / "log").read_text().splitlines()
    ours = [line for line in lines if str(ROOT / "cascade") in line]
    assert [line for line in ours if "limits.py" not in line] == []


def test_draw(page, run, shots, tmp_path):
    press(page, "Draw")
    cascade = Cascade.from_pretrained(run)
    for stage in cascade.stages:
        name = f"{stage.name}: {stage.shape[1]}x{stage.shape[2]}"
        expect(pictures(page, name)).to_be_visible()
    file = downloaded(page, "Images as npz", tmp_path)
    assert Image.open(downloaded(page, "Images as PNG", tmp_path)).width > 300
    arrays = np.load(file)
    expected = cascade.sample(len(arrays["images"]), arrays["labels"], 0.8, seed=0)
    assert np.array_equal(arrays["images"], expected.permute(0, 2, 3, 1).numpy())
    shoot(page, shots / "explore-draw.png")


def test_explore(page, shots):
    tab(page, "Explore")
    press(page, "Draw its details again")
    told(page, "draw samples first")
    press(page, "Draw samples")
    thumbnails = page.locator("button.thumbnail-item, .thumbnail-item")
    expect(thumbnails).to_have_count(20)
    thumbnails.nth(16).click()
    expect(page.get_by_text("Chosen: sample 17")).to_be_visible()
    thumbnails.nth(4).click()
    expect(page.get_by_text("Chosen: sample 5")).to_be_visible()
    press(page, "Draw its details again")
    expect(pictures(page, "Versions")).to_be_visible()
    page.get_by_role("button", name="Walk from").click()
    expect(pictures(page, "The whole way")).to_be_visible()
    before = pictures(page, "On the way").get_attribute("src")
    page.get_by_label("range slider for Step").press("End")
    expect(pictures(page, "On the way")).not_to_have_attribute("src", before)
    pictures(page, "Sample: click where").click()
    expect(page.get_by_text("of the pixels changed in the region")).to_be_visible()
    expect(pictures(page, "What changed")).to_be_visible()
    shoot(page, shots / "explore-explore.png")
    press(page, "Draw samples")  # what was made of the ones before goes
    expect(page.get_by_text("of the pixels changed in the region")).to_have_count(0)
    expect(pictures(page, "What changed")).to_have_count(0)


def test_score(page, run, shots, tmp_path):
    tab(page, "Score")
    press(page, "Score")
    told(page, "drop an image first")
    images = Cascade.from_pretrained(run).sample(3, [3, 1, 0], 0.8, seed=1)
    files = []
    for i, image in enumerate(images):
        files.append(tmp_path / f"sample-{i}.png")
        Image.fromarray(image[0].numpy()).save(files[-1])
    files.append(tmp_path / "cat.png")
    Image.fromarray(chelsea()).save(files[-1])
    upload(page, *files)
    press(page, "Score")
    expect(pictures(page, "Where bits are spent")).to_be_visible()
    for text in ("percentile", "WebP", "classes"):
        expect(page.get_by_role("tabpanel").get_by_text(text).first).to_be_visible()
    expect(page.get_by_text("1 of 4 images were of another size")).to_be_visible()
    expect(page.get_by_text("1 of 4 images are in colour")).to_be_visible()
    shoot(page, shots / "explore-score.png")


def test_enlarge(browser, doubler, tmp_path):
    """A stage that enlarges has a page of its own, without the other tabs."""
    command = [ROOT / "tools" / "explore.py", doubler, "--no-browser", "--port", 0]
    photo = tmp_path / "chelsea.png"
    Image.fromarray(chelsea()).save(photo)
    with served(tmp_path / "server", *command) as (address, _), user(browser, address) as page:
        expect(page.get_by_role("tab")).to_have_text(["Enlarge"])
        press(page, "Enlarge")
        told(page, "drop a photo first")
        upload(page, photo)
        page.get_by_label("number input for Pixels a side").fill("512")
        press(page, "Enlarge")
        expect(page.locator("progress")).to_be_visible()
        with page.expect_response(lambda answer: "/reset" in answer.url):
            press(page, "Stop")  # ends the tile; until then another click is not heard
        expect(page.get_by_text("Stopped.")).to_be_visible()
        page.get_by_label("number input for Pixels a side").fill("96")
        press(page, "Enlarge")
        expect(page.get_by_text("Samples differ by")).to_be_visible()
        thumbnails = page.locator(".thumbnail-item")
        expect(thumbnails).to_have_count(4)
        before = page.locator(".slider-wrap img").nth(1).get_attribute("src")
        thumbnails.nth(3).click()
        expect(page.locator(".slider-wrap img").nth(1)).not_to_have_attribute("src", before)


def test_shipped_models(browser, shots, tmp_path):
    """Small photographs are drawn and ranked among held-out ones; a photo grows by four."""
    photo = tmp_path / "chelsea.png"
    Image.fromarray(chelsea()).save(photo)
    command = [ROOT / "tools" / "explore.py", "cifar10", "--no-browser", "--port", 0]
    with served(tmp_path / "cifar10", *command) as (address, _), user(browser, address) as page:
        press(page, "Draw")
        expect(pictures(page, "srf32: 32x32")).to_be_visible()
        shoot(page, shots / "explore-cifar10.png")
        tab(page, "Score")
        upload(page, photo)
        press(page, "Score")
        expect(page.get_by_text("images of cifar10 (test)")).to_be_visible()
    command = [ROOT / "tools" / "explore.py", "photos", "--no-browser", "--port", 0]
    with served(tmp_path / "photos", *command) as (address, _), user(browser, address) as page:
        tab(page, "Enlarge")
        upload(page, photo)
        page.get_by_role("tabpanel").get_by_label("4", exact=True).check()
        press(page, "Enlarge")
        expect(page.get_by_text("384x384 pixels. Samples differ by")).to_be_visible()
        shoot(page, shots / "explore-enlarge.png")


def test_names_of_classes_are_no_marks(browser, tmp_path):
    """A picture in one would be asked of whoever it names; `user` sees that nothing is."""
    run, odd = animals(tmp_path / "odd"), "![x](http://127.0.0.1:9/x.png)"
    for file in run.glob("*/record.json"):
        file.write_text(file.read_text().replace('"cat"', f'"{odd}"'))
    command = [ROOT / "tools" / "explore.py", run, "--no-browser", "--port", 0]
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    served_there = served(tmp_path / "server", *command, **proxy)  # a proxy is not asked either
    with served_there as (address, _), user(browser, address) as page:
        tab(page, "Explore")
        press(page, "Draw samples")
        expect(page.get_by_text(f"Chosen: sample 1 ({odd})")).to_be_visible()


def test_uploads_are_limited_before_they_are_read(address, folder):
    """By what a request says of its length: the body is never sent."""
    for length, status in ((str(2**40), 413), (None, 411)):
        asked = HTTPConnection(address.removeprefix("http://"))
        asked.putrequest("POST", "/gradio_api/upload")
        asked.putheader("Content-Type", "multipart/form-data; boundary=x")
        if length:
            asked.putheader("Content-Length", length)
        asked.endheaders()
        assert asked.getresponse().status == status
    nothing_failed(folder)


def test_two_users_at_once_see_their_own(browser, address, run, tmp_path):
    cascade = Cascade.from_pretrained(run)
    with user(browser, address) as one, user(browser, address) as two:
        for page, number in ((one, 5), (two, 6)):
            page.get_by_label("Seed").locator("visible=true").fill(str(number))
        press(one, "Draw")
        press(two, "Draw")
        for page, number in ((one, 5), (two, 6)):
            arrays = np.load(downloaded(page, "Images as npz", tmp_path))
            expected = cascade.sample(len(arrays["images"]), arrays["labels"], 0.8, seed=number)
            assert np.array_equal(arrays["images"], expected.permute(0, 2, 3, 1).numpy())
        for page in (one, two):
            tab(page, "Explore")
        press(one, "Draw samples")
        expect(one.locator(".thumbnail-item")).to_have_count(20)
        assert two.locator(".thumbnail-item").count() == 0
        press(two, "Draw its details again")
        told(two, "draw samples first")


def test_bad_uploads_are_messages(page, folder, tmp_path):
    noise, huge = tmp_path / "noise.png", tmp_path / "large.png"
    noise.write_bytes(b"no image at all")
    Image.new("1", (6000, 6000)).save(huge)
    for name, button in (("Score", "Score"), ("Enlarge", "Enlarge")):
        tab(page, name)
        for file, message in ((noise, "noise.png is no image"), (huge, "6000x6000 pixels")):
            upload(page, file)
            press(page, button)
            told(page, message)
            page.get_by_role("button", name="Clear").locator("visible=true").first.click()
    large = tmp_path / "large.bmp"
    large.write_bytes(bytes((MEGABYTES + 1) * 1024**2))
    choose(page, large)
    told(page, "exceed the maximum allowed size")
    nothing_failed(folder)


def test_a_reload_while_drawing_breaks_nothing(page, folder, run):
    for _ in range(2):
        press(page, "Draw")
        page.wait_for_timeout(300)
        page.reload()
    press(page, "Draw")
    expect(page.get_by_role("button", name="Images as PNG")).to_be_enabled()
    nothing_failed(folder)


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGHUP])
def test_nothing_is_left(run, folder, tmp_path, ended_by):
    """Neither by the server of the tests above, while it runs, nor by one that has ended."""
    assert list((folder / "home").rglob("*")) == []
    command = [ROOT / "tools" / "explore.py", run, "--no-browser", "--port", 0]
    with served(tmp_path / "server", *command) as (address, server):
        assert urllib.request.urlopen(address).status == 200
        assert list((tmp_path / "server" / "temporary").iterdir())
        server.send_signal(ended_by)
        server.wait(60)
    left = [
        file for name in ("home", "temporary") for file in (tmp_path / "server" / name).rglob("*")
    ]
    assert left == []


def test_the_space_shows_the_model_it_is_told(run, tmp_path):
    """What docs/explore.md puts into a Space stands by itself."""
    for name in ("space", "cascade", "stages", "configs", "models"):
        place = tmp_path / "space" / ("" if name == "space" else name)
        shutil.copytree(ROOT / name, place, dirs_exist_ok=True)
    settings = {"MODEL": str(run), "PORT": "0", "PYTHONPATH": ""}
    script = tmp_path / "space" / "app.py"
    with served(tmp_path / "server", script, **settings) as (address, _):
        local = address.replace("0.0.0.0", "127.0.0.1")
        assert b"CSRFlow" in urllib.request.urlopen(local).read()
