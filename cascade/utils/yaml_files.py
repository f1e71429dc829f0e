"""YAML files, read so that a damaged or hostile one is one clear line, soon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stages import InputError

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # for the structure alone
LARGEST = 10 * 2**20  # bytes; a list of 20,000 class names takes half a million
MOST = 200_000  # values, with those that aliases (&name, *name) repeat
DEEPEST = 50  # lists and mappings within one another


def read_yaml(file: str | Path) -> DictConfig:
    """The ``key: value`` lines of a YAML file.

    Raises `InputError` where it is not YAML, or would take the memory of the machine;
    `FileNotFoundError` and `IsADirectoryError` are left to the caller, who knows what it is for.
    """
    file = Path(file)
    if file.stat().st_size > LARGEST:
        raise InputError(f"{file} is too large for a configuration: {file.stat().st_size:,} bytes")
    try:
        text = file.read_text(encoding="utf-8")
        if not all(depth <= DEEPEST for depth in _depths(text)):
            raise InputError(f"{file} is not a configuration: it is nested too deeply")
        result = OmegaConf.create(text, max_yaml_expanded_nodes=MOST)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        where = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{file} is not YAML: {error.problem or error.context}{where}") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, ValueError) as error:
        raise InputError(f"{file} is not YAML: {first_line(error)}") from None
    except (AssertionError, TypeError):  # what OmegaConf makes of one value, and of odd keys
        result = None
    if not isinstance(result, DictConfig):
        raise InputError(f"{file} does not hold 'key: value' lines")
    return result


def first_line(error: Exception) -> str:
    """What an error says, or what it is where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def _depths(text: str) -> Iterator[int]:
    """How deep inside lists and mappings a text is, from place to place; read no further."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        yield depth
