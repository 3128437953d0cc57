"""Folded torch.export program -> ONNX nodes: torch's own exporter, with our operators over packed weights.

binary_conv(x, +-s)  ->  BinaryConv(x, bits)            where every s is 1
                         Mul(BinaryConv(x, bits), s)    else

Bits of circulant weights are CirculantExpand(bits of the base filters).
"""

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.export import ExportedProgram

from bnncc import bitpack
from bnncc.frontend.capture import first_line, plain_path
from bnncc.ops import (
    ONNX_DOMAIN,
    ONNX_VERSION,
    binarize,
    binary_conv,
    binary_gemm,
    channel_interaction,
    circulant_expand,
)
from bnncc.ops.onnx import LAYERS
from bnncc.runtime.errors import ModelError

if TYPE_CHECKING:
    import onnx
    import onnx_ir
    from torch.onnx import ONNXProgram

OPSET = 18
_SCOPES = "pkg.torch.onnx.name_scopes"


def translate(program: ExportedProgram, name: str) -> tuple["onnx.ModelProto", ExportedProgram]:
    """The ONNX model, and the program as torch's exporter decomposed it: a value has the name of its node there.

    `name` is what errors call the whole module by. ModelError: an operator torch cannot export, a weight that is not
    +-s per output channel or comes from the input.
    """
    try:
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
            custom_translation_table=_translations(),
        )
    except torch.onnx.OnnxExporterError as error:
        raise ModelError(
            f"{name}: torch cannot export it: {first_line(error.__cause__ or error)} "
            f"Write forward with operators that torch.onnx.export(dynamo=True) knows."
        ) from error
    assert exported is not None
    _pack(exported, name)
    assert exported.exported_program is not None
    return exported.model_proto, exported.exported_program


def module_path(properties: Mapping[str, str]) -> str:
    """The path of the module an ONNX node comes from; the exporter notes the nesting and, last, the operator."""
    scopes = ast.literal_eval(properties.get(_SCOPES, "[]"))
    return plain_path(str(scopes[-2])) if len(scopes) > 1 else ""


def _translations() -> dict[Any, Callable[..., Any]]:
    from onnxscript import opset18
    from onnxscript.values import Op, Opset

    domain = Opset(ONNX_DOMAIN, ONNX_VERSION)

    def node(operator: ModuleType, *inputs: Any, **attributes: Any) -> Any:
        return Op(domain, operator.NAME, _signature(operator))(*inputs, **attributes)

    def reshaped(x: Any, shape: Sequence[int]) -> Any:
        return opset18.Reshape(x, opset18.Constant(value_ints=list(shape)))

    def to_binarize(x: Any, unipolar: bool, threshold: float) -> Any:
        # Every attribute is written: what inlines the functions of a file forgets their defaults.
        attributes = {"unipolar": int(unipolar), "threshold": threshold if unipolar else 0.0}
        return node(binarize, x, **attributes)

    def to_conv(
        x: Any,
        weight: Any,
        stride: Sequence[int],
        pads: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        pad_value: float,
    ) -> Any:
        kernel = [int(n) for n in weight.shape[2:]]
        given = [int(n) for n in x.shape]
        batched = len(given) == len(kernel) + 2
        y = node(
            binary_conv,
            x if batched else reshaped(x, [1, *given]),
            weight,
            channels=int(weight.shape[1]),
            kernel_shape=kernel,
            strides=list(stride),
            pads=list(pads),
            dilations=list(dilation),
            group=groups,
            pad_value=pad_value,
        )
        size = binary_conv.output_shape(given[-len(kernel) :], kernel, stride, pads, dilation)
        return y if batched else reshaped(y, [int(weight.shape[0]), *size])

    def to_gemm(x: Any, weight: Any) -> Any:
        filters, channels = (int(n) for n in weight.shape)
        lead = [int(n) for n in x.shape][:-1]
        rows = x if len(lead) == 1 else reshaped(x, [-1, channels])
        y = node(binary_gemm, rows, weight, channels=channels)
        return y if len(lead) == 1 else reshaped(y, [*lead, filters])

    def to_interaction(acc: Any, up: Any, down: Any, spatial: int) -> Any:
        given = [int(n) for n in acc.shape]
        lead = given[: len(given) - 1 - spatial]
        whole = acc if len(lead) == 1 else reshaped(acc, [math.prod(lead), *given[len(lead) :]])
        y = node(channel_interaction, whole, up, down)
        return y if len(lead) == 1 else reshaped(y, given)

    def to_circulant(weight: Any, orientations: int, mixing: str) -> Any:
        channels = int(weight.shape[1]) // circulant_expand.slices(orientations, mixing)
        return node(circulant_expand, weight, channels=channels, orientations=orientations, mixing=mixing)

    operators = torch.ops.bnncc
    return {
        operators.binarize.default: to_binarize,
        operators.binary_conv.default: to_conv,
        operators.binary_gemm.default: to_gemm,
        operators.channel_interaction.default: to_interaction,
        operators.circulant_expand.default: to_circulant,
    }


def _signature(operator: ModuleType) -> "onnx.defs.OpSchema":
    """Our operator's schema without defaults, which onnxscript would write into each node."""
    from onnx.defs import OpSchema

    full = operator.schema()
    attributes = [
        OpSchema.Attribute(name, attribute.type, required=False) for name, attribute in full.attributes.items()
    ]
    return OpSchema(
        full.name, full.domain, full.since_version, inputs=full.inputs, outputs=full.outputs, attributes=attributes
    )


def _pack(exported: "ONNXProgram", name: str) -> None:
    """Every weight of a binary layer becomes bits; one that two layers read is packed once. Tables stay as they are."""
    graph = exported.model.graph
    done: dict[onnx_ir.Value, tuple[onnx_ir.Value, onnx_ir.Value | None]] = {}
    for node in list(graph):
        if node.domain != ONNX_DOMAIN or node.op_type == circulant_expand.NAME:
            continue
        where = module_path(node.metadata_props) or name
        bases = [_base(weight) for weight in node.inputs[1:]]
        if any(base is None or base.const_value is None for base in bases):
            raise ModelError(
                f"{where}: its weight is computed from the network's input; allowed are weights that are the "
                f"same for every input. Compute them from parameters alone."
            )
        if node.op_type not in LAYERS:
            continue
        weight, base = node.inputs[1], bases[0]
        assert weight is not None
        assert base is not None
        if weight not in done:
            if base not in done:
                done[base] = _bits_and_scale(base, where, graph)
            if (circulant := _circulant(weight)) is not None:
                done[weight] = _expanded(circulant, *done[base], graph)
        bits, scale = done[weight]
        node.replace_input_with(1, bits)
        if scale is not None:
            _scale(node, scale)
    for weight in done:
        if (circulant := _circulant(weight)) is not None and not weight.uses():
            graph.remove(circulant, safe=True)
    for weight in done:
        if weight.name and not weight.uses():
            graph.initializers.pop(weight.name, None)


def _circulant(weight: "onnx_ir.Value") -> "onnx_ir.Node | None":
    """The CirculantExpand that gives a weight."""
    node = weight.producer()
    is_circulant = node is not None and (node.domain, node.op_type) == (ONNX_DOMAIN, circulant_expand.NAME)
    return node if is_circulant else None


def _base(weight: "onnx_ir.Value | None") -> "onnx_ir.Value | None":
    """What the file stores of a weight: itself, or the base filters of a circulant one."""
    circulant = None if weight is None else _circulant(weight)
    return weight if circulant is None else circulant.inputs[0]


def _expanded(
    circulant: "onnx_ir.Node", bits: "onnx_ir.Value", scale: "onnx_ir.Value | None", graph: "onnx_ir.Graph"
) -> tuple["onnx_ir.Value", "onnx_ir.Value | None"]:
    """The same node on bits, and the scale of every orientation."""
    import onnx_ir

    packed = onnx_ir.Value(name=f"{circulant.outputs[0].name}.bits", type=onnx_ir.TensorType(onnx_ir.DataType.UINT8))
    node = onnx_ir.Node(
        circulant.domain,
        circulant.op_type,
        [bits],
        attributes=tuple(circulant.attributes.values()),
        outputs=[packed],
        metadata_props=dict(circulant.metadata_props),
    )
    graph.insert_after(circulant, node)
    if scale is None:
        return packed, None
    assert scale.const_value is not None
    values = scale.const_value.numpy()
    orientations = circulant.attributes["orientations"].as_int()
    return packed, _constant(graph, f"{packed.name}.scale", np.concatenate([values] * orientations))


def _constant(graph: "onnx_ir.Graph", name: str, values: npt.NDArray[Any]) -> "onnx_ir.Value":
    """An initializer."""
    import onnx_ir

    tensor = onnx_ir.tensor(np.ascontiguousarray(values), name=name)
    value = onnx_ir.Value(name=tensor.name, shape=onnx_ir.Shape(values.shape), type=onnx_ir.TensorType(tensor.dtype))
    value.const_value = tensor
    graph.register_initializer(value)
    return value


def _bits_and_scale(
    weight: "onnx_ir.Value", where: str, graph: "onnx_ir.Graph"
) -> tuple["onnx_ir.Value", "onnx_ir.Value | None"]:
    assert weight.const_value is not None
    quantized = weight.const_value.numpy()
    positive, scale = signs_and_scale(quantized, where)
    if quantized.ndim > 2:
        positive = np.moveaxis(positive.reshape(*quantized.shape[:2], -1), 1, 2)  # [O, T, C / groups]

    bits = _constant(graph, f"{weight.name}.bits", bitpack.pack(positive))
    if (scale == 1).all():
        return bits, None
    return bits, _constant(graph, f"{weight.name}.scale", scale.reshape(-1, *[1] * (quantized.ndim - 2)))


def _scale(node: "onnx_ir.Node", scale: "onnx_ir.Value") -> None:
    """The product takes the layer's place; the sum of integers gets a name of its own."""
    import onnx_ir

    (sums,) = node.outputs
    product = onnx_ir.Value(name=sums.name, shape=sums.shape, type=sums.type)
    multiply = onnx_ir.Node("", "Mul", [sums, scale], outputs=[product], metadata_props=dict(node.metadata_props))
    onnx_ir.convenience.replace_all_uses_with(sums, product, replace_graph_outputs=True)
    multiply.replace_input_with(0, sums)
    sums.name = f"{sums.name}.sums"
    assert node.graph is not None
    node.graph.insert_after(node, multiply)


def signs_and_scale(
    weight: npt.NDArray[np.float32], where: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """Quantized weight [O, ...] -> where it is positive, same shape, and s [O] with weight = +-s."""
    magnitude = np.abs(weight).reshape(len(weight), -1)
    scale = magnitude[:, 0]
    differs = np.argwhere((magnitude != scale[:, None]) | ~np.isfinite(magnitude))
    if len(differs):
        channel, index = differs[0]
        raise ModelError(
            f"{where}: weight_quantizer gives {weight.reshape(len(weight), -1)[channel, index]} in output channel "
            f"{channel}; allowed are +{scale[channel]} and -{scale[channel]} there, one magnitude per output channel. "
            f"Return a scale times bnncc.nn.Sign."
        )
    return weight > 0, scale.copy()
