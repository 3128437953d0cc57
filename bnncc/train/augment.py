"""Order of the samples, crops and flips, each a function of seed, epoch and sample, so that training resumes anywhere.

Numbers come from SplitMix64 (Steele et al., OOPSLA 2014), by position instead of in sequence.
"""

import numpy as np
import torch
from torch import Tensor

from bnncc.runtime.array import Array

_GOLDEN = np.array([0x9E3779B97F4A7C15], np.uint64)  # arrays wrap around in silence


def order(samples: int, seed: int, epoch: int) -> Tensor:
    """A permutation of the samples: int64 [samples]."""
    keys = _random(seed, epoch, np.arange(samples), stream=0)
    return torch.from_numpy(np.argsort(keys, kind="stable"))


def augment(images: Tensor, indices: Tensor, seed: int, epoch: int, *, crop: int, flip: bool) -> Tensor:
    """Moved by up to `crop` pixels either way, 0 coming in from outside, and mirrored left to right half of the time.

    images [B, C, H, W] of any dtype on any device, indices int64 [B]: which sample each is -> the same shape.
    """
    if not crop and not flip:
        return images
    batch, channels, height, width = images.shape
    numbers = _random(seed, epoch, indices.cpu().numpy(), stream=1)
    places = np.uint64(2 * crop + 1)
    top, left = (numbers % places).astype(np.int64), ((numbers >> np.uint64(20)) % places).astype(np.int64)
    mirrored = ((numbers >> np.uint64(63)) == 1) & flip
    columns = np.where(mirrored[:, None], np.arange(width)[::-1], np.arange(width)) + left[:, None]
    rows = np.arange(height) + top[:, None]
    device = images.device
    padded = torch.nn.functional.pad(images, (crop, crop, crop, crop))
    return padded[
        torch.arange(batch, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        torch.from_numpy(rows).to(device)[:, None, :, None],
        torch.from_numpy(columns).to(device)[:, None, None, :],
    ]


def _random(seed: int, epoch: int, indices: Array, *, stream: int) -> Array:
    """uint64 [N] for indices [N]."""
    state = _mixed(np.array([seed], np.uint64) + _GOLDEN * np.uint64(stream + 1))
    state = _mixed(state + _GOLDEN * np.uint64(epoch + 1))
    return _mixed(state + _GOLDEN * (indices.astype(np.uint64) + np.uint64(1)))


def _mixed(z: Array) -> Array:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    result: Array = z ^ (z >> np.uint64(31))
    return result
