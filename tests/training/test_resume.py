"""What a run may be continued with, setting by setting."""

from dataclasses import fields, replace

import pytest
from conftest import ROOT

from cascade.config import load_config
from cascade.training.resume import RESUMED_AS_IT_WAS, check_fingerprint, check_resumable
from stages import InputError

SRF16 = ROOT / "configs" / "mnist5k" / "srf16.yaml"
KEPT = [
    (section, key)
    for section, keys in RESUMED_AS_IT_WAS.items()
    for key in keys or [item.name for item in fields(getattr(load_config(SRF16), section))]
]
FREE = {"lr", "schedule", "milestones", "steps", "log_every", "save_every", "keep", "memory"}


def other(value: object) -> object:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value, "x"]
    return value + 1 if isinstance(value, int | float) else f"{value}x"


@pytest.mark.parametrize(("section", "key"), KEPT)
def test_what_must_stay_is_named_with_both_values(section, key):
    before, now = load_config(SRF16), load_config(SRF16)
    check_resumable(before, now)
    part = getattr(now, section) if section else now
    old = getattr(part, key)
    setattr(part, key, other(old))
    name = f"{section}.{key}" if section else key
    with pytest.raises(InputError) as refused:
        check_resumable(before, now)
    assert f"{name}={old}, now it is {other(old)};" in str(refused.value)


@pytest.mark.parametrize("key", sorted(FREE))
def test_what_only_says_how_to_go_on_is_free(key):
    before, now = load_config(SRF16), load_config(SRF16)
    setattr(now.train, key, other(getattr(now.train, key)))
    check_resumable(before, now)


def test_averaging_is_neither_begun_nor_ended():
    before, now = load_config(SRF16, ["train.ema=0.9"]), load_config(SRF16, ["train.ema=0"])
    for old, new in ((before, now), (now, before)):
        with pytest.raises(InputError, match="averaging can be neither begun nor ended"):
            check_resumable(old, new)
    check_resumable(before, load_config(SRF16, ["train.ema=0.99"]))


def test_other_images_are_refused_unless_forced():
    config = load_config(SRF16)
    check_fingerprint(config, "", "new")
    check_fingerprint(config, "same", "same")
    with pytest.raises(InputError, match="no longer those"):
        check_fingerprint(config, "old", "new")
    check_fingerprint(replace(config, train=replace(config.train, resume="force")), "old", "new")
