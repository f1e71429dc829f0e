"""The training loop of one stage: draw → loss → step → log → save."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration
from torch import Tensor

from cascade.config import StageConfig, save_config
from cascade.data.batches import Batch, Batches
from cascade.data.workers import workers_by_default
from cascade.optimization.optimizers import check_optimizer
from cascade.stage import with_sigma
from cascade.training.diagnosis import Diverged, explain
from cascade.training.learner import Learner
from cascade.training.model_card import write_card
from cascade.training.run_folder import StageFolder
from cascade.training.saving import Progress, Saver
from cascade.training.signals import stop_requests
from cascade.training.stage_data import StageData, open_stage_data
from cascade.training.tracking import Log, check_trackers
from cascade.transforms.dequantise import centre, quantise
from cascade.utils.processes import Processes, lost_a_process
from stages import Flow, InputError

Watch = Callable[[int, dict[str, Any]], None]


class Trainer:
    """One stage in training: its data, what is trained, and the folder it saves to."""

    def __init__(self, config: StageConfig, restart: bool = False):
        """``restart``: what the folder holds of an earlier run is removed first."""
        check_trackers(config.train.trackers)
        check_optimizer(config.train.optimizer)
        self.config = config
        self.out = Path(config.out)
        self.accelerator = accelerator(config)
        self.processes = Processes(self.accelerator)
        self.processes.agree(self._check_batch)
        self.data = self._open_data()
        rank, count = self.accelerator.process_index, self.processes.count
        self.batches = Batches(self.data.source, config, rank, count, self.data.labelled)
        self.learner = self.processes.agree(
            lambda: Learner(config, self.accelerator, self.batches, restart)
        )
        self.saver = Saver(config, self.learner)
        self.folders = [StageFolder(self.out)]
        if self.learner.below:
            self.folders.append(self.learner.below.folder)
        cpu = self.accelerator.device.type == "cpu"
        self.clock = time.process_time if cpu else time.perf_counter  # of train.seconds
        self.progress = self._open_folder(restart)
        self.replaced: list[Tensor] = []  # shares of rows replaced, since they were last logged
        self.log = Log(self.accelerator, config, self.step)
        if self.processes.main:
            save_config(config, self.out / "config.yaml")
            self.data.record.save(self.out)

    def _check_batch(self) -> None:
        train, processes = self.config.train, self.processes.count
        if train.batch_size % (processes * train.accumulate):
            parts = f" of {train.accumulate} parts each" * (train.accumulate > 1)
            raise InputError(
                f"train.batch_size={train.batch_size} does not divide among {processes} "
                f"process{'es' * (processes > 1)}{parts}"
            )

    def _open_data(self) -> StageData:
        """The images, opened by one process of each machine before the others: it may download."""
        first, device = self.accelerator.is_local_main_process, self.accelerator.device
        opened = self.processes.agree(
            lambda: open_stage_data(self.config, device) if first else None
        )
        return self.processes.agree(lambda: opened or open_stage_data(self.config, device))

    def _open_folder(self, restart: bool) -> Progress:
        """Take what it writes to, and continue from the newest state, if there is one."""

        def take() -> None:
            for folder in self.folders if self.processes.main else []:
                folder.take(restart)

        try:
            self.processes.agree(take)
            return self.processes.agree(lambda: self.saver.resume(self.data.record))
        except BaseException:
            self.release(discard=True)
            raise

    def release(self, discard: bool = False) -> None:
        """Let others have what it writes to; with ``discard``, it is gone if it was not there."""
        for folder in self.folders:
            folder.release(discard)

    @property
    def step(self) -> int:
        """Steps made."""
        return self.progress.step

    @property
    def steps(self) -> int:
        """Steps of all phases."""
        return self.learner.steps

    @property
    def finished(self) -> bool:
        """Whether all steps are made, the budget of seconds is used up, or patience is."""
        budget = self.config.train.seconds
        spent = bool(budget and self.progress.seconds >= budget)
        return self.step >= self.steps or spent or self.out_of_patience

    @property
    def out_of_patience(self) -> bool:
        """Whether held-out bits/dim have not fallen for as many saves as training waits."""
        patience = self.config.train.patience
        return bool(patience and self.progress.waited >= patience)

    @property
    def flow(self) -> Flow:
        """The weights to use: the averaged ones where averaging is on."""
        return self.learner.flow

    def run(self, watch: Watch = lambda step, metrics: None) -> bool:
        """Train to the configured step or time; False if it was asked to stop before, all saved.

        ``watch(step, metrics)`` is called on the first process whenever metrics are logged. Raises
        `Diverged` where too many steps in a row are not finite, another `InputError` where another
        process is lost or a disk is full; the states saved before are as they were.
        """
        try:
            with stop_requests() as asked, closing(self._batches()) as batches:
                finished = self._loop(batches, asked, watch)
            if self.data.augmentation:
                self.data.augmentation.verify()
            # a barrier, which holds no tensors: Python aborts where gloo's threads still hold some
            # as it ends (https://github.com/pytorch/pytorch/pull/179291)
            self.accelerator.wait_for_everyone()
            self.log.close()
            return finished
        except RuntimeError as error:
            if self.processes.count == 1 or not lost_a_process(error):
                raise
            raise InputError(
                f"lost another process of this run at step {self.step}; {self.saver.last_state()}"
            ) from error
        except OSError as error:
            message = f"at step {self.step}: {error}; {self.saver.last_state()}"
            raise InputError(message) from error
        finally:
            self.release()

    def _batches(self) -> Generator[Batch, None, None]:
        """The batches of the steps that are left, in memory that the device copies from."""
        device, workers = self.accelerator.device, self.config.train.workers
        if workers is None:
            workers = workers_by_default(device)
        end = self.step if self.finished else self.steps
        return self.batches.steps(self.step, end, workers, device.type == "cuda")

    def _loop(self, batches: Iterator[Batch], asked: Callable[[], bool], watch: Watch) -> bool:
        train, progress = self.config.train, self.progress
        first, started, begun = self.step, time.perf_counter(), self.clock()
        for batch in batches:
            if self.learner.enter_due(self.step):
                begun = self.clock()
            metrics = self._train_step(batch)
            progress.step += 1
            self._count_seconds(begun)
            stopping, last = self.processes.any(asked()), self.finished
            sound = not progress.in_a_row  # or the weights themselves may be what is wrong
            saving = last or (sound and self.step % train.save_every == 0)
            if metrics and (saving or self.step % train.log_every == 0):
                seconds = time.perf_counter() - started
                metrics["images_per_s"] = (self.step - first) * train.batch_size / seconds
                self._record(metrics, saving, watch)
                last = last or self.finished
            if not self.learner.pretraining and (last or self.step % train.sample_every == 0):
                self._picture()
            if saving or (stopping and sound):
                self._save()
            if last:
                break
            if stopping:
                return False
            begun = self.clock()
        if self.learner.enter_due(self.step) or not self.saver.states.files():
            self._save()
        if self.processes.main:
            self.saver.finish()
            write_card(self.config, self.data, self.learner.trained)
        return True

    def _count_seconds(self, begun: float) -> None:
        """Take a step that began at a time of the clock off the budget, if there is one.

        The first process's clock counts, so that all see the same rate and the same end.
        """
        if self.config.train.seconds and not self.learner.pretraining:
            self.progress.seconds += self.processes.first(self.clock() - begun)

    def _disturbed(self, batch: Batch) -> Batch:
        """The batch with disturbed low images, where this stage is trained on them."""
        augmentation, bits = self.data.augmentation, self.config.data.bits
        if augmentation is None or self.learner.pretraining:
            return batch
        step = self.learner.flow_step(self.step)
        assert batch.low is not None  # what is disturbed is an SRFlow's
        result = augmentation(quantise(batch.low, bits), batch.label, step)
        self.replaced.append(result.replaced.double().mean())
        low = centre(result.low, bits=bits)
        if self.config.augment.condition:
            low = with_sigma(low, result.sigma)
        return replace(batch, low=low)

    def _train_step(self, batch: Batch) -> dict[str, Any] | None:
        """One step of the optimiser; None if it was skipped, its gradient not being finite."""
        rate = self.learner.set_rate(self.step, self.progress.seconds)
        batch = self.batches.without_some_labels(self._disturbed(batch), self.step)
        batch = batch.to(self.accelerator.device)
        metrics, norm = self.learner.backward(batch)
        if self.processes.any(not (sum(metrics.values()) + norm).isfinite()):
            self._skip(batch)
            return None
        self.progress.in_a_row = 0
        self.learner.update(norm)
        return {**metrics, "grad_norm": norm.detach(), "lr": rate}

    def _skip(self, batch: Batch) -> None:
        """Count and log a step whose gradient is not finite; too many in a row end the run."""
        progress = self.progress
        progress.skipped += 1
        progress.in_a_row += 1
        images = self.batches.images_of(self.step)
        self.log.write({"step": self.step + 1, "skipped": progress.skipped, "images": images})
        if progress.in_a_row > self.config.train.skip_limit:
            self.processes.agree(lambda: self._give_up(batch))
        self.learner.optimizer.zero_grad()

    def _give_up(self, batch: Batch) -> None:
        result = explain(self.learner.module, *self.learner.inputs(batch))
        culprit = min(self.processes.gather(result), key=lambda reason: reason.severity)
        raise Diverged(
            f"{self.progress.in_a_row} steps in a row were not finite, up to step {self.step + 1}: "
            f"{culprit.text}; lower train.lr or train.clip; {self.saver.last_state()}"
        )

    def _record(self, metrics: dict[str, Any], validating: bool, watch: Watch) -> None:
        """Log the figures of a step, with those of the held-out images where they are due."""
        if self.replaced:
            metrics["replaced"] = torch.stack(self.replaced).mean().to(metrics["bpd"])
            self.replaced = []
        for key in ("bpd", "class_loss", "l1", "replaced"):  # in one order on every process
            if key in metrics:
                metrics[key] = self.accelerator.reduce(metrics[key], "mean")
        row: dict[str, Any] = {"step": self.step, "phase": self.learner.phase.name}
        row |= {key: float(value) for key, value in metrics.items()}
        if self.config.train.seconds:
            row["seconds"] = self.progress.seconds
        if self.processes.main:
            row |= self._validate() if validating else {}
            self.log.write(row)
            watch(self.step, row)
        if self.config.train.patience and validating:
            self.progress.waited = int(self.processes.first(self.progress.waited))

    def _validate(self) -> dict[str, float]:
        """Figures of the held-out images; bits/dim lower than before are remembered."""
        held_out = self.data.held_out
        if self.learner.pretraining:
            return {f"{held_out.split}_l1": held_out.l1(self.learner.module)}
        result = held_out.bpd(self.learner.trained)
        self.progress.waited += 1
        if result < self.progress.best:
            self.progress.best, self.progress.improved, self.progress.waited = result, True, 0
        return {f"{held_out.split}_bpd": result, **held_out.failures(self.flow)}

    def _picture(self) -> None:
        if self.processes.main:
            file = self.out / "samples" / f"step-{self.step:06d}.png"
            self.data.held_out.picture(self.flow, file)
            self.log.picture(file, self.step)

    def _save(self) -> None:
        if self.processes.main:
            self.saver.save(self.progress)


def accelerator(config: StageConfig) -> Accelerator:
    """What runs a training on the devices there are, with nothing left to a user's own settings."""
    train = config.train
    return Accelerator(
        cpu=not torch.cuda.is_available(),  # or several CPU processes do not find each other
        mixed_precision=train.precision,
        gradient_accumulation_steps=1,
        dynamo_backend="no",
        log_with=list(train.trackers) or None,
        project_config=ProjectConfiguration(config.out, f"{config.out}/logs"),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
