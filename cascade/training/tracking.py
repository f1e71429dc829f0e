"""Where a run's figures go: `metrics.jsonl`, and the trackers that were asked for."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from PIL import Image

from cascade.config import StageConfig
from cascade.training.metrics_log import parsed
from cascade.utils.files import finite, naming, whole
from stages import InputError


class Log:
    """Rows of figures by step, each a line of JSON; numbers and pictures go to trackers too.

    Every process makes one, the first alone writes.
    """

    def __init__(self, accelerator: Accelerator, config: StageConfig, step: int):
        self.accelerator = accelerator
        self.file = Path(config.out) / "metrics.jsonl"
        if accelerator.is_main_process and self.file.is_file():
            self._rewind(step)
        settings = {f"{part}.{key}": str(value) for part, key, value in _settings(config)}
        again = {"purge_step": step + 1} if step else {}
        accelerator.init_trackers("csrflow", settings, {"tensorboard": again})

    def _rewind(self, step: int) -> None:
        """Drop rows after a step, which will be written again, and one that was cut off."""
        rows = self.file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
        kept = [row for row in rows if _step(row) <= step]
        with whole(self.file) as aside:
            aside.write_text("".join(kept))

    def write(self, row: Mapping[str, object]) -> None:
        """Add a row, which has a ``step``."""
        if self.accelerator.is_main_process:
            with naming(self.file), open(self.file, "a", encoding="utf-8") as file:
                file.write(json.dumps(finite(row), allow_nan=False) + "\n")
            numbers = {k: v for k, v in row.items() if isinstance(v, float | int) and k != "step"}
            self.accelerator.log(numbers, step=row["step"])

    def picture(self, file: Path, step: int) -> None:
        """Hand a picture on to the trackers."""
        for tracker in self.accelerator.trackers:
            pixels = np.array(Image.open(file).convert("RGB"))[None]
            tracker.log_images({"samples": pixels}, step, **FORMAT.get(tracker.name, {}))

    def close(self) -> None:
        """Finish what trackers have not written yet."""
        self.accelerator.end_training()


def _step(row: str) -> float:
    """The step of a row; beyond all steps where it was cut off or damaged."""
    result = parsed(row)
    return float("inf") if result is None else result["step"]


FORMAT = {"tensorboard": {"dataformats": "NHWC"}}


def check_trackers(names: list[str]) -> None:
    """Raise `InputError` for a tracker whose package is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise InputError(f"train.trackers={name} needs a package: pip install {name}")


def _settings(config: StageConfig) -> list[tuple[str, str, object]]:
    parts = asdict(config)
    return [
        (p, k, v)
        for p, values in parts.items()
        if isinstance(values, dict)
        for k, v in values.items()
    ]
