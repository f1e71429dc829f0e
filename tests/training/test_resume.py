"""What a run may be continued with, setting by setting."""

from dataclasses import fields, replace

import pytest
from conftest import ROOT

from cascade.config import load_config
from cascade.record import Record
from cascade.training.resume import RESUMED_AS_IT_WAS, check_resumable
from stages import InputError

SRF16 = ROOT / "configs" / "mnist5k" / "srf16.yaml"
KEPT = [
    (section, key)
    for section, keys in RESUMED_AS_IT_WAS.items()
    for key in keys or [item.name for item in fields(getattr(load_config(SRF16), section))]
]
SAME = Record(["a", "b"], [3, 4], "images", "previous")
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
    check_resumable(before, now, SAME, SAME)
    part = getattr(now, section) if section else now
    old = getattr(part, key)
    setattr(part, key, other(old))
    name = f"{section}.{key}" if section else key
    with pytest.raises(InputError) as refused:
        check_resumable(before, now, SAME, SAME)
    assert f"{name}={old}, now it is {other(old)};" in str(refused.value)


@pytest.mark.parametrize("key", sorted(FREE))
def test_what_only_says_how_to_go_on_is_free(key):
    before, now = load_config(SRF16), load_config(SRF16)
    setattr(now.train, key, other(getattr(now.train, key)))
    check_resumable(before, now, SAME, SAME)


def test_averaging_is_neither_begun_nor_ended():
    before, now = load_config(SRF16, ["train.ema=0.9"]), load_config(SRF16, ["train.ema=0"])
    for old, new in ((before, now), (now, before)):
        with pytest.raises(InputError, match="averaging can be neither begun nor ended"):
            check_resumable(old, new, SAME, SAME)
    check_resumable(before, load_config(SRF16, ["train.ema=0.99"]), SAME, SAME)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("classes", ["b", "a"], r"classes=\['a', 'b'\], now it is \['b', 'a'\]"),
        ("previous", "another", "the weights of augment.previous=previous, now it is another"),
        ("images", "others", "no longer those"),
    ],
)
def test_what_training_found_must_stay_too(key, value, message):
    config, now = load_config(SRF16), replace(SAME, **{key: value})
    with pytest.raises(InputError, match=message):
        check_resumable(config, config, SAME, now)


def test_other_images_are_taken_where_that_is_asked_for_or_none_were_known():
    config, now = load_config(SRF16), replace(SAME, images="others", counts=[1, 1])
    check_resumable(config, load_config(SRF16, ["train.resume=force"]), SAME, now)
    check_resumable(config, config, replace(SAME, images=""), now)
