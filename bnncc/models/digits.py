"""A network for scikit-learn's 8x8 digits: small enough to train in seconds, with one of each kind of binary layer."""

from torch import nn

from bnncc.nn import BinaryConv2d, BinaryLinear, Sign
from bnncc.nn.estimators import polynomial


def digits_net(num_classes: int = 10) -> nn.Module:
    """float [N, 1, 8, 8] -> float [N, num_classes].

    FP conv - binary conv, max-pool - strided binary conv, border of +1 - binary dense - FP dense; BatchNorm after each.
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        BinaryConv2d(32, 64, 3, padding=1, bias=False, input_quantizer=Sign(polynomial)),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(64),
        BinaryConv2d(64, 64, 3, stride=2, padding=1, bias=False, pad_value=1.0, input_quantizer=Sign(polynomial)),
        nn.BatchNorm2d(64),
        nn.Flatten(),
        BinaryLinear(256, 128, bias=False, input_quantizer=Sign(polynomial)),
        nn.BatchNorm1d(128),
        nn.Linear(128, num_classes),
    )
