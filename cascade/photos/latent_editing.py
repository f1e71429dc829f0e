"""What the latents of a super-resolution stage are good for: transfer, and restoration.

Images are uint8 (N, C, H, W) with sides that 2^levels divides, regions bool (H, W), labels int64
(N,). A stage maps an image, given its halved one, to noise of the image's shape, so what an image
has beyond its low image can be changed, moved, and given to another low image.
Source: Lugmayr et al., SRFlow (2020), its applications, https://arxiv.org/abs/2006.14200
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.stage import Stage
from cascade.transforms.dequantise import expand_bits, reduce_bits
from stages import Flow, InputError
from stages.bijection import merge_latents, split_latents
from stages.flow import check_size


@torch.no_grad()
def encode(stage: Stage, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """An image's noise (N, *shape) given its own low image, and that low image (N, C, H/2, W/2).

    The low image is the image halved by the stage's own pyramid, in the stage's bits; the noise is
    that of bin centres, of the image's shape, or of its details'.
    """
    if images.ndim != 4 or images.dtype != torch.uint8 or images.shape[1] != stage.shape[0]:
        raise InputError(
            f"{stage.name} takes uint8 images (N, {stage.shape[0]}, H, W), "
            f"got {images.dtype} {tuple(images.shape)}"
        )
    check_size("SRFlow", images.shape[2], images.shape[3], stage.flow.levels)
    bits = stage.config.data.bits
    reduced = reduce_bits(images, bits)
    low = stage.lower(reduced)
    noise = stage.run(stage.flow.noise_of, stage.coding.centre(reduced), low, labels)
    return noise, low


@torch.no_grad()
def decode(stage: Stage, noise: Tensor, low: Tensor, labels: Tensor | None = None) -> Tensor:
    """The images of noise given low images: the inverse of `encode`, exactly."""
    y = stage.run(stage.flow.decode, noise, low, labels)
    return expand_bits(stage.coding.image(y, low)[0], stage.config.data.bits)


def normalised(flow: Flow, noise: Tensor, deviation: float = 1.0) -> Tensor:
    """Noise whose every latent channel has mean 0 and the given deviation over each image.

    ẑ = τ·(z − mean z)/std z for the channels of each level, as noise of temperature τ has them: an
    image that the stage would not draw has other ones. Shapes are kept.
    """
    top, rest = split_latents(noise, flow.levels, flow.squeezed)
    return merge_latents(
        _normalised(top, deviation), [_normalised(z, deviation) for z in rest], flow.squeezed
    )


def _normalised(z: Tensor, deviation: float) -> Tensor:
    spread, mean = torch.std_mean(z, dim=(2, 3), keepdim=True, correction=0)
    return deviation * (z - mean) / spread.clamp(min=torch.finfo(z.dtype).eps)


def content_transfer(
    stage: Stage,
    onto: Tensor,
    source: Tensor,
    region: Tensor,
    labels: Tensor | None = None,
    deviation: float | None = None,
) -> Tensor:
    """``source`` pasted into a region of ``onto``, made consistent with the low image of ``onto``.

    The pasted image is encoded given its own low image, and decoded given that of ``onto``: the
    details are the source's, what is seen when halved is as it was. ``deviation`` normalises the
    latents in between, see `normalised`. Nothing pasted and nothing normalised is the identity.
    """
    _check_region(region, onto, source)
    noise, _ = encode(stage, torch.where(region, source, onto), labels)
    if deviation is not None:
        noise = normalised(stage.flow, noise, deviation)
    _, low = encode(stage, onto, labels)
    return decode(stage, noise, low, labels)


def region_transfer(
    stage: Stage, onto: Tensor, source: Tensor, region: Tensor, labels: Tensor | None = None
) -> Tensor:
    """``onto`` with the latents of ``source`` in a region, which grows to whole blocks.

    A block is the 2^levels × 2^levels pixels that share one place of the coarsest latent. Latents
    outside stay as they were, and so does the low image.
    """
    _check_region(region, onto, source)
    kept, low = encode(stage, onto, labels)
    moved, _ = encode(stage, source, labels)
    inside = blocks(stage, region)
    return decode(stage, torch.where(inside, moved, kept), low, labels)


def blocks(stage: Stage, region: Tensor) -> Tensor:
    """Where a region's blocks lie in the noise of `encode`: bool, of the noise's own sides."""
    side = 2**stage.flow.levels
    grown = F.max_pool2d(region[None, None].float(), side) > 0
    within = side * stage.flow.shape[1] // stage.shape[1]  # half as many for details
    return grown[0, 0].repeat_interleave(within, 0).repeat_interleave(within, 1)


def restored(
    stage: Stage, images: Tensor, temperature: float = 0.8, labels: Tensor | None = None
) -> Tensor:
    """Degraded images (blurred, compressed, noisy) with the latents' statistics put right.

    Encoded given its own low image, normalised to the noise of ``temperature``, decoded given the
    same low image: what survives halving is kept, the rest becomes what the stage would draw, led
    by the details that are there.
    """
    noise, low = encode(stage, images, labels)
    return decode(stage, normalised(stage.flow, noise, temperature), low, labels)


def _check_region(region: Tensor, onto: Tensor, source: Tensor) -> None:
    if onto.shape != source.shape:
        raise InputError(f"images differ: {tuple(onto.shape)} and {tuple(source.shape)}")
    if region.dtype != torch.bool or region.shape != onto.shape[2:]:
        raise InputError(
            f"a region is bool {tuple(onto.shape[2:])} for these images, "
            f"got {region.dtype} {tuple(region.shape)}"
        )
