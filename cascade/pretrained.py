"""Trained cascades by name: a folder, a model that comes with the package, a hub's repository."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from cascade.card import Result, read_results, write_card
from cascade.hub import download, upload
from cascade.manifest import stage_folders, write_manifest
from cascade.percentiles import write_held_out
from cascade.stage import Stage, StageList, load_stage
from stages import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

PACKAGE = Path(__file__).parent
# where models come with the package: in it where it is installed, beside it in a checkout
HOME = PACKAGE / "models" if (PACKAGE / "models").is_dir() else PACKAGE.parent / "models"
REPOSITORY = re.compile(r"(\w[\w.-]*)/\w[\w.-]*", re.ASCII)
NO_OWNERS = ("models", "runs")  # folders that this package writes and reads


class Pretrained(nn.Module):
    """What of a cascade has to do with folders and hubs; `Cascade` is one."""

    stages: StageList
    pyramid: str

    @classmethod
    def load(
        cls,
        folder: str | Path,
        stages: Sequence[str] | None = None,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
        chunk: int | None = None,
    ) -> Self:
        """Read a cascade folder, or a stage folder as a cascade of one.

        Args:
            folder: of the stages' folders and `cascade.yaml`, or of one stage.
            stages: names of stage folders, base first, in place of those `cascade.yaml` lists.
            device: where the nets run.
            dtype: float32, float64, or bfloat16: float32 with the nets under bfloat16 autocast.
            chunk: images that a net sees at once, 16 on a CPU and 128 elsewhere if None.

        Raises:
            InputError: a stage is missing or damaged, or they do not follow one another.
        """
        folders, pyramid = stage_folders(folder, stages)
        return cls([load_stage(path, device, dtype, chunk) for path in folders], pyramid)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
    ) -> Self:
        """Read a trained cascade by name, from a hub if need be.

        Args:
            name: a folder, a model that comes with the package, or a hub's ``owner/repository``,
                whichever is found first.
            revision: branch, tag or commit of a hub's repository.
            device: where the nets run.
            dtype: as for `load`.

        Raises:
            InputError: there is none of that name, it is no cascade, or the hub cannot be reached.
        """
        return cls.load(find_model(name, revision), device=device, dtype=dtype)

    def save(self, folder: str | Path) -> None:
        """Write the stages' folders and `cascade.yaml` into a folder, for `load`.

        Raises:
            InputError: two stages have one name, or the folder holds a file of that name.
        """
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise InputError(f"stages need different names to be saved: {', '.join(names)}")
        for stage in self.stages:
            stage.save(Path(folder) / stage.name)
        write_manifest(Path(folder), names, self.pyramid)

    def save_pretrained(
        self,
        folder: str | Path,
        reports: Sequence[str | Path] = (),
        license: str = "mit",
        about: str = "",
    ) -> None:
        """Write a new folder to be passed on: what `save` writes, and a model card.

        Args:
            folder: a new one, or one that is empty; it is there whole or not at all.
            reports: files that `csrflow likelihood --json` and `csrflow evaluate --json` wrote of
                these weights, whose figures the card gives with their conditions; the page of
                `csrflow explore` ranks images among those of the first report of likelihoods with
                K = 1, summed over classes, of images that nothing was trained on.
            license: of the weights, as hubs abbreviate licences.
            about: what else the card says, in Markdown: where and how long training ran, say.

        Raises:
            InputError: the folder is not empty or cannot be written, or a report is of other
                weights.
        """
        given, folder = folder, Path(folder).resolve()
        if folder == Path.cwd():
            raise InputError("the current folder cannot be replaced; name a new one")
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise InputError(f"{given} exists and is not empty; name a new folder")
        shipped = folder.parent == HOME.resolve()
        name = folder.name if shipped else f"path/to/{folder.name}"
        results = self._results(reports)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as aside:
                whole = Path(aside) / "whole"
                self._write(whole, name, results, reports, license, about)
                if folder.is_dir():
                    folder.rmdir()
                os.replace(whole, folder)
        except OSError as error:
            raise InputError(f"cannot write {given}: {error}; name another folder") from None

    def push_to_hub(
        self,
        repository: str,
        private: bool | None = None,
        revision: str | None = None,
        message: str = "Upload a cascade",
        reports: Sequence[str | Path] = (),
        license: str = "mit",
        about: str = "",
    ) -> str:
        """Put what `save_pretrained` writes into a hub's repository; the commit's address.

        Args:
            repository: ``owner/name``; it is made if there is none.
            private: whether a new one is, as the hub's owner has set it if None.
            revision: branch to write to, made if there is none; the main one if None.
            message: of the commit.
            reports: as for `save_pretrained`.
            license: as for `save_pretrained`.
            about: as for `save_pretrained`.

        Raises:
            InputError: the hub refuses it or cannot be reached, or a report is of other weights.
        """
        if not REPOSITORY.fullmatch(repository):
            raise InputError(
                f"{repository} is no repository: name it owner/{Path(repository).name}"
            )
        results = self._results(reports)
        with tempfile.TemporaryDirectory() as aside:
            self._write(Path(aside), repository, results, reports, license, about)
            return upload(Path(aside), repository, private, revision, message)

    def _results(self, reports: Sequence[str | Path]) -> list[Result]:
        return [result for file in reports for result in read_results(file, list(self.stages))]

    def _write(
        self,
        folder: Path,
        name: str,
        results: Sequence[Result],
        reports: Sequence[str | Path],
        license: str,
        about: str,
    ) -> None:
        self.save(folder)
        write_card(folder, name, list(self.stages), results, license, about)
        write_held_out(folder, reports)


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted({file.relative_to(HOME).parts[0] for file in HOME.rglob("model.safetensors")})


def find_model(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a name: one that exists, else a shipped model's, else a repository's of a hub.

    A shipped model may be named with or without ``models/`` before it, and so may a stage of one.
    A hub is asked only for ``owner/repository`` where no folder ``owner`` is.

    Raises `InputError` where there is none of that name.
    """
    path = Path(name)
    folder = path if path.is_dir() else _shipped(path)
    if folder is not None:
        if revision is not None:
            raise InputError(f"{name} is a folder: only a hub's repository has revisions")
        return folder
    named = REPOSITORY.fullmatch(str(name))
    if named and named[1] not in NO_OWNERS and not Path(named[1]).exists():
        return download(str(name), revision)
    shipped = ", ".join(shipped_models()) or "none yet"
    raise InputError(
        f"no run folder {name}; train a stage into it first, or name a model that comes with the "
        f"package ({shipped}), or a hub's owner/repository"
    )


def load_one(name: str | Path, device: str | torch.device = "cpu") -> Stage:
    """The one stage that a name, as `find_model` takes, stands for.

    Raises `InputError` where there is none of that name, or it is a cascade of several.
    """
    folder = find_model(name)
    folders, _ = stage_folders(folder)
    if len(folders) > 1:
        choice = ", ".join(f"{name}/{os.path.relpath(path, folder)}" for path in folders)
        raise InputError(f"{name} is a cascade: name one of its stages, {choice}")
    return load_stage(folders[0], device)


def _shipped(path: Path) -> Path | None:
    """The folder of a shipped model or of a stage of one, None where no such model is.

    Raises `InputError` where the model has no such stage: no hub is asked for it.
    """
    parts = path.parts[1:] if path.parts[:1] == ("models",) else path.parts
    if path.is_absolute() or ".." in parts or parts[:1] not in [(n,) for n in shipped_models()]:
        return None
    folder = HOME.joinpath(*parts)
    if folder.is_dir():
        return folder
    stages, _ = stage_folders(HOME / parts[0])
    choice = ", ".join(f"{parts[0]}/{stage.name}" for stage in stages)
    raise InputError(
        f"the model {parts[0]} has no stage {'/'.join(parts[1:])}: name one of {choice}"
    )
