"""Figures of every image, as files, and the files of several shards put together again."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade.data.npz import read_npz
from cascade.data.sources import ImageSource
from cascade.evaluation.codecs import SETTINGS
from cascade.likelihood import Report
from cascade.sample_checks import SampleCheck
from cascade.utils.files import CSV, whole
from stages import InputError

CODECS = {codec: f"bpd_{codec}" for codec in SETTINGS}
ARRAYS = (
    *("index", "files", "label", "stages", "nats", "bpd", "posterior", "header", "sha256"),
    *CODECS.values(),
)


@dataclass
class Records:
    """A report with what each of its images is: index and file in the data set, label or −1.

    ``files`` holds their bits/dim as lossless files, (N,) by codec.
    """

    report: Report
    indices: Tensor
    names: list[str]
    labels: Tensor | None
    files: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        report: Report,
        source: ImageSource,
        indices: Tensor,
        files: dict[str, Tensor] | None = None,
    ) -> Records:
        """The records of the images at ``indices`` of a source."""
        names = [source.name(i) for i in indices.tolist()]
        labels = None if source.labels is None else source.labels[indices]
        return cls(report, indices, names, labels, files or {})

    def write_csv(self, file: str) -> None:
        """One row an image: index, file, label, nats of each stage, nats, bits/dim."""
        report = self.report
        labels = [""] * len(self.names) if self.labels is None else self.labels.tolist()
        figures = (report.nats.tolist(), report.nats.sum(1).tolist(), report.image_bpd.tolist())
        with whole(file) as aside, open(aside, "w", **CSV) as out:
            writer = csv.writer(out)
            stages = [f"nats_{name}" for name in report.names]
            writer.writerow(["index", "file", "label", *stages, "nats", "bpd"])
            rows = zip(self.indices.tolist(), self.names, labels, *figures, strict=True)
            for index, name, label, nats, total, bpd in rows:
                writer.writerow([index, name, label, *nats, total, bpd])


@dataclass
class Part:
    """Records of a data set, or of one ``shard`` of it, (its number from 1 on, of how many).

    ``provenance`` is what it takes to repeat them, the same for all shards; ``drawn`` what fresh
    samples are like, None where another shard tells.
    """

    records: Records
    provenance: dict[str, Any]
    shard: tuple[int, int]
    drawn: SampleCheck | None

    def write_npz(self, file: str) -> None:
        """Arrays index, files, label, stages, nats (N, stages), bpd, log p(y | image), bpd_PNG, …

        ``header`` holds all else that `read_part` needs, as JSON, and ``sha256`` is that of the
        other arrays.
        """
        records, report = self.records, self.records.report
        arrays: dict[str, Any] = {
            "index": records.indices.numpy(),
            "files": np.array(records.names),
            "stages": np.array(report.names),
            "nats": report.nats.numpy(),
            "bpd": report.image_bpd.numpy(),
            "header": np.array(json.dumps(self._header())),
        }
        if records.labels is not None:
            arrays["label"] = records.labels.numpy()
        if report.posterior is not None:
            arrays["posterior"] = report.posterior.numpy()
        arrays |= {CODECS[codec]: bpd.numpy() for codec, bpd in records.files.items()}
        with whole(file) as aside, open(aside, "wb") as out:
            np.savez_compressed(out, **arrays, sha256=np.array(_digest(arrays)))

    def _header(self) -> dict[str, Any]:
        of_images = ("names", "nats", "posterior")
        report = {key: v for key, v in vars(self.records.report).items() if key not in of_images}
        drawn = self.drawn and asdict(self.drawn) | {"clipped": self.drawn.clipped.tolist()}
        return {
            "provenance": self.provenance,
            "shard": self.shard,
            "report": report,
            "drawn": drawn,
        }


def read_part(file: str) -> Part:
    """What `Part.write_npz` wrote; `InputError` where a file is no such, or damaged."""
    arrays = read_npz(Path(file), ARRAYS)
    if str(arrays.pop("sha256", None)) != _digest(arrays):
        raise InputError(f"{file} holds no figures that likelihood.py --npz wrote, or is damaged")
    texts = ("files", "stages", "header")
    tensors = {k: torch.from_numpy(array) for k, array in arrays.items() if k not in texts}
    header = json.loads(str(arrays["header"]))
    names, nats, posterior = arrays["stages"].tolist(), tensors["nats"], tensors.get("posterior")
    report = Report(names=names, nats=nats, posterior=posterior, **header["report"])
    files = {codec: tensors[name] for codec, name in CODECS.items() if name in tensors}
    labels, indices = tensors.get("label"), tensors["index"]
    records = Records(report, indices, arrays["files"].tolist(), labels, files)
    drawn = header["drawn"]
    if drawn:
        drawn = SampleCheck(**drawn | {"clipped": torch.tensor(drawn["clipped"]).double()})
    return Part(records, header["provenance"], tuple(header["shard"]), drawn)


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of arrays, with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def merge(files: Sequence[str]) -> Part:
    """All shards of a data set put together: what one run would have found, to the bit.

    Raises `InputError` where one is missing, given twice, damaged, or of other weights, data or
    settings than the others.
    """
    parts: dict[int, tuple[str, Part]] = {}
    for file in files:
        part = read_part(file)
        number, count = part.shard
        first_file, first = next(iter(parts.values()), (file, part))
        if part.provenance != first.provenance or count != first.shard[1]:
            raise InputError(f"{file} and {first_file} are of different {_difference(part, first)}")
        if number in parts:
            raise InputError(f"{parts[number][0]} and {file} are both shard {number} of {count}")
        parts[number] = file, part
    missing = [str(n) for n in range(1, count + 1) if n not in parts]
    if missing:
        raise InputError(
            f"of {count} shards these are missing: {', '.join(missing)}; --shard "
            f"{missing[0]}/{count} scores the first of them"
        )
    result = _joined([parts[n][1] for n in range(1, count + 1)])
    if len(result.records.indices) != result.provenance["images"]:
        raise InputError(f"{files[0]} and the others do not hold all images: score them again")
    return result


def _difference(one: Part, two: Part) -> str:
    if one.shard[1] != two.shard[1]:
        return f"runs, of {one.shard[1]} and of {two.shard[1]} shards"
    keys = one.provenance.keys() | two.provenance.keys()
    return ", ".join(sorted(k for k in keys if one.provenance.get(k) != two.provenance.get(k)))


def _joined(parts: Sequence[Part]) -> Part:
    """One part of all, in order."""
    first, every = parts[0], [part.records for part in parts]

    def together(tensors: list[Any]) -> Any:
        return None if tensors[0] is None else torch.cat(tensors)

    report = Report(
        **vars(first.records.report)
        | {key: together([getattr(r.report, key) for r in every]) for key in ("nats", "posterior")}
    )
    files = {codec: torch.cat([r.files[codec] for r in every]) for codec in every[0].files}
    records = Records(
        report,
        torch.cat([r.indices for r in every]),
        [name for r in every for name in r.names],
        together([r.labels for r in every]),
        files,
    )
    return Part(records, first.provenance, (1, 1), first.drawn)
