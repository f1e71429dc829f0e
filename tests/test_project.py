"""What is said of the project in several files agrees, and a wheel holds all that it should."""

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

CODE = ("cascade", "stages")
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
VERSION = SETUP["metadata"]["version"]
MODEL = [f"toy/{name}" for name in ("cascade.yaml", "README.md")] + [
    f"toy/glow8/{name}"
    for name in ("config.yaml", "record.json", "README.md", "model.safetensors", "best.safetensors")
]


def numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def files(pattern: str, *folders: str) -> list[Path]:
    """Files of folders, as paths within the repository."""
    return [file.relative_to(ROOT) for name in folders for file in (ROOT / name).rglob(pattern)]


def test_the_citation_is_of_this_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == VERSION
    assert citation["license"] == SETUP["metadata"]["license"]


def test_the_changelog_begins_with_this_version_or_what_leads_to_it():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"^## (\S+)", text, re.MULTILINE)
    released = [*([] if first == "Unreleased" else [first]), *others]
    assert released == sorted(released, key=numbers, reverse=True)
    if first == "Unreleased":
        assert numbers(released[0]) <= numbers(VERSION)
    else:
        assert first == VERSION


def test_every_package_is_listed():
    listed = SETUP["options"]["packages"].split()
    found = {".".join(file.parent.parts) for file in files("*.py", *CODE)}
    assert sorted(listed) == sorted(found | {"cascade.configs", "cascade.models"})
    assert all((ROOT / name.replace(".", "/") / "__init__.py").is_file() for name in found)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> set[str]:
    """Names of the files in a wheel of what this repository holds."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*CODE, "configs", "models"):
        unmade = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, source / name, ignore=unmade)
    for name in MODEL:
        (source / "models" / name).parent.mkdir(parents=True, exist_ok=True)
        (source / "models" / name).write_text("as if it were a model's")
    command = "-m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation"
    done = subprocess.run(
        [sys.executable, *command.split(), "--wheel-dir", out, source],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    assert file.name.startswith(f"csrflow-{VERSION}-")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_a_wheel_holds_every_module_and_configuration(wheel):
    shipped = [file.as_posix() for file in files("*.py", *CODE) + files("py.typed", *CODE)]
    shipped += [f"cascade/{file.as_posix()}" for file in files("*.yaml", "configs")]
    assert {"cascade/py.typed", "stages/py.typed"} <= set(shipped)
    assert "cascade/configs/mnist5k-haar/glow8.yaml" in shipped
    assert sorted(set(shipped) - wheel) == []


def test_a_wheel_holds_models_without_what_training_left(wheel):
    there = {name for name in wheel if name.startswith("cascade/models/toy/")}
    assert there == {f"cascade/models/{name}" for name in MODEL if "best" not in name}


def test_a_wheel_holds_nothing_else(wheel):
    about = f"csrflow-{VERSION}.dist-info/"
    assert {name.split("/")[0] for name in wheel} == {*CODE, about.rstrip("/")}
    assert f"{about}entry_points.txt" in wheel
