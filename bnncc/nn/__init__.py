"""Torch layers of binary networks: signs with their estimators, binary convolutions and dense layers, and methods."""

from bnncc.nn import estimators
from bnncc.nn.channel_interaction import ChannelInteraction
from bnncc.nn.circulant import CenterLoss, CirculantConv2d, MaxOverOrientations, Replicate
from bnncc.nn.conv import BinaryConv1d, BinaryConv2d
from bnncc.nn.group_net import GroupLayer, GroupNet, GroupNetConv2d, LayerwiseConv2d, set_tanh
from bnncc.nn.interaction_graph import InteractionGraph
from bnncc.nn.layer import BinaryLayer
from bnncc.nn.linear import BinaryLinear
from bnncc.nn.mining import Miner, MiningOptions, MiningResult, mine
from bnncc.nn.quantizers import Bits, Sign
from bnncc.nn.summary import LayerSummary, Summary, summary
from bnncc.nn.trained_binarization import (
    TrainedBinaryConv1d,
    TrainedBinaryConv2d,
    TrainedBinaryLinear,
    scale_penalty,
    scaling_factors,
)

__all__ = [
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryLayer",
    "BinaryLinear",
    "Bits",
    "CenterLoss",
    "ChannelInteraction",
    "CirculantConv2d",
    "GroupLayer",
    "GroupNet",
    "GroupNetConv2d",
    "InteractionGraph",
    "LayerSummary",
    "LayerwiseConv2d",
    "MaxOverOrientations",
    "Miner",
    "MiningOptions",
    "MiningResult",
    "Replicate",
    "Sign",
    "Summary",
    "TrainedBinaryConv1d",
    "TrainedBinaryConv2d",
    "TrainedBinaryLinear",
    "estimators",
    "mine",
    "scale_penalty",
    "scaling_factors",
    "set_tanh",
    "summary",
]
