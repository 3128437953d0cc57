"""What a network is trained and tested on, whole in memory: images of one size, and the class of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bnncc.progress import Progress, silent
from bnncc.runtime.array import Array
from bnncc.runtime.errors import InputError, OptionError
from bnncc.train import images as labelled_images
from bnncc.train.augment import order

DIGITS = "digits"
_SPLIT = 1 << 20  # an epoch that no training reaches: what is held out is drawn with its random numbers


@dataclass(frozen=True)
class Part:
    """images uint8 or float32 [N, C, H, W], labels int64 [N]."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        whole = self.images.dtype in (torch.uint8, torch.float32) and self.labels.dtype == torch.int64
        if not whole or self.images.dim() < 2 or self.labels.shape != self.images.shape[:1] or len(self.labels) < 2:
            raise InputError(
                f"training: images are {self.images.dtype} {list(self.images.shape)} and labels {self.labels.dtype} "
                f"{list(self.labels.shape)}; allowed are uint8 or float32 [N, ...] and int64 [N], N from 2"
            )

    @classmethod
    def of(cls, images: Array, labels: Array) -> Part:
        """Of numpy arrays."""
        return cls(torch.from_numpy(images), torch.from_numpy(labels))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """A training part, a test part of the same kind that training never sees, and what networks are given of them.

    mean, std   by channel: a network reads (x - mean) / std, where x is the image, uint8 divided by 255
    """

    train: Part
    test: Part
    classes: tuple[str, ...]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        kinds = {(part.images.dtype, part.images.shape[1:]) for part in (self.train, self.test)}
        if len(kinds) > 1:
            raise InputError(
                f"training: images are {list(self.train.images.shape)}, those to test on "
                f"{list(self.test.images.shape)}; allowed is one size and dtype"
            )
        for part in (self.train, self.test):
            low, high = int(part.labels.min()), int(part.labels.max())
            if low < 0 or high >= len(self.classes):
                raise InputError(f"training: found labels {low} to {high}, allowed are 0 to {len(self.classes) - 1}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image."""
        return tuple(self.train.images.shape[1:])

    def normalised(self, images: Tensor) -> Tensor:
        """What a network reads: float32 of the same shape and on the same device."""
        x = images.float()
        if images.dtype == torch.uint8:
            x = x / 255
        channels = (-1, *[1] * (images.dim() - 2))
        mean, std = (torch.tensor(v, device=x.device).reshape(channels) for v in (self.mean, self.std))
        return (x - mean) / std

    def fingerprint(self) -> str:
        """16 hexadecimal digits that stand for every pixel, label and number here."""
        digest = hashlib.sha256(repr((self.classes, self.mean, self.std)).encode())
        for tensor in (self.train.images, self.train.labels, self.test.images, self.test.labels):
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def read(
    source: str,
    *,
    size: int | None = None,
    held_out: float | None = None,
    split_seed: int = 0,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Data:
    """Data of a folder or an archive of images (bnncc/train/images.py says which), or of scikit-learn's 8x8 digits.

    source      a path, or "digits"; a folder of that name is ./digits
    size        pixels of a side to bring images to; None leaves them
    held_out    part to test on, where the source has no such part: 0.2, and of the digits half
    split_seed  of which images those are
    cache       folder for decoded images

    mean and std are those of the training part, rounded to four decimals.

    Raises:
        InputError: as of `bnncc.train.images.read`, or a part without images.
        OptionError: Pillow or scikit-learn is not installed, or a held_out outside ]0, 1[.
    """
    if held_out is not None and not 0 < held_out < 1:
        raise OptionError(f"training: held_out is {held_out}; allowed are numbers between 0 and 1")
    if source == DIGITS:
        found, share = _digits(), 0.5
    else:
        found, share = labelled_images.read(Path(source), size, cache, progress), 0.2
    test = found.test
    if not found.split:
        drawn = order(len(test), split_seed, _SPLIT).numpy()
        test = np.zeros(len(test), np.bool_)
        test[drawn[: round(len(test) * (held_out or share))]] = True
    elif held_out is not None:
        raise OptionError(f"{source}: has a part to test on already; leave held_out away")
    if min(test.sum(), (~test).sum()) < 2:
        raise InputError(
            f"{source}: found {int((~test).sum())} images to train and {int(test.sum())} to test on; "
            f"allowed are 2 and more of each"
        )
    pixels = found.images[~test]
    mean, std = _statistics(pixels)
    return Data(
        Part.of(pixels, found.labels[~test]), Part.of(found.images[test], found.labels[test]), found.classes, mean, std
    )


def _statistics(pixels: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation by channel of uint8 [N, C, H, W], as parts of 255: from counts, so exact."""
    counts = [np.bincount(pixels[:, channel].ravel(), minlength=256) for channel in range(pixels.shape[1])]
    values = np.arange(256) / 255
    means = [float(count @ values / count.sum()) for count in counts]
    squares = [float(count @ (values - mean) ** 2 / count.sum()) for count, mean in zip(counts, means, strict=True)]
    return tuple(round(mean, 4) for mean in means), tuple(max(round(square**0.5, 4), 1e-3) for square in squares)


def _digits() -> labelled_images.Labelled:
    try:
        from sklearn import datasets
    except ImportError:
        raise OptionError("digits: scikit-learn is not installed; pip install 'bnncc[train]'") from None
    data = datasets.load_digits()
    pixels = (data.images[:, None] * 15).astype(np.uint8)  # 0 to 16 in whole steps -> 0 to 240
    labels = data.target.astype(np.int64)
    return labelled_images.Labelled(pixels, labels, np.zeros(len(labels), np.bool_), tuple(map(str, range(10))))
