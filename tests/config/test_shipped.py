"""Configurations that come with the package are found by name; files that exist come first."""

from importlib import resources
from pathlib import Path

import pytest
from conftest import ROOT, chdir

from cascade.config import load_config
from cascade.config.shipped import find_config, shipped_names

HOME = Path(str(resources.files("cascade.configs"))).resolve()


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that holds no configurations, to be in."""
    with chdir(tmp_path):
        yield tmp_path


def test_every_file_of_the_repository_is_shipped():
    there = (ROOT / "configs").glob("*/*.yaml")
    assert shipped_names() == sorted(f"{file.parent.name}/{file.stem}" for file in there)


@pytest.mark.parametrize("name", shipped_names())
def test_every_name_is_found_in_each_spelling(elsewhere, name):
    expected = HOME / f"{name}.yaml"
    for spelling in (name, f"{name}.yaml", f"configs/{name}", f"configs/{name}.yaml"):
        assert find_config(spelling) == expected == find_config(Path(spelling))


def test_a_folder_is_found(elsewhere):
    assert find_config("mnist5k") == HOME / "mnist5k" == find_config("configs/mnist5k")
    assert load_config("mnist5k/glow8") == load_config(ROOT / "configs" / "mnist5k" / "glow8.yaml")


def test_a_path_that_exists_wins(elsewhere):
    (elsewhere / "configs" / "mnist5k").mkdir(parents=True)
    mine = Path("configs/mnist5k/glow8.yaml")
    mine.write_text("out: mine\n")
    assert find_config("configs/mnist5k/glow8.yaml") == mine
    assert find_config("configs/mnist5k") == Path("configs/mnist5k")
    assert find_config("mnist5k/glow8.yaml") == HOME / "mnist5k" / "glow8.yaml"


def test_an_absolute_path_is_itself(elsewhere):
    mine = elsewhere / "mine.yaml"
    assert find_config(mine) == mine  # though nothing is there
    mine.write_text("out: mine\n")
    assert find_config(str(mine)) == mine
    assert find_config("/mnist5k/glow8") == Path("/mnist5k/glow8")


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "mnist5k/nothing",
        "configs/..",
        "../setup.cfg",
        "configs/../setup.cfg",
        "configs/../../setup.cfg",
        "mnist5k/../../setup.cfg",
        "configs/mnist5k/../../cascade",
        "configs",
        "",
    ],
)
def test_nothing_outside_is_found(elsewhere, name):
    assert find_config(name) == Path(name)
