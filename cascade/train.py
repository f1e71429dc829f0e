"""The training loop of one stage: draw → loss → step → log → save."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor, nn

from cascade.augment import Augmentation
from cascade.batches import Batch, Batches
from cascade.config import StageConfig, check_resumable, load_config, save_config
from cascade.dequantise import centre, quantise
from cascade.files import whole
from cascade.manifest import register
from cascade.optimise import averaged, learning_rate, optimiser
from cascade.stage import build, with_sigma, write_tensors
from cascade.state import load_state, save_state
from cascade.watch import HeldOut, density_bpd, open_stage_images
from stages import Flow, InputError, StageLoss, initialise

Watch = Callable[[int, dict[str, float]], None]


class Trainer:
    """One stage in training: its flow, average, optimiser and data, and the folder it saves to."""

    def __init__(self, config: StageConfig):
        train = config.train
        self.config = config
        self.out = Path(config.out)
        self.accelerator = Accelerator(
            cpu=not torch.cuda.is_available(),  # or several CPU processes do not find each other
            mixed_precision=train.precision,
            gradient_accumulation_steps=1,
            dynamo_backend="no",
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        if train.batch_size % processes:
            raise InputError(
                f"train.batch_size={train.batch_size} does not divide among {processes} processes"
            )
        device = self.accelerator.device
        with self.accelerator.local_main_process_first():  # one process downloads
            source = open_stage_images(config, config.data.split)
            self.held_out = HeldOut(config, device)
        self.augmentation = None
        if config.augment.previous:
            self.augmentation = Augmentation(config, device)
            config.augment.digest = self.augmentation.digest
        config.data.classes = list(source.classes)
        if config.model.classes:
            config.data.counts = source.labels.bincount(minlength=config.model.classes).tolist()
        labelled = bool(config.model.classes)
        if self.augmentation:
            self.augmentation.check_labels(source)
            labelled |= self.augmentation.labelled
        self.batches = Batches(source, config, rank, processes, labelled)

        torch.manual_seed(config.seed)
        loss = StageLoss(build(config)).to(device)
        batch = self.batches.fixed(train.init_images).to(device)
        initialise(loss, *batch.parts)
        self.average = averaged(loss, train.ema) if train.ema else None
        self.loss, self.optimizer = self.accelerator.prepare(loss, optimiser(loss, train))
        self.step = 0
        self.replaced: list[Tensor] = []  # shares of rows replaced, since they were last logged
        if self._state.is_file():
            self._resume()
        if self.accelerator.is_main_process:
            save_config(config, self.out / "config.yaml")

    def _resume(self) -> None:
        """Continue from the saved state, if it is of this configuration."""
        if self.config.train.resume == "never":
            raise InputError(f"{self.out} holds a trained stage; use another out=, or --force")
        check_resumable(load_config(self.out / "config.yaml"), self.config)
        self.step = load_state(self._state, self._modules, self.optimizer)
        log = self.out / "metrics.jsonl"
        if self.accelerator.is_main_process and log.is_file():
            rows = log.read_text().splitlines(keepends=True)
            with whole(log) as aside:  # rows after the last save will be written again
                aside.write_text("".join(r for r in rows if json.loads(r)["step"] <= self.step))

    @property
    def _state(self) -> Path:
        return self.out / "state" / "latest.safetensors"

    @property
    def _modules(self) -> dict[str, nn.Module]:
        modules = {"model": self.accelerator.unwrap_model(self.loss)}
        return modules if self.average is None else {**modules, "ema": self.average}

    @property
    def flow(self) -> Flow:
        """The weights to use: the averaged ones where averaging is on."""
        return self._modules["model"].flow if self.average is None else self.average.module.flow

    def run(self, watch: Watch = lambda step, metrics: None) -> bool:
        """Train to the configured step; False if SIGINT or SIGTERM stopped it before, all saved.

        ``watch(step, metrics)`` is called on the first process whenever metrics are logged.
        """
        with _signals() as signalled:
            finished = self._loop(signalled, watch)
        if self.augmentation:
            self.augmentation.verify()
        if not self._state.is_file():
            self.save()
        self.accelerator.end_training()
        return finished

    def _loop(self, signalled: Callable[[], bool], watch: Watch) -> bool:
        train, first, started = self.config.train, self.step, time.perf_counter()
        for batch in self.batches.steps(self.step, train.steps):
            metrics = self._train_step(self._disturbed(batch).to(self.accelerator.device))
            self.step += 1
            stopping = self._any_process(signalled())
            saving = stopping or self.step % train.save_every == 0 or self.step == train.steps
            if saving or self.step % train.log_every == 0:
                seconds = time.perf_counter() - started
                metrics["images_per_s"] = (self.step - first) * train.batch_size / seconds
                self._record(metrics, saving and not stopping, watch)
            if self.step % train.sample_every == 0 or self.step == train.steps:
                self._picture()
            if saving:
                self.save()
            if stopping:
                return False
        return True

    def _disturbed(self, batch: Batch) -> Batch:
        """The batch with disturbed low images, where this stage is trained on them."""
        if self.augmentation is None:
            return batch
        data = self.config.data
        found = self.augmentation(quantise(batch.low, data.bits), batch.label, self.step)
        self.replaced.append(found.replaced.double().mean())
        low = centre(found.low, bits=data.bits)
        if self.config.augment.condition:
            low = with_sigma(low, found.sigma)
        return replace(batch, low=low)

    def _train_step(self, batch: Batch) -> dict[str, Tensor | float]:
        train, model = self.config.train, self.config.model
        rate = learning_rate(self.step, train)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        nats, logits = self.loss(*batch.parts)
        bpd = density_bpd(nats, batch.target, self.config.data.bits).mean()
        class_loss = bpd.new_zeros(())
        if logits is not None:
            class_loss = classification(logits, batch.label, model.class_loss)
        self.accelerator.backward(bpd + model.class_weight * class_loss)
        norm = self.accelerator.clip_grad_norm_(self.loss.parameters(), train.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self._modules["model"])
        return {
            "bpd": bpd.detach(),
            "class_loss": class_loss.detach(),
            "grad_norm": norm.detach(),
            "lr": rate,
        }

    def _record(self, metrics: dict[str, Tensor | float], validating: bool, watch: Watch) -> None:
        if self.replaced:
            metrics["replaced"] = torch.stack(self.replaced).mean().to(metrics["bpd"])
            self.replaced = []
        for key in ("bpd", "class_loss", *(["replaced"] if "replaced" in metrics else [])):
            metrics[key] = self.accelerator.reduce(metrics[key], "mean")
        row = {"step": self.step, **{key: float(value) for key, value in metrics.items()}}
        if not self.accelerator.is_main_process:
            return
        if validating:
            row[f"{self.held_out.split}_bpd"] = self.held_out.bpd(self.flow)
            row |= self.held_out.failures(self.flow)
        with open(self.out / "metrics.jsonl", "a") as log:
            log.write(json.dumps(row) + "\n")
        watch(self.step, row)

    def _picture(self) -> None:
        if self.accelerator.is_main_process:
            self.held_out.picture(self.flow, self.out / "samples" / f"step-{self.step:06d}.png")

    def _any_process(self, flag: bool) -> bool:
        if self.accelerator.num_processes == 1:
            return flag
        count = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(count, "sum"))

    def save(self) -> None:
        """Write the weights to use and the state to resume from, each whole or not at all."""
        if self.accelerator.is_main_process:
            write_tensors(self.flow.state_dict(), self.out / "model.safetensors")
            save_state(self._state, self._modules, self.optimizer, self.step)
            register(self.out)


def classification(logits: Tensor, label: Tensor, kind: str) -> Tensor:
    """The loss on the class read-out: binary (the thesis) or softmax (Glow) cross-entropy."""
    if kind == "softmax":
        return F.cross_entropy(logits, label)
    one_hot = F.one_hot(label, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits, one_hot)


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come since; their handlers are put back afterwards."""
    seen = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: seen.append(True)) for number in numbers]
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
