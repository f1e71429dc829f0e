"""What training wrote down: the `metrics.jsonl` of stage folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cascade.config import load_saved
from stages import InputError


def logged_stages(folder: str | Path) -> list[Path]:
    """A stage folder itself, or those in a folder of them, smallest images first.

    Training need not have finished. Raises `InputError` where nothing was logged.
    """
    folder = Path(folder)
    if (folder / "metrics.jsonl").is_file():
        return [folder]
    result = [log.parent for log in sorted(folder.glob("*/metrics.jsonl"))]
    if not result:
        raise InputError(f"{folder} holds no metrics.jsonl; train a stage into it first")
    return sorted(result, key=lambda stage: load_saved(stage).data.size)


def read_metrics(stage: Path) -> list[dict[str, Any]]:
    """The rows of a stage folder's `metrics.jsonl`, but for one that is still being written.

    Raises `InputError` where there are none, or where one cannot be read.
    """
    file = stage / "metrics.jsonl"
    if not file.is_file():
        raise InputError(f"{stage} is not a stage folder: it has no metrics.jsonl")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    rows: list[Any] = [parsed(line) for line in lines if line.endswith("\n")]
    if None in rows:
        raise InputError(f"{file} is damaged: its line {rows.index(None) + 1} is no row of figures")
    return rows


def parsed(line: str) -> dict[str, Any] | None:
    """The row that a line of `metrics.jsonl` holds; None where it is cut off or damaged."""
    try:
        row = json.loads(line) if line.endswith("\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    figures = [value for name, value in row.items() if name not in ("phase", "images")]
    return row if all(isinstance(value, float | int | None) for value in figures) else None
