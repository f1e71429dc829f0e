"""Whatever a file holds, reading it works or is one line that says what is wrong, and soon.

A test a reader. pytest tests/test_fuzz.py --inputs 2000 -s tries more inputs, other ones every
time, and prints how many of them were read and how many refused.
"""

from __future__ import annotations

import json
import os
import struct
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, fields
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
import yaml
from accelerate import PartialState
from conftest import run_tool
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from safetensors.torch import load, save
from small_stages import report_of, stage_folder

from cascade import Cascade
from cascade.config import SRFlowModel, StageConfig
from cascade.data import SPLITS, open_images
from cascade.evaluation.records import Part, Records, merge
from cascade.evaluation.scoring import Journal, Row
from cascade.evaluation.tables import load_table
from cascade.photos.photo import Photo
from cascade.photos.typicality import recorded_bpd
from cascade.sample_checks import SampleCheck
from cascade.stage import load_stage
from cascade.training.checkpoints import States, load_state, save_state
from cascade.training.metrics_log import read_metrics
from cascade.training.tracking import Log
from stages import InputError

SECONDS, BYTES = 1.0, 200e6  # that reading a small bad file may take, of a processor and of memory
tried: dict[str, Counter] = {}


@pytest.fixture(scope="module", autouse=True)
def counts():
    yield
    for reader, found in tried.items():
        print(f"\n{reader}: {found.total()} inputs, {dict(found)}", end="")


@pytest.fixture
def fuzz(request, tmp_path) -> Callable:
    """``fuzz(read, contents)``: ``read(folder, content)`` on contents that a strategy makes."""
    inputs = request.config.getoption("--inputs")

    def run(read: Callable[[Path, object], object], contents: st.SearchStrategy) -> None:
        found = tried.setdefault(request.node.name, Counter())

        @settings(
            max_examples=inputs or 40,
            derandomize=inputs is None,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(contents)
        def check(content):
            found[one_line_or_works(lambda: read(tmp_path, content))] += 1

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()

    return run


def one_line_or_works(read: Callable[[], object]) -> str:
    """Whether reading worked or was refused, in one line, in the time and memory there is."""
    started, before = time.process_time(), psutil.Process().memory_info().rss
    forget_peak()
    try:
        result = read() or "read"
    except (InputError, OSError) as error:
        assert str(error) and len(str(error)) < 1000, error
        result = "refused"
    assert time.process_time() - started < SECONDS
    assert peak() - before < BYTES
    return result


def forget_peak() -> None:
    if os.path.exists("/proc/self/clear_refs"):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most memory held since `forget_peak`, where the system tells; else what is held now."""
    if not os.path.exists("/proc/self/clear_refs"):
        return psutil.Process().memory_info().rss
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes cut, repeated or changed in places, or others altogether."""
    place = st.integers(0, len(content))
    for _ in range(draw(st.integers(1, 3))):
        first, last = sorted((draw(place), draw(place)))
        short = draw(st.binary(max_size=8))
        content = draw(
            st.sampled_from(
                [
                    content[:first],
                    content[:first] + content[last:],
                    content[:last] + content[first:],
                    content[:first] + short + content[first + len(short) :],
                    content[:first] + short + content[first:],
                    short,
                ]
            )
        )
    return content


ODD = (
    "",
    "???",
    "${x}",
    "${oc.env:HOME}",
    "${oc.decode:'${x}'}",
    ".nan",
    "-.inf",
    "1e400",
    "~",
    "no",
)
ODD += (
    "!!python/name:os.system",
    "2026-01-01",
    "0x7f",
    "a\nb",
    "é\udce9",
    "../..",
    "/dev/zero",
    "%",
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 2, 3, 8, 16, 2**31, 2**63, 10**30]),
    st.floats(),
    st.sampled_from(ODD),
    st.text(max_size=5),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SCALARS, inner, max_size=3),
    max_leaves=6,
)


def as_yaml(value: object) -> bytes:
    return yaml.dump(value, allow_unicode=False).encode()


def like(value: object) -> st.SearchStrategy:
    """Other values of the same type, so that they are not refused for that alone."""
    if isinstance(value, bool):
        return st.booleans()
    if isinstance(value, int):
        return st.integers(0, 9) | st.sampled_from([-1, 16, 10**5, 2**31, 2**63])
    if isinstance(value, float):
        return st.floats(0, 1) | st.floats()
    return st.sampled_from(["haar", "symmetric", "softmax", "lu", "additive", "raw"]) | SCALARS


@st.composite
def changed(draw: st.DrawFn, base: dict, keys: list[str]) -> bytes:
    """YAML of a nested mapping of which some values, by dotted keys, are others."""
    found = json.loads(json.dumps(base))
    for key in draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3)):
        *outer, last = key.split(".")
        part = found
        for name in outer:
            part = part.setdefault(name, {}) if isinstance(part, dict) else {}
        if isinstance(part, dict):
            part[last] = draw(like(part.get(last)) | like(part.get(last)) | VALUES)
    return as_yaml(found)


NESTED = st.integers(1, 20_000).map(lambda depth: b"[" * depth)
ALIASES = st.integers(2, 60).map(
    lambda n: (
        b"a0: &a0 [1, 2]\n"
        + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, n))
    )
)
HOSTILE = NESTED | ALIASES | VALUES.map(as_yaml)


GLOW = ("data.size=4", "data.channels=3", "model.levels=1")


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    """A small stage folder, class-conditional."""
    words = ("model.classes=3", "model.encoder_blocks=1", "model.encoder_features=4", "data.size=8")
    return stage_folder(tmp_path_factory.mktemp("stage") / "srf8", *words, "model.levels=2")


def keys_of(config: object, prefix: str = "") -> list[str]:
    """All dotted keys of a configuration."""
    found = []
    for item in fields(config):
        value = getattr(config, item.name)
        inner = (
            keys_of(value, f"{prefix}{item.name}.")
            if hasattr(value, "__dataclass_fields__")
            else []
        )
        found += [prefix + item.name, *inner]
    return found


def test_configuration(fuzz, stage, tmp_path):
    text = (stage / "config.yaml").read_bytes()
    (tmp_path / "model.safetensors").write_bytes((stage / "model.safetensors").read_bytes())

    def read(folder, content):
        (folder / "config.yaml").write_bytes(content)
        load_stage(folder)

    keys = [*keys_of(StageConfig(model=SRFlowModel())), "model.x", "x"]
    fuzz(read, changed(yaml.safe_load(text), keys) | damaged(text) | HOSTILE)


def test_manifest(fuzz, stage, tmp_path):
    text = b"pyramid: bicubic\nstages:\n- glow4\n- srf8\n"
    (tmp_path / "srf8").symlink_to(stage)
    stage_folder(tmp_path / "glow4", "model.classes=3", *GLOW, config="mnist5k/glow8")

    def read(folder, content):
        (folder / "cascade.yaml").write_bytes(content)
        Cascade.load(folder)

    fuzz(read, changed(yaml.safe_load(text), ["pyramid", "stages", "x"]) | damaged(text) | HOSTILE)


def test_table(fuzz):
    base = {"title": "t", "data": "d", "runs": "r", "configs": "c", "sizes": [8], "classes": 2}
    base["rows"] = [{"name": "GlowCC8-SRFCC16(0.5)", "published": {8: 1.5}}]

    def read(folder, content):
        (folder / "table.yaml").write_bytes(content)
        load_table(folder / "table.yaml")

    keys = [*base, "rows.0.name", "num", "temperature", "train", "x"]
    fuzz(read, changed(base, keys) | damaged(as_yaml(base)) | HOSTILE)


def zipped(**content: object) -> bytes:
    file = BytesIO()
    np.savez(file, **content)
    return file.getvalue()


DTYPES = st.sampled_from(["u1", "i8", "u8", "f4", "f8", "c8", "b1", "U3", "S2", "M8[s]", "i1"])
ARRAYS = DTYPES.flatmap(
    lambda d: arrays.arrays(d, arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=8))
)


def test_npz(fuzz):
    images = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    good = {"images": images, "labels": np.arange(24) % 3, "classes": np.array(["a", "b", "c"])}

    def read(folder, content):
        raw, split, channels, resize = content
        (folder / "a.npz").write_bytes(raw)
        source = open_images(str(folder / "a.npz"), split, channels, resize)
        source.read(torch.arange(len(source)))
        assert (
            source.labels is None or not source.classes or max(source.labels) < len(source.classes)
        )

    some = st.dictionaries(st.sampled_from([*good, "x"]), ARRAYS, min_size=1)
    raw = damaged(zipped(**good)) | some.map(lambda new: zipped(**good | new))
    options = (st.sampled_from(SPLITS), st.sampled_from([1, 3]), st.sampled_from([None, 1, 4]))
    fuzz(read, st.tuples(raw, *options))


def test_shard(fuzz, tmp_path):
    report = report_of(torch.ones(3, 1).double(), [4])
    drawn = SampleCheck(["a"], [], torch.zeros(2, 1).double())
    records = Records(report, torch.arange(3), ["0", "1", "2"], None, {"PNG": torch.ones(3)})
    Part(records, {"images": 3}, (1, 1), drawn).write_npz(tmp_path / "good.npz")
    with np.load(tmp_path / "good.npz") as content:
        good = dict(content)

    def read(folder, content):
        (folder / "a.npz").write_bytes(content)
        found = merge([str(folder / "a.npz")])
        assert torch.equal(found.records.report.nats, report.nats)

    some = st.dictionaries(st.sampled_from([*good, "x"]), ARRAYS, min_size=1)
    whole = damaged((tmp_path / "good.npz").read_bytes())
    fuzz(read, whole | some.map(lambda new: zipped(**good | new)))


def test_npy(fuzz):
    images = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    np.save(good := BytesIO(), images)
    other = ARRAYS.map(lambda array: (file := BytesIO(), np.save(file, array)) and file.getvalue())

    def claiming(shape: list[int]) -> bytes:
        fields = {"descr": "|u1", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file := BytesIO(), fields)
        return file.getvalue() + images.tobytes()

    shapes = st.lists(st.sampled_from([-24, -4, -1, 0, 1, 3, 4, 24, 2**62]), max_size=5)

    def read(folder, content):
        raw, split, resize = content
        (folder / "a.npy").write_bytes(raw)
        source = open_images(str(folder / "a.npy"), split, 3, resize)
        source.read(torch.arange(len(source)))

    raw = damaged(good.getvalue()) | other | shapes.map(claiming)
    fuzz(read, st.tuples(raw, st.sampled_from(SPLITS), st.sampled_from([None, 1, 4])))


def encoded(mode: str, kind: str, size: tuple[int, int] = (9, 6)) -> bytes:
    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 4), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(file, kind)
    return file.getvalue()


GOOD = [encoded(*pair) for pair in (
    ("RGB", "PNG"), ("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("L", "JPEG"),
    ("CMYK", "JPEG"), ("RGB", "WEBP"), ("P", "GIF"), ("RGB", "TIFF"), ("CMYK", "TIFF"),
    ("RGB", "BMP"), ("RGB", "PPM"),
)]  # fmt: skip
PICTURES = st.sampled_from(GOOD).flatmap(damaged)
NAMES = st.binary(min_size=1, max_size=6).filter(
    lambda name: not set(name) & set(b"/\0") and name not in (b".", b"..")
)


def test_folder(fuzz, tmp_path_factory):
    def read(_, content):
        pictures, split, channels, resize, skip_bad = content
        folder = tmp_path_factory.mktemp("images")
        for name, picture in pictures.items():
            (folder / os.fsdecode(name + b".png")).write_bytes(picture)
        source = open_images(str(folder), split, channels, resize, skip_bad)
        source.read(torch.arange(len(source)))

    pictures = st.dictionaries(NAMES, PICTURES | st.sampled_from(GOOD), max_size=4)
    options = (st.sampled_from(SPLITS), st.sampled_from([1, 3]), st.sampled_from([None, 1, 4]))
    fuzz(read, st.tuples(pictures, *options, st.booleans()))


def test_photo(fuzz):
    def read(folder, content):
        (folder / "photo").write_bytes(content)
        photo = Photo.open(folder / "photo")
        for channels in (1, 3):
            pixels = photo.pixels(channels)
            twice = pixels.repeat_interleave(2, 1).repeat_interleave(2, 2)
            photo.enlarged(twice).save(folder / "large.png")

    fuzz(read, PICTURES | st.sampled_from(GOOD))


def split_header(content: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@st.composite
def changed_tensors(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file whose header says something else."""
    header, data = split_header(content)
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(split_header(content)[0])))
        entry = split_header(content)[0][name]
        header.pop(name, None)
        sizes = st.sampled_from([0, 1, 2, 3, 8, 2**31, 2**62, -1, 1.5])
        new = {
            "dtype": st.sampled_from(
                ["F64", "F32", "F16", "BF16", "I64", "I8", "BOOL", "F8_E4M3", "C64", "X"]
            ),
            "shape": st.lists(sizes, max_size=5) | st.just(entry["shape"][::-1]),
            "data_offsets": st.lists(sizes, max_size=3),
        }
        key = draw(st.sampled_from([*new, "name", "gone", "odd"]))
        if key in new:
            header[name] = entry | {key: draw(new[key])}
        elif key == "name":
            header[draw(st.text(max_size=3) | st.just(f"optimizer/{draw(SCALARS)}/x"))] = entry
        elif key == "odd":
            header[name] = draw(VALUES)
    return with_header(header, data)


def test_weights(fuzz, stage, tmp_path):
    weights = (stage / "model.safetensors").read_bytes()
    (tmp_path / "config.yaml").write_bytes((stage / "config.yaml").read_bytes())

    def read(folder, content):
        (folder / "model.safetensors").write_bytes(content)
        load_stage(folder)

    fuzz(read, damaged(weights) | damaged(weights[:2000]) | changed_tensors(weights))


COUNTS = {"step": 5, "phase": 0, "best": 1.5, "skipped": 0}
NUMBERS = (
    st.floats() | st.integers(-2, 2**62) | st.complex_numbers() | st.lists(st.floats(), max_size=2)
)


def test_state(fuzz, stage, tmp_path):
    flow = load_stage(stage).flow.train()
    optimizer = torch.optim.Adamax(flow.parameters())
    sum((p**2).sum() for p in flow.parameters()).backward()
    optimizer.step()
    file = States(tmp_path / "state", 2).file(5)
    save_state(file, {"model": flow}, optimizer, COUNTS)
    content = file.read_bytes()
    tensors = load(content)

    def other_counts(changes: dict[str, object]) -> bytes:
        new = {f"count/{name}": torch.tensor(value) for name, value in changes.items()}
        return save({**tensors, **new})

    def read(folder, content):
        file.write_bytes(content)
        found = States(folder / "state", 2).newest()
        load_state(found[1], found[0], {"model": flow}, optimizer)
        assert all(type(found[2][name]) is int for name in ("step", "phase", "skipped"))

    counted = st.dictionaries(st.sampled_from(list(COUNTS)), NUMBERS).map(other_counts)
    fuzz(read, damaged(content) | changed_tensors(content) | counted)


def test_journal(fuzz, tmp_path):
    header, state = {"weights": "abc", "seed": 0}, PartialState(cpu=True)
    rows = [Row(i, [-1.5, -2.5], [0.5, 0.5], {"PNG": 3.0}) for i in range(4)]
    first = Journal(tmp_path / "t.partial", header)
    first.open(False, False, state)
    first.add(rows)
    content = first.file.read_bytes()
    first.remove()

    def read(folder, content):
        (folder / "t.partial").mkdir(exist_ok=True)
        for file in (folder / "t.partial").glob("*.jsonl"):
            file.unlink()
        (folder / "t.partial" / "0-0.jsonl").write_bytes(content)
        journal = Journal(folder / "t.partial", header)
        try:
            assert all(
                asdict(row) == asdict(rows[row.index]) for row in journal.open(True, False, state)
            )
        finally:
            journal.lock.release()

    fuzz(read, damaged(content))


def test_metrics(fuzz):
    good = [{"step": i, "phase": "all", "bpd": 3.5, "validation_bpd": 3.25} for i in range(1, 5)]
    text = "".join(json.dumps(row) + "\n" for row in good).encode()
    odd = st.dictionaries(st.sampled_from(["step", "bpd", "validation_bpd", "x"]), VALUES)
    rows = st.lists(odd | VALUES, max_size=3).map(
        lambda rows: (
            text
            + "".join(json.dumps(row, default=str, skipkeys=True) + "\n" for row in rows).encode()
        )
    )

    def read(folder, content):
        (folder / "metrics.jsonl").write_bytes(content)
        Log._rewind(SimpleNamespace(file=folder / "metrics.jsonl"), 2)
        assert all(row["step"] <= 2 for row in read_metrics(folder))
        (folder / "metrics.jsonl").write_bytes(content)
        last = recorded_bpd(folder)
        assert last is None or isinstance(last, float | int)

    fuzz(read, damaged(text) | rows | NESTED)


WORDS = st.sampled_from(
    ["", "0", "-1", "1", "2", "16", "nan", "inf", "1e38", "0.8", "0.8,0.9", "2,1", "3,7,3,1"]
) | st.sampled_from(
    ["a", "a.png", "a.npz", "sub/a.json", "cpu", "meta", "cuda:99", "given", "all", "=", "[", "{"]
)
WORDS |= st.text(
    st.characters(exclude_characters="\0/", exclude_categories=["Cs", "Nd"]), max_size=4
)
OPTIONS = {
    "sample": "seed stages device json num classes temperature guidance chunk out npz",
    "likelihood": "seed stages device json split limit resize samples label-mode prior dtype "
    "compare variational told-sigma csv npz heatmap chunk shard",
    "upscale": "seed stages device json factor num temperature label tile overlap sheet out",
}


@pytest.fixture(scope="module")
def run(stage, tmp_path_factory) -> Path:
    """A cascade folder of two small stages, and images for them."""
    folder = tmp_path_factory.mktemp("run")
    stage_folder(folder / "glow4", "model.classes=3", *GLOW, config="mnist5k/glow8")
    (folder / "srf8").symlink_to(stage)
    (folder / "cascade.yaml").write_text("stages: [glow4, srf8]\n")
    images = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    np.savez(folder / "images.npz", images=images, labels=np.arange(30) % 3)
    Image.fromarray(images[0]).save(folder / "photo.png")
    return folder


@pytest.mark.parametrize("tool", OPTIONS)
def test_command_line(fuzz, run, tool, tmp_path_factory):
    fixed = {
        "sample": [run, "--num=2", "--out=grid.png"],
        "likelihood": [run, f"--data={run}/images.npz"],
        "upscale": [run, run / "photo.png", "--label=1", "--overlap=8"],
    }[tool]

    def read(_, options):
        words = [f"--{option}={word}" for option, word in options.items()]
        folder = tmp_path_factory.mktemp("outputs")
        done = run_tool(tool, *fixed, *words, cwd=folder)
        assert done.returncode in (0, 2) and "Traceback" not in done.stderr
        if not done.returncode:
            return "read"
        if "usage:" not in done.stderr:
            assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
        left = [file for file in folder.rglob("*") if file.is_file()]
        assert not left, left  # nothing half done
        return "refused"

    fuzz(
        read, st.dictionaries(st.sampled_from(OPTIONS[tool].split()), WORDS, min_size=1, max_size=3)
    )
