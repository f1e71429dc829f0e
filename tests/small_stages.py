"""Stage folders with randomised weights, made without training: seconds saved, real otherwise."""

from pathlib import Path

from conftest import ROOT, randomise

from cascade.config import load_config, save_config
from cascade.stage import Stage, build, load_stage, write_tensors

SMALL = ("model.steps=1", "model.width=8", "data.size=16")


def stage_folder(folder: Path, *overrides: str, config: str = "photos/srf2x") -> Path:
    """A stage of a configuration, made small, its weights a little away from a fresh one's."""
    settings = load_config(ROOT / "configs" / f"{config}.yaml", [*SMALL, *overrides])
    folder.mkdir(parents=True)
    save_config(settings, folder / "config.yaml")
    flow = randomise(build(settings), 0.05).float()
    write_tensors(flow.state_dict(), folder / "model.safetensors")
    return folder


def small_stage(folder: Path, *overrides: str) -> Stage:
    """The same, read in float64, to be given images one by one."""
    stage = load_stage(stage_folder(folder, *overrides), dtype="float64")
    return stage.replace(chunk=1)
