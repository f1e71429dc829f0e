"""The trainings of a comparison: a flow by `Trainer`, the generators beside it, in equal steps.

All three see the batches of one configuration, which are a function of (seed, step), and are looked
at on the same held-out images after the same steps.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from cascade.config import StageConfig
from cascade.data.batches import Batch, Batches
from cascade.data.workers import workers_by_default
from cascade.evaluation.enlargements.image_metrics import mean_squares, psnr
from cascade.evaluation.features import FeatureNet
from cascade.stage import Stage
from cascade.training.diagnosis import Diverged
from cascade.training.stage_data import open_stage_data
from cascade.training.trainer import Trainer
from cascade.transforms.dequantise import expand_bits, quantise
from cascade.utils.tensors import write_tensors
from cascade.versus.enlarging import Doubler, FlowDoubler, NetDoubler
from cascade.versus.learners import GANLearner, Learner
from cascade.versus.losses import Guide, feature_distance, windows
from cascade.versus.matching import Match
from cascade.versus.nets import Generator
from cascade.versus.outcome import Outcome, Point, Stopwatch, read_outcome
from cascade.versus.settings import Versus

METHODS = ("flow", "gan", "l1")
IDLE = (("data", "root"), ("data", "cache"), ("train", "workers"))  # settings of no consequence
Watch = Callable[[int, Point], None]


@dataclass(frozen=True)
class Run:
    """One training: which of `METHODS`, of which doubler, with which seed."""

    method: str
    config: StageConfig
    match: Match
    of: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The flow's stage folder."""
        return Path(self.config.out)

    @property
    def name(self) -> str:
        return f"{self.method}-{self.config.data.size}, seed {self.config.seed}"

    @property
    def file(self) -> Path:
        """Where its outcome is kept."""
        return self.folder.with_name(f"{self.method}-{self.config.data.size}.json")

    @property
    def weights(self) -> Path:
        """Where the weights to use are."""
        if self.method == "flow":
            return self.folder / "model.safetensors"
        return self.file.with_suffix(".safetensors")

    def outcome(self) -> Outcome:
        """What is known of it; `InputError` where what is there is of other settings."""
        return read_outcome(self.file, self.of)


def runs_of(
    versus: Versus, configs: list[StageConfig], matches: list[Match], guide: Guide | None
) -> list[Run]:
    """The trainings of one seed, a doubler after the other, each by all three methods."""
    results = []
    for config, match in zip(configs, matches, strict=True):
        stage: Any = OmegaConf.to_container(OmegaConf.structured(config))
        for section, key in IDLE:
            del stage[section][key]
        del stage["out"]
        net = {"net": asdict(versus.net), "shape": asdict(match.shape)}
        gan = {"gan": asdict(versus.gan), "guide": guide.digest if guide else None}
        of: dict[str, dict[str, Any]] = {"flow": {}, "l1": net, "gan": net | gan}
        results += [
            Run(method, config, match, {"stage": stage, **of[method]}) for method in METHODS
        ]
    return results


def train(
    run: Run,
    versus: Versus,
    guide: Guide,
    features: FeatureNet,
    watch: Watch = lambda step, point: None,
) -> bool:
    """Train what is not finished; False if it was asked to stop before.

    A flow continues where it was stopped; a generator, which takes less, begins anew.
    """
    outcome = run.outcome()
    if outcome.finished:
        return True
    if run.method == "flow":
        return _train_flow(run, versus, outcome, features, watch)
    _train_net(run, versus, guide, features, watch)
    return True


def _train_flow(
    run: Run, versus: Versus, outcome: Outcome, features: FeatureNet, watch: Watch
) -> bool:
    trainer = Trainer(run.config)
    outcome.forget_after(trainer.step)
    outcome.features = features.digest
    held_out = trainer.data.held_out
    look = Look(held_out.batch, run.config, versus.window, features)
    stopwatch = Stopwatch(trainer.accelerator.device, outcome.seconds)

    def note(step: int, row: dict[str, Any]) -> None:
        if f"{held_out.split}_bpd" in row:
            with stopwatch.paused():
                stage = Stage(trainer.out.name, run.config, trainer.flow)
                scores = look(FlowDoubler(stage, versus.temperature, run.config.seed))
                outcome.seconds = stopwatch.seconds
                point = {"step": step, "seconds": outcome.seconds}
                outcome.curve.append(point | {"objective": row[f"{held_out.split}_bpd"]} | scores)
                outcome.save(run.file)
        watch(step, row)

    try:
        finished = trainer.run(note)
    except Diverged:
        finished = outcome.diverged = True
    outcome.seconds, outcome.finished = stopwatch.seconds, finished
    outcome.skipped = trainer.progress.skipped
    outcome.save(run.file)
    return finished


def _train_net(run: Run, versus: Versus, guide: Guide, features: FeatureNet, watch: Watch) -> None:
    config, outcome = run.config, Outcome(run.of, features=features.digest)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = open_stage_data(config, device)
    torch.manual_seed(config.seed)
    residual = bool(getattr(config.model, "residual", False))
    net = Generator(config.data.channels, run.match.shape, residual)
    net = net.to(device).to(memory_format=torch.channels_last)
    learner = Learner(net, config, versus.net)
    if run.method == "gan":
        learner = GANLearner(net, config, versus.net, versus.gan, guide, device)
    look = Look(data.held_out.batch, config, versus.window, features)
    stopwatch, batches = Stopwatch(device), Batches(data.source, config)
    workers, in_a_row, bits = workers_by_default(device), 0, config.data.bits
    making = batches.steps(0, config.train.steps, workers, device.type == "cuda")
    with closing(making) as made:
        for step, batch in enumerate(made, 1):
            sound = learner.update(batch.to(device), step - 1)
            in_a_row = 0 if sound else in_a_row + 1
            outcome.skipped += not sound
            outcome.diverged = in_a_row > config.train.skip_limit
            if step % config.train.save_every == 0 or step == config.train.steps:
                point: Point = {"step": step, "phase": learner.phase(step)}
                point["objective"] = _objective(learner, data.held_out.batch, step)
                with stopwatch.paused():
                    point |= {"seconds": stopwatch.seconds, **look(NetDoubler(learner.net, bits))}
                    outcome.curve.append(point)
                watch(step, point)
            if outcome.diverged:
                break
    outcome.seconds, outcome.finished = stopwatch.seconds, True
    write_tensors(learner.net.state_dict(), run.weights)
    outcome.save(run.file)


@torch.no_grad()
def _objective(learner: Learner, batch: Batch, step: int) -> float:
    """The learner's own loss on held-out images, in parts of a batch as for a flow."""
    assert batch.low is not None
    total, size = 0.0, learner.config.train.batch_size
    for target, low in zip(batch.target.split(size), batch.low.split(size), strict=True):
        total += len(target) * learner.held_out(Batch(target, low, None), step).item()
    return total / len(batch.target)


class Look:
    """What is seen of held-out images by any of the three: PSNR, and a distance of features."""

    def __init__(self, batch: Batch, config: StageConfig, side: int, features: FeatureNet):
        bits = config.data.bits
        assert batch.low is not None
        self.low = quantise(batch.low.cpu(), bits)
        self.true = expand_bits(quantise(batch.target.cpu(), bits), bits)
        self.bits, self.side, self.features = bits, min(side, config.data.size), features
        self.wanted = self._features(self.true)

    def _features(self, images: Tensor) -> Tensor:
        return self.features(windows(images, self.side))

    def __call__(self, double: Doubler) -> Point:
        """``psnr`` in dB of the mean squared error, and ``distance``; None if not all finite."""
        made, finite = double(self.low, 0)
        if not finite.all():
            return {"psnr": None, "distance": None}
        image = expand_bits(made, self.bits)
        distance = feature_distance(self._features(image), self.wanted).mean().item()
        return {"psnr": psnr(mean_squares(image, self.true).mean()).item(), "distance": distance}
