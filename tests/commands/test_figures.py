"""Pictures of a cascade, made as a user makes them."""

import csv
import json

import numpy as np
import pytest
from conftest import run_tool
from PIL import Image

from cascade import Cascade
from cascade.figures.grid import grid
from cascade.figures.interpolation import walk

STEP = 96 + 8  # pixels from one image of a sheet to the next


def rows(file):
    with open(file.with_suffix(".csv")) as lines:
        return list(csv.DictReader(lines))


def drawn(figure, *words) -> list[dict[str, str]]:
    done = run_tool("figures", figure, *words)
    assert done.returncode == 0, done.stderr
    return rows(words[-1])


def shows(file, across: int, down: int) -> None:
    """Check that a sheet has the room for so many images, and is not blank."""
    width, height = Image.open(file).size
    assert across * STEP <= width
    assert down * STEP <= height < (down + 2) * STEP + 40 * down
    assert np.asarray(Image.open(file).convert("L")).std() > 20


def test_samples_of_every_stage(digits, tmp_path):
    file = tmp_path / "samples.png"
    found = drawn("samples", digits, "--num", 3, "--out", file)
    assert [row["stage"] for row in found] == ["glow8", "srf16"]
    shows(file, 3, 2)


def test_versions(digits, few_digits, tmp_path):
    file = tmp_path / "versions.png"
    words = ["--num", 2, "--each", 3, "--data", few_digits, "--out"]
    found = drawn("versions", digits, *words, file)
    assert len(found) == 2 and all(float(row["spread"]) > 1 for row in found)
    shows(file, 6, 2)  # low, three versions, spread, real
    drawn("versions", digits, "--drawn", "--low", 8, *words, tmp_path / "drawn.png")
    shows(tmp_path / "drawn.png", 5, 2)


def test_temperatures(digits, tmp_path):
    file = tmp_path / "temperatures.png"
    words = ["--num", 1, "--values", "0,0.5,1", "--temperature", "0.9,0.5", "--out", file]
    found = drawn("temperatures", digits, *words)
    assert [(row["stage"], row["temperature"]) for row in found] == [
        (stage, value) for stage in ("glow8", "srf16") for value in ("0.0", "0.5", "1.0")
    ]
    shows(file, 3, 2)


def test_interpolation(digits, few_digits, tmp_path):
    file = tmp_path / "interpolation.png"
    words = ["--num", 2, "--steps", 4, "--data", few_digits, "--split", "all", "--out", file]
    found = drawn("interpolation", digits, *words)
    assert [row["share"] for row in found[:4]] == ["0.0", str(1 / 3), str(2 / 3), "1.0"]
    assert all(" to " in row["name"] and float(row["bpd"]) > 0 for row in found)
    shows(file, 4, 4)
    real = float(found[0]["bpd"])
    drawn("interpolation", digits, *words[:2], "--steps", 2, *words[4:-1], tmp_path / "two.png")
    assert float(rows(tmp_path / "two.png")[0]["bpd"]) == real  # an end is the image itself


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_a_walk_moves_and_repeats(digits, tmp_path, suffix):
    file = tmp_path / f"walk.{suffix}"
    found = drawn("walk", digits, "--num", 2, "--frames", 5, "--seed", 3, "--out", file)
    assert len(found) == 5
    with Image.open(file) as picture:
        assert picture.n_frames == 5 and picture.info["loop"] == 0
        cascade = Cascade.load(digits)
        for frame, images in enumerate(walk(cascade, 2, 5, None, 0.8, seed=3)):
            picture.seek(frame)
            shown, expected = picture.convert("L"), grid(images[-1], 2, 320).convert("L")
            assert np.array_equal(np.asarray(shown), np.asarray(expected))


def test_neighbours(digits, few_digits, tmp_path):
    file = tmp_path / "neighbours.png"
    words = ["--num", 10, "--data", few_digits, "--split", "all", "--out", file]
    found = drawn("neighbours", digits, *words)
    shows(file, 6, 8)
    samples = [row for row in found if row["images"] == "samples"]
    assert len(samples) == 50 and all(float(row["distance"]) > 1 for row in samples)
    ours = [float(row["distance"]) for row in samples[:5]]
    assert ours == sorted(ours)
    # these "held-out" images were trained on, so each is its own neighbour
    known = [row for row in found if row["images"] == "held out" and row["rank"] == "1"]
    assert known and all(float(row["distance"]) == 0 for row in known)


def test_training_curves(digits, tmp_path):
    file = tmp_path / "training.png"
    found = drawn("training", digits, "--out", file)
    assert Image.open(file).width > 800  # two panels
    last = json.loads((digits / "srf16" / "metrics.jsonl").read_text().splitlines()[-1])
    mine = [row for row in found if row["stage"] == "srf16"]
    assert {row["images"] for row in mine} == {"training", "validation"}
    by_name = {row["images"]: float(row["value"]) for row in mine if int(row["step"]) == 40}
    assert by_name == {"training": last["bpd"], "validation": last["validation_bpd"]}
    timed = tmp_path / "timed" / "srf16"
    timed.mkdir(parents=True)
    (timed / "metrics.jsonl").write_text(json.dumps({**last, "seconds": 7.5}) + "\n")
    found = drawn("training", timed, "--out", tmp_path / "hours.png")
    assert {(row["step"], row["seconds"]) for row in found} == {("40", "7.5")}


@pytest.mark.parametrize(
    ("figure", "words", "message"),
    [
        ("walk", ["RUN", "--out", "walk.png"], "walk.png must end in .gif or .webp"),
        ("versions", ["RUN", "--out", "v.webp"], "must end in .png, .pdf or .svg"),
        ("versions", ["RUN", "--low", 12, "--out", "v.png"], "are 8x8, not 12x12"),
        ("versions", ["RUN/glow8", "--out", "v.png"], "no stage follows glow8"),
        ("temperatures", ["RUN", "--temperature", "1,2,3", "--out", "t.png"], "3 temperatures"),
        ("interpolation", ["RUN", "--steps", 1, "--out", "i.png"], "--steps 2 or more"),
        ("interpolation", ["RUN", "--data", "digits", "--out", "i.png"], "expects 16x16 images"),
        ("neighbours", ["RUN", "--data", "none", "--out", "n.png"], "unknown data set 'none'"),
        ("training", ["EMPTY", "--out", "t.png"], "holds no metrics.jsonl"),
        ("training", ["RUN", "--out", "there.png"], "--force"),
    ],
)
def test_wrong_inputs_are_one_line_and_leave_nothing(digits, tmp_path, figure, words, message):
    (tmp_path / "there.csv").touch()
    places = {"RUN": digits, "RUN/glow8": digits / "glow8", "EMPTY": tmp_path}
    words = [places.get(word, word) for word in words]
    done = run_tool("figures", figure, *words[:-1], tmp_path / words[-1])
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["there.csv"]
