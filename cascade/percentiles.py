"""How many bits held-out images need of a cascade: what another image is ranked among."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cascade.stage import Stage
from cascade.utils.files import whole
from stages import InputError

FILE = "held_out.json"  # of a cascade folder that is passed on


@dataclass(frozen=True)
class Usual:
    """Bits/dim (N,) of images that the model takes for usual, and ``what`` these are."""

    bpd: Tensor
    what: str

    def percentile(self, bpd: float) -> float:
        """The share of them, in per cent, that need no more bits; ties count half."""
        below, same = (self.bpd < bpd).double().mean(), (self.bpd == bpd).double().mean()
        return 100 * (below + same / 2).item()


def percentiles(bpd: Tensor) -> list[float]:
    """The 0th to the 100th percentile of the images' bits/dim (N,)."""
    return bpd.double().quantile(torch.linspace(0, 1, 101, dtype=torch.float64)).tolist()


def write_held_out(folder: Path, reports: Sequence[str | Path]) -> None:
    """Keep what the first report of likelihoods, if any is one, says of its images.

    ``reports`` are files that `csrflow likelihood --json` wrote of these weights. What was measured
    otherwise than the images to be ranked are does not count: those are scored by one
    dequantisation, and summed over classes that are equally likely. Nor do training images.
    """
    for file in reports:
        report = json.loads(Path(file).read_text("utf-8"))
        if "percentiles" in report and _alike(report):
            kept = {key: report[key] for key in ("images", "split", "weights", "percentiles")}
            text = json.dumps({"data": Path(report["data"]).name, **kept}, indent=1)
            with whole(folder / FILE) as aside:
                aside.write_text(text + "\n", encoding="utf-8")
            return


def _alike(report: dict[str, Any]) -> bool:
    plain = report["prior"] is None and report["told_sigma"] is None and report["samples"] == 1
    unseen = report["split"] not in ("train", "trainval")
    return plain and unseen and report["label_mode"] in (None, "marginal")


def read_held_out(folder: str | Path, stages: Sequence[Stage]) -> Usual | None:
    """What the folder says of held-out images, None where that is nothing, or of other weights.

    Raises `InputError` where its file is damaged.
    """
    file = Path(folder) / FILE
    if not file.is_file():
        return None
    try:
        kept = json.loads(file.read_text("utf-8"))
        bpd = torch.tensor(kept["percentiles"], dtype=torch.float64)
        if bpd.ndim != 1 or not len(bpd) or not bpd.isfinite().all():
            raise ValueError("percentiles are a list of finite numbers")
        what = f"{kept['images']:,} images of {kept['data']} ({kept['split']})"
        weights = kept["weights"]
    except (ArithmeticError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise InputError(f"{file} is damaged, fetch or write it again: {error!r}") from None
    return Usual(bpd, what) if weights == {stage.name: stage.digest for stage in stages} else None
