"""The training loop of one stage: draw → loss → step → log → save."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import ProjectConfiguration, gather_object
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from cascade.config import StageConfig, load_config, save_config
from cascade.data.batches import Batch, Batches
from cascade.data.sources import fingerprint
from cascade.data.stage_images import open_stage_images
from cascade.manifest import register
from cascade.stage import build, weights_digest, with_sigma, write_tensors
from cascade.training.augmentation import Augmentation
from cascade.training.checkpoints import States, load_state, save_state
from cascade.training.diagnosis import explain
from cascade.training.held_out import HeldOut
from cascade.training.model_card import write_card
from cascade.training.optimizer import averaged, learning_rate, optimiser
from cascade.training.phases import Phase, encoder_loss, flow_loss, phases, super_resolution
from cascade.training.resume import check_fingerprint, check_overlap, check_resumable
from cascade.training.run_folder import StageFolder
from cascade.training.signals import stop_requests
from cascade.training.tracking import Log, check_trackers
from cascade.transforms.dequantise import centre, quantise
from stages import Flow, InputError, SaidElsewhere, StageLoss, initialise

Watch = Callable[[int, dict[str, Any]], None]
Result = TypeVar("Result")


class Trainer:
    """One stage in training: its flow, average, optimiser and data, and the folder it saves to."""

    def __init__(self, config: StageConfig, anew: bool = False):
        """``anew``: what the folder holds of an earlier run is removed first."""
        train = config.train
        check_trackers(train.trackers)
        self.config = config
        self.out = Path(config.out)
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),  # or several CPU processes do not find each other
            mixed_precision=train.precision,
            gradient_accumulation_steps=1,
            dynamo_backend="no",
            log_with=list(train.trackers) or None,
            project_config=ProjectConfiguration(config.out, f"{config.out}/logs"),
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        self._agree(self._check_batch)
        self.augmentation: Augmentation | None = None
        first = self.accelerator.is_local_main_process  # one process a machine downloads
        labelled = self._agree(lambda: first and self._open_data())
        labelled |= self._agree(lambda: not first and self._open_data())
        self.batches = Batches(self.source, config, rank, processes, labelled)

        self.folder = StageFolder(self.out)
        self.states = States(self.out / "state", train.keep)
        self.phases = phases(config)
        self.phase: Phase = None  # type: ignore[assignment]  # until one is entered, below
        self.module: nn.Module = None  # type: ignore[assignment]  # what the phase trains
        self.optimizer: torch.optim.Optimizer
        self.step = 0
        self.best, self.improved = float("inf"), False  # bits/dim of held-out images
        self.skipped = self.in_a_row = 0  # steps whose gradient was not finite
        self.replaced: list[Tensor] = []  # shares of rows replaced, since they were last logged
        self.average: Any = None  # an AveragedModel, where averaging is on
        self.listed = False  # whether the folder above was told of this stage
        torch.manual_seed(config.seed)
        flow = self._agree(lambda: build(config))
        self.loss = StageLoss(flow).to(self.accelerator.device)
        self.loss.flow.keep(train.memory)
        self._open_folder(anew)
        self.log = Log(self.accelerator, config, self.step)
        if self.accelerator.is_main_process:
            save_config(config, self.out / "config.yaml")

    def _check_batch(self) -> None:
        train, processes = self.config.train, self.accelerator.num_processes
        if train.batch_size % (processes * train.accumulate):
            parts = f" of {train.accumulate} parts each" * (train.accumulate > 1)
            raise InputError(
                f"train.batch_size={train.batch_size} does not divide among {processes} "
                f"process{'es' * (processes > 1)}{parts}"
            )

    def _open_data(self) -> bool:
        """Open and check the images, and the stage below where it is needed; are labels needed?"""
        config, device = self.config, self.accelerator.device
        self.source = open_stage_images(config, config.data.split)
        self.held_out = HeldOut(config, device)
        config.data.classes = list(self.source.classes)
        labelled = bool(config.model.classes)
        if labelled:
            assert self.source.labels is not None
            counts = self.source.labels.bincount(minlength=config.model.classes)
            config.data.counts = counts.tolist()
        if config.augment.previous:
            self.augmentation = Augmentation(config, device)
            config.augment.digest = self.augmentation.digest
            self.augmentation.check_labels(self.source)
            labelled |= self.augmentation.labelled
        check_overlap(config, self.source, self.held_out)
        found = fingerprint(self.source)
        check_fingerprint(config, config.data.fingerprint, found)
        config.data.fingerprint = found
        return labelled

    def _open_folder(self, anew: bool) -> None:
        """Take the stage folder, and continue from its newest state, if it has one."""
        main = self.accelerator.is_main_process
        try:
            self._agree(lambda: self.folder.take(anew) if main else None)
            self._agree(self._continue)
        except BaseException:
            self.folder.release(discard=True)
            raise

    def _continue(self) -> None:
        if found := self.states.newest():
            self._resume(*found)
        elif (self.out / "model.safetensors").is_file():
            raise InputError(
                f"{self.out} holds weights, but no state to continue from; use another out=, "
                "or --force to start anew"
            )
        else:
            self._enter(self.phases[0])

    def _agree(self, work: Callable[[], Result]) -> Result:
        """``work()`` on every process; an `InputError` of any becomes one of all, said once."""
        result: Any = None
        error = None
        try:
            result = work()
        except InputError as caught:
            error = caught
        if self.accelerator.num_processes > 1:
            messages = gather_object([error and str(error)])
            first = next((message for message in messages if message), None)
            if first:
                main = self.accelerator.is_main_process
                raise (InputError if main else SaidElsewhere)(first) from error
        elif error:
            raise error
        return result

    def _resume(self, file: Path, tensors: dict[str, Tensor], counts: dict[str, Any]) -> None:
        if self.config.train.resume == "never":
            raise InputError(f"{self.out} holds a trained stage; use another out=, or --force")
        before = load_config(self.out / "config.yaml")
        check_resumable(before, self.config)
        if not 0 <= counts["phase"] < len(self.phases):
            raise InputError(f"{file} is not a state of this run: its phase is {counts['phase']}")
        self._enter(self.phases[counts["phase"]])
        load_state(tensors, file, self._modules, self.optimizer)
        if self.phase.name == "frozen":
            self.frozen = weights_digest(self.loss.flow.encoder)
        if counts["step"] > self.steps:
            raise InputError(
                f"{self.out} has reached step {counts['step']}, train.steps asks for "
                f"{self.steps}; use another out=, or --force to start anew"
            )
        self.step, self.skipped = counts["step"], counts["skipped"]
        self.best = counts["best"]

    def _enter(self, phase: Phase) -> None:
        """Make ready what a phase trains, from the weights that the phase before it left."""
        encoder, device = self.loss.flow.encoder, self.accelerator.device
        if self.phase and self.phase.name == "frozen" and weights_digest(encoder) != self.frozen:
            raise RuntimeError("the frozen encoder's weights changed during training")
        self.phase = phase
        if phase.name == "encoder":
            self.module = super_resolution(self.loss.flow, self.config).to(device)
            rate = self.config.train.pretrain_lr
            self.optimizer = torch.optim.Adam(self.module.parameters(), rate, foreach=True)
        elif self.module is not self.loss:
            self._set_up_flow()
        if encoder is not None:
            encoder.requires_grad_(phase.name != "frozen")
        if phase.name == "frozen":
            self.frozen = weights_digest(encoder)
        self.accelerator.free_memory()
        with warnings.catch_warnings():  # a later torch calls it forward_sync_buffers
            warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
            self.wrapped = self.accelerator.prepare_model(self.module)
        if self.config.train.compile and phase.name != "encoder":
            self.module.compile()

    def _set_up_flow(self) -> None:
        train = self.config.train
        first = self.batches.fixed(train.init_images).to(self.accelerator.device)
        initialise(self.loss, *first.parts)
        self.module = self.loss
        self.average = averaged(self.loss, train.ema) if train.ema else None
        self.optimizer = optimiser(self.loss, train)

    @property
    def _modules(self) -> dict[str, Any]:
        """What a state holds of the phase's weights."""
        if self.phase.name == "encoder":
            return {"encoder": self.module, "model": self.loss}
        return {"model": self.loss} | ({"ema": self.average} if self.average else {})

    @property
    def flow(self) -> Flow:
        """The weights to use: the averaged ones where averaging is on."""
        return self.loss.flow if self.average is None else self.average.module.flow

    @property
    def _flow_step(self) -> int:
        """The step without those of the encoder alone, which no schedule counts."""
        return self.step - self.config.train.pretrain_steps

    @property
    def steps(self) -> int:
        """Of all phases."""
        return self.phases[-1].end

    def run(self, watch: Watch = lambda step, metrics: None) -> bool:
        """Train to the configured step; False if it was asked to stop before, all saved.

        ``watch(step, metrics)`` is called on the first process whenever metrics are logged. Raises
        `InputError` where training diverges, another process is lost or a disk is full; the states
        saved before are as they were.
        """
        try:
            with stop_requests() as asked:
                finished = self._loop(asked, watch)
            if self.augmentation:
                self.augmentation.verify()
            self.log.close()
            return finished
        except RuntimeError as error:
            if self.accelerator.num_processes == 1 or not _lost_a_process(error):
                raise
            raise InputError(
                f"lost another process of this run at step {self.step}; {self._last_state()}"
            ) from error
        except OSError as error:
            raise InputError(f"at step {self.step}: {error}; {self._last_state()}") from error
        finally:
            self.folder.release()

    def _loop(self, asked: Callable[[], bool], watch: Watch) -> bool:
        train, first, started = self.config.train, self.step, time.perf_counter()
        for batch in self.batches.steps(self.step, self.steps):
            self._enter_what_is_due()
            metrics = self._train_step(batch)
            self.step += 1
            stopping, last = self._any_process(asked()), self.step == self.steps
            sound = not self.in_a_row  # or the weights themselves may be what is wrong
            saving = last or (sound and self.step % train.save_every == 0)
            if metrics and (saving or self.step % train.log_every == 0):
                seconds = time.perf_counter() - started
                metrics["images_per_s"] = (self.step - first) * train.batch_size / seconds
                self._record(metrics, saving, watch)
            flow_is_on = self.phase.name != "encoder"
            if flow_is_on and (last or self.step % train.sample_every == 0):
                self._picture()
            if saving or (stopping and sound):
                self._save()
            if stopping and not last:
                return False
        if self._enter_what_is_due() or not self.states.files():
            self._save()
        if self.accelerator.is_main_process:
            self._publish()
            write_card(self.config, self.flow, self.source, self.held_out)
        return True

    def _enter_what_is_due(self) -> bool:
        """Enter the phase of the coming step, if another one than this step's; whether it was."""
        before = self.phase
        while self.phase is not self.phases[-1] and self.step >= self.phase.end:
            self._enter(self.phases[self.phases.index(self.phase) + 1])
        return self.phase is not before

    def _disturbed(self, batch: Batch) -> Batch:
        """The batch with disturbed low images, where this stage is trained on them."""
        if self.augmentation is None or self.phase.name == "encoder":
            return batch
        data = self.config.data
        assert batch.low is not None
        found = self.augmentation(quantise(batch.low, data.bits), batch.label, self._flow_step)
        self.replaced.append(found.replaced.double().mean())
        low = centre(found.low, bits=data.bits)
        if self.config.augment.condition:
            low = with_sigma(low, found.sigma)
        return replace(batch, low=low)

    def _train_step(self, batch: Batch) -> dict[str, Any] | None:
        """One step of the optimiser; None if it was skipped, its gradient not being finite."""
        train, pretraining = self.config.train, self.phase.name == "encoder"
        rate = train.pretrain_lr if pretraining else learning_rate(self._flow_step, train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self._disturbed(batch).to(self.accelerator.device)
        parts = batch.split(train.accumulate)
        metrics: dict[str, Tensor | float] = {}
        objective = encoder_loss if pretraining else flow_loss
        for part in parts:
            joining = nullcontext() if part is parts[-1] else self.accelerator.no_sync(self.wrapped)
            with joining:
                loss, found = objective(self.wrapped, part, self.config)
                self.accelerator.backward(loss / len(parts))
            for key, value in found.items():
                metrics[key] = metrics.get(key, 0.0) + value / len(parts)
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = get_total_norm(gradients, foreach=True)
        if self._any_process(not (sum(metrics.values()) + norm).isfinite()):
            self._skip(batch)
            return None
        clip_grads_with_norm_(self.module.parameters(), train.clip, norm, foreach=True)
        self.in_a_row = 0
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.loss)
        return {**metrics, "grad_norm": norm.detach(), "lr": rate}

    def _skip(self, batch: Batch) -> None:
        """Count and log a step whose gradient is not finite; too many in a row end the run."""
        self.skipped += 1
        self.in_a_row += 1
        images = self.batches.images_of(self.step)
        self.log.write({"step": self.step + 1, "skipped": self.skipped, "images": images})
        if self.in_a_row > self.config.train.skip_limit:
            self._agree(lambda: self._give_up(batch))
        self.optimizer.zero_grad()

    def _give_up(self, batch: Batch) -> None:
        found = explain(self.module, *self._inputs(batch))
        reasons = gather_object([found]) if self.accelerator.num_processes > 1 else [found]
        culprit = min(reasons, key=lambda reason: reason.severity)
        raise InputError(
            f"{self.in_a_row} steps in a row were not finite, up to step {self.step + 1}: "
            f"{culprit.text}; lower train.lr or train.clip; {self._last_state()}"
        )

    def _inputs(self, batch: Batch) -> tuple[Tensor | None, ...]:
        return (batch.low,) if self.phase.name == "encoder" else batch.parts

    def _last_state(self) -> str:
        files = self.states.files()
        if not files:
            return "nothing was saved yet"
        return f"{files[0]} is whole, and the same command continues from it"

    def _record(self, metrics: dict[str, Any], validating: bool, watch: Watch) -> None:
        if self.replaced:
            metrics["replaced"] = torch.stack(self.replaced).mean().to(metrics["bpd"])
            self.replaced = []
        for key in ("bpd", "class_loss", "l1", "replaced"):  # in one order on every process
            if key in metrics:
                metrics[key] = self.accelerator.reduce(metrics[key], "mean")
        row = {"step": self.step, "phase": self.phase.name}
        row |= {key: float(value) for key, value in metrics.items()}
        if not self.accelerator.is_main_process:
            return
        if validating and self.phase.name == "encoder":
            row[f"{self.held_out.split}_l1"] = self.held_out.l1(self.module)
        elif validating:
            row[f"{self.held_out.split}_bpd"] = found = self.held_out.bpd(self.flow)
            row |= self.held_out.failures(self.flow)
            if found < self.best:
                self.best, self.improved = found, True
        self.log.write(row)
        watch(self.step, row)

    def _picture(self) -> None:
        if self.accelerator.is_main_process:
            file = self.out / "samples" / f"step-{self.step:06d}.png"
            self.held_out.picture(self.flow, file)
            self.log.picture(file, self.step)

    def _any_process(self, flag: bool | Tensor) -> bool:
        if self.accelerator.num_processes == 1:
            return bool(flag)
        count = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(count, "sum"))

    def _save(self) -> None:
        """Write the state to resume from and the weights to use, each whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        counts = {
            "step": self.step,
            "phase": self.phases.index(self.phase),
            "best": self.best,
            "skipped": self.skipped,
        }
        if self.improved:
            write_tensors(self.flow.state_dict(), self.out / "best.safetensors")
            self.improved = False
        save_state(self.states.file(self.step), self._modules, self.optimizer, counts)
        self._publish()
        if not self.in_a_row:
            self.states.prune()

    def _publish(self) -> None:
        """Write the weights to use; the first time, list the stage in the cascade beside it."""
        if self.phase.name != "encoder":
            write_tensors(self.flow.state_dict(), self.out / "model.safetensors")
            if not self.listed:
                register(self.out)
                self.listed = True


def _lost_a_process(error: RuntimeError) -> bool:
    """Whether an error is that of a process group of which a process has ended."""
    return isinstance(error, torch.distributed.DistError) or "onnection" in str(error)
