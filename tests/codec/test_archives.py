"""Archives: any images in, the same pixels out, and nothing else from files that are damaged."""

import io
import json
import random
import zipfile
import zlib

import numpy as np
import pytest
import torch
from codec.codable import codable_folder, pictures
from conftest import run_tool
from PIL import Image

from cascade import Cascade
from cascade.codec.archive import INDEX, Archive, ArchiveWriter, Entry, Index
from cascade.codec.compression import compress, decompress
from cascade.codec.pictures import find_images, from_tiles, to_tiles
from stages import InputError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folders of a model of grey and one of colour images."""
    folder = tmp_path_factory.mktemp("models")
    return {channels: codable_folder(folder / str(channels), channels) for channels in (1, 3)}


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """Image files of all sizes and modes, in folders, with a name for each mode."""
    folder = tmp_path_factory.mktemp("album")
    (folder / "inner").mkdir()
    torch.manual_seed(0)
    noise = torch.randint(256, (37, 21, 3), dtype=torch.uint8).numpy()
    made = {
        "grey.png": Image.fromarray(pictures(1)[0, 0].numpy()),
        "colour.bmp": Image.fromarray(noise),
        "inner/dot.png": Image.new("L", (1, 1), 200),
        "inner/wide.webp": Image.fromarray(pictures(1, 3, 40)[0, :, :17].permute(1, 2, 0).numpy()),
        "palette.gif": Image.fromarray(noise).quantize(7),
        "bits.png": Image.fromarray(noise[..., 0]).convert("1"),
    }
    for name, picture in made.items():
        options = {"lossless": True} if name.endswith("webp") else {}
        picture.save(folder / name, **options)
    return folder


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))


def same(album, out):
    files = find_images([str(album)])
    assert sorted(files) == sorted(f.relative_to(out).as_posix() for f in out.rglob("*.png"))
    for name, file in files.items():
        before, after = pixels(file), pixels(out / name)
        assert before.shape == after.shape and (before == after).all(), name


@pytest.mark.parametrize("channels", [1, 3])
def test_the_command_line_gives_back_every_pixel(run, album, tmp_path, channels):
    """`cascade.commands.compress`, `cascade.commands.decompress`: by a model of either kind."""
    words = ["--model", run[channels], "--out", tmp_path / "a.csrf", "--block", 4]
    done = run_tool("compress", album, *words, "--json", tmp_path / "a.json")
    assert done.returncode == 0, done.stderr
    said, size = json.loads((tmp_path / "a.json").read_text()), (tmp_path / "a.csrf").stat().st_size
    assert said["bytes"] == size == said["blocks"] + said["rest"] and said["images"] == 6
    assert said["values"] == sum(pixels(f).size for f in find_images([str(album)]).values())
    words = [tmp_path / "a.csrf", "--out", tmp_path / "out"]
    done = run_tool("decompress", *words)
    assert done.returncode == 2 and "name it by --model" in done.stderr
    done = run_tool("decompress", *words, "--model", run[channels])
    assert done.returncode == 0, done.stderr
    same(album, tmp_path / "out")
    assert zipfile.ZipFile(tmp_path / "a.csrf").testzip() is None


def test_two_processes_make_the_archive_of_one(run, album, tmp_path):
    files, cascade = find_images([str(album)]), Cascade.load(run[3])
    for count in (1, 2):
        out = tmp_path / f"{count}.csrf"
        compress(files, cascade, "model", run[3], out, block=4, processes=count)
    assert (tmp_path / "1.csrf").read_bytes() == (tmp_path / "2.csrf").read_bytes()
    archive = Archive(tmp_path / "2.csrf")
    decompress(archive, cascade, run[3], tmp_path / "out", list(files))
    same(album, tmp_path / "out")


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("L", 3), ("RGB", 1), ("RGB", 3)])
def test_tiles_hold_an_image_of_any_size(mode, channels):
    for height, width in ((1, 1), (16, 16), (17, 40), (3, 33)):
        image = torch.randint(256, (1 if mode == "L" else 3, height, width), dtype=torch.uint8)
        tiles = to_tiles(image, (channels, 16, 16))
        assert tiles.shape[1:] == (channels, 16, 16)
        assert from_tiles(tiles, mode, height, width).equal(image)


@pytest.fixture(scope="module")
def archive(run, album, tmp_path_factory):
    out = tmp_path_factory.mktemp("archives") / "a.csrf"
    compress(find_images([str(album)]), Cascade.load(run[1]), str(run[1]), run[1], out, block=4)
    return out


def extracted(file, folder, run, names=None):
    """The images that a file gives until it ends, or an error ends it, by name."""
    found = None
    try:
        archive = Archive(file)
        names = names or [entry.name for entry in archive.index.files]
        decompress(archive, Cascade.load(run[1]), run[1], folder, names)
    except InputError as error:
        found = str(error)
    return {f.relative_to(folder).as_posix(): pixels(f) for f in folder.rglob("*.png")}, found


def rewritten(file, out, change):
    """The same archive with other members: ``change`` takes and gives {name: bytes}."""
    with zipfile.ZipFile(file) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    with zipfile.ZipFile(out, "w") as made:
        for name, data in change(members).items():
            made.writestr(name, data, zipfile.ZIP_DEFLATED if name == INDEX else 0)
    return out


def test_one_image_needs_its_own_blocks_alone(run, album, archive, tmp_path):
    """The others may be damaged."""
    index = Archive(archive).index
    broken = rewritten(archive, tmp_path / "b.csrf", lambda m: {**m, "0": b"nothing!"})
    last = index.files[-1].name
    images, error = extracted(broken, tmp_path / "one", run, [last])
    assert error is None and (images[last] == pixels(find_images([str(album)])[last])).all()
    images, error = extracted(broken, tmp_path / "all", run)
    assert not images and "block 0 decodes to other pixels" in error


def test_damaged_archives_give_right_pixels_or_an_error(run, album, archive, tmp_path):
    """Cut anywhere, or with any byte changed."""
    data, files = archive.read_bytes(), find_images([str(album)])
    rng = random.Random(0)
    for trial in range(16):
        damaged, place = bytearray(data), rng.randrange(len(data))
        if trial % 2:
            damaged = damaged[:place]
        else:
            damaged[place] ^= 1 << rng.randrange(8)
        file, folder = tmp_path / "d.csrf", tmp_path / str(trial)
        file.write_bytes(damaged)
        images, error = extracted(file, folder, run)
        assert trial % 2 == 0 or error
        assert error or len(images) == len(files)
        for name, values in images.items():
            if error or name in files:  # a changed name is a name: zip's checksum guards it
                assert (values == pixels(files[name])).all()


def index_with(**changes):
    def change(members):
        index = json.loads(members[INDEX])
        for name, value in changes.items():
            if name in ("name", "mode", "height", "width"):
                index["files"][0][name] = value
            else:
                index[name] = value
        return {**members, INDEX: json.dumps(index)}

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (index_with(name="../escape.png"), "cannot be a file's name"),
        (index_with(name="/escape.png"), "cannot be a file's name"),
        (index_with(name="a\\..\\b.png"), "cannot be a file's name"),
        (index_with(name="c:x.png"), "cannot be a file's name"),
        (index_with(name="."), "cannot be a file's name"),
        (index_with(name="a/./b.png"), "cannot be a file's name"),
        (index_with(name="a/Con.x.png"), "cannot be a file's name"),
        (index_with(name="a. /b.png"), "cannot be a file's name"),
        (index_with(name="l" * 201 + ".png"), "cannot be a file's name"),
        (index_with(name="x.exe"), "cannot be a file's name"),
        (index_with(name=""), "cannot be a file's name"),
        (index_with(name=3), "name is none"),
        (index_with(name="Grey.png"), "two images have one name"),
        (index_with(height=2**20, width=2**20), "more than 268,435,456 pixels"),
        (index_with(height=-1), "no size or mode"),
        (index_with(width=True), "no size or mode"),
        (index_with(mode="CMYK"), "no size or mode"),
        (index_with(height=4000), "more or fewer blocks"),
        (index_with(block=10**9), "values that no archive has"),
        (index_with(shape=[1, 16]), "values that no archive has"),
        (index_with(shape=[1, 10**9, 10**9]), "values that no archive has"),
        (index_with(checks="none"), "values that no archive has"),
        (index_with(files=7), "the list of images is none"),
        (index_with(format=99), "later version"),
        (index_with(more=1), "has other parts"),
        (index_with(weights={"glow8": "0"}), "other weights"),
        (lambda m: {**m, INDEX: "[" + "[]," * 10**6 + "[]]"}, "its index is too large"),
        (lambda m: {**m, INDEX: "[]"}, "the index is none"),
        (lambda m: {**m, INDEX: "["}, "is no archive of csrflow compress"),
        (lambda m: {**m, INDEX: "[" * 100_000}, "is no archive of csrflow compress"),
        (lambda m: {k: v for k, v in m.items() if k != "1"}, "damaged at block 1"),
        (lambda m: {**m, "0": bytes(10**7)}, "damaged at block 0"),
        (lambda m: {**m, "0": b"odd"}, "whole words"),
    ],
)
def test_hostile_archives_are_refused(run, archive, tmp_path, change, reason):
    file = rewritten(archive, tmp_path / "h.csrf", change)
    images, error = extracted(file, tmp_path / "out", run)
    assert reason in error and "\n" not in error
    assert not (tmp_path / "escape.png").exists() and not set(images) & {"", "3"}


def test_a_block_that_is_a_bomb_is_not_inflated(run, archive, tmp_path):
    with zipfile.ZipFile(archive) as opened:
        members = {name: opened.read(name) for name in opened.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.csrf", "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in {**members, "0": bytes(10**8)}.items():
            made.writestr(name, data)
    _, error = extracted(tmp_path / "bomb.csrf", tmp_path / "out", run)
    assert "it is not as csrflow compress writes it" in error


def test_a_foreign_file_is_said_to_be_one(tmp_path):
    (tmp_path / "x.csrf").write_bytes(b"PNG")
    with zipfile.ZipFile(tmp_path / "y.csrf", "w") as made:
        made.writestr("hello", "world")
    for name in ("x", "y"):
        done = run_tool("decompress", tmp_path / f"{name}.csrf", "--out", tmp_path / "out")
        assert done.returncode == 2 and "is no archive of csrflow compress" in done.stderr
    done = run_tool("decompress", tmp_path / "z.csrf", "--out", tmp_path / "out")
    assert done.returncode == 2 and "there is no archive" in done.stderr


def png_of_16_bits():
    """One pixel of three values of 16 bits, which Pillow reads as 8."""

    def chunk(kind, data):
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    size = (1).to_bytes(4, "big") * 2
    parts = (b"IHDR", size + bytes([16, 2, 0, 0, 0])), (b"IDAT", zlib.compress(bytes(range(7))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts) + chunk(b"IEND", b"")


def test_what_cannot_be_kept_is_refused_before_anything_is_written(run, tmp_path):
    grey = Image.new("L", (4, 4))
    wrong = {
        "alpha.png": (Image.new("RGBA", (4, 4)), "transparency"),
        "deep.png": (Image.fromarray(np.zeros((4, 4), np.uint16)), "the mode I;16"),
        "print.tiff": (Image.new("CMYK", (4, 4)), "the mode CMYK"),
        "mixed.png": (Image.new("LA", (4, 4)), "transparency"),
        "four.bmp": (Image.new("RGBA", (4, 4)), "a layout of BGRX"),
        "moving.tga": (Image.new("RGB", (4, 4)), "the format TGA"),
    }
    for name, (picture, reason) in wrong.items():
        picture.save(tmp_path / name)
        done = run_tool(
            "compress", tmp_path / name, "--model", run[1], "--out", tmp_path / "a.csrf"
        )
        assert done.returncode == 2 and reason in done.stderr, done.stderr
    deep = {
        "colours.png": (png_of_16_bits(), "a layout of RGB;16B"),
        "deep.ppm": (b"P6 1 1 65535 " + bytes(6), "a layout of RGB"),
        "ten.pgm": (b"P5 1 1 1023 " + bytes(2), "the mode I"),
        "plain.ppm": (b"P3 1 1 999 1 2 3", "a layout of RGB"),
    }
    for name, (content, reason) in deep.items():
        (tmp_path / name).write_bytes(content)
        done = run_tool(
            "compress", tmp_path / name, "--model", run[3], "--out", tmp_path / "a.csrf"
        )
        assert done.returncode == 2 and reason in done.stderr, done.stderr
    frames = [Image.new("L", (4, 4), value) for value in (0, 255)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "text.png").write_text("hello")
    for place in ("one/a.png", "two/A.PNG"):
        (tmp_path / place).parent.mkdir()
        grey.save(tmp_path / place)
    both = (tmp_path / "one" / "a.png", tmp_path / "two" / "A.PNG")
    (tmp_path / "none").mkdir()
    for words, reason in (
        ([tmp_path / "text.png"], "cannot read image"),
        (both, "would both be A.png"),
        ([tmp_path / "missing.png"], "there is no image"),
        ([tmp_path / "film.gif"], "several frames"),
        ([tmp_path / "none"], "there are no images"),
        ([both[0], "--block", 5000], "--block is at most 1024"),
    ):
        done = run_tool("compress", *words, "--model", run[1], "--out", tmp_path / "a.csrf")
        assert done.returncode == 2 and reason in done.stderr, done.stderr
    assert not (tmp_path / "a.csrf").exists()
    done = run_tool("compress", both[0], "--model", run[1], "--out", both[0], "--force")
    assert done.returncode == 2 and "is one of the images" in done.stderr


def test_images_are_listed_chosen_and_not_written_over(run, album, archive, tmp_path):
    done = run_tool("decompress", archive, "--list")
    assert done.returncode == 0 and "inner/dot.png" in done.stdout and "21x37" in done.stdout
    out = tmp_path / "out"
    words = ["--only", "inner/dot.png", "--model", run[1]]
    done = run_tool("decompress", archive, "--out", out, *words)
    assert done.returncode == 0 and [f.name for f in out.rglob("*.png")] == ["dot.png"]
    for words, reason in (
        (["--out", out, "--model", run[1]], "exists; pass --force"),
        (["--out", out, "--only", "nothing.png"], "holds no nothing.png"),
        ([], "--out"),
        (["--out", out, "--model", run[3], "--force"], "made with other weights"),
    ):
        done = run_tool("decompress", archive, *words)
        assert done.returncode == 2 and reason in done.stderr, done.stderr


def test_an_index_is_read_as_it_was_written(tmp_path):
    index = Index("m", {"glow8": "00"}, [1, 8, 8], 4, [], [])
    with ArchiveWriter(tmp_path / "i.csrf") as writer:
        writer.end(index)
    assert Archive(tmp_path / "i.csrf").index == index
    assert Index("m", {}, [3, 8, 8], 4, [], [Entry("a.png", "L", 9, 8)]).tiles == [2]
    assert io.BytesIO((tmp_path / "i.csrf").read_bytes()).read(2) == b"PK"
