"""What a run leaves in its stage folder, and how it goes on from there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cascade.config import StageConfig, load_saved
from cascade.manifest import register
from cascade.record import Record, load_record
from cascade.training.checkpoints import States, load_state, save_state
from cascade.training.learner import Learner
from cascade.training.resume import check_resumable
from cascade.utils.tensors import load_weights, read_tensors, write_tensors
from stages import InputError


@dataclass
class Progress:
    """How far a run has come: steps made, the lowest held-out bits/dim, steps skipped.

    ``improved``: the weights are the best so far, and not saved as such yet; ``waited``: saves
    since the best; ``in_a_row``: steps skipped since the last that was not; ``seconds``: used of
    the budget, where there is one.
    """

    step: int = 0
    best: float = float("inf")
    skipped: int = 0
    improved: bool = False
    waited: int = 0
    in_a_row: int = 0
    seconds: float = 0.0


class Saver:
    """States to resume from, the weights to use, the best ones: each whole or not at all."""

    def __init__(self, config: StageConfig, learner: Learner):
        self.config, self.learner = config, learner
        self.out = Path(config.out)
        self.states = States(self.out / "state", config.train.keep)
        self.listed = False  # whether the folder above was told of this stage

    def resume(self, record: Record) -> Progress:
        """Continue from the newest state in the folder, or begin.

        ``record`` is that of the images as they are now, and is told of the weights that training
        started from. Raises `InputError` where they, or the configuration, are not those of the
        state.
        """
        if result := self.states.newest():
            return self._resume(*result, record)
        if (self.out / "model.safetensors").is_file():
            raise InputError(
                f"{self.out} holds weights, but no state to continue from; use another out=, "
                "or --force to start over"
            )
        record.start = self.learner.begin()
        return Progress()

    def _resume(
        self, file: Path, tensors: dict[str, Tensor], counts: dict[str, Any], record: Record
    ) -> Progress:
        learner = self.learner
        if self.config.train.resume == "never":
            raise InputError(f"{self.out} holds a trained stage; use another out=, or --force")
        before = load_record(self.out)
        check_resumable(load_saved(self.out), self.config, before, record)
        record.start = before.start
        if not 0 <= counts["phase"] < len(learner.phases):
            raise InputError(f"{file} is not a state of this run: its phase is {counts['phase']}")
        learner.enter(learner.phases[counts["phase"]])
        load_state(tensors, file, learner.modules, learner.optimizer)
        learner.note_frozen()
        if counts["step"] > learner.steps:
            raise InputError(
                f"{self.out} has reached step {counts['step']}, train.steps asks for "
                f"{learner.steps}; use another out=, or --force to start over"
            )
        self._check_budget(counts["seconds"])
        return Progress(
            counts["step"],
            counts["best"],
            counts["skipped"],
            waited=counts["waited"],
            seconds=counts["seconds"],
        )

    def _check_budget(self, used: float) -> None:
        """Raise `InputError` where more was used than a budget that is smaller than before."""
        before, now = load_saved(self.out).train.seconds, self.config.train.seconds
        if before and now and now < before and now < used:
            raise InputError(
                f"{self.out} was trained for {used:.1f} seconds, train.seconds asks for {now:g}; "
                "use another out=, or --force to start over"
            )

    def save(self, progress: Progress) -> None:
        """Write the state to resume from and the weights to use."""
        learner = self.learner
        counts: dict[str, float] = {
            "step": progress.step,
            "phase": learner.phases.index(learner.phase),
            "best": progress.best,
            "skipped": progress.skipped,
        }
        if self.config.train.patience:
            counts["waited"] = progress.waited
        if self.config.train.seconds:
            counts["seconds"] = progress.seconds
        if progress.improved and not learner.below:  # best weights of one stage go with no other
            write_tensors(learner.flow.state_dict(), self.out / "best.safetensors")
            progress.improved = False
        file = self.states.file(progress.step)
        save_state(file, learner.modules, learner.optimizer, counts)
        self.publish()
        if not progress.in_a_row:
            self.states.prune()

    def publish(self) -> None:
        """Write the weights to use; the first time, list the stage in the cascade beside it."""
        if self.learner.pretraining:
            return
        best = self._best() if self.config.train.patience else None
        if self.learner.below:
            self.learner.below.save(self.learner.trained)
        write_tensors(best or self.learner.flow.state_dict(), self.out / "model.safetensors")
        if not self.listed:
            register(self.out)
            self.listed = True

    def finish(self) -> None:
        """Take and write the weights to use: where training may end early, the best ones."""
        if self.config.train.patience and (best := self._best()):
            load_weights(self.learner.flow, best, self.out / "best.safetensors")
        self.publish()

    def _best(self) -> dict[str, Tensor] | None:
        file = self.out / "best.safetensors"
        return read_tensors(file) if file.is_file() else None

    def last_state(self) -> str:
        """What there is to go on from, as a sentence."""
        files = self.states.files()
        if not files:
            return "nothing was saved yet"
        return f"{files[0]} is whole, and the same command continues from it"
