"""Scoring a data set: shared among processes, resumable, every image counted once."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from cascade.chain import Cascade
from cascade.data.sources import ImageSource
from cascade.evaluation.codecs import Compressing
from cascade.utils.files import naming
from cascade.utils.lock import Lock
from cascade.utils.non_finite import NotFinite
from stages import InputError
from stages.labels import NO_LABEL


@dataclass(frozen=True)
class Protocol:
    """How images are scored: K dequantisation ``samples``, their seed, and how labels enter.

    ``label_mode`` is given, marginal, none (stages are to do without), or None for a cascade
    without classes; ``prior`` holds the classes' probabilities under marginal, equal ones if None.
    """

    samples: int = 1
    seed: int = 0
    label_mode: str | None = None
    prior: tuple[float, ...] | None = None


@dataclass
class Row:
    """What was found out about one image.

    Nats by stage, log p(y | image) where classes are marginalised, and bits/dim as lossless files,
    none where they were left out.
    """

    index: int
    nats: list[float]
    posterior: list[float] | None
    files: dict[str, float]


class Journal:
    """Rows already scored, one file a process, kept in a folder until the result is written.

    ``header`` says what the rows are of; rows of anything else are never mixed in.
    """

    def __init__(self, folder: Path, header: dict[str, Any]):
        self.folder = folder
        self.header = json.loads(json.dumps(header))

    def open(self, resume: bool, force: bool, state: PartialState) -> list[Row]:
        """Rows of an interrupted run. `InputError` where there are some and neither is wanted."""
        with state.main_process_first():
            if state.is_main_process:
                self._take(resume, force)
        rows = [row for file in sorted(self.folder.glob("*.jsonl")) for row in self._read(file)]
        state.wait_for_everyone()
        self.file = self.folder / f"{len(rows)}-{state.process_index}.jsonl"
        with naming(self.file):
            self.file.write_text(self._sealed(self.header))
        return list({row.index: row for row in rows}.values())

    def _take(self, resume: bool, force: bool) -> None:
        """Keep other runs out; rows of an earlier one are left where it is resumed."""
        if self.folder.exists() and not resume and not force:
            raise InputError(
                f"{self.folder} holds an interrupted run: --resume continues it, "
                "--force starts over"
            )
        with naming(self.folder):
            self.lock = Lock(self.folder, "written")
        if not resume:
            for file in self.folder.glob("*.jsonl"):
                file.unlink()

    def _read(self, file: Path) -> Iterator[Row]:
        lines = file.read_bytes().split(b"\n")[:-1]  # what has no end is half written
        header, *rows = [self._opened(line, file) for line in lines] or [self.header]
        if header != self.header:
            raise InputError(
                f"{self.folder} was begun with other weights, data or settings; --force starts over"
            )
        yield from (Row(**row) for row in rows)

    @staticmethod
    def _sealed(value: object) -> str:
        """A line: a value as JSON, after its checksum."""
        text = json.dumps(value)
        return f"{zlib.crc32(text.encode()):08x} {text}\n"

    @staticmethod
    def _opened(line: bytes, file: Path) -> Any:
        """The value of a line; `InputError` where it is not what was written."""
        checksum, _, text = line.partition(b" ")
        if checksum != f"{zlib.crc32(text):08x}".encode():
            raise InputError(f"{file} is damaged; --force starts over")
        return json.loads(text)

    def add(self, rows: list[Row]) -> None:
        """Append rows, on disk before this returns."""
        with naming(self.file), open(self.file, "a") as out:
            out.writelines(self._sealed(asdict(row)) for row in rows)
            out.flush()
            os.fsync(out.fileno())

    def remove(self) -> None:
        """Delete the journal, once its result is safe."""
        self.lock.release()  # Windows removes no file that is open
        shutil.rmtree(self.folder)


def score_source(
    cascade: Cascade,
    source: ImageSource,
    indices: Tensor,
    protocol: Protocol,
    journal: Journal | None = None,
    done: list[Row] | None = None,
    state: PartialState | None = None,
    advance: Callable[[int], None] = lambda count: None,
    files: bool = True,
) -> list[Row]:
    """Rows of the images at ``indices``, in that order, on every process.

    Chunks are dealt out among the processes; as a row depends on its image alone, it is the same
    for any number of them. Rows ``done`` before are not scored again. With ``files`` images are
    also made into lossless files, by as many threads as torch has, while the nets work.
    """
    known = {row.index: row for row in done or []}
    left = torch.tensor([i for i in indices.tolist() if i not in known], dtype=torch.int64)
    rank, processes = (state.process_index, state.num_processes) if state else (0, 1)
    mine = left.split(cascade.chunk)[rank::processes] if len(left) else ()
    compressing = Compressing(torch.get_num_threads()) if files else None
    result: list[Row] = []
    for part in mine:
        rows = _score(cascade, source, part, protocol, compressing)
        if journal:
            journal.add(rows)
        result += rows
        advance(len(part) * processes)
    known |= {row.index: row for row in (gather_object(result) if processes > 1 else result)}
    return [known[i] for i in indices.tolist()]


def _score(
    cascade: Cascade,
    source: ImageSource,
    indices: Tensor,
    protocol: Protocol,
    compressing: Compressing | None,
) -> list[Row]:
    images = cascade.resize(source.read(indices))
    sizes = compressing.start(images) if compressing else ({} for _ in images)
    known: Any = source.labels
    labels = known[indices] if protocol.label_mode == "given" else None
    if protocol.label_mode == "none":
        labels = torch.full((len(indices),), NO_LABEL)
    prior = None if protocol.prior is None else torch.tensor(protocol.prior)
    try:
        nats, posterior = cascade.stage_log_probs(
            images, labels, protocol.samples, protocol.seed, prior
        )
    except NotFinite as fault:
        raise fault.of(str(indices[fault.row].item())) from None
    posteriors = [None] * len(images) if posterior is None else posterior.tolist()
    return [
        Row(index, stage_nats, classes, files)
        for index, stage_nats, classes, files in zip(
            indices.tolist(), nats.tolist(), posteriors, sizes, strict=True
        )
    ]
