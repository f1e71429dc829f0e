"""The cascade folder: `cascade.yaml` lists its stage folders, base first."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cascade.config import load_config
from cascade.files import whole
from cascade.stage import Stage
from stages import InputError

MANIFEST = "cascade.yaml"


def stage_folders(folder: str | Path, names: Sequence[str] | None = None) -> list[Path]:
    """The stage folders of a cascade folder, base first; a stage folder is a cascade of one.

    ``names`` picks stages of the folder in place of those that `cascade.yaml` lists.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no run folder {folder}; train a stage into it first")
    if names is None and (folder / "model.safetensors").is_file():
        return [folder]
    if names is None:
        names = _listed(folder)
    return [folder / name for name in names]


def _listed(folder: Path) -> list[str]:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{folder} holds neither {MANIFEST} nor a trained stage")
    try:
        listed = OmegaConf.to_container(OmegaConf.load(manifest))
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise InputError(f"cannot read {manifest}: {str(error).splitlines()[0]}") from None
    names = listed.get("stages") if isinstance(listed, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError(f"{manifest} must hold 'stages: [base, ...]', a list of stage folders")
    return names


def check_order(stages: Sequence[Stage]) -> None:
    """Raise `InputError` unless the stages follow one another as a cascade."""
    base = stages[0]
    if base.conditional:
        raise InputError(
            f"the first stage must be a Glow; {base.name} is an SRFlow and needs "
            f"a {base.size // 2}x{base.size // 2} stage before it"
        )
    for previous, stage in itertools.pairwise(stages):
        if not stage.conditional:
            raise InputError(f"stage {stage.name} is a Glow; only the first stage may be one")
        if stage.size != 2 * previous.size:
            raise InputError(
                f"stages in the wrong order: {stage.name} ({stage.size}x{stage.size}) cannot "
                f"follow {previous.name} ({previous.size}x{previous.size}); each must double"
            )
        for what in ("channels", "bits"):
            one, two = getattr(previous.config.data, what), getattr(stage.config.data, what)
            if one != two:
                raise InputError(f"{previous.name} has {one} {what}, {stage.name} {two}")
    counts = {stage.classes for stage in stages if stage.classes}
    if len(counts) > 1:
        raise InputError(f"stages of one cascade differ in their number of classes: {counts}")


def register(folder: Path) -> str:
    """Bring `cascade.yaml` beside a finished stage up to date; says in one line what it did.

    Where the trained stages beside it form one chain, that chain is listed. Where they do not
    (two bases, say), what stands is left alone: the choice is the user's.
    """
    parent = folder.resolve().parent
    trained = [file.parent for file in parent.glob("*/model.safetensors")]
    configs = {folder.name: load_config(folder / "config.yaml") for folder in trained}
    names = sorted(configs, key=lambda name: configs[name].data.size)
    sizes = [configs[name].data.size for name in names]
    kinds = [configs[name].model.kind for name in names]
    chain = all(b == 2 * a for a, b in itertools.pairwise(sizes))
    if not chain or kinds != ["glow", *["srflow"] * (len(kinds) - 1)]:
        return f"{parent / MANIFEST} left as it is: {', '.join(names)} do not form one chain"
    with whole(parent / MANIFEST) as aside:
        OmegaConf.save({"stages": names}, aside)
    return f"{parent / MANIFEST} lists {', '.join(names)}"
