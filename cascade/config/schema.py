"""The settings of one stage, their types and defaults, as dataclasses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

FORMAT = 2  # of stage folders; 1 was that of 0.1.0
UNLIMITED = 10**9  # train.steps where train.seconds alone ends the training


@dataclass
class Data:
    name: str = MISSING  # a built-in data set, a folder of images, an .npz or .npy, or hf:NAME
    size: int = MISSING  # side of this stage's images
    channels: int = 3
    split: str = "train"  # train or trainval
    bits: int = 8
    flip: bool = False
    resize: int | None = None  # shorter side of a folder's images is brought to this, then cropped
    skip_bad: bool = False  # leave unreadable images out, and say how many
    allow_overlap: bool = False  # held-out images may be training images too
    root: str = "data"  # where downloads go
    cache: str | None = "data/cache"  # where decoded copies are kept; null: nothing is kept
    version: str | None = None  # which of a data set's versions it is, for reports


@dataclass
class Model:
    kind: str = MISSING
    levels: int = 3
    steps: int = 32
    width: int = 512
    squish: float = 0.5
    squish_range: str = "sigmoid"
    coupling: str = "affine"  # affine, additive or mixture
    components: int = 4  # logistics of a mixture, of couplings or of `first`
    nets: str = "conv"  # conv, gated or vit: the nets of couplings and priors
    net_blocks: int = 1  # residual blocks of such a net
    permutation: str = "dense"  # dense or lu: how the 1×1 is parametrised
    pyramid: str = "bicubic"  # bicubic or haar: where low images come from
    classes: int = 0
    class_weight: float = 0.01  # λ_c
    class_loss: str = "bce"  # bce or softmax
    first: str = "none"  # none or mixture: of logistics, between the integers and the flow steps
    colour: str = "linear"  # linear or none: how a mixture's channels depend on those before
    order: str = "subbands"  # subbands (each given those before), halves (of each, too) or together
    mixture_width: int = 32
    mixture_blocks: int = 1
    mixture_chain: bool = False  # each net of a mixture reads the one before it
    dequantise: str = "uniform"  # uniform or variational: noise within the bins learned
    dequantise_steps: int = 4  # couplings of a variational one


@dataclass
class GlowModel(Model):
    pass


@dataclass
class SRFlowModel(Model):
    levels: int = 4
    steps: int = 16
    width: int = 64
    injector: bool = True
    transition_steps: int = 2
    conditional_prior: bool = False
    residual: bool = False
    squish_injector: bool = True
    encoder_features: int = 64
    encoder_growth: int = 32
    encoder_blocks: int = 23
    encoder: str = "rrdb"  # rrdb or residual: what the encoder's blocks are
    downscaler: int = 0  # width of a net that moves the low images, learned by train.joint


@dataclass
class ColourModel(SRFlowModel):
    levels: int = 1
    first: str = "mixture"


@dataclass
class InpaintModel(SRFlowModel):
    levels: int = 1
    first: str = "mixture"
    hole: int = MISSING  # side of the square that is missing in training and in scoring


@dataclass
class Train:
    steps: int = MISSING  # may be left out, or null, beside seconds
    seconds: float | None = None  # process time after which training ends, if not by its steps
    batch_size: int = MISSING  # over all processes
    optimizer: str = "adamax"  # adamax, adam or muon
    lr: float = MISSING
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.0
    warmup: int = 100  # steps of linear warm-up
    schedule: str = "constant"  # constant, halve (at milestones) or cosine (to zero)
    milestones: list[int] = field(default_factory=list)
    clip: float = 100.0  # largest gradient norm
    ema: float = 0.999  # 0 turns it off
    precision: str = "no"  # no or bf16
    accumulate: int = 1  # parts that each process computes its share of the batch in
    memory: str = "store"  # store, checkpoint or reversible: activations kept, or made again
    workers: int | None = None  # processes that make batches; null: 0 on a CPU, up to 4 a GPU
    compile: bool = False  # whether torch.compile makes the training step
    skip_limit: int = 10  # steps in a row that may be skipped, their gradient not being finite
    pretrain_steps: int = 0  # of an SRFlow's encoder alone, by super-resolution, before the others
    pretrain_lr: float = 2.0e-4
    label_dropout: float = 0.0  # share of labels that are left out, so that they may be missing
    frozen_steps: int = 0  # first steps of the flow, in which the encoder stays as it is
    init_images: int = 512  # images that ActNorm is fitted to
    log_every: int = 20
    save_every: int = 1000
    sample_every: int = 1000
    validate_images: int = 256
    patience: int = 0  # saves without a lower held-out bits/dim that end training; 0: any number
    watch_sigmas: list[float] = field(default_factory=list)  # of noisy reconstructions, see docs
    keep: int = 2  # newest states kept to resume from
    trackers: list[str] = field(default_factory=list)  # tensorboard, wandb
    start: str | None = None  # a trained stage whose weights training starts from
    joint: str | None = None  # the trained stage below, which is trained along on the joint bound
    resume: str = "auto"  # auto, never, or force: auto, though the training images have changed


@dataclass
class Augment:
    previous: str | None = None  # the stage folder below: low images are disturbed in its latents
    sigma: Any = 0.0  # a number, a range [least, most], or a schedule {step: sigma}
    scaling: str = "whitened"  # whitened or raw
    condition: bool = False  # whether the stage is told each image's sigma
    refresh: int = 1  # steps for which an image's disturbed version is kept
    limit: float = 2.0  # |y| beyond which an image counts as exploded; images live in ±½


@dataclass
class StageConfig:
    out: str = MISSING
    seed: int = 0
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    augment: Augment = field(default_factory=Augment)
    format: int = FORMAT  # of the stage folder, which another version of this package may not read

    @property
    def upsamples(self) -> bool:
        """Whether the stage makes images from ones of half their size, as an SRFlow does."""
        return self.conditional and not self.stands_alone

    @property
    def conditional(self) -> bool:
        """Whether the stage reads an image beside the one it models: it is anything but a Glow."""
        return isinstance(self.model, SRFlowModel)

    @property
    def stands_alone(self) -> bool:
        """Whether the stage belongs to no cascade: what it is given is part of the image itself."""
        return self.of_chroma or self.hole > 0

    @property
    def hole(self) -> int:
        """The side of the square that the stage models, given the pixels around; 0 for none."""
        return self.model.hole if isinstance(self.model, InpaintModel) else 0

    @property
    def share(self) -> float:
        """The share of its flow's values that a stage models: all but those that it is given."""
        return (self.hole / self.data.size) ** 2 if self.hole else 1.0

    @property
    def of_chroma(self) -> bool:
        """Whether the stage models the chroma of images, given their luma."""
        return isinstance(self.model, ColourModel)

    @property
    def label_optional(self) -> bool:
        """Whether the stage has classes, and learns to do without labels."""
        return bool(self.model.classes) and self.train.label_dropout > 0

    @property
    def has_mixture(self) -> bool:
        """Whether a mixture of logistics comes first."""
        return self.model.first == "mixture"

    @property
    def of_details(self) -> bool:
        """Whether the stage models Haar details in place of pixels."""
        return self.upsamples and self.model.pyramid == "haar"


KINDS = {"glow": GlowModel, "srflow": SRFlowModel, "colour": ColourModel, "inpaint": InpaintModel}
