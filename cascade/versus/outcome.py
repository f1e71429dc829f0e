"""What is known of a training: its curve on held-out images, its time, and whether it held."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from cascade.utils.files import finite, whole
from stages import InputError

Point = dict[str, Any]


@dataclass
class Outcome:
    """One training, as it is kept in a file beside its weights.

    ``of`` says all that it depends on; ``curve`` holds a point an evaluation: ``step``,
    ``seconds``, and scores of held-out images, ``distance`` by the net whose SHA-256 is
    ``features``, and ``objective`` by the loss of its ``phase``; ``skipped`` steps were not finite,
    and ``diverged`` says that they ended it.
    """

    of: dict[str, Any]
    curve: list[Point] = field(default_factory=list)
    seconds: float = 0.0
    skipped: int = 0
    diverged: bool = False
    finished: bool = False
    features: str = ""

    @property
    def sound(self) -> bool:
        """Whether every step and every evaluation was finite."""
        scores = [value for point in self.curve for value in point.values()]
        known = all(value is not None and math.isfinite(value) for value in scores)
        return known and not self.skipped and not self.diverged

    def forget_after(self, step: int) -> None:
        """Forget the points, and the seconds, that a training which goes on from a step repeats."""
        kept = [point for point in self.curve if point["step"] <= step]
        if len(kept) < len(self.curve) or not step:
            self.seconds = kept[-1]["seconds"] if kept else 0.0
        self.curve = kept

    def save(self, file: Path) -> None:
        """Write it, whole or not at all."""
        with whole(file) as aside:
            aside.write_text(json.dumps(finite(asdict(self)), indent=1) + "\n", "utf-8")


def read_outcome(file: Path, of: dict[str, Any]) -> Outcome:
    """What a file knows of a training, a new one where there is none.

    Raises `InputError` where it is damaged, or of a training by other settings.
    """
    if not file.exists():
        return Outcome(of)
    try:
        result = Outcome(**json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{file} is damaged: remove it, and what lies beside it") from None
    if result.of != json.loads(json.dumps(of)):
        both = (result.of, json.loads(json.dumps(of)))
        keys = sorted(key for key in {*both[0], *both[1]} if both[0].get(key) != both[1].get(key))
        raise InputError(
            f"{file} is of a training by other settings ({', '.join(keys)}): use another runs="
        )
    return result


class Stopwatch:
    """Seconds of a training, pauses left out: process time on a CPU, else wall-clock time."""

    def __init__(self, device: torch.device, before: float = 0.0):
        self._clock = time.process_time if device.type == "cpu" else time.perf_counter
        self._begun = self._clock() - before

    @property
    def seconds(self) -> float:
        return self._clock() - self._begun

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is done inside does not count."""
        before = self._clock()
        yield
        self._begun += self._clock() - before


def setbacks(curve: Sequence[Point], key: str) -> tuple[int, int]:
    """How many points of a curve are worse than the one before, of how many; none in a monotone
    training.

    Lower is better, but for ``psnr``. What is not finite is worse than anything. An ``objective``
    is compared with that of the same loss alone, where a training's ``phase`` changes it.
    """
    sign = -1 if key == "psnr" else 1
    raw = [point[key] for point in curve]
    values = [math.inf if v is None or not math.isfinite(v) else sign * v for v in raw]
    phases = [point.get("phase", 0) if key == "objective" else 0 for point in curve]
    pairs = itertools.pairwise(zip(values, phases, strict=True))
    worse = [after > before for (before, old), (after, new) in pairs if old == new]
    return sum(worse), len(worse)
