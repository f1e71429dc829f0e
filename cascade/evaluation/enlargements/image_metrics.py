"""How near an image is to another, and the cubic interpolation that others are held against."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stages import InputError

SMALLEST = 11  # side of the window of SSIM


def bicubic(low: Tensor, factor: int) -> Tensor:
    """Images uint8 (…, C, h, w) at ``factor`` times their size, cubic with a = −0.5."""
    images = low.reshape(-1, *low.shape[-3:]).float()
    raised = F.interpolate(images, scale_factor=factor, mode="bicubic", antialias=True)
    raised = raised.round().clamp(0, 255).to(torch.uint8)
    return raised.reshape(*low.shape[:-2], *raised.shape[-2:])


def mean_squares(one: Tensor, two: Tensor) -> Tensor:
    """Mean squared difference (…,) of images uint8 (…, C, H, W)."""
    return (one.double() - two.double()).square().mean((-3, -2, -1))


def psnr(squares: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log₁₀(255²/MSE), of mean squares; infinite at 0."""
    return 10 * torch.log10(255**2 / squares)


def psnr_between(one: Tensor, two: Tensor) -> float:
    """Peak signal-to-noise ratio of two images uint8 (C, H, W) in dB."""
    return psnr(mean_squares(one, two)).item()


def ssim(one: Tensor, two: Tensor) -> Tensor:
    """Structural similarity (N,) of images uint8 (N, C, H, W), by scikit-image.

    Gaussian window of σ = 1.5, population covariances. Source: Wang et al., 2004,
    https://doi.org/10.1109/TIP.2003.819861
    """
    try:
        from skimage.metrics import structural_similarity
    except ImportError:
        raise InputError("SSIM needs scikit-image: pip install 'csrflow[scores]'") from None
    result = [
        structural_similarity(
            a.numpy(), b.numpy(), channel_axis=0, data_range=255, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(one, two, strict=True)
    ]  # fmt: skip
    return torch.tensor(result, dtype=torch.float64)
