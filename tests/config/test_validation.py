"""What every setting must fulfil holds at its limits, and fails one step beyond."""

from dataclasses import fields, is_dataclass

import pytest
from conftest import ROOT

from cascade.config.reading import load_config
from cascade.config.schema import KINDS, StageConfig
from cascade.config.validation import CHOICES, LEAST, MOST, check
from stages import InputError

SRF16 = ROOT / "configs" / "mnist5k-haar" / "srf16.yaml"
HOLES = ROOT / "configs" / "inpaint" / "mnist5k.yaml"


def having(key: str, value: object) -> StageConfig:
    """An SRFlow's configuration, which a mixture comes first in, with one setting changed.

    For what only a stage of holes has, that of one.
    """
    config = load_config(HOLES if key == "model.hole" else SRF16, ["model.steps=1"])
    section, name = key.split(".")
    assert hasattr(getattr(config, section), name), key
    setattr(getattr(config, section), name, value)
    return config


@pytest.mark.parametrize(("key", "allowed"), CHOICES.items())
def test_choices(key, allowed):
    with pytest.raises(InputError, match=f"{key} must be one of {', '.join(allowed)}"):
        check(having(key, "other"))


@pytest.mark.parametrize(
    ("key", "limit", "step"),
    [(key, least, -1) for key, least in LEAST.items()] + [(k, m, 1) for k, m in MOST.items()],
)
def test_limits(key, limit, step):
    check(having(key, limit))
    with pytest.raises(InputError, match=f"{key} must be at"):
        check(having(key, limit + step))


def test_limits_are_of_settings_that_some_stage_has():
    for section, name in (key.split(".") for key in (*CHOICES, *LEAST, *MOST)):
        assert any(hasattr(of(kind, section), name) for kind in KINDS)


def of(kind: str, section: str) -> object:
    return KINDS[kind] if section == "model" else getattr(StageConfig("x"), section)


def test_every_section_is_a_dataclass_of_its_own():
    one, other = StageConfig("one"), StageConfig("other")
    for item in fields(one):
        value = getattr(one, item.name)
        assert not is_dataclass(value) or value is not getattr(other, item.name)


@pytest.mark.parametrize(
    "setting",
    [
        *("train.lr=.inf", "train.lr=1e300", "train.weight_decay=1e300", "train.pretrain_lr=.inf"),
        *("model.class_weight=.nan", "model.class_weight=-1", "train.watch_sigmas=[-1]"),
        *("train.watch_sigmas=[[1]]", "train.betas=[[0.9], 0.9]", "train.milestones=[[1]]"),
        *(
            "train.trackers=[[wandb]]",
            "train.watch_sigmas=[.nan]",
            "train.watch_sigmas=[1e300]",
            "augment.sigma=1e300",
        ),
    ],
)
def test_numbers_that_no_training_survives(setting):
    key = setting.split("=")[0]
    with pytest.raises(InputError, match=key):
        load_config("mnist5k/srf16", [setting])


def test_the_stage_below_is_another_one_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for out in ("run", "./run/", "link", "x/../run"):
        words = [f"out={out}", f"augment.previous={tmp_path}/run", "augment.sigma=0.1"]
        with pytest.raises(InputError, match="is the stage below, not this one"):
            load_config("mnist5k/srf16", words)


@pytest.mark.parametrize("other", ["model.order=together", "model.first=none"])
def test_only_nets_in_a_row_are_chained(other):
    with pytest.raises(InputError, match=r"needs model\.first=mixture and model\.order=subbands"):
        load_config(SRF16, ["model.mixture_chain=true", "model.steps=1", other])
