"""Run by tests under torchrun: what the optimiser gets in a stage's first step, to a file.

python tests/training/first_gradients.py FILE CONFIG [key=value ...]
"""

import sys

from safetensors.torch import save_file
from torch import Tensor

from cascade.config import load_config
from cascade.training.trainer import Trainer


def first_gradients(run: Trainer) -> dict[str, Tensor]:
    """Every parameter's gradient, by name, after the processes have been joined."""
    seen = {}

    def look() -> None:
        seen.update((name, p.grad.clone()) for name, p in run.learner.module.named_parameters())

    run.learner.optimizer.step = look
    run._train_step(run.batches(0))
    run.release()
    return seen


if __name__ == "__main__":
    run = Trainer(load_config(sys.argv[2], sys.argv[3:]))
    found = first_gradients(run)
    if run.accelerator.is_main_process:
        save_file({name: t.contiguous() for name, t in found.items()}, sys.argv[1])
    run.log.close()
