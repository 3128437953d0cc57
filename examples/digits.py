"""Train a binary network on scikit-learn's 8x8 digits: `python examples/digits.py`, a few seconds on one core."""

from contextlib import nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bnncc.models import digits_net
from bnncc.progress import bar, silent
from bnncc.train import Data, Options, Part, accuracy, fit

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def load_digits() -> tuple[Images, Labels, Images, Labels]:
    """Images float32 [N, 1, 8, 8] in [-1, 1] and labels int64 [N]: 1437 to train on, then 360 to test on."""
    from sklearn import datasets

    data = datasets.load_digits()
    images = (data.images[:, None] / 8 - 1).astype(np.float32)
    labels = data.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(images))
    training, test = order[:1437], order[1437:]
    return images[training], labels[training], images[test], labels[test]


def train_digits(seed: int = 0, *, epochs: int = 15, progress: bool = True) -> tuple[nn.Module, Images, Labels]:
    """A trained `digits_net` in eval mode, with the test images and labels it has not seen."""
    x, labels, x_test, labels_test = load_digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = digits_net()
    options = Options(epochs=epochs, batch=64, seed=seed, learning_rate=1e-2, schedule="cosine", device="cpu")
    data = Data(Part.of(x, labels), Part.of(x_test, labels_test), tuple("0123456789"))
    with bar() if progress else nullcontext(silent) as told:
        fit(module, data, options, progress=told)
    return module, x_test, labels_test


if __name__ == "__main__":
    module, x_test, labels_test = train_digits()
    print(f"accuracy on {len(x_test)} test images: {accuracy(module, x_test, labels_test):.2%}")
