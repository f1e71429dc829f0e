"""What training found out about a stage: `record.json`, beside the configuration it was given."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cascade.utils.files import whole
from stages import InputError

FILE = "record.json"


@dataclass
class Record:
    """Names of the ``classes`` and training images of each (``counts``), where there are classes.

    ``images`` is the SHA-256 of the training images and labels, ``previous`` that of the weights of
    the stage below, where the stage was trained on low images disturbed in its latent space,
    ``start`` that of the weights that training started from, where those were a trained stage's.
    """

    classes: list[str] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    images: str = ""
    previous: str = ""
    start: str = ""

    def save(self, folder: Path) -> None:
        """Write it into a stage folder, whole or not at all."""
        with whole(folder / FILE) as aside:
            aside.write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")


def load_record(folder: Path) -> Record:
    """The record in a stage folder, empty where there is none; `InputError` where it is damaged."""
    file = folder / FILE
    if not file.is_file():
        return Record()
    try:
        result = Record(**json.loads(file.read_text("utf-8")))
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"{file} is damaged: it is no record of a training") from None
    names, counts = result.classes, result.counts
    sound = (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and len(set(names)) == len(names)
        and isinstance(counts, list)
        and all(type(count) is int and count >= 0 for count in counts)
        and isinstance(result.images, str)
        and isinstance(result.previous, str)
        and isinstance(result.start, str)
    )
    if not sound:
        raise InputError(f"{file} is damaged: it is no record of a training")
    return result
