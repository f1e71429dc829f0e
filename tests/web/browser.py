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
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright
from small_stages import animals
from skimage.data import chelsea

from cascade import Cascade
from cascade.web.model import open_model

PATIENCE = 120_000  # milliseconds: a slow machine, shared with others
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
def served(folder: Path, *command: object):
    """A server's address and process; it runs in ``folder``, and has its home there."""
    home = folder / "home"
    home.mkdir(parents=True)
    temporary = folder / "temporary"
    temporary.mkdir()
    log = folder / "log"
    env = os.environ | {"HOME": str(home), "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
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
def browser():
    found = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        launched = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def page(browser, address, request):
    """A new user on the page; nothing may be asked of any other machine, and nothing fail."""
    opened, foreign, failed = browser.new_context(viewport=WIDE).new_page(), [], []
    local = (address, "data:", "blob:", address.replace("http", "ws"))
    opened.on("request", lambda asked: asked.url.startswith(local) or foreign.append(asked.url))
    opened.on("pageerror", lambda error: failed.append(str(error)))
    opened.goto(address)
    yield opened
    opened.context.close()
    assert foreign == [] and failed == []


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
    assert file.stat().st_size < 300_000


def seed(page: Page, value: int) -> None:
    page.get_by_label("Seed").locator("visible=true").fill(str(value))


def downloaded(page: Page, name: str, folder: Path) -> Path:
    button = page.get_by_role("button", name=name)
    expect(button).to_be_enabled()
    with page.expect_download() as download:
        button.click()
    file = folder / download.value.suggested_filename
    download.value.save_as(file)
    return file


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
    expect(page.get_by_text("draw samples first")).to_be_visible()
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
    page.get_by_label("range slider for Per cent of the way").press("End")
    expect(pictures(page, "On the way")).not_to_have_attribute("src", before)
    pictures(page, "Sample: click where").click()
    expect(page.get_by_text("of the pixels changed in the region")).to_be_visible()
    expect(pictures(page, "What changed")).to_be_visible()
    shoot(page, shots / "explore-explore.png")


def test_score(page, run, shots, tmp_path):
    tab(page, "Score")
    press(page, "Score")
    expect(page.get_by_text("drop an image first")).to_be_visible()
    images = Cascade.from_pretrained(run).sample(3, [3, 1, 0], 0.8, seed=1)
    files = []
    for i, image in enumerate(images):
        files.append(tmp_path / f"sample-{i}.png")
        Image.fromarray(image[0].numpy()).save(files[-1])
    files.append(tmp_path / "cat.png")
    Image.fromarray(chelsea()).save(files[-1])
    page.locator("input[type=file]").locator("visible=true").or_(
        page.get_by_role("tabpanel").locator("visible=true").locator("input[type=file]")
    ).first.set_input_files(files)
    expect(page.get_by_text("cat.png").first).to_be_visible()
    press(page, "Score")
    expect(pictures(page, "Where bits are spent")).to_be_visible()
    for text in ("percentile", "WebP", "most likely classes"):
        expect(page.get_by_role("tabpanel").get_by_text(text).first).to_be_visible()
    expect(page.get_by_text("1 of 4 images were of another size")).to_be_visible()
    shoot(page, shots / "explore-score.png")
