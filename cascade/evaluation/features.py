"""Nets that turn images into the features that scores compare."""

from __future__ import annotations

import hashlib
import platform
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from cascade.utils.chunks import CHUNK, chunk_of, in_chunks
from stages import InputError

INCEPTION = "inception-2015-12-05.pt"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
INCEPTION_URL = (
    f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION}"
)
USUAL = Path("./" if platform.system() == "Windows" else "/tmp") / INCEPTION  # clean-fid's choice
MODES = ("clean", "legacy_tensorflow")  # clean-fid's, of those that this file serves


# what a TorchScript net of anyone's may raise: its own exceptions are torch.jit.Error
SCRIPT_FAULTS = (RuntimeError, torch.jit.Error, TypeError, IndexError, NotImplementedError)


def reason_of(fault: Exception) -> str:
    """What one of `SCRIPT_FAULTS` says, in a line: the last of its traceback."""
    return next(reversed(str(fault).strip().splitlines()), type(fault).__name__)


@dataclass
class FeatureNet:
    """Images uint8 (B, C, H, W) → features float32 (B, F), on the CPU.

    ``digest`` is the SHA-256 of its file, ``mode`` clean-fid's, None for a net of the user's.
    A row's features depend on its own image alone, and, in their last bits, on how many images the
    net sees at once, its ``chunk``.
    """

    name: str
    digest: str
    mode: str | None
    function: Callable[[Tensor], Tensor]
    chunk: int = CHUNK

    @property
    def genuine(self) -> bool:
        """Whether these are the weights that FID and KID are defined by."""
        return self.mode is not None and self.digest == INCEPTION_SHA256

    @property
    def labels(self) -> dict[str, str]:
        """What the two distances of its features may be called."""
        if self.genuine:
            return {"frechet": "FID", "kernel": "KID"}
        return {
            "frechet": f"Fréchet distance, features {self.name}",
            "kernel": f"kernel distance, features {self.name}",
        }

    @property
    def origin(self) -> dict[str, Any]:
        """What it takes to compute the same features again."""
        return {
            "features": self.name,
            "features_sha256": self.digest,
            "mode": self.mode,
            "clean-fid": cleanfid_version(),
        }

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        try:
            with exact, torch.jit.optimized_execution(False):  # or the third call rounds otherwise
                result = in_chunks(self._checked, images, size=self.chunk).float().cpu()
        except SCRIPT_FAULTS as error:
            shape = "x".join(map(str, images.shape[1:]))
            raise InputError(
                f"{self.name} cannot take {shape} images: {reason_of(error)}"
            ) from None
        if not result.isfinite().all():
            raise InputError(f"{self.name} gave features that are not finite")
        return result

    def _checked(self, images: Tensor) -> Tensor:
        """The features of a chunk; `InputError` unless they are some numbers an image."""
        result = self.function(images)
        sound = isinstance(result, Tensor) and result.ndim == 2 and len(result) == len(images)
        if not sound or result.shape[1] < 2 or result.is_complex():
            what = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise InputError(
                f"{self.name} must give real features (B, F), F of 2 or more: of {len(images)} "
                f"images it gave {what}"
            )
        return result


def scripted(
    file: str | Path, device: str | torch.device = "cpu", chunk: int | None = None
) -> FeatureNet:
    """A TorchScript net of the user's, which sees images as they are, ``chunk`` at once.

    It takes float32 (B, C, H, W) of values 0..255 and gives features (B, F). The chunk is the
    device's if None.
    """
    net, digest = load_script(file, device)
    chunk = chunk or chunk_of(torch.device(device))
    return FeatureNet(Path(file).name, digest, None, lambda x: net(x.to(device).float()), chunk)


def inception(
    file: str | Path | None = None,
    mode: str = "clean",
    device: str | torch.device = "cpu",
    chunk: int | None = None,
) -> FeatureNet:
    """Inception through clean-fid's own resizer and wrapper; nothing is ever downloaded.

    ``file`` is where its TorchScript weights are; clean-fid's usual place if None. Other weights
    than the known ones are used, but what comes of them is not called FID. ``chunk`` images are
    seen at once, the device's number if None.
    """
    cleanfid_version()
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    path = Path(file) if file else USUAL
    if not path.is_file():
        missing = f"no file {file}" if file else f"no Inception weights in {USUAL}"
        raise InputError(
            f"{missing}; get them by 'curl -O {INCEPTION_URL}' and pass --inception {INCEPTION}, "
            "or pass --features FILE.pt"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with TemporaryDirectory() as folder:  # clean-fid looks for the file by this name alone
        Path(folder, INCEPTION).symlink_to(path.resolve())
        try:
            with _not_deprecated():
                net = InceptionV3W(folder, False, resize_inside=mode == "legacy_tensorflow")
        except (RuntimeError, AttributeError) as error:
            raise InputError(f"{path} is no TorchScript Inception: {reason_of(error)}") from None
    net, resize = net.to(device).eval(), build_resizer(mode)

    def features(images: Tensor) -> Tensor:
        pictures = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        resized = torch.stack([torch.as_tensor(resize(picture)) for picture in pictures])
        return net(resized.permute(0, 3, 1, 2).to(device).float())

    return FeatureNet(path.name, digest, mode, features, chunk or chunk_of(torch.device(device)))


def load_script(
    file: str | Path, device: str | torch.device = "cpu"
) -> tuple[torch.jit.ScriptModule, str]:
    """A TorchScript file's net, and the file's SHA-256; `InputError` where it is none."""
    path = Path(file)
    if not path.is_file():
        raise InputError(f"no file {file}; it must be a TorchScript net (torch.jit.save)")
    try:
        with _not_deprecated():
            net = torch.jit.load(path, map_location=device).eval()
    except RuntimeError as error:
        raise InputError(f"{file} is no TorchScript net: {reason_of(error)}") from None
    return net, hashlib.sha256(path.read_bytes()).hexdigest()


def cleanfid_version() -> str:
    """The version of clean-fid; `InputError` where it is not installed."""
    try:
        return version("clean-fid")
    except PackageNotFoundError:
        raise InputError("scores need clean-fid: pip install 'csrflow[scores]'") from None


@contextmanager
def _not_deprecated() -> Iterator[None]:
    """TorchScript is the format of Inception's file, whatever torch says of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.load`", FutureWarning)
        yield
