"""The configurations that come with the package, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def shipped_names() -> list[str]:
    """Names of all shipped configurations, such as ``mnist5k-haar/glow8``."""
    home = _home()
    return sorted(
        file.relative_to(home).with_suffix("").as_posix() for file in home.glob("*/*.yaml")
    )


def find_config(name: str | Path) -> Path:
    """The file or folder of a name: one that exists, or else the shipped one of that name.

    A shipped file may be named without ``.yaml``, and with or without ``configs/`` before it. What
    is neither is given back as it is.
    """
    path = Path(name)
    if path.exists():
        return path
    parts = path.parts[1:] if path.parts[:1] == ("configs",) else path.parts
    result = _home().joinpath(*parts) if parts and not path.is_absolute() else path
    for candidate in (result, result.with_name(f"{result.name}.yaml")):
        if candidate.exists() and _home() in candidate.resolve().parents:
            return candidate
    return path


def _home() -> Path:
    return Path(str(resources.files("cascade.configs"))).resolve()
