"""Data sets of Hugging Face `datasets`: by name, or from files, folders and saved ones."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from cascade.data.cache import Original, Tables, copied
from cascade.data.folders import Survey, refuse
from cascade.data.sources import ArrayImages, ImageSource, together
from cascade.data.splits import Splits, cut, held_out
from cascade.data.stored import Stored, changed
from stages import InputError

PREFIX = "hf:"
NAMES = {  # what data sets call the splits
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}


def open_hub(
    name: str,
    channels: int,
    resize: int | None,
    skip_bad: bool,
    root: str,
    folder: Path | None,
) -> Splits:
    """The splits of ``hf:NAME``, ``hf:NAME:CONFIGURATION`` or ``hf:PATH``.

    A path is a parquet file, a folder that `datasets` can load, or one that it has saved. Its own
    splits count: where it has no validation split, a tenth of its training images is one; one that
    has a single split is cut like an `.npz`. Images are decoded once, into a copy in ``folder``, or
    else into memory. Raises `InputError` where it cannot be had, or where its images are not clear.
    """
    loaded = _loaded(name.removeprefix(PREFIX), root)
    own = {
        split: loaded[theirs] for split, names in NAMES.items() for theirs in names
        if theirs in loaded
    }  # fmt: skip
    single = next(iter(loaded.values())) if len(loaded) == 1 else None
    if single is None and "train" not in own:
        raise InputError(f"{name} has no split 'train', it has {', '.join(loaded)}")

    @cache
    def images(split: str) -> ArrayImages:
        rows = single if single is not None else own[split]
        return _images(f"{name}, {split}", rows, channels, resize, skip_bad, folder)

    def split_of(split: str) -> ImageSource:
        if single is not None:
            return cut(images("all"), name, split)
        if split == "test" and "test" not in own:
            raise InputError(f"{name} has no test split, it has {', '.join(loaded)}")
        if "validation" not in own:
            return held_out(images("test" if split == "test" else "train"), split)
        if split == "trainval":
            return together([images("train"), images("validation")])
        return images(split) if split in own else held_out(images("train"), split)

    return split_of


def _loaded(where: str, root: str) -> Mapping[str, Any]:
    """Its splits by their names in it."""
    try:
        import datasets
        from huggingface_hub.utils import logging
    except ImportError:
        raise InputError("hf: needs a package: pip install 'csrflow[hub]'") from None
    logging.set_verbosity_error()  # it tells of every attempt
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    kept, path = str(Path(root) / "huggingface"), Path(where)
    try:
        if path.is_file():
            kind = "parquet" if path.suffix == ".parquet" else path.suffix[1:]
            return datasets.load_dataset(kind, data_files=where, cache_dir=kept)
        if any((path / saved).is_file() for saved in ("dataset_dict.json", "state.json")):
            result = datasets.load_from_disk(where)
            return result if isinstance(result, datasets.DatasetDict) else {"all": result}
        if path.exists():
            return datasets.load_dataset(where, cache_dir=kept)
        repository, _, configuration = where.partition(":")
        return datasets.load_dataset(repository, configuration or None, cache_dir=kept)
    except Exception as error:  # the library's own, and those of all that it is built upon
        reason = (str(error) or type(error).__name__).splitlines()[0][:300]
        raise InputError(f"cannot load {PREFIX}{where}: {reason}") from None


def _columns(name: str, rows: Any) -> tuple[str, str | None]:
    """The column of images, and that of labels if there is one, by their types."""
    import datasets

    images = [key for key, kind in rows.features.items() if isinstance(kind, datasets.Image)]
    labels = [key for key, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    for what, found, most in (("image", images, 1), ("class label", labels, 1)):
        if len(found) > most:
            raise InputError(
                f"{name} has several {what} columns, {', '.join(found)}: save a copy with one of "
                "them (datasets: remove_columns, save_to_disk)"
            )
    if not images:
        raise InputError(f"{name} has no column of images, only {', '.join(rows.features)}")
    return images[0], labels[0] if labels else None


def _images(
    name: str, rows: Any, channels: int, resize: int | None, skip_bad: bool, folder: Path | None
) -> ArrayImages:
    """All images of a split, decoded."""
    import datasets

    column, labelled = _columns(name, rows)
    files = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))

    def read(place: int) -> bytes:
        file = files[place][column]
        return file["bytes"] or Path(file["path"]).read_bytes()

    places = [Path(f"image {place} of {name}") for place in range(len(rows))]
    survey = Survey(places, read, channels, resize)

    def tables() -> Tables:
        survey.check(skip_bad)
        return {"good": np.array(survey.good), "problems": np.array(survey.problems, dtype=str)}

    stamp = (rows._fingerprint, [changed(Path(file["filename"])) for file in rows.cache_files])
    original = Original(
        "huggingface", (name, channels, resize), stamp, len(rows), survey.images, tables
    )
    kept = copied(original, folder) if folder else None
    pixels: Any = Stored([kept.part], folder) if kept else _in_memory(name, survey)
    found = kept.tables if kept else tables()
    problems, good = found["problems"].tolist(), torch.from_numpy(found["good"])
    refuse(problems, len(rows), skip_bad)
    labels, classes = None, ()
    if labelled:
        labels = torch.from_numpy(np.asarray(rows[labelled][:], dtype=np.int64))
        classes = rows.features[labelled].names
        if bool((labels < 0).any()):  # which is how hidden ones are given
            labels, classes = None, ()
    source = ArrayImages(pixels, labels, classes, skipped=problems)
    return source if len(good) == len(rows) else source.subset(good)


def _in_memory(name: str, survey: Survey) -> torch.Tensor:
    result: torch.Tensor | None = None
    for place, image in enumerate(survey.images()):
        if image is None:
            continue
        if result is None:
            needed, free = len(survey.names) * image.nbytes, psutil.virtual_memory().available
            if needed > free:
                raise InputError(
                    f"{name} takes {needed / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} GiB "
                    "are free: set data.cache to a folder for a copy of it"
                )
            height, width, channels = image.shape
            result = torch.zeros(len(survey.names), channels, height, width, dtype=torch.uint8)
        result[place] = torch.from_numpy(image.transpose(2, 0, 1))
    return torch.empty(0, 1, 1, 1, dtype=torch.uint8) if result is None else result
