"""The cascade folder: `cascade.yaml` lists its stage folders, base first."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cascade.config import StageConfig, load_saved
from cascade.utils.files import whole
from cascade.utils.yaml_files import first_line, read_yaml
from stages import InputError

MANIFEST = "cascade.yaml"


@dataclass
class Listing:
    """Names of stages, base first, and the pyramid they are said to share, None if nothing is."""

    names: list[str]
    pyramid: str | None = None


def stage_folders(
    folder: str | Path, names: Sequence[str] | None = None
) -> tuple[list[Path], str | None]:
    """The stage folders of a cascade folder, base first, and the pyramid `cascade.yaml` names.

    A stage folder is a cascade of one. ``names`` picks stages of the folder in place of those that
    `cascade.yaml` lists.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no run folder {folder}; train a stage into it first")
    if names is None and (folder / "model.safetensors").is_file():
        return [folder], None
    listing = _listed(folder) if names is None else Listing(list(names))
    return [folder / name for name in listing.names], listing.pyramid


def _listed(folder: Path) -> Listing:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise InputError(f"{folder} holds neither {MANIFEST} nor a trained stage")
    try:
        listed: Any = OmegaConf.to_container(read_yaml(manifest))
    except (InputError, OmegaConfBaseException, OSError) as error:
        raise InputError(f"cannot read {manifest}: {first_line(error)}") from None
    names, shared = listed.get("stages"), listed.get("pyramid")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise InputError(f"{manifest} must hold 'stages: [base, ...]', a list of stage folders")
    if not isinstance(shared, str | None):
        raise InputError(f"{manifest} must name one pyramid, got {shared!r}")
    return Listing(names, shared)


def check_order(stages: Sequence[tuple[str, StageConfig]], pyramid: str | None = None) -> None:
    """Raise `InputError` unless the stages (name, configuration) make up a cascade, base first.

    ``pyramid`` is the one all of them must have, where something else has named it.
    """
    alone = [(name, config.model.kind) for name, config in stages if config.stands_alone]
    if alone and len(stages) > 1:
        name, kind = alone[0]
        raise InputError(f"{name} is of kind {kind}, which belongs to no cascade: use it alone")
    first, base = stages[0]
    if base.upsamples:
        half = base.data.size // 2
        raise InputError(
            f"the first stage must be a Glow; {first} is an SRFlow and needs "
            f"a {half}x{half} stage before it"
        )
    check_chain(stages, pyramid)


def check_chain(stages: Sequence[tuple[str, StageConfig]], pyramid: str | None = None) -> None:
    """Raise `InputError` unless each stage takes what the one before it makes."""
    first, base = stages[0]
    expected, named = (base.model.pyramid, first) if pyramid is None else (pyramid, MANIFEST)
    for name, config in stages:
        if config.model.pyramid != expected:
            raise InputError(
                f"{named} has pyramid={expected}, but {name} has pyramid={config.model.pyramid}; "
                "low images of one cascade all come from one pyramid"
            )
    for (below, low), (name, high) in itertools.pairwise(stages):
        if not high.upsamples:
            raise InputError(f"stage {name} is a Glow; only the first stage may be one")
        if high.data.size != 2 * low.data.size:
            raise InputError(
                f"stages in the wrong order: {name} ({high.data.size}x{high.data.size}) cannot "
                f"follow {below} ({low.data.size}x{low.data.size}); each must double"
            )
        for what in ("channels", "bits"):
            one, two = getattr(low.data, what), getattr(high.data, what)
            if one != two:
                raise InputError(f"{below} has {what}={one}, but {name} has {what}={two}")
    counts = {config.model.classes for _, config in stages if config.model.classes}
    if len(counts) > 1:
        raise InputError(f"stages of one cascade differ in their number of classes: {counts}")


def register(folder: Path) -> str:
    """Add a trained stage to the `cascade.yaml` beside it; says in one line what stands there.

    The trained stages beside it are listed if they form one chain that holds every stage listed
    before. Otherwise (two bases, say) what stands is left alone: the choice is the user's. Stages
    that belong to no cascade have no part in it.
    """
    manifest = folder.resolve().parent / MANIFEST
    config = load_saved(folder)
    if config.stands_alone:
        return f"{folder} is of kind {config.model.kind}, which is used alone"
    try:
        listed = _listed(manifest.parent).names if manifest.is_file() else []
    except InputError as error:
        return f"{manifest} is left alone: {error}"
    if folder.resolve().name in listed:
        return f"{manifest} lists {', '.join(listed)}"
    configs = _trained_beside(manifest.parent)
    stages = sorted(configs.items(), key=lambda stage: stage[1].data.size)
    names = [name for name, _ in stages]
    try:
        check_order(stages)
    except InputError as error:
        return f"{manifest} is left alone: {error}" if listed else f"no whole cascade yet: {error}"
    if not set(listed) <= set(names):
        return f"{manifest} is left alone: it lists {', '.join(listed)}"
    write_manifest(manifest.parent, names, stages[0][1].model.pyramid)
    return f"{manifest} lists {', '.join(names)}"


def write_manifest(folder: Path, names: Sequence[str], pyramid: str) -> None:
    """Write `cascade.yaml` into a cascade folder: its stages, base first, and their pyramid."""
    with whole(folder / MANIFEST) as aside:
        OmegaConf.save({"pyramid": pyramid, "stages": list(names)}, aside)


def _trained_beside(parent: Path) -> dict[str, StageConfig]:
    result = {}
    for weights in sorted(parent.glob("*/model.safetensors")):
        with suppress(InputError):  # a folder of something else is nothing to us
            result[weights.parent.name] = load_saved(weights.parent)
    return {name: config for name, config in result.items() if not config.stands_alone}
