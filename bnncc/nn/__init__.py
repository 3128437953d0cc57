"""Torch layers of binary networks: signs with their estimators, binary convolutions and dense layers."""

from bnncc.nn import estimators
from bnncc.nn.conv import BinaryConv1d, BinaryConv2d
from bnncc.nn.linear import BinaryLinear
from bnncc.nn.quantizers import Bits, Sign

__all__ = ["BinaryConv1d", "BinaryConv2d", "BinaryLinear", "Bits", "Sign", "estimators"]
