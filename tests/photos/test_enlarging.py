"""Enlarging by several processes, on disk, strip by strip, interrupted and continued."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import ROOT, run_tool
from PIL import Image
from small_stages import stage_folder

from cascade import InputError
from cascade.evaluation.enlargements.image_metrics import bicubic, psnr_between
from cascade.photos import canvas, fidelity, strips
from cascade.photos.canvas import Canvas
from cascade.photos.deviation import Range, deviation, draw_deviation
from cascade.photos.photo import FORMATS, Photo
from cascade.photos.tiling import Tiling
from cascade.photos.upscaling import enlarge, load_doublers, upscale
from cascade.photos.work_folder import interrupted, work_folder
from cascade.transforms.pyramid import pyramid
from cascade.utils import workers

SIZE = (1100, 70)  # of the photo of the command: 36 rows of 3 tiles


def noise(*shape: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=source, dtype=torch.uint8)


@pytest.fixture(scope="module", params=["bicubic", "haar"])
def doubler(request, tmp_path_factory):
    changes = ["model.pyramid=haar", "model.residual=false"] if request.param == "haar" else []
    return stage_folder(tmp_path_factory.mktemp("stages") / "srf2x", *changes)


def test_a_canvas_is_what_was_appended(tmp_path):
    image, made = noise(3, 20, 7), Canvas(tmp_path / "image", (3, 20, 7))
    assert made.done == 0
    for rows in (8, 12):
        made.append(image[:, made.done : rows])
        assert made.done == rows
    with open(made.file, "ab") as file:
        file.write(b"part of a row")
    assert made.done == 12
    made.keep(10)
    made.append(image[:, 10:])
    assert made.done == 20 and torch.equal(made[:], image)
    places = torch.tensor([5, 5, 0])
    assert torch.equal(made[:, places], image[:, places])
    assert torch.equal(made[..., 3:40, :], image[..., 3:40, :])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_measures_by_strips_are_those_of_whole_images(doubler, count, monkeypatch):
    monkeypatch.setattr(canvas, "STRIP", 5)
    factor, stages = 2**count, load_doublers([doubler] * count)
    kind = stages[0].config.model.pyramid
    image = noise(3, 23 * factor, 6 * factor)
    low = pyramid(image, count + 1, kind=kind)[0]
    assert torch.equal(fidelity.lowered(stages, image), low)
    assert fidelity.low_psnr(stages, image, low) == float("inf")
    other = image.roll(1, 2)
    mine, theirs = (pyramid(x, count + 1, kind=kind)[0] for x in (other, image))
    assert fidelity.low_psnr(stages, other, low) == psnr_between(mine, theirs)
    assert fidelity.image_psnr(image, other) == psnr_between(image, other)
    raised = bicubic(low, factor)
    assert fidelity.cubic_psnr(low, image) == psnr_between(raised, image)
    assert torch.equal(fidelity.cubic(low, image, range(9, 33)), raised[:, 9:33])


def test_deviation_is_that_of_all_samples_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "STRIP", 5)
    samples = noise(4, 3, 23, 6)
    samples[:, :, 3] = 9  # all agree
    expected = samples.double().var(0).mean(0).sqrt()
    assert torch.allclose(deviation(iter(samples)), expected)
    assert deviation(samples[:1]).abs().max() == deviation([samples[0]] * 3).max() == 0
    images = [Canvas(tmp_path / str(i), (3, 23, 6)) for i in range(4)]
    for image, sample in zip(images, samples, strict=True):
        image.append(sample)
    drawn = Canvas(tmp_path / "deviation", (1, 23, 6))
    drawn.append(noise(1, 2, 6))  # an interrupted run left it
    found = draw_deviation(images, drawn)
    assert found.largest == pytest.approx(expected.max().item())
    assert found.mean == pytest.approx(expected.mean().item())
    assert torch.equal(drawn[0], (255 * expected / expected.max()).round().to(torch.uint8))
    assert draw_deviation(images[:1] * 2, drawn) == Range(0, 0) and drawn[:].max() == 0


def test_on_disk_as_in_memory_from_wherever_it_was_left(doubler, tmp_path):
    """Every strip may be the last one that was there, and the next one half written."""
    stages, tiling = load_doublers([doubler, doubler]), Tiling(32, 16)
    low, decode = noise(3, 37, 20), strips.TileDecoder(stages).map
    sample = strips.Sample(5, 1, [0.9, 0.6])
    expected = upscale(stages, low, 2, [0.9, 0.6], 5, tiling=tiling)[1]
    told = []
    made = enlarge(stages, low, sample, tmp_path, tiling, decode, told.append)
    assert torch.equal(made[:], expected) and [file.name for file in tmp_path.iterdir()] == ["1-1"]
    tiles, first = sum(told), upscale(stages[:1], low, 2, 0.9, 5, tiling=tiling)[1]
    for rows in (0, 32, 50, 147, 148):  # 0: the image between the stages is made again, too
        made.keep(rows)
        if rows < 148:
            Canvas(tmp_path / "1-0", (3, 74, 40)).append(first[:, : 74 if rows else 40])
        told.clear()
        again = enlarge(stages, low, sample, tmp_path, tiling, decode, told.append)
        assert torch.equal(again[:], expected) and sum(told) == tiles
        assert [file.name for file in tmp_path.iterdir()] == ["1-1"]


def test_tiles_seen_at_once_are_those_seen_one_by_one(doubler):
    stages, seen = load_doublers([doubler]), noise(3, 3, 16, 16)
    stages[0].double()
    columns = [range(left - 4, left + 12) for left in (0, 8, 16)]
    sample, decode = strips.Sample(1, 0, [0.8]), strips.TileDecoder(stages)
    together = decode(strips.Tiles(0, sample, range(-4, 12), columns, 4, seen.numpy()))
    assert together.shape == (3, 3, 16, 16)
    for i, span in enumerate(columns):
        alone = strips.Tiles(0, sample, range(-4, 12), [span], 4, seen[i : i + 1].numpy())
        assert np.array_equal(decode(alone)[0], together[i])


def test_groups_of_tiles_are_of_nearly_one_size(doubler):
    [stage] = load_doublers([doubler])
    lefts = list(range(0, 230, 10))
    assert strips.groups(stage, lefts, 1) == [[left] for left in lefts]  # on a CPU
    elsewhere = stage.replace(flow=stage.flow.to("meta"))
    for most in (1, 2, 10, 22, 23, 1000):
        found = strips.groups(elsewhere, lefts, strips.AT_ONCE // most)
        sizes = [len(group) for group in found]
        assert list(chain(*found)) == lefts and max(sizes) <= most
        assert len(found) == -(-23 // most) and max(sizes[:-1], default=0) <= max(sizes)


@pytest.mark.parametrize("suffix", FORMATS)
def test_formats_are_without_loss(suffix, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    kept = {"exif": exif.tobytes(), "icc_profile": b"a profile"}
    picture = Photo.of(noise(3, 300, 20)).picture
    Photo(picture, kept).save(tmp_path / f"photo.{suffix}")
    read = Image.open(tmp_path / f"photo.{suffix}")
    assert np.array_equal(np.asarray(read.convert("RGB")), np.asarray(picture))
    assert read.info["icc_profile"] == b"a profile" and read.getexif()[0x010F] == "maker"


def test_what_is_kept_of_interrupted_work(tmp_path):
    work, settings = tmp_path / "photo.part", {"seed": 1, "temperature": [0.8]}

    def attempt(error: type[BaseException] | None, made: bool, **options) -> None:
        options = {"resume": False, "restart": False, "settings": settings} | options
        with work_folder(work, **options):
            if made:
                (work / "0-0").write_bytes(b"a strip")
            if error:
                raise error("stopped")

    attempt(None, True)
    assert not work.exists()
    for error, made in ((InputError, True), (KeyboardInterrupt, False)):
        with pytest.raises(error):
            attempt(error, made)
        assert not work.exists()
    with pytest.raises(KeyboardInterrupt):
        attempt(KeyboardInterrupt, True)
    assert interrupted(work)
    for options, says in (
        ({}, "--resume continues it, --force starts over"),
        ({"resume": True, "settings": settings | {"seed": 2}}, "made with seed=1, not 2"),
    ):
        with pytest.raises(InputError) as refused:
            attempt(None, False, **options)
        assert says in str(refused.value) and (work / "0-0").exists()
    with work_folder(work, settings, resume=True, restart=False):
        assert (work / "0-0").read_bytes() == b"a strip"
        with pytest.raises(InputError, match="being written by process"):
            attempt(None, False, resume=True)
    assert not work.exists()
    work.mkdir()
    (work / "settings.json").write_text("[")
    with pytest.raises(InputError, match="is damaged"):
        attempt(None, False, resume=True)
    with work_folder(work, settings, resume=True, restart=True):
        assert not (work / "0-0").exists()


def of_a_worker(number: int):
    """What the process of the next test does: a division, or nothing any more."""
    return lambda task: os._exit(1) if task is None else number / task


def test_workers():
    with workers.Workers(1, of_a_worker, 6) as pool:
        assert list(pool.map(range(1, 40))) == [6 / task for task in range(1, 40)]
        with pytest.raises(ZeroDivisionError):
            list(pool.map([3, 0, 3]))
        [process] = pool.processes
        assert list(pool.map([4])) == [1.5] and process.is_alive()
        with pytest.raises(ChildProcessError, match="died"):
            list(pool.map([1, None, 2]))
    assert not process.is_alive()


def test_one_thread():
    torch.set_num_threads(2)
    with pytest.raises(KeyError), workers.one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)


def test_processes_of_the_environment(monkeypatch):
    monkeypatch.setenv(workers.PROCESSES, "3")
    assert workers.usual_processes() == 3
    monkeypatch.delenv(workers.PROCESSES)
    assert workers.usual_processes() == workers.usable_cores() >= 1
    for wrong in ("0", "-1", "two", "٣"):
        monkeypatch.setenv(workers.PROCESSES, wrong)
        with pytest.raises(InputError, match="CSRFLOW_PROCESSES is a whole number above 0"):
            workers.usual_processes()


def test_an_interrupted_run_is_continued(tmp_path):
    """By another number of processes, to the same picture; nothing half written, nobody left."""
    folder, photo, low = tmp_path / "srf2x", tmp_path / "photo.png", noise(3, *SIZE)
    stage_folder(folder)
    Photo.of(low).save(photo)
    words = ["upscale", folder, photo, "--tile", 64, "--out", tmp_path / "out", "--processes"]
    work, done = tmp_path / "out" / "photo-x2.part", 0
    for number, processes, code in (
        (signal.SIGINT, 2, 130),
        (signal.SIGKILL, 1, -signal.SIGKILL),
    ):
        command = [sys.executable, "-m", "cascade.commands", *map(str, words), str(processes)]
        command += ["--resume"] * (done > 0)
        process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)
        assert waited(lambda least=done: size(work / "0-0") > least), process.communicate()
        children = psutil.Process(process.pid).children(recursive=True)
        assert sum(map(is_worker, children)) == (processes if processes > 1 else 0)
        for receiver in [process, *children] if number == signal.SIGINT else [process]:
            receiver.send_signal(number)  # a terminal sends Ctrl-C to all
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == code
        assert waited(lambda left=children: not any(map(alive, left)))
        assert [file.name for file in (tmp_path / "out").iterdir()] == [work.name]
        assert ("--resume continues" in printed) == (number == signal.SIGINT)
        done = size(work / "0-0")
    refused = run_tool(*words, 1)
    assert refused.returncode == 2 and "--resume continues it" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert 0 < done < 4 * low.numel()
    other = run_tool(*words, 1, "--resume", "--seed", 1)
    assert other.returncode == 2 and "made with seed=0, not 1" in other.stderr
    finished = run_tool(*words, 1, "--resume")
    assert finished.returncode == 0, finished.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["photo-x2-0.png"]
    [expected] = upscale(load_doublers([folder]), low, tiling=Tiling(64, 32))
    assert torch.equal(Photo.open(tmp_path / "out" / "photo-x2-0.png").pixels(3), expected)


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def is_worker(process: psutil.Process) -> bool:
    return "spawn_main" in " ".join(process.cmdline())


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def waited(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true within four minutes."""
    end = time.monotonic() + 240
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
