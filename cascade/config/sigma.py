"""How strong augmentation is: one σ, a range to draw each image's from, or a schedule of σ."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence

import torch

from cascade.utils.seeds import uniform
from stages import InputError

LARGEST = 1e6  # a deviation of noise beside latents whose own is 1
Sigma = float | Sequence[float] | Mapping[int, float]


def sigma_at(sigma: Sigma, step: int, source: torch.Generator) -> float:
    """The σ of one image at a training step.

    A number is itself; [least, most] is drawn from evenly, with ``source``; {step: σ, …} is joined
    by straight lines, and constant before the first step and after the last.
    """
    if isinstance(sigma, Mapping):
        return _on_the_line(sigma, step)
    if isinstance(sigma, Sequence):
        least, most = sigma
        return least + (most - least) * uniform((), source).item()
    return float(sigma)


def _on_the_line(schedule: Mapping[int, float], step: int) -> float:
    steps = sorted(schedule)
    after = bisect.bisect(steps, step)
    if after in (0, len(steps)):
        return float(schedule[steps[max(0, after - 1)]])
    first, last = steps[after - 1], steps[after]
    share = (step - first) / (last - first)
    return (1 - share) * schedule[first] + share * schedule[last]


def check_sigma(sigma: Sigma) -> None:
    """Raise `InputError` unless `sigma_at` understands it."""
    if isinstance(sigma, Mapping):
        values, fits = list(sigma.values()), all(_is_step(step) for step in sigma) and len(sigma)
    elif isinstance(sigma, Sequence) and not isinstance(sigma, str):
        values, fits = list(sigma), len(sigma) == 2
    else:
        values, fits = [sigma], True
    numbers = all(type(v) in (int, float) and 0 <= v <= LARGEST for v in values)
    if not fits or not numbers or (isinstance(sigma, Sequence) and values[0] > values[1]):
        raise InputError(
            f"augment.sigma is a number from 0 to {LARGEST:g}, a range [least, most] to draw from, "
            f"or a schedule {{step: sigma, ...}}; got {sigma}"
        )


def _is_step(step: object) -> bool:
    return isinstance(step, int) and step >= 0
