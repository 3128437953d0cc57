"""The digits example: it learns, and its split leaks nothing."""

import numpy as np

from bnncc.nn.layer import BinaryLayer
from bnncc.train import accuracy
from examples.digits import load_digits, train_digits


def test_digits_are_learned() -> None:
    module, x, labels = train_digits(epochs=6, progress=False)
    assert x.shape == (360, 1, 8, 8)
    assert not module.training
    assert accuracy(module, x, labels) > 0.95
    for layer in module.modules():
        if isinstance(layer, BinaryLayer):
            assert float(layer.weight.detach().abs().max()) <= 1


def test_the_split_leaks_nothing() -> None:
    x, labels, x_test, labels_test = load_digits()
    assert (len(x), len(labels), len(x_test), len(labels_test)) == (1437, 1437, 360, 360)
    assert not {image.tobytes() for image in x} & {image.tobytes() for image in x_test}
    assert float(np.abs(x).max()) <= 1
