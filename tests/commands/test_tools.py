"""The command line, run as a user runs it."""

import csv
import json
import math
import time

import numpy as np
import pytest
import torch
from conftest import run_tool
from PIL import Image

from cascade import Cascade, InputError
from cascade.data import open_images
from cascade.evaluation import codecs
from cascade.figures.grid import grid
from cascade.transforms.pyramid import halve_to


def test_sample(digits, tmp_path):
    grid, npz, report = tmp_path / "g.png", tmp_path / "s.npz", tmp_path / "r.json"
    command = [
        "sample",
        digits,
        "--num",
        20,
        "--out",
        grid,
        "--npz",
        npz,
        "--json",
        report,
    ]
    done = run_tool(*command)
    assert done.returncode == 0, done.stderr
    assert "images/s" in done.stdout and "0 not finite" in done.stdout
    arrays = np.load(npz)
    assert arrays["images"].shape == (20, 16, 16, 1) and arrays["images"].dtype == np.uint8
    assert arrays["labels"].tolist() == [i // 2 for i in range(20)]
    assert json.loads(report.read_text())["not_finite"] == 0
    picture = Image.open(grid)
    assert picture.width >= 160 and picture.height > picture.width  # ten rows of two
    again = run_tool(*command)
    assert again.returncode == 2 and "--force" in again.stderr
    other = run_tool(*command, "--force", "--chunk", 7)
    assert other.returncode == 0 and "(cpu, chunks of 7)" in other.stdout
    assert json.loads(report.read_text())["chunk"] == 7
    apart = np.load(npz)["images"] != arrays["images"]
    assert apart.mean() < 0.01  # rounding alone


def test_sample_of_chosen_classes(digits, tmp_path):
    npz = tmp_path / "s.npz"
    done = run_tool(
        "sample", digits, "--num", 6, "--classes", "3,7", "--temperature", "0.9,0.8",
        "--seed", 4, "--out", tmp_path / "g.png", "--npz", npz,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    arrays = np.load(npz)
    assert arrays["labels"].tolist() == [3, 3, 3, 7, 7, 7]
    expected = Cascade.load(digits).sample(6, [3, 3, 3, 7, 7, 7], [0.9, 0.8], seed=4)
    assert np.array_equal(arrays["images"], expected.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize(
    ("classes", "num", "rows"),
    [
        ("3,7,3,1", 7, [[0, 1], [2, 3], [4, 5], [6]]),
        ("5,5", 3, [[0, 1], [2]]),
        ("9,0", 45, [[*range(20)], [20, 21, 22], [*range(23, 43)], [43, 44]]),
    ],
)
def test_every_sample_is_drawn_once_in_its_own_row(digits, tmp_path, classes, num, rows):
    picture, npz = tmp_path / "g.png", tmp_path / "s.npz"
    done = run_tool(
        "sample", digits, "--num", num, "--classes", classes, "--out", picture, "--npz", npz
    )
    assert done.returncode == 0, done.stderr
    images = torch.from_numpy(np.load(npz)["images"]).permute(0, 3, 1, 2)
    columns, black = max(map(len, rows)), torch.zeros_like(images[0])
    cells = [[*images[row], *[black] * (columns - len(row))] for row in rows]
    expected = grid(torch.stack([cell for row in cells for cell in row]), columns)
    drawn = Image.open(picture)
    drawn = drawn.crop((drawn.width - expected.width, 0, *drawn.size))
    assert np.array_equal(np.array(drawn), np.array(expected))
    wanted = [int(c) for c in classes.split(",")]
    labels = [wanted[i * len(wanted) // num] for i in range(num)]
    assert np.load(npz)["labels"].tolist() == labels


@pytest.mark.parametrize("mode", ["given", "marginal"])
def test_likelihood(digits, tmp_path, mode):
    table, report = tmp_path / "t.csv", tmp_path / "r.json"
    done = run_tool(
        "likelihood", digits, "--data", "mnist5k", "--limit", 40, "--label-mode", mode,
        "--csv", table, "--json", report,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert "lower bound on log P(image)" in words and "grey levels" in words and "WebP" in words
    found = json.loads(report.read_text())
    rows = list(csv.DictReader(table.open()))
    assert found["images"] == len(rows) == 40
    assert list(rows[0]) == ["index", "file", "label", "nats_glow8", "nats_srf16", "nats", "bpd"]
    assert sum(s["share"] for s in found["stages"]) == pytest.approx(found["bpd"])
    assert np.mean([float(r["bpd"]) for r in rows]) == pytest.approx(found["bpd"])
    source = open_images("mnist5k", "test", 1)
    index = torch.tensor([int(r["index"]) for r in rows])
    images, labels = halve_to(source.read(index), 16), source.labels[index]
    nats = Cascade.load(digits).log_prob(images, labels if mode == "given" else None)
    assert [float(r["nats"]) for r in rows] == pytest.approx(nats.tolist(), rel=1e-12)
    bits = -nats.mean().item() / (256 * math.log(2))
    assert found["bpd"] == pytest.approx(bits)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.full((16, 16), 40 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_folder_with_a_truncated_image(digits, pictures):
    command = ["likelihood", digits, "--data", pictures, "--split", "all"]
    file = pictures / "2.png"
    file.write_bytes(file.read_bytes()[:40])
    done = run_tool(*command)
    assert done.returncode == 2 and "2.png" in done.stderr and done.stderr.count("\n") == 1
    done = run_tool(*command, "--skip-bad")
    assert done.returncode == 0, done.stderr
    assert "unreadable images left out: 1" in done.stdout and "over 3 images" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUNS/none", "--data", "mnist5k"], "no run folder"),
        (["RUN", "--data", "imagenet"], "unknown data set 'imagenet'"),
        (["RUN", "--data", "EMPTY"], "holds no images"),
        (["RUN", "--data", "digits"], "stage srf16 expects 16x16 images"),
        (["RUN", "--stages", "srf16,glow8", "--data", "mnist5k"], "first stage must be a Glow"),
    ],
)
def test_errors_are_one_line_and_code_two(digits, tmp_path, words, message):
    (tmp_path / "empty").mkdir()
    names = {"RUN": digits, "EMPTY": tmp_path / "empty", "RUNS/none": tmp_path / "none"}
    done = run_tool("likelihood", *(names.get(w, w) for w in words))
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1


def test_bad_classes(digits, tmp_path):
    done = run_tool("sample", digits, "--classes", "12", "--out", tmp_path / "g.png")
    assert done.returncode == 2 and "there is no class '12'" in done.stderr
    assert not (tmp_path / "g.png").exists()


@pytest.mark.parametrize(
    ("tool", "words", "message"),
    [
        ("sample", ["--out", "a.png", "--npz", "./a.png"], "a.png and ./a.png are one file"),
        ("sample", ["--out", "a.png", "--npz", "a.png/b"], "a.png/b would lie in a.png"),
        ("sample", ["--out", "folder.png"], "folder.png is not a file"),
        ("sample", ["--out", "file/a.png"], "file is not a folder"),
        ("sample", ["--out", "a" * 250 + ".png"], "File name too long"),
        ("sample", ["--out", "new/a.png", "--npz", "/dev/null"], "/dev/null is not a file"),
        ("sample", ["--out", "a.png", "--temperature", "nan"], "finite numbers not below 0"),
        ("sample", ["--out", "a.png", "--temperature", "1,1,1"], "3 temperatures for 2 stages"),
        ("sample", ["--out", "a.png", "--device", "meta"], "meta cannot be used here"),
        ("sample", ["--out", "a.png", "--classes", "1,2,3", "--num", 2], "--num 2 is too few"),
        ("sample", ["--out", "a.png", "--classes", "1,99", "--num", 999], "no class '99'"),
        ("sample", ["--out", "a.png", "--num", 10**12], "GiB of memory"),
        ("likelihood", ["--csv", "f", "--npz", "f"], "f and f are one file"),
        ("likelihood", ["--csv", "f", "--heatmap", "f"], "f and f are one file"),
        ("evaluate", ["--json", "s.png", "--temperature", "0:1:0.5", "--out", "s.png"], "one file"),
        ("figures samples", ["--out", "file/a.png"], "file is not a folder"),
        ("upscale", ["file", "--out", "out"], "not an image of a known format"),
    ],
)
def test_outputs_are_checked_before_any_work(digits, tmp_path, tool, words, message, monkeypatch):
    (tmp_path / "file").write_text("something")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(Cascade, "draw", lambda *_: pytest.fail("it worked before it checked"))
    names = ("a", "file", "folder", "new", "f", "s.", "./a", "out")
    placed = [f"{tmp_path}/{w}" if isinstance(w, str) and w.startswith(names) else w for w in words]
    tool, *figure = tool.split()
    done = run_tool(tool, *figure, digits, *placed)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr.replace(f"{tmp_path}/", "")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["file", "folder.png"]


def test_samples_none_of_which_is_finite(digits, tmp_path):
    words = ["sample", digits, "--num", 3, "--temperature", "1e38", "--out", tmp_path / "g.png"]
    done = run_tool(*words)
    assert done.returncode == 2 and "no sample is finite" in done.stderr
    assert not list(tmp_path.iterdir())
    done = run_tool(*words, "--allow-not-finite")
    assert done.returncode == 0 and "3 not finite" in done.stdout
    cascade = Cascade.load(digits)
    with pytest.raises(InputError, match="no sample is finite"):
        cascade.sample(2, temperature=1e38)
    noises = [n.fill_(math.nan) for n in cascade.encode(cascade.sample(2), [0, 1])]
    with pytest.raises(InputError, match="no sample is finite"):
        cascade.decode(noises, [0, 1])
    for figure in ("samples", "versions", "walk"):
        out = tmp_path / f"{figure}.{'gif' if figure == 'walk' else 'png'}"
        done = run_tool("figures", figure, digits, "--temperature", 1e38, "--num", 2, "--out", out)
        assert done.returncode == 2 and "no sample is finite" in done.stderr, figure
        assert not out.exists()


def test_a_message_is_one_line_whatever_a_file_is_called(digits, tmp_path):
    done = run_tool("sample", digits, "--num", 2, "--out", tmp_path / "two\nlines\x1b[2J.txt")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "two\\nlines\\x1b[2J.txt is not a picture" in done.stderr
    out = f"{tmp_path}/a\udcff\n.png"
    done = run_tool("sample", digits, "--num", 2, "--out", out)
    assert done.returncode == 0 and "a\\udcff\\n.png: 2 samples" in done.stdout


def test_images_a_second_are_those_of_the_clock(digits, tmp_path, monkeypatch):
    """What the model leaves to do counts as well, such as the sizes of files."""
    plain = codecs.file_bpd

    def slow(*words):
        time.sleep(0.02)
        return plain(*words)

    monkeypatch.setattr(codecs, "file_bpd", slow)  # twice an image
    report = tmp_path / "r.json"
    done = run_tool("likelihood", digits, "--limit", 32, "--json", report)
    assert done.returncode == 0, done.stderr
    assert 0 < json.loads(report.read_text())["images_per_s"] < 25
