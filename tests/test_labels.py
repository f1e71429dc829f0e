"""Labels as users give them: `cascade.labels`, and what `cascade.draws` carries."""

import numpy as np
import pytest
import torch

from cascade import draws
from cascade.labels import checked_labels, label_named
from stages import InputError


@pytest.mark.parametrize(
    "given", [[0, 2, 1], (0, 2, 1), np.array([0, 2, 1]), torch.tensor([0, 2, 1], dtype=torch.uint8)]
)
def test_any_kind_of_whole_numbers(given):
    assert torch.equal(checked_labels(given, 3, ["cat", "dog", "cow"]), torch.tensor([0, 2, 1]))


@pytest.mark.parametrize("given", [["cat", "cow", "dog"], ("cat", "2", "dog")])
def test_names_of_classes(given):
    assert checked_labels(given, 3, ["cat", "dog", "cow"]).tolist() == [0, 2, 1]
    with pytest.raises(InputError, match="no class '(dog|2)': name one of cat, cow"):
        checked_labels(given, 3, ["cat", "cow"])


@pytest.mark.parametrize(
    "given", [[0.0, 1.0], ["a", 1], "01", [True, False], [0, 3], [-1, 0], [0], 1]
)
def test_anything_else_is_refused(given):
    with pytest.raises(InputError, match="label"):
        checked_labels(given, 2, ["cat", "dog", "cow"])


def test_a_class_is_named_or_numbered():
    names = ["cat", "dog", "1", "guinea pig"]
    assert [label_named(name, names) for name in names] == [0, 1, 2, 3]
    assert [label_named(number, names) for number in "023"] == [0, 2, 3]
    for wrong in ("Cat", "4", "-1", "1.0", "", "cat,dog"):
        with pytest.raises(
            InputError, match=f"no class '{wrong}': name one of cat, dog, 1, guinea"
        ):
            label_named(wrong, names)


def test_many_classes_are_not_all_listed():
    with pytest.raises(InputError, match=r"0, 1, .*, 19, \.\.\., or give its number, 0\.\.999$"):
        label_named("1000", [str(number) for number in range(1000)])


def test_a_draw_is_named():
    assert draws.Draw._fields == ("images", "labels", "finite", "clipped", "out_of_range")
