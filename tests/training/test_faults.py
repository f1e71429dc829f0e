"""What goes wrong in training: values not finite, damaged files, full disks, other data."""

import json
import pickle
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, TINY, launch, run_tool
from PIL import Image
from small_stages import stage_folder

from cascade.building import build
from cascade.config import load_config, save_config
from cascade.record import Record
from cascade.stage import load_stage
from cascade.training.checkpoints import States
from cascade.training.trainer import Trainer
from cascade.utils.files import whole
from cascade.utils.tensors import read_tensors, write_tensors
from stages import InputError

SRF16 = ROOT / "configs" / "mnist5k" / "srf16.yaml"
FEW = [*TINY, "train.steps=8", "train.log_every=1", "train.save_every=4"]
FEW += ["train.validate_images=16", "train.init_images=64"]


def trainer(data, out, *settings) -> Trainer:
    return Trainer(load_config(SRF16, [*FEW, f"data.name={data}", f"out={out}", *settings]))


def rows(out):
    return [json.loads(row) for row in (out / "metrics.jsonl").open()]


def poison(run: Trainer, where, steps, value=float("inf")) -> None:
    """Make some steps' loss not a number, or the gradient of one parameter ``value``."""
    plain = run._disturbed

    def poisoned(batch):
        batch = plain(batch)
        if run.step in steps and where == "loss":
            batch.target[0, 0, 0, 0] = float("nan")
        return batch

    run._disturbed = poisoned
    if where == "gradient":
        bias = run.learner.loss.flow.encoder.first.bias
        bias.register_hook(lambda g: g * value if run.step in steps else g)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_skipped_and_logged(few_digits, tmp_path, where):
    run = trainer(few_digits, tmp_path / "run")
    poison(run, where, {2, 3, 6})
    assert run.run()
    skips = [row for row in rows(tmp_path / "run") if "skipped" in row]
    assert [(row["step"], row["skipped"]) for row in skips] == [(3, 1), (4, 2), (7, 3)]
    assert skips[0]["images"] == run.batches.images_of(2) and len(skips[0]["images"]) == 16
    assert [row["step"] for row in rows(tmp_path / "run") if "bpd" in row] == [1, 2, 5, 6, 8]
    for name in ("model", "best"):
        assert all(
            t.isfinite().all() for t in read_tensors(run.out / f"{name}.safetensors").values()
        )
    assert "3 steps skipped as not finite" in (run.out / "README.md").read_text()


@pytest.mark.parametrize(
    ("where", "value", "layer"),
    [
        ("loss", 0, r"flow\.body\S* \(\w+\)"),
        ("gradient", float("nan"), "gradient of flow.encoder.first.bias"),
    ],
)
def test_too_many_in_a_row_end_the_run_with_a_diagnosis(few_digits, tmp_path, where, value, layer):
    settings = ["train.skip_limit=2", "train.save_every=1", "train.keep=1"]
    run = trainer(few_digits, tmp_path / "run", *settings)
    poison(run, where, range(5, 100), value)
    with pytest.raises(InputError, match=rf"3 steps in a row .* up to step 8: .*{layer}") as error:
        run.run()
    assert "step-00000005.safetensors is whole" in str(error.value)
    assert "\n" not in str(error.value)
    kept = States(run.out / "state", 2).newest()
    assert kept[2]["step"] == 5 and all(t.isfinite().all() for t in kept[1].values())
    assert trainer(few_digits, tmp_path / "run").run()  # without the poison, it goes on


def test_a_damaged_state_is_passed_over(few_digits, tmp_path, capsys):
    whole = trainer(few_digits, tmp_path / "whole")
    whole.run()
    run = trainer(few_digits, tmp_path / "run")
    run.run()
    newest = States(run.out / "state", 2).file(8)
    newest.write_bytes(newest.read_bytes()[:1000])
    with pytest.warns(UserWarning, match="step-00000008.*going back to the state before it"):
        again = trainer(few_digits, tmp_path / "run")
    assert again.step == 4 and again.run()
    one, two = (read_tensors(f / "model.safetensors") for f in (whole.out, again.out))
    assert all(torch.equal(one[key], two[key]) for key in one)
    for file in States(run.out / "state", 2).files():
        file.write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(InputError, match="none of the states"):
        trainer(few_digits, tmp_path / "run")
    for file in States(run.out / "state", 2).files():
        file.unlink()
    with pytest.raises(InputError, match="holds weights, but no state to continue from"):
        trainer(few_digits, tmp_path / "run")


def test_a_damaged_state_does_not_count_among_those_kept(few_digits, tmp_path):
    trainer(few_digits, tmp_path / "run").run()
    states = States(tmp_path / "run" / "state", 2)
    states.file(8).write_bytes(b"cut off")
    settings = ["train.keep=1", "train.steps=6", "train.save_every=2"]
    with pytest.warns(UserWarning, match="going back"):
        run = trainer(few_digits, tmp_path / "run", *settings)
    assert run.run() and states.files() == [states.file(6)]
    assert trainer(few_digits, tmp_path / "run", *settings).run()


def test_killed_in_the_last_save_the_weights_are_still_written(few_digits, tmp_path):
    trainer(few_digits, tmp_path / "whole").run()
    run = trainer(few_digits, tmp_path / "cut")
    publish = run.saver.publish

    def killed_at_the_end():
        if run.step == 8:
            raise KeyboardInterrupt
        publish()

    run.saver.publish = killed_at_the_end
    with pytest.raises(KeyboardInterrupt):
        run.run()
    assert States(run.out / "state", 2).newest()[2]["step"] == 8
    again = trainer(few_digits, tmp_path / "cut")
    assert again.step == 8 and again.run()
    one, two = (read_tensors(tmp_path / f / "model.safetensors") for f in ("whole", "cut"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert (run.out / "README.md").is_file()


def test_a_validation_that_is_not_finite(few_digits, tmp_path):
    run = trainer(few_digits, tmp_path / "run")
    run.data.held_out.batch.target[0] = float("nan")
    assert run.run()
    validated = [row["validation_bpd"] for row in rows(run.out) if "validation_bpd" in row]
    assert validated == [None, None] and not (run.out / "best.safetensors").exists()


def test_a_folder_of_something_else_is_left_alone(few_digits, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("my notes")
    command = ["train", SRF16, *FEW, f"data.name={few_digits}", f"out={tmp_path / 'mine'}"]
    for extra in ([], ["--force"]):
        done = run_tool(*command, *extra)
        assert done.returncode == 2 and "holds files that are not a stage's" in done.stderr
    assert (tmp_path / "mine" / "README.md").read_text() == "my notes"
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["README.md"]
    done = run_tool(*command[:-1], f"out={few_digits}")
    assert done.returncode == 2 and "is a file; name a folder" in done.stderr


def test_force_keeps_what_is_not_the_stage_s(few_digits, tmp_path):
    command = ["train", SRF16, *FEW, f"data.name={few_digits}", f"out={tmp_path / 'run'}"]
    assert run_tool(*command).returncode == 0
    (tmp_path / "run" / "samples" / "holiday.jpg").write_bytes(b"mine")
    assert run_tool(*command, "--force", "model.width=8").returncode == 0
    assert (tmp_path / "run" / "samples" / "holiday.jpg").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.steps=3", "has reached step 8, train.steps asks for 3"),
        ("train.ema=0", "averaging can be neither begun nor ended later"),
        ("train.weight_decay=-1", "train.weight_decay must lie in"),
        ("seed=99999999999999999999999", "seed"),
    ],
)
def test_what_a_run_cannot_be_continued_with(few_digits, tmp_path, change, message):
    trainer(few_digits, tmp_path / "run").run()
    before = (tmp_path / "run" / "config.yaml").read_text()
    done = run_tool(
        "train", SRF16, *FEW, f"data.name={few_digits}", f"out={tmp_path / 'run'}", change
    )
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_bad_input_is_said_once_by_two_processes(few_digits, tmp_path):
    """Images that are no longer those of the state."""
    trainer(few_digits, tmp_path / "run", "train.steps=1").run()
    Record(classes=list("0123456789"), images="0" * 64).save(tmp_path / "run")
    done = launch(
        "torchrun", "--standalone", "--nproc_per_node", "2", "tools/train.py", SRF16, *FEW,
        f"data.name={few_digits}", f"out={tmp_path / 'run'}",
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode != 0 and len(lines) == 1, done.stderr
    assert "cli.run(main)" not in done.stderr  # no traceback of ours


def test_a_full_disk_leaves_the_state_before(few_digits, tmp_path):
    """A limit on the size of files stands for the disk: the larger state of step 8 does not fit."""
    run = trainer(few_digits, tmp_path / "run", "train.steps=4")
    run.run()
    before = {f.name: f.read_bytes() for f in (run.out / "state").iterdir()}
    limit = 100_000
    assert len(next(iter(before.values()))) > limit
    command = [sys.executable, "tools/train.py", str(SRF16), *FEW]
    done = subprocess.run(
        [*command, f"data.name={few_digits}", f"out={run.out}"], cwd=ROOT, capture_output=True,
        text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "error: at step 8: cannot write" in done.stderr
    assert "step-00000004.safetensors is whole, and the same command continues" in done.stderr
    assert {f.name: f.read_bytes() for f in (run.out / "state").iterdir()} == before
    assert not list(run.out.rglob("*.part*"))
    assert trainer(few_digits, run.out).run()


def test_other_training_images_are_refused_unless_forced(few_digits, tmp_path):
    with np.load(few_digits) as file:
        arrays = dict(file)
    data = tmp_path / "mine.npz"
    np.savez(data, **arrays)
    trainer(data, tmp_path / "run", "train.steps=4").run()
    arrays["images"][17, 5, 5, 0] ^= 1  # one pixel
    np.savez(data, **arrays)
    with pytest.raises(InputError, match=r"no longer those that .*run was trained on"):
        trainer(data, tmp_path / "run")
    forced = trainer(data, tmp_path / "run", "train.resume=force")
    assert forced.step == 4 and forced.run()


def test_held_out_images_that_are_training_images(few_digits, tmp_path):
    with np.load(few_digits) as file:
        arrays = {key: np.concatenate([file[key]] * 2) for key in ("images", "labels")}
        np.savez(tmp_path / "twice.npz", **arrays, classes=file["classes"])
    with pytest.raises(InputError, match=r"of 80 validation images .* training images too"):
        trainer(tmp_path / "twice.npz", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert trainer(tmp_path / "twice.npz", tmp_path / "run", "data.allow_overlap=true").run()


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __reduce__(self):
        return Path.touch, (Path("/tmp/csrflow-was-executed"),)


@pytest.mark.parametrize("damage", ["pickle", "torch.save", "too long a header", "other tensors"])
def test_weights_of_another_kind_are_refused_and_never_executed(
    few_digits, tmp_path, damage, monkeypatch
):
    run = trainer(few_digits, tmp_path / "run", "train.steps=1")
    run.run()
    mark = tmp_path / "executed"
    monkeypatch.setattr(Bomb, "__reduce__", lambda self: (Path.touch, (mark,)))
    for file in (run.out / "model.safetensors", *States(run.out / "state", 2).files()):
        if damage == "pickle":
            file.write_bytes(pickle.dumps(Bomb()))
        elif damage == "torch.save":
            torch.save({"flow": Bomb()}, file)
        elif damage == "too long a header":
            file.write_bytes(struct.pack("<Q", 2**40) + b"{}")
        else:
            file.write_bytes((few_digits.parent / "few.npz").read_bytes())
    done = run_tool("likelihood", run.out, "--limit", 2)
    assert done.returncode == 2 and "not a readable safetensors file" in done.stderr
    assert done.stderr.count("\n") == 1
    done = run_tool("train", SRF16, *FEW, f"data.name={few_digits}", f"out={run.out}")
    assert done.returncode == 2 and "none of the states" in done.stderr
    assert not mark.exists()


def gigantic(file: Path) -> None:
    """A valid PNG of 40,000 × 40,000 pixels in a few bytes: far more memory than anyone has."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_a_folder_of_all_that_can_be_wrong(tmp_path):
    folder, source = tmp_path / "images", np.random.default_rng(0)
    folder.mkdir()
    for i in range(60):
        pixels = source.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"good{i}.png")
    picture = Image.fromarray(pixels)
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.convert("P").save(folder / "palette.gif")
    picture.convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "sixteen.png")
    good = (folder / "good0.png").read_bytes()
    (folder / "corrupt.png").write_bytes(good[:60] + bytes(40) + good[100:])
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "notes.txt").write_text("left alone")
    gigantic(folder / "gigantic.png")
    Image.fromarray(pixels[..., 0].astype(np.float32) / 255).save(folder / "float.tif")
    (folder / "folder.png").mkdir()
    bad = ["corrupt.png", "empty.png", "float.tif", "gigantic.png", "text.jpg", "truncated.png"]
    command = ["train", ROOT / "configs/cifar10/glow16.yaml", f"data.name={folder}"]
    command += [f"out={tmp_path / 'run'}", "data.size=16", *FEW, "model.levels=1", "model.width=8"]
    command += [f"data.cache={tmp_path / 'cache'}"]
    done = run_tool(*command)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"6 of 70 images cannot be read, first {folder}/{bad[0]}" in done.stderr
    done = run_tool(*command, "data.skip_bad=true")
    assert done.returncode == 0, done.stderr
    named = set(re.findall(r"note: left out \S+/(\S+) \(", done.stdout))
    assert named == set(bad) and not done.stderr


def test_a_state_of_an_unknown_phase_and_a_binary_log(few_digits, tmp_path):
    run = trainer(few_digits, tmp_path / "run")
    run.run()
    (run.out / "metrics.jsonl").write_bytes(b'\xff\xfe\n{"step": 1e3}\n[[[' + bytes(range(256)))
    again = trainer(few_digits, tmp_path / "run", "train.steps=9")
    assert again.run() and [row["step"] for row in rows(run.out)] == [9]
    file = States(run.out / "state", 2).file(9)
    write_tensors({**read_tensors(file), "count/phase": torch.tensor(9.0)}, file)
    with pytest.raises(InputError, match="not a state of this run: its phase is 9"):
        trainer(few_digits, tmp_path / "run", "train.steps=10")


def test_a_full_disk_is_said_with_the_file(tmp_path):
    file = tmp_path / "samples.npz"
    file.write_bytes(b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        said = pytest.raises(OSError, match=rf"^cannot write {file}: File too large$")
        with said, whole(file) as aside, open(aside, "wb") as out:
            np.savez(out, images=np.zeros(5000, np.uint8))
        with pytest.raises(OSError, match=rf"^cannot write {file}: .*File too large"):
            write_tensors({"a": torch.zeros(5000)}, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [f.name for f in tmp_path.iterdir()] == ["samples.npz"]
    assert file.read_bytes() == b"before"


@pytest.mark.parametrize(
    "change",
    [
        *("data.size=65536", "model.width=100000000", "model.steps=10000", "model.levels=16"),
        *("model.encoder_growth=9999999999", "model.classes=1000000"),
    ],
)
def test_a_configuration_is_held_to_the_weights_beside_it(tmp_path, change):
    folder = stage_folder(tmp_path / "srf2x", "model.classes=2")
    key, value = change.split("=")
    config = load_config(folder / "config.yaml")
    section, name = key.split(".")
    setattr(getattr(config, section), name, int(value))
    save_config(config, folder / "config.yaml")
    started = time.process_time()
    with pytest.raises(InputError):
        load_stage(folder)
    assert time.process_time() - started < 1


def test_a_flow_that_memory_does_not_hold(tmp_path):
    config = load_config(SRF16, ["model.width=100000000", f"out={tmp_path}"])
    with pytest.raises(InputError, match=r"take [\d,.]+ GiB of memory, [\d.]+ GiB are free"):
        build(config)


def test_stages_beside_are_read_once_a_run(few_digits, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("cascade.training.saving.register", read.append)
    trainer(few_digits, tmp_path / "run", "train.save_every=1").run()
    assert len(read) == 1
