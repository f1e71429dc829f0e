"""On a CUDA GPU what the CPU does, within a tolerance: collected only where there is one.

Run them by themselves: ``pytest -m gpu``.
"""

import copy

import pytest
import torch
from conftest import ROOT, launch, randomise
from torch import Tensor

from cascade import Cascade
from cascade.benchmark import launches, measure, operations
from cascade.building import build
from cascade.config import StageConfig, load_config
from cascade.data import open_images
from cascade.optimization.averages import averaged
from cascade.optimization.optimizers import optimiser
from cascade.utils.compiling import begin_step, compile_options
from cascade.utils.tensors import read_tensors
from stages import StageLoss

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda")
CPU = torch.device("cpu")
STEPS = 3
SMALL = [
    "model.steps=2",
    "model.levels=2",
    "model.width=32",
    "train.batch_size=4",
    "train.lr=1.0e-4",
]
CONFIGS = {
    "glow": ("bench/glow32", ["data.size=16"]),
    "srflow": ("mnist5k/srf16", ["model.encoder_blocks=1"]),
}


@pytest.fixture(autouse=True)
def exact_products():
    """Without TF32, which has ten bits."""
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        yield


def config_of(kind: str, *changes: str) -> StageConfig:
    name, own = CONFIGS[kind]
    return load_config(ROOT / "configs" / f"{name}.yaml", [*SMALL, *own, *changes])


def steps_of(
    config: StageConfig, device: torch.device, precision: str = "float32", compiled: bool = False
) -> tuple[list[float], Tensor]:
    """Training steps on the same images: each one's nats, and the averaged weights after them."""
    torch.manual_seed(0)
    loss = StageLoss(randomise(build(config), 0.05).float()).to(device)
    loss.flow.set_activation_memory(config.train.memory)
    if compiled:
        loss.compile(fullgraph=True, **compile_options(device))
    adam, average = optimiser(loss, config.train), averaged(loss, 0.9)
    given = operations.inputs(config, CPU)
    x, low, label = (None if t is None else t.to(device) for t in vars(given).values())
    nats = []
    for _ in range(STEPS):
        begin_step(device)
        with operations.autocast(device, precision):
            value, _ = loss(x, low, label)
        (-value.mean() / x[0].numel()).backward()
        operations.update(loss, adam, config)
        average.update_parameters(loss)
        nats.append(value.mean().item())
    weights = [weight.detach().flatten().cpu() for weight in average.module.parameters()]
    return nats, torch.cat(weights)


@pytest.mark.parametrize("memory", ["store", "checkpoint", "reversible"])
@pytest.mark.parametrize("kind", CONFIGS)
def test_training_steps_are_those_of_the_cpu(kind, memory):
    config = config_of(kind, f"train.memory={memory}")
    (ours, weights), (theirs, expected) = (steps_of(config, device) for device in (GPU, CPU))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert (weights - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("kind", CONFIGS)
def test_bfloat16_is_near_float32(kind):
    config = config_of(kind)
    ours, weights = steps_of(config, GPU, "bfloat16")
    theirs, expected = steps_of(config, CPU)
    assert ours == pytest.approx(theirs, rel=0.02)
    assert (weights - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("kind", CONFIGS)
def test_cuda_graphs_train_as_eager_code_does(kind):
    config = config_of(kind)
    ours, weights = steps_of(config, GPU, compiled=True)
    theirs, expected = steps_of(config, GPU)
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert (weights - expected).norm() < 1e-3 * expected.norm()


def bits(cascade: Cascade, images: Tensor) -> Tensor:
    return cascade.likelihood(images).image_bpd


def test_a_trained_cascade_scores_and_decodes_as_on_the_cpu(digits):
    images = open_images("mnist5k", "test", 1).read(torch.arange(32))
    cascade = Cascade.load(digits)
    images = cascade.resize(images)
    expected = bits(cascade, images)
    moved = copy.deepcopy(cascade).to(GPU)
    for ours in (moved, moved.compiled()):
        for _ in range(2):  # the second time by a recorded graph
            torch.testing.assert_close(bits(ours, images), expected, rtol=0, atol=1e-4)
        drawn, theirs = (one.sample(32, seed=0).int() for one in (ours, cascade))
        assert ((drawn - theirs).abs() > 1).double().mean() < 1e-3
    labels = torch.arange(32) % 10
    noises = moved.encode(images, labels)
    assert (moved.decode(noises, labels) == images).all()


def test_reversible_steps_need_less_memory_of_the_gpu():
    needed = {}
    for memory in ("store", "reversible"):
        config = config_of("glow", "model.steps=16", f"train.memory={memory}")
        backward = operations.ours(config, GPU, "float32")["backward"]
        needed[memory] = measure.peak_memory(backward, GPU)
    assert 0 < needed["reversible"] < 0.5 * needed["store"]


def test_a_step_dispatches_as_much_as_is_counted_on_the_cpu():
    config = config_of("glow")
    ours, theirs = (launches.of_a_step(config, device, "float32") for device in (GPU, CPU))
    for part in ("forward", "backward"):
        assert ours[part].operators == pytest.approx(theirs[part].operators, rel=0.1)


def train(out, processes: int, *settings: object) -> dict[str, Tensor]:
    done = launch(
        "accelerate", "launch", "--num_processes", processes, "tools/train.py",
        ROOT / "configs" / "mnist5k" / "srf16.yaml", f"out={out}", *settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return read_tensors(out / "model.safetensors")


if torch.cuda.device_count() > 1:

    def test_two_gpus_train_as_one_does(few_digits, tmp_path):
        """By NCCL; the batch is the same, its halves elsewhere."""
        settings = [f"data.name={few_digits}", "train.steps=4", "train.batch_size=16"]
        settings += ["train.warmup=0", "train.init_images=64", "train.validate_images=16"]
        one, two = (train(tmp_path / str(n), n, *settings) for n in (1, 2))
        for name, weight in one.items():
            torch.testing.assert_close(two[name].double(), weight.double(), rtol=1e-2, atol=2e-4)
