"""A stage's YAML file as a checked configuration, and back."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from cascade.config.schema import FORMAT, KINDS, UNLIMITED, StageConfig
from cascade.config.shipped import find_config, shipped_names
from cascade.config.validation import check
from cascade.utils.files import whole
from cascade.utils.yaml_files import first_line, read_yaml
from stages import InputError, InputWarning


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> StageConfig:
    """Read a stage's YAML file, apply ``key=value`` overrides, and check the result.

    ``name`` is a file, or that of a shipped configuration. Raises `InputError` for a missing file,
    a key that no stage of this kind has (with the nearest one that it has), a value of the wrong
    type, or one that cannot work.
    """
    return _read(find_config(name), overrides)


def load_saved(folder: Path) -> StageConfig:
    """The configuration in a stage folder; `InputError` where another format wrote it."""
    path = folder / "config.yaml"
    if not path.is_file():
        raise InputError(f"stage folder {folder} has no config.yaml; train the stage again")
    return _read(path, (), saved=True)


def _read(path: Path, overrides: Sequence[str], saved: bool = False) -> StageConfig:
    _check_overrides(overrides)
    try:
        given, changes = read_yaml(path), OmegaConf.from_dotlist(list(overrides))
        written = given.get("format", 1 if saved else FORMAT)
        if written != FORMAT:
            raise InputError(
                f"{path} is of format {written}, this version of csrflow reads format {FORMAT}: "
                "train the stage again, or use the version that wrote it"
            )
        augment, sigma = given.get("augment"), OmegaConf.select(changes, "augment.sigma")
        if sigma is not None and isinstance(augment, DictConfig):
            augment.pop("sigma", None)  # a schedule is replaced, not added to
        given = cast(DictConfig, OmegaConf.merge(given, changes))
        if OmegaConf.select(given, "train.precision") is False:
            given.train.precision = "no"  # which YAML reads as a truth value
        limits = [OmegaConf.select(given, f"train.{key}") for key in ("steps", "seconds")]
        if limits[0] is None and limits[1] is not None:
            given.train.steps = UNLIMITED
        kind = OmegaConf.select(given, "model.kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise InputError(f"{path}: model.kind must be one of {', '.join(KINDS)}, got {kind!r}")
        schema = OmegaConf.structured(StageConfig(model=KINDS[kind]()))
        config: Any = OmegaConf.to_object(OmegaConf.merge(schema, given))
    except InputError:
        raise
    except (FileNotFoundError, IsADirectoryError):
        names = ", ".join(shipped_names())
        raise InputError(f"no configuration file {path}; those that are shipped: {names}") from None
    except (ConfigKeyError, MissingMandatoryValue) as error:
        known = StageConfig(model=KINDS[kind]())
        raise InputError(f"{path}: {_explain(error, known, f'a {kind} stage')}") from None
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: {first_line(error)}") from None
    check(config)
    _leave_out_what_is_idle(config, path)
    return config


def _leave_out_what_is_idle(config: StageConfig, path: str | Path) -> None:
    """Say which settings do nothing beside the others, and do without them."""
    model, train = cast(Any, config.model), config.train
    if model.levels == 1 and getattr(model, "conditional_prior", False):
        model.conditional_prior = False
        idle = "model.conditional_prior does nothing at model.levels=1, which drops no half"
        warnings.warn(f"{path}: {idle}; it is left out", InputWarning, stacklevel=3)
    if model.nets == "conv" and model.net_blocks > 1:
        model.net_blocks = 1
        idle = "model.net_blocks does nothing with model.nets=conv"
        warnings.warn(f"{path}: {idle}; it is left out", InputWarning, stacklevel=3)
    if train.milestones and train.schedule != "halve":
        train.milestones = []
        idle = f"train.milestones do nothing with train.schedule={train.schedule}"
        warnings.warn(f"{path}: {idle}; they are left out", InputWarning, stacklevel=3)


def save_config(config: StageConfig, path: Path) -> None:
    """Write the whole resolved configuration as YAML."""
    with whole(path) as aside:
        OmegaConf.save(OmegaConf.structured(config), aside)


def load_as(
    schema: type, name: str | Path, overrides: Sequence[str], what: str, folder: str
) -> Any:
    """Read a YAML file that is not a stage's, and apply ``key=value`` overrides: a ``schema``.

    ``name`` is a file, or that of a shipped one. Raises `InputError` where there is none, for a key
    that the dataclass ``schema`` lacks (with the nearest one that it has), or a value of another
    type; ``what`` it is then is said, and where there is none, those of a shipped ``folder``.
    """
    _check_overrides(overrides)
    try:
        given = OmegaConf.merge(
            OmegaConf.structured(schema),
            read_yaml(find_config(name)),
            OmegaConf.from_dotlist(list(overrides)),
        )
        return OmegaConf.to_object(given)
    except (FileNotFoundError, IsADirectoryError):
        shipped = ", ".join(known for known in shipped_names() if Path(known).parts[0] == folder)
        raise InputError(f"no {what} {name}; those that are shipped: {shipped}") from None
    except (ConfigKeyError, MissingMandatoryValue) as error:
        raise InputError(f"{name}: {_explain(error, schema(), f'a {what}')}") from None
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError) as error:
        raise InputError(f"{name}: {first_line(error)}") from None


def _check_overrides(overrides: Sequence[str]) -> None:
    for override in overrides:
        if "=" not in override:
            raise InputError(f"{override!r} is not of the form key=value")


def _explain(error: OmegaConfBaseException, schema: Any, whose: str) -> str:
    """What is wrong with a key, in words: not set, or unknown, with the nearest one of a schema."""
    key = str(error.full_key)
    if isinstance(error, MissingMandatoryValue):
        return f"{key} is not set"
    known = _keys(schema)
    leaves = {name.split(".")[-1]: name for name in known}
    leaf = difflib.get_close_matches(key.split(".")[-1], leaves, n=1)
    close = difflib.get_close_matches(key, known, n=1) or [leaves[name] for name in leaf]
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"{whose} has no setting {key}{hint}"


def _keys(config: Any, prefix: str = "") -> list[str]:
    names = []
    for item in fields(config):
        value = getattr(config, item.name)
        inner = _keys(value, f"{prefix}{item.name}.") if is_dataclass(value) else []
        names += inner or [prefix + item.name]
    return names
