"""The model that a page shows: a whole cascade, or stages that enlarge and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import torch

from cascade.chain import Cascade
from cascade.config import load_saved
from cascade.manifest import stage_folders
from cascade.percentiles import Usual, read_held_out
from cascade.photos.upscaling import load_doublers
from cascade.pretrained import HOME, find_model
from cascade.stage import Stage


@dataclass(frozen=True)
class Model:
    """A ``cascade``, None where there is no base to draw from, and the ``doublers`` of photos.

    ``usual`` is what its folder says of held-out images, None where that is nothing; ``own`` is
    whether the folder was named, or came with the package, so that files may be read that its
    configuration names.
    All users of a page share it. Whoever runs its nets holds the ``lock``: a map of bits listens to
    the nets, and would hear what others have them do.
    """

    name: str
    cascade: Cascade | None
    doublers: list[Stage]
    usual: Usual | None = None
    own: bool = True
    lock: Lock = field(default_factory=Lock, repr=False)


def open_model(name: str | Path, device: str | torch.device = "cpu") -> Model:
    """The model of a name, as for `Cascade.from_pretrained`, or an SRFlow stage's folder.

    Raises `InputError` where there is none of that name, or it is damaged.
    """
    folder = find_model(name)
    folders, _ = stage_folders(folder)
    if all(load_saved(stage).upsamples for stage in folders):
        return Model(str(name), None, load_doublers(folders, device))
    cascade = Cascade.load(folder, device=device)
    cascade.check_draws()
    doublers = [stage.replace(chunk=1) for stage in cascade.stages[1:]]
    held_out = read_held_out(folder, list(cascade.stages))
    own = Path(name).is_dir() or folder.is_relative_to(HOME)
    return Model(str(name), cascade, doublers, held_out, own)
