"""The model card of a cascade: a `README.md` whose head hubs index."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from cascade.config import StageConfig
from cascade.stage import Stage
from cascade.utils.files import whole
from stages import InputError

TASK = "unconditional-image-generation"
DATASETS = {  # as the hub calls those that it has
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn": "ufldl-stanford/svhn",
}
PARTS = {"mnist5k": "ylecun/mnist"}  # of those, in other splits
ROW_ONLY = ("temperature", "stage", "size")  # of a row of scores: what it is of
SHOWN = 20  # names of classes


@dataclass
class Result:
    """One figure: its name, its value, what it was measured on, and how.

    ``dataset`` is what a hub calls the ``data``, where it has it, else their own name.
    """

    kind: str  # as an index has it, such as bits_per_dim
    name: str
    value: float
    data: str
    dataset: str
    split: str
    conditions: str
    statement: str = ""  # what it is, to be said wherever it is printed


def read_results(file: str | Path, stages: Sequence[Stage]) -> list[Result]:
    """The figures of a file that `likelihood --json` or `evaluate --json` wrote of these stages.

    Raises `InputError` where it is something else, or of other weights.
    """
    try:
        report = json.loads(Path(file).read_text("utf-8"))
        weights = report["weights"]
        results = (
            _likelihood(report, stages[-1].shape[1])
            if "bpd" in report
            else _scores(report, stages[-1])
        )
    except FileNotFoundError:
        raise InputError(f"no report {file}") from None
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
        raise InputError(
            f"{file} is no report of samples or likelihoods: give what --json of csrflow "
            "likelihood, or of evaluate without --super-resolution, wrote"
        ) from None
    if weights != {stage.name: stage.saved_digest for stage in stages}:
        raise InputError(f"{file} is of other weights than this cascade's: score these")
    return results


def _likelihood(report: dict[str, Any], size: int) -> list[Result]:
    classes = f"classes {report['label_mode']}" if report["label_mode"] else ""
    error = report["stderr"]
    conditions = [
        f"{report['images']} of {report['of']} images at {size}x{size}",
        "" if report["bits"] == 8 else f"{report['bits']} bits",
        f"K = {report['samples']}",
        f"seed {report['seed']}",
        classes if report["prior"] is None else f"{classes} with an empirical prior",
        _told(report),
        report["dtype"],
        "" if error is None else f"standard error {error:.4f}",
    ]
    return [_result(report, "bits_per_dim", "bits/dim", report["bpd"], conditions)]


def _scores(report: dict[str, Any], stage: Stage) -> list[Result]:
    """Those of the cascade's own resolution, at each temperature."""
    names, results = report["names"], []
    for row in report["scores"]:
        conditions = [
            f"{report['num']} samples at temperature {row['temperature']}",
            f"seed {report['seed']}",
            _told(report),
            f"{report['images']} of {report['of']} images at {row['size']}x{row['size']}",
            f"features {report['features']}",
        ]
        for key, value in row.items() if row["stage"] == stage.name else ():
            if key not in ROW_ONLY:
                kind = "fid" if names.get(key) == "FID" else key
                results.append(_result(report, kind, names.get(key, key), value, conditions))
    return results


def _result(
    report: dict[str, Any], kind: str, name: str, value: float, conditions: Sequence[str]
) -> Result:
    data, statement = _basename(report["data"]), report.get("statement", "")
    how = ", ".join(condition for condition in conditions if condition)
    dataset, split = DATASETS.get(report["data"], data), report["split"]
    return Result(kind, name, round(float(value), 4), data, dataset, split, how, statement)


def _told(report: dict[str, Any]) -> str:
    sigma = report["told_sigma"]
    return "" if sigma is None else f"told sigma {sigma:g}"


def write_card(
    folder: Path,
    name: str,
    stages: Sequence[Stage],
    results: Sequence[Result],
    license: str,
    about: str = "",
) -> None:
    """Say what a cascade is, what it learned from, how good it is, and how it is used.

    ``name`` is what it is loaded by, ``about`` what else is said of it, in Markdown.
    """
    head = yaml.safe_dump(
        _head(name, stages, results, license), sort_keys=False, allow_unicode=True, width=100
    )
    last = stages[-1]
    shape = ", ".join(map(str, last.shape))
    names = next((stage.record.classes for stage in stages if stage.classes), [])
    classes = max(stage.classes for stage in stages)
    told = f"Class-conditional, {classes} classes" if classes else "Unconditional"
    told += f": {', '.join(names[:SHOWN])}{', …' * (len(names) > SHOWN)}." if names else "."
    rows = "\n".join(_row(stage) for stage in stages)
    said = f"{about.strip()}\n\n" if about.strip() else ""
    began = "".join(_start(stage) for stage in stages)
    text = f"""---
{head}---

# {name.split("/")[-1]}

A cascade of normalizing flows that draws images of {last.shape[1]}x{last.shape[2]} pixels and \
{last.shape[0]} channel{"s" * (last.shape[0] > 1)}, and
gives real ones a likelihood. {told}

```python
from cascade import Cascade

cascade = Cascade.from_pretrained({json.dumps(name, ensure_ascii=False)})
images = cascade.sample(16, temperature=0.9, seed=0)  # uint8 (16, {shape})
nats = cascade.log_prob(images)  # of any uint8 images of this shape
```

```sh
csrflow sample {shlex.quote(name)} --num 100 --out grid.png
```

{said}| stage | a | makes | parameters | learned from | training |
|---|---|---|---|---|---|
{rows}

A stage is trained again by `csrflow train STAGE/config.yaml out=AGAIN/STAGE` in this folder.
{began}
{_table(results)}Pyramid: {last.config.model.pyramid}. Every setting is in each stage's \
`config.yaml`, what its training found out in
`record.json`, the weights to use in `model.safetensors`. Written by csrflow \
{importlib.metadata.version("csrflow")}, torch {torch.__version__}.
"""
    with whole(folder / "README.md") as aside:
        aside.write_text(text, encoding="utf-8")


def _head(
    name: str, stages: Sequence[Stage], results: Sequence[Result], license: str
) -> dict[str, Any]:
    """What hubs index."""
    learned = dict.fromkeys(stage.config.data.name for stage in stages)
    conditional = any(stage.classes for stage in stages)
    names = {**DATASETS, **PARTS}
    known = list(dict.fromkeys(names[data] for data in learned if data in names))
    head: dict[str, Any] = {
        "library_name": "csrflow",
        "license": license,
        "pipeline_tag": TASK,
        "tags": ["normalizing-flow", "glow", "srflow", "density-estimation", "image-generation"]
        + ["class-conditional"] * conditional,
    }
    if known:
        head["datasets"] = known
    if results:
        head["metrics"] = list(dict.fromkeys(result.kind for result in results))
        head["model-index"] = [{"name": name.split("/")[-1], "results": [*map(_entry, results)]}]
    return head


def _entry(result: Result) -> dict[str, Any]:
    return {
        "task": {"type": TASK},
        "dataset": {
            "type": result.dataset,
            "name": result.data,
            "split": result.split,
        },
        "metrics": [
            {
                "type": result.kind,
                "name": f"{result.name} ({result.conditions})",
                "value": result.value,
            }
        ],
    }


def _row(stage: Stage) -> str:
    config, size = stage.config, stage.shape[1]
    parameters = sum(weights.numel() for weights in stage.flow.parameters())
    made = f"{size}x{size}" + f" from {size // 2}x{size // 2}" * config.upsamples
    made += f" from {stage.given}" * bool(stage.given)
    data = f"{_basename(config.data.name)}, split {config.data.split}"
    if stage.record.images:
        data += f", SHA-256 {stage.record.images[:16]}"
    cells = [stage.name, config.model.kind, made, f"{parameters:,}", data, _training(config)]
    return f"| {' | '.join(cells)} |"


def _training(config: StageConfig) -> str:
    train = config.train
    long = f"{train.steps:,} steps" if train.seconds is None else f"{train.seconds:g} s"
    long += f" or patience {train.patience}" * bool(train.patience)
    mixed = "" if train.precision == "no" else f", {train.precision}"
    return f"{long} of {train.batch_size} images, seed {config.seed}{mixed}"


def _start(stage: Stage) -> str:
    """What training began with, if that was another stage's weights."""
    start = stage.config.train.start
    if start is None:
        return ""
    return (
        f"\n{stage.name} went on from `{start}`, weights of SHA-256 {stage.record.start[:16]}: "
        "give `train.start=` such a stage, or `train.start=null` to begin anew.\n"
    )


def _table(results: Sequence[Result]) -> str:
    if not results:
        return ""
    rows = [f"| {r.name} | {r.value:g} | {r.data}, {r.split} | {r.conditions} |" for r in results]
    said = dict.fromkeys(f"\n{result.statement}\n" for result in results if result.statement)
    lines = ["| figure | value | data | conditions |", "|---|---|---|---|", *rows]
    return "\n".join([*lines, *said, "\n"])


def _basename(data: str) -> str:
    """A data set's name, of a folder or file its own alone: the rest is of a machine."""
    return Path(data).name
