"""All that a comparison finds: trainings by method, and scores of what they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from cascade.config import StageConfig
from cascade.evaluation.claims import Spread, spreads
from cascade.evaluation.enlargements.image_metrics import bicubic
from cascade.evaluation.features import FeatureNet
from cascade.stage import load_stage
from cascade.transforms.dequantise import expand_bits, reduce_bits
from cascade.versus.enlarging import Doubler, FlowDoubler, enlarge, load_net
from cascade.versus.matching import Match, match
from cascade.versus.outcome import Outcome
from cascade.versus.scoring import Pairs, Scorer, open_pairs
from cascade.versus.settings import Versus, stage_configs
from cascade.versus.training import METHODS, Run
from stages import InputError

Row = dict[str, float]


@dataclass
class Findings:
    """Scores by method, a row a seed whose runs held, and the images of the first of them.

    ``images`` holds the first version's; ``outcomes`` all trainings by method.
    """

    pairs: Pairs
    rows: dict[str, list[Row]] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    @property
    def scores(self) -> dict[str, dict[str, Spread]]:
        """Means and ranges over seeds, by method and score."""
        return {method: spreads(rows) for method, rows in self.rows.items()}


def matches_of(configs: Sequence[StageConfig]) -> list[Match]:
    """The generators for a chain of doublers, which differ in the size of their images alone."""
    return [match(configs[-1])] * len(configs)


def open_scorer(versus: Versus, features: FeatureNet) -> Scorer:
    """The images that all are scored on; `InputError` where they, or the net, cannot be used."""
    config = stage_configs(versus, versus.seeds[0])[-1]
    pairs = open_pairs(config, versus.factor, versus.split, versus.limit)
    return Scorer(pairs, features, versus.window)


def find(
    versus: Versus,
    runs: Sequence[Run],
    scorer: Scorer,
    watch: Callable[[str], None] = lambda name: None,
) -> Findings:
    """Score what every seed's finished runs make of a scorer's images.

    Versions of flows are drawn at ``temperature``; what else there is makes one of each image.
    """
    pairs = scorer.pairs
    result = Findings(pairs)
    for method in METHODS:
        mine = [run for run in runs if run.method == method]
        result.outcomes[method] = [run.outcome() for run in mine]
        result.rows[method] = []
        for seed in versus.seeds:
            links = [run for run in mine if run.config.seed == seed]
            if any(run.outcome().diverged for run in links):
                continue
            watch(f"{method}, seed {seed}")
            chain = [doubler(run, versus) for run in links]
            versions = versus.samples if method == "flow" else 1
            row, images = scorer(partial(enlarge, chain, pairs.low), versions)
            result.rows[method].append(row)
            result.images.setdefault(method, images)
    watch("cubic")
    row, images = scorer(partial(cubic, pairs), 1)
    result.rows["cubic"], result.images["cubic"] = [row], images
    return result


def cubic(pairs: Pairs, number: int) -> tuple[Tensor, Tensor]:
    """Low images by cubic interpolation."""
    image = bicubic(expand_bits(pairs.low, pairs.bits), pairs.factor)
    return reduce_bits(image, pairs.bits), torch.ones(len(image), dtype=torch.bool)


def doubler(run: Run, versus: Versus) -> Doubler:
    """What a finished training made; `InputError` where its weights are gone."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not run.weights.is_file():
        raise InputError(f"{run.weights} is gone: remove {run.file} to train it again")
    if run.method == "flow":
        return FlowDoubler(load_stage(run.folder, device), versus.temperature, run.config.seed)
    return load_net(run.weights, run.config, run.match.shape, device)
