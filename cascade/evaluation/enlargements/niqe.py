"""NIQE: how far the statistics of an image's patches are from those of good photographs.

Source: Mittal, Soundararajan and Bovik, 2013, Making a "completely blind" image quality analyzer,
https://doi.org/10.1109/LSP.2012.2227726
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.evaluation.enlargements.natural_scenes import features, luma, normalised
from cascade.utils.tensors import read_tensors, write_tensors
from stages import InputError

PATCH = 96  # side of a patch in the paper, pixels
SHARP = 0.75  # of an image's sharpest patch: what a patch of the model has at least
SIZE = 36  # features of a patch: 18 at each of two scales
BORDER = 8  # pixels beyond an image that halving it sees, mirrored, and some more
PUBLISHED = ("mu_prisparam", "cov_prisparam")  # names in the authors' .mat


@dataclass(frozen=True)
class Pristine:
    """What good photographs are like: mean (36,) and covariance (36, 36) of their patches."""

    mean: Tensor
    covariance: Tensor
    patch: int = PATCH
    name: str = ""
    digest: str = ""

    @classmethod
    def fit(cls, images: Iterable[Tensor], patch: int = PATCH) -> Pristine:
        """Of photographs uint8 (C, h, w) of any sizes: their sharp patches'.

        Raises `InputError` for a patch of an odd side or less than 16, and where there are too few
        patches to know the covariance.
        """
        if patch < 16 or patch % 2:
            raise InputError(f"a patch has an even side of 16 pixels or more, not {patch}")
        rows = []
        for image in images:
            if min(image.shape[1:]) >= patch:
                values, sharpness = patches(image, patch)
                rows.append(values[sharpness > SHARP * sharpness.max()])
        found = _finite(torch.cat(rows)) if rows else torch.empty(0, SIZE)
        if len(found) <= SIZE:
            raise InputError(
                f"the photos give {len(found)} sharp patches of {patch}x{patch}, more than {SIZE} "
                "are needed: give more or larger photos, or a smaller --patch"
            )
        return cls(found.mean(0), found.T.cov(), patch)

    @classmethod
    def load(cls, file: str | Path) -> Pristine:
        """Read what `save` wrote, or the authors' modelparameters.mat, whose patches are of 96.

        Raises `InputError` where a file is neither.
        """
        path = Path(file)
        if not path.is_file():
            raise InputError(
                f"no file {file}; 'csrflow pristine PHOTOS --out pristine.safetensors' makes one"
            )
        tensors = _of_matlab(path) if path.suffix == ".mat" else read_tensors(path)
        mean, covariance = (tensors.get(n, torch.empty(0)) for n in ("mean", "covariance"))
        patch = tensors.get("patch", torch.tensor(0))
        sound = mean.shape == (SIZE,) and covariance.shape == (SIZE, SIZE)
        sound = sound and patch.numel() == 1 and int(patch) >= 16
        if not sound or not (mean.isfinite().all() and covariance.isfinite().all()):
            raise InputError(f"{file} holds no model of good photos, as NIQE needs")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(mean.double(), covariance.double(), int(patch), path.name, digest)

    def save(self, file: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        tensors = {"mean": self.mean, "covariance": self.covariance}
        write_tensors(tensors | {"patch": torch.tensor(self.patch)}, Path(file))

    def __call__(self, image: Tensor) -> float:
        """NIQE of an image uint8 (C, H, W): 0 or more, the less the better.

        The distance √((ν₁ − ν₂)ᵀ ((Σ₁ + Σ₂)/2)⁻¹ (ν₁ − ν₂)) of two Gaussians. Raises `InputError`
        for an image of less than two patches.
        """
        tall, wide = (side // self.patch for side in image.shape[1:])
        found = _finite(patches(image, self.patch)[0]) if tall * wide > 1 else torch.empty(0)
        if len(found) < 2:
            raise InputError(
                f"NIQE by {self.name or 'this model'} takes two patches or more of "
                f"{self.patch}x{self.patch} pixels that are not flat, which this image of "
                f"{image.shape[1]}x{image.shape[2]} lacks; csrflow pristine --patch makes models "
                "of smaller ones"
            )
        apart = found.mean(0) - self.mean
        joint = torch.linalg.pinv((found.T.cov() + self.covariance) / 2, hermitian=True)
        return (apart @ joint @ apart).clamp(min=0).sqrt().item()


def patches(image: Tensor, patch: int) -> tuple[Tensor, Tensor]:
    """Features (N, 36) of an image's whole patches, and how sharp they are, (N,).

    Both scales are normalised as whole images; sharpness is a patch's mean local deviation.
    """
    tall, wide = (side // patch * patch for side in image.shape[1:])
    grey = luma(image)[:tall, :wide]
    parts, sharpness = [], torch.empty(0)
    for scale, side in enumerate((patch, patch // 2)):
        values, deviation = normalised(halved(grey) if scale else grey)
        parts.append(features(_cut(values, side)))
        if not scale:
            sharpness = _cut(deviation, side).mean((1, 2))
    return torch.cat(parts, 1), sharpness


def halved(grey: Tensor) -> Tensor:
    """Values (H, W) of even sides at half their size, by MATLAB's antialiased cubic kernel."""
    for axis, side in enumerate(grey.shape):
        places = torch.arange(-BORDER, side + BORDER) % (2 * side)  # mirrored, edges repeated
        grey = grey.index_select(axis, torch.minimum(places, 2 * side - 1 - places))
    small = F.interpolate(grey[None, None], scale_factor=0.5, mode="bicubic", antialias=True)
    cut = BORDER // 2
    return small[0, 0, cut:-cut, cut:-cut]


def _cut(values: Tensor, side: int) -> Tensor:
    """Values (H, W) as squares (N, side, side)."""
    return values.unfold(0, side, side).unfold(1, side, side).reshape(-1, side, side)


def _finite(rows: Tensor) -> Tensor:
    """Without patches that are flat, whose statistics are undefined."""
    return rows[rows.isfinite().all(1)]


def _of_matlab(path: Path) -> dict[str, Tensor]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError("a .mat takes scipy: pip install 'csrflow[scores]'") from None
    try:
        held = loadmat(path)
        mean, covariance = (torch.as_tensor(held[name]).double() for name in PUBLISHED)
    except (ValueError, TypeError, KeyError, NotImplementedError, OSError):
        raise InputError(f"{path} is no .mat that holds {' and '.join(PUBLISHED)}") from None
    return {"mean": mean.flatten(), "covariance": covariance, "patch": torch.tensor(PATCH)}
