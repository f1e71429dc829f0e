"""What is compiled compiles whole, once, and gives what it gave; code generation is left out."""

import pytest
import torch
from conftest import ROOT, TINY
from small_stages import random_cascade, random_images
from torch._dynamo.utils import counters

from cascade import Cascade
from cascade.config import load_config
from cascade.training.trainer import Trainer
from cascade.utils.compiling import compile_options, compiled

STEPS = 1000


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def test_cuda_graphs_are_for_gpus():
    assert compile_options(torch.device("cuda", 1))["mode"] == "reduce-overhead"
    assert compile_options(torch.device("cpu"))["mode"] == "default"


def test_a_compiled_function_s_results_stay():
    buffer = torch.zeros(2)

    def fill(x):
        return buffer.copy_(x)

    run = compiled(fill, torch.device("cpu"), backend="eager")
    first = run(torch.ones(2))
    run(torch.zeros(2))
    assert first.tolist() == [1, 1]


def test_training_compiles_once_for_a_thousand_steps(few_digits, tmp_path):
    """With validation, pictures, saving and a rate of its own at every step."""
    settings = [*TINY, f"data.name={few_digits}", f"out={tmp_path / 'run'}", "model.width=4"]
    settings += ["model.levels=1", f"train.steps={STEPS}", "train.batch_size=2"]
    settings += ["train.validate_images=8", "train.save_every=500", "train.schedule=cosine"]
    config = load_config(ROOT / "configs" / "mnist5k" / "glow8.yaml", settings)
    run = Trainer(config)
    options = compile_options(torch.device("cpu")) | {"mode": None, "backend": "eager"}
    run.learner.module.compile(fullgraph=True, **options)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert run.run() and run.step == STEPS
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"]


def test_a_compiled_cascade_draws_and_scores_as_it_did():
    cascade = Cascade(random_cascade("bicubic", 10, 5).stages[:2])
    images = cascade.resize(random_images(3, 5))
    fast = cascade.compiled(backend="eager", mode=None)
    for seed in (0, 1):
        drawn, expected = (one.sample(18, seed=seed).int() for one in (fast, cascade))
        assert (drawn - expected).abs().max() <= 8  # a value of five bits
        torch.testing.assert_close(fast.log_prob(images), cascade.log_prob(images))
    assert counters["stats"]["unique_graphs"] == 4 and not counters["graph_break"]
    weights = cascade.stages[0].flow.parameters()
    with torch.no_grad():
        next(weight for weight in weights if weight.dim() == 2).mul_(1.1)  # what is kept follows
    torch.testing.assert_close(fast.log_prob(images), cascade.log_prob(images))
