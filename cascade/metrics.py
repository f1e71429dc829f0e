"""What training wrote down: the `metrics.jsonl` of stage folders."""

from __future__ import annotations

import json
from pathlib import Path

from cascade.config import load_config
from stages import InputError


def logged_stages(folder: str | Path) -> list[Path]:
    """A stage folder itself, or those in a folder of them, smallest images first.

    Training need not have finished. Raises `InputError` where nothing was logged.
    """
    folder = Path(folder)
    if (folder / "metrics.jsonl").is_file():
        return [folder]
    found = [log.parent for log in sorted(folder.glob("*/metrics.jsonl"))]
    if not found:
        raise InputError(f"{folder} holds no metrics.jsonl; train a stage into it first")
    return sorted(found, key=lambda stage: load_config(stage / "config.yaml").data.size)


def read_metrics(stage: Path) -> list[dict[str, object]]:
    """The rows of a stage folder's `metrics.jsonl`, but for one that is still being written.

    Raises `InputError` where there are none, or where one cannot be read.
    """
    file = stage / "metrics.jsonl"
    if not file.is_file():
        raise InputError(f"{stage} is not a stage folder: it has no metrics.jsonl")
    lines = file.read_text(errors="replace").splitlines(keepends=True)
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise InputError(f"{file} is damaged: {error}") from None
