"""Figures of every image, as files."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from cascade.data.sources import ImageSource
from cascade.likelihood import Report
from cascade.utils.files import CSV, whole


@dataclass
class Records:
    """A report with what each of its images is: index and file in the data set, label or −1."""

    report: Report
    indices: Tensor
    names: list[str]
    labels: Tensor | None

    @classmethod
    def of(cls, report: Report, source: ImageSource, indices: Tensor) -> Records:
        """The records of the images at ``indices`` of a source."""
        names = [source.name(i) for i in indices.tolist()]
        return cls(
            report, indices, names, None if source.labels is None else source.labels[indices]
        )

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

    def write_npz(self, file: str) -> None:
        """Arrays index, files, label, stages, nats (N, stages), bpd, and log p(y | image)."""
        report = self.report
        arrays: dict[str, Any] = {
            "index": self.indices.numpy(),
            "files": np.array(self.names),
            "stages": np.array(report.names),
            "nats": report.nats.numpy(),
            "bpd": report.image_bpd.numpy(),
        }
        if self.labels is not None:
            arrays["label"] = self.labels.numpy()
        if report.posterior is not None:
            arrays["posterior"] = report.posterior.numpy()
        with whole(file) as aside, open(aside, "wb") as out:
            np.savez_compressed(out, **arrays)
