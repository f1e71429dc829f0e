"""A table of cascades: what its YAML file says, and which stages the names of cascades mean."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from cascade.chain import Cascade
from cascade.config import load_saved
from cascade.config.reading import load_as
from cascade.config.shipped import find_config
from cascade.evaluation.claims import Claim
from cascade.training.metrics_log import read_metrics
from stages import InputError

BITS, FAILED, REPLACED = "bits/dim", "failed", "replaced"
PART = re.compile(r"(Glow|SRF)(CC)?(\d+)(?:\((\d*\.?\d+)\))?")


@dataclass
class Row:
    """A cascade by name, its published scores by size, and the published replacement rate.

    A ``variant`` is a name for what its stages are trained with beyond the table's settings,
    ``train``: they are others than the stages of rows without it.
    """

    name: str = MISSING
    variant: str = ""
    train: list[str] = field(default_factory=list)
    published: dict[int, float] = field(default_factory=dict)
    replaced: float | None = None

    @property
    def title(self) -> str:
        return f"{self.name}, {self.variant}" if self.variant else self.name


@dataclass
class Table:
    """Scores of several cascades under one protocol."""

    title: str = MISSING
    data: str = MISSING
    runs: str = MISSING  # the folder of the stages' folders
    configs: str = MISSING  # the folder of configurations that stages are trained from
    rows: list[Row] = MISSING
    claims: list[Claim] = field(default_factory=list)  # what its figures are to tell
    sizes: list[int] = MISSING  # a column each
    split: str = "test"
    limit: int | None = None  # of the split's images
    num: int = 50_000  # samples
    temperature: float = 1.0
    seed: int = 0  # of samples and dequantisation
    seeds: list[int] = field(default_factory=list)  # of training: a cascade each, of every row
    likelihood: int = 0  # of the split's images, for a column of bits/dim; 0: no such column
    failures: int = 0  # samples, for a column of those that went wrong; 0: no such column
    classes: int = 0  # of the stages marked CC
    train: list[str] = field(default_factory=list)  # settings of every stage that is trained
    root: str = "data"  # where downloads go

    @property
    def columns(self) -> list[str]:
        """The heads of the columns that hold figures."""
        others = [BITS] * bool(self.likelihood) + [FAILED] * bool(self.failures)
        return [REPLACED, *map(str, self.sizes), *others]

    @property
    def trainings(self) -> list[int | None]:
        """The seeds that each row is trained with; None is the one of its configurations."""
        return [*self.seeds] or [None]


@dataclass(frozen=True)
class Part:
    """One stage of a cascade's name, such as ``SRFCC32(0.02)``, and the one before it."""

    kind: str
    conditional: bool
    size: int
    sigma: float
    below: Part | None
    variant: str = ""
    changes: tuple[str, ...] = ()  # settings of the variant
    seed: int | None = None

    @property
    def plain(self) -> str:
        """The name of its configuration's file: glow16, srf32."""
        return f"{self.kind}{self.size}"

    @property
    def folder(self) -> str:
        """The name of its stage folder, which says all that it is trained on."""
        name = f"{self.kind}{'cc' * self.conditional}{self.size}"
        if self.below and self.sigma:
            return f"{name}-{self.sigma:g}-after-{self.below.folder}"
        seed = "" if self.seed is None else f"seed{self.seed}"
        return "-".join(filter(None, (name, self.variant, seed)))

    def settings(self, table: Table) -> list[str]:
        """What to change in its configuration, as key=value."""
        words = [
            f"out={Path(table.runs, self.folder)}",
            f"model.classes={table.classes if self.conditional else 0}",
        ]
        if self.below and self.sigma:
            previous = Path(table.runs, self.below.folder)
            words += [f"augment.previous={previous}", f"augment.sigma={self.sigma:g}"]
        words += [] if self.seed is None else [f"seed={self.seed}"]
        return [*words, *table.train, *self.changes]

    def config(self, table: Table) -> Path:
        """The configuration it is trained from."""
        return find_config(Path(table.configs, f"{self.plain}.yaml"))

    def trained(self, table: Table) -> bool:
        """Whether its stage folder holds weights of the last step, or time, that was asked for."""
        folder = Path(table.runs, self.folder)
        if not (folder / "model.safetensors").is_file():
            return False
        train, rows = load_saved(folder).train, read_metrics(folder)
        last: dict[str, Any] = rows[-1] if rows else {"step": -1}
        ended = last["step"] >= train.pretrain_steps + train.steps
        return ended or bool(train.seconds and last.get("seconds", 0) >= train.seconds)

    def replaced(self, table: Table) -> float | None:
        """The last share of disturbed low images that its training gave up on, if it logged any."""
        result = [row.get("replaced") for row in read_metrics(Path(table.runs, self.folder))]
        return next((share for share in reversed(result) if share is not None), None)


def parts(row: Row, seed: int | None = None) -> list[Part]:
    """The stages that a row such as ``Glow16-SRF32(0.02)-SRF64`` means, base first.

    ``CC`` marks class-conditional stages; a number in brackets is the σ that a stage's low images
    were disturbed by in training. ``seed`` is that of their training, None for that of their
    configurations. Raises `InputError` where it is no such name.
    """
    result: list[Part] = []
    name, own = row.name, (row.variant, tuple(row.train), seed)
    for text in name.split("-"):
        match = PART.fullmatch(text)
        kind = "SRF" if result else "Glow"
        if not match or match[1] != kind or (match[4] and not result):
            raise InputError(
                f"{name!r} is not a cascade's name such as Glow16-SRF32(0.02)-SRF64: see {text!r}"
            )
        below = result[-1] if result else None
        conditional, sigma = bool(match[2]), float(match[4] or 0)
        result.append(Part(kind.lower(), conditional, int(match[3]), sigma, below, *own))
    return result


def load_table(file: str | Path, overrides: Sequence[str] = ()) -> Table:
    """Read a table's YAML file and apply ``key=value`` overrides; `InputError` where it is bad."""
    table: Table = load_as(Table, file, overrides, "table", "tables")
    check_table(table, file)
    for row in table.rows:
        if any(part.conditional for part in parts(row)) and not table.classes:
            raise InputError(f"{file}: {row.name} is class-conditional, but classes is 0")
    return table


def check_table(table: Table, file: str | Path) -> None:
    """Raise `InputError` for settings that cannot work."""
    made = {part.size for row in table.rows for part in parts(row)}
    settings: dict[str, list[str]] = {"": []}
    for row in table.rows:
        if not re.fullmatch(r"[\w.]*", row.variant):
            raise InputError(f"{file}: a variant is a word, got {row.variant!r}")
        if settings.setdefault(row.variant, row.train) != row.train:
            named = f"variant {row.variant}" if row.variant else "rows without a variant"
            raise InputError(f"{file}: {named} must have one list of train settings")
    for claim in table.claims:
        titles = [row.title for row in table.rows]
        for given, known in (
            (claim.below, titles),
            (claim.above, titles),
            (claim.column, [REPLACED, *map(str, table.sizes), BITS, FAILED]),
        ):
            if given not in known:
                names = "; ".join(known)
                raise InputError(f"{file}: a claim names {given!r}, which is none of {names}")
    for key, fits, must in (
        ("rows", bool(table.rows), "name at least one cascade"),
        ("sizes", bool(table.sizes), "name at least one size"),
        ("sizes", set(table.sizes) <= made, f"be of those that the rows make: {sorted(made)}"),
        ("num", table.num >= 1, "be at least 1"),
        ("seeds", len(set(table.seeds)) == len(table.seeds), "differ"),
        ("seeds", all(0 <= seed < 2**63 for seed in table.seeds), "lie in [0, 2^63)"),
        ("likelihood", table.likelihood >= 0, "not be below 0"),
        ("failures", table.failures >= 0, "not be below 0"),
        ("limit", table.limit is None or table.limit >= 1, "be at least 1"),
        ("temperature", 0 <= table.temperature < math.inf, "be finite and not below 0"),
        ("classes", table.classes >= 0, "not be below 0"),
    ):
        if not fits:
            raise InputError(f"{file}: {key} must {must}")


def load_row(
    row: Row, table: Table, device: str, chunk: int | None = None, seed: int | None = None
) -> Cascade:
    """The cascade of a row, trained with a seed of the table's ``seeds``, if it has any.

    Raises `InputError` where a stage was trained as something else.
    """
    named = parts(row, seed)
    cascade = Cascade.load(table.runs, [part.folder for part in named], device, chunk=chunk)
    for part, stage in zip(named, cascade.stages, strict=True):
        learned = stage.config
        what = (learned.data.size, bool(learned.model.classes), learned.augment.sigma)
        if what != (part.size, part.conditional, part.sigma):
            raise InputError(
                f"{stage.name} is of size {what[0]}, {learned.model.classes} classes and sigma "
                f"{what[2]}, which is not what {row.name} says"
            )
    return cascade
