"""ONNX nodes to Relax: the table of converters by (domain, operator).

A converter takes a `Node` and returns an expression, images in ONNX's layout (channels second). It raises ModelError
with what is wrong; the importer puts the file and the node in front. Standard operators that are not in this table go
through TVM's converters where `standard.CHECKS` names them. The ones here are here because TVM's say the same in more,
or already lowered, Relax (Clip, BatchNormalization, Gemm), or not the same (Cast, Pad, Sign), ignore domains, or know
no 1-D convolution that becomes a 2-D one.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax

from bnncc.frontend.converters import arithmetic, binary, images, moving, resize
from bnncc.frontend.node import Node

Converter = Callable[[Node], relax.Expr]

CONVERTERS: dict[tuple[str, str], Converter] = {
    ("bnncc", "Binarize"): binary.binarize,
    ("bnncc", "BinaryConv"): binary.binary_conv,
    ("bnncc", "BinaryGemm"): binary.binary_gemm,
    ("bnncc", "ChannelInteraction"): binary.interaction,
    ("bnncc", "CirculantExpand"): binary.circulant_expand,
    ("", "Conv"): images.conv,
    ("", "BatchNormalization"): images.batch_normalization,
    ("", "PRelu"): images.prelu,
    ("", "MaxPool"): images.max_pool,
    ("", "AveragePool"): images.average_pool,
    ("", "GlobalAveragePool"): images.global_average_pool,
    ("", "GlobalMaxPool"): images.global_max_pool,
    ("", "Gemm"): arithmetic.gemm,
    ("", "Relu"): arithmetic.relu,
    ("", "LeakyRelu"): arithmetic.leaky_relu,
    ("", "Clip"): arithmetic.clip,
    ("", "HardSigmoid"): arithmetic.hard_sigmoid,
    ("", "HardSwish"): arithmetic.hard_swish,
    ("", "Max"): arithmetic.maximum,
    ("", "Min"): arithmetic.minimum,
    ("", "Sum"): arithmetic.total,
    ("", "Mean"): arithmetic.mean,
    ("", "Mod"): arithmetic.mod,
    ("", "Pow"): arithmetic.power,
    ("", "Sign"): arithmetic.sign,
    ("", "Cast"): arithmetic.cast,
    ("", "Identity"): moving.identity,
    ("", "Dropout"): moving.dropout,
    ("", "Constant"): moving.constant,
    ("", "Shape"): moving.shape,
    ("", "Size"): moving.size,
    ("", "Reshape"): moving.reshape,
    ("", "Flatten"): moving.reshape,
    ("", "Squeeze"): moving.reshape,
    ("", "Unsqueeze"): moving.reshape,
    ("", "Expand"): moving.expand,
    ("", "Transpose"): moving.transpose,
    ("", "Concat"): moving.concat,
    ("", "Slice"): moving.cut,
    ("", "Gather"): moving.gather,
    ("", "GatherElements"): moving.gather_elements,
    ("", "GatherND"): moving.gather_nd,
    ("", "OneHot"): moving.one_hot,
    ("", "Pad"): moving.pad,
    ("", "Resize"): resize.resize,
    ("", "Upsample"): resize.resize,
}
