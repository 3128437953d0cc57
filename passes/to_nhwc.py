"""Images with channels innermost: [N, C, H, W] becomes [N, H, W, C], where packed channels and vector lanes want them.

One walk. A tensor that came out of an image operator is known in its new form, and elementwise operators follow their
operands into it; whatever else reads it gets it permuted back, so the network's inputs and outputs keep ONNX's layout.
Also follow: [N, C, 1, L] squeezed to [N, C, L] and [N, C, 1, 1] to [N, C], so that 1-D and dense binary layers are
images of height 1 all the way. Weights of conv2d become HWIO.

Before::

    @R.function
    def main(x: R.Tensor((1, 3, 4, 4), "float32")):
        with R.dataflow():
            y = R.nn.max_pool2d(x, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0], layout="NCHW")
            z = R.nn.relu(y)
            w = R.mean(z, axis=[2, 3], keepdims=True)
            v = R.reshape(w, R.shape([1, 3]))
            R.output(v)
        return v

After::

    @R.function
    def main(x: R.Tensor((1, 3, 4, 4), "float32")):
        with R.dataflow():
            p = R.permute_dims(x, axes=[0, 2, 3, 1])
            y = R.nn.max_pool2d(p, pool_size=[2, 2], strides=[2, 2], padding=[0, 0, 0, 0], layout="NHWC")
            z = R.nn.relu(y)
            w = R.mean(z, axis=[1, 2], keepdims=True)
            v = R.reshape(w, R.shape([1, 3]))
            R.output(v)
        return v

Refuses: operators it does not know, and elementwise operators none of whose operands is an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import tvm
from tvm import relax

from bnncc.ops import elementwise, spans
from bnncc.ops.elementwise import Operation
from bnncc.ops.expressions import array, extents, is_constant
from bnncc.ops.standard import (
    TO_NCHW,
    TO_NHWC,
    AvgPool2d,
    Concat,
    Conv2d,
    MaxPool2d,
    Mean,
    PermuteDims,
    Pool2d,
    PRelu,
    Reshape,
)
from bnncc.passes import dataflow
from bnncc.passes.contract import Outcome


class ToNHWC:
    name: ClassVar[str] = "bnncc.ToNHWC"

    def __call__(self, module: tvm.IRModule) -> Outcome:
        return dataflow.rewrite(module, _Walk(module["main"]).visit)


class _Walk:
    """The state of one walk: for every variable that is an image, its other form."""

    def __init__(self, function: relax.Function) -> None:
        # The rank-4 parameters may be images: their new form is made when an operator asks.
        self._images: dict[relax.Var, relax.Expr | None] = {
            p: None for p in function.params if dataflow.has_static_shape(p) and len(extents(p)) == 4
        }

    def visit(self, block: dataflow.Block, value: relax.Expr) -> relax.Expr | None:
        """The value in the old layout, as `rewrite` wants it; its new form is remembered beside it."""
        if not isinstance(value, relax.Call):
            return None
        plain = self._plain(block, value)
        if plain is not None:
            return plain
        inner = self._inner(block, value)
        if inner is None:
            return None
        block.rewrites += 1
        outer = block.emit(_outward(inner, extents(block.typed(value))))
        self._images[outer] = inner
        return outer

    def _plain(self, block: dataflow.Block, value: relax.Call) -> relax.Expr | None:
        """The new form itself, where `value` turns an image into it by hand."""
        if (permuted := PermuteDims.match(value)) and permuted.x in self._images:
            return self._inward(block, permuted.x) if permuted.axes == TO_NHWC else None
        if (reshaped := Reshape.match(value)) and reshaped.x in self._images:
            source = extents(reshaped.x)
            is_dense = len(source) == 2 and reshaped.shape == (source[0], 1, 1, source[1])
            return self._inward(block, reshaped.x) if is_dense else None
        return None

    def _inner(self, block: dataflow.Block, value: relax.Call) -> relax.Expr | None:
        """A variable with the new form of what `value` gives; None where it has none."""
        if permuted := PermuteDims.match(value):
            return permuted.x if permuted.axes == TO_NCHW and permuted.x not in self._images else None
        if reshaped := Reshape.match(value):
            return self._reshaped(reshaped)
        if conv := Conv2d.match(value):
            return self._conv2d(block, conv) if (conv.data_layout, conv.kernel_layout) == ("NCHW", "OIHW") else None
        if pool := MaxPool2d.match(value):
            return self._pool(block, pool, relax.op.nn.max_pool2d)
        if average := AvgPool2d.match(value):
            return self._pool(block, average, relax.op.nn.avg_pool2d)
        if mean := Mean.match(value):
            return self._mean(block, mean)
        if concat := Concat.match(value):
            return self._concat(block, concat)
        if prelu := PRelu.match(value):
            return self._prelu(block, prelu)
        operation = elementwise.find(value)
        return None if operation is None else self._elementwise(block, value, operation)

    def _inward(self, block: dataflow.Block, x: relax.Expr) -> relax.Expr:
        """The new form of an image; made from the old one the first time."""
        made = self._images.get(x)
        if made is None:
            made = self._images[x] = self._made(block, x)
        return made

    def _made(self, block: dataflow.Block, x: relax.Expr) -> relax.Expr:
        source = extents(x)
        if len(source) == 4:
            return block.emit(relax.op.permute_dims(x, TO_NHWC))
        if len(source) == 2:
            return block.emit(relax.op.reshape(x, (source[0], 1, 1, source[1])))
        raised = block.emit(relax.op.reshape(x, (source[0], source[1], 1, source[2])))
        return block.emit(relax.op.permute_dims(raised, TO_NHWC))

    def _reshaped(self, reshape: Reshape) -> relax.Expr | None:
        source, inner = extents(reshape.x), self._images.get(reshape.x)
        if inner is not None:
            return inner if _image(source) == _image(reshape.shape) is not None else None
        is_dense = len(source) == 4 and source[1:3] == (1, 1) and reshape.x not in self._images
        return reshape.x if is_dense and reshape.shape == (source[0], source[3]) else None

    def _conv2d(self, block: dataflow.Block, conv: Conv2d) -> relax.Expr:
        x, w, window = self._inward(block, conv.x), conv.weights, conv.window
        if is_constant(w):
            kernel = relax.const(np.ascontiguousarray(array(w).transpose(2, 3, 1, 0)))
        else:
            kernel = block.emit(relax.op.permute_dims(w, [2, 3, 1, 0]))
        made = relax.op.nn.conv2d(
            x,
            kernel,
            strides=window.strides,
            padding=window.pads,
            dilation=window.dilations,
            groups=conv.groups,
            data_layout="NHWC",
            kernel_layout="HWIO",
        )
        return block.emit(spans.marked(made, conv.call.span))

    def _pool(self, block: dataflow.Block, pool: Pool2d, op: Callable[..., relax.Call]) -> relax.Expr | None:
        if pool.layout != "NCHW":
            return None
        made = op(
            self._inward(block, pool.x),
            pool_size=pool.window.kernel,
            strides=pool.window.strides,
            padding=pool.window.pads,
            dilation=pool.window.dilations,
            ceil_mode=pool.ceil_mode,
            count_include_pad=pool.count_include_pad,
            layout="NHWC",
        )
        return block.emit(spans.marked(made, pool.call.span))

    def _mean(self, block: dataflow.Block, mean: Mean) -> relax.Expr | None:
        """Over height and width. Without keepdims the result [N, C] is an image of one pixel as well."""
        if mean.x not in self._images or len(extents(mean.x)) != 4:
            return None
        if sorted(axis % 4 for axis in mean.axes) != [2, 3]:
            return None
        made = relax.op.mean(self._inward(block, mean.x), axis=[1, 2], keepdims=True)
        return block.emit(spans.marked(made, mean.call.span))

    def _concat(self, block: dataflow.Block, concat: Concat) -> relax.Expr | None:
        if concat.axis is None or not any(self._known(field) for field in concat.fields):
            return None
        if any(len(extents(field)) != 4 or not isinstance(field, relax.Var) for field in concat.fields):
            return None
        images = [self._inward(block, field) for field in concat.fields]
        made = relax.op.concat(images, axis=TO_NHWC.index(concat.axis % 4))
        return block.emit(spans.marked(made, concat.call.span))

    def _prelu(self, block: dataflow.Block, prelu: PRelu) -> relax.Expr | None:
        if prelu.x not in self._images or prelu.axis != 1:
            return None
        made = relax.op.nn.prelu(self._inward(block, prelu.x), prelu.slope, axis=3)
        return block.emit(spans.marked(made, prelu.call.span))

    def _known(self, x: relax.Expr) -> bool:
        return isinstance(x, relax.Var) and x in self._images

    def _elementwise(self, block: dataflow.Block, call: relax.Call, operation: Operation) -> relax.Expr | None:
        """Follows when an operand is an image of the result's shape and the others can be turned."""
        tensors: Sequence[relax.Expr] = call.args if operation.others == "tensors" else call.args[:1]
        result = extents(block.typed(call))
        if not any(self._known(x) and extents(x) == result for x in tensors):
            return None
        turned = []
        for x in tensors:
            if is_constant(x):
                turned.append(_turned_constant(x, len(result)))
            elif isinstance(x, relax.Var) and len(extents(x)) == len(result):
                turned.append(self._inward(block, x))
            else:
                return None
        rest = list(call.args[len(tensors) :])
        return block.emit(relax.Call(call.op, turned + rest, call.attrs, call.ty_args, call.span))


def _image(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """[N, C, H, W] for the shapes that are one image written differently."""
    if len(shape) == 4:
        return shape
    if len(shape) == 3:
        return (shape[0], shape[1], 1, shape[2])
    return (*shape, 1, 1) if len(shape) == 2 else None


def _outward(inner: relax.Expr, result: tuple[int, ...]) -> relax.Expr:
    """From the new form to the old: a permutation, or a reshape where nothing moves."""
    _, height, width, channels = extents(inner)
    if len(result) == 4:
        return relax.op.permute_dims(inner, TO_NCHW)
    if height * width == 1 or channels == 1:
        return relax.op.reshape(inner, result)
    return relax.op.reshape(relax.op.permute_dims(inner, TO_NCHW), result)


def _turned_constant(constant: relax.Expr, rank: int) -> relax.Expr:
    """A constant that broadcasts over [N, C, ...], as one that broadcasts over [N, H, W, C]; a scalar stays one."""
    values = array(constant)
    if values.size == 1:
        return relax.const(values.reshape(()), str(values.dtype))
    values = values.reshape((1,) * (rank - values.ndim) + values.shape)
    image = _image(values.shape)
    assert image is not None
    return relax.const(np.ascontiguousarray(values.reshape(image).transpose(TO_NHWC)), str(values.dtype))
