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

Leaves alone: operators it does not know, and elementwise operators none of whose operands is an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax

from bnncc.ops import arguments, spans
from bnncc.passes import dataflow

INWARD, OUTWARD = [0, 2, 3, 1], [0, 3, 1, 2]
UNARY = frozenset(
    {
        "nn.relu",
        "nn.leakyrelu",
        "nn.gelu",
        "nn.silu",
        "bnncc.binarize",
        "sigmoid",
        "tanh",
        "exp",
        "log",
        "sqrt",
        "rsqrt",
    }
    | {"abs", "negative", "floor", "ceil", "round", "sign", "clip", "astype", "erf"}
)
BINARY = frozenset(
    {"add", "subtract", "multiply", "divide", "maximum", "minimum", "power"}
    | {"greater", "greater_equal", "less", "less_equal"}
)
POOLS = {"nn.max_pool2d": relax.op.nn.max_pool2d, "nn.avg_pool2d": relax.op.nn.avg_pool2d}


@relax.transform.function_pass(opt_level=0, name="bnncc.ToNHWC")
class ToNHWC:
    def __init__(self) -> None:
        self.skipped: list[str] = []
        self.rewrites = 0

    def transform_function(self, function: Any, module: Any, context: Any) -> Any:
        walk = _Walk(function)
        result = dataflow.rebuild(function, walk.visit)
        self.rewrites += walk.rewrites
        return result


class _Walk:
    """The state of one walk: for every variable that is an image, its other form."""

    def __init__(self, function: Any) -> None:
        self.rewrites = 0
        # The rank-4 parameters may be images: their new form is made when an operator asks.
        self._images: dict[Any, Any] = {
            p: None for p in function.params if dataflow.has_static_shape(p) and len(dataflow.shape(p)) == 4
        }

    def visit(self, block: dataflow.Block, value: Any) -> Any:
        """The value in the old layout, as `rebuild` wants it; its new form is remembered beside it."""
        if not isinstance(value, relax.Call):
            return None
        plain = self._plain(block, value)
        if plain is not None:
            return plain
        inner = self._inner(block, value)
        if inner is None:
            return None
        self.rewrites += 1
        outer = block.emit(_outward(inner, dataflow.shape(block.typed(value))))
        self._images[outer] = inner
        return outer

    def _plain(self, block: dataflow.Block, call: Any) -> Any:
        """The new form itself, where `call` turns an image into it by hand."""
        if dataflow.name(call) == "permute_dims" and call.args[0] in self._images:
            return self._inward(block, call.args[0]) if [int(a) for a in call.attrs.axes or ()] == INWARD else None
        if dataflow.name(call) == "reshape" and call.args[0] in self._images:
            extents = dataflow.shape(call.args[0])
            is_dense = len(extents) == 2 and arguments.ints(call.args[1]) == (extents[0], 1, 1, extents[1])
            return self._inward(block, call.args[0]) if is_dense else None
        return None

    def _inner(self, block: dataflow.Block, call: Any) -> Any:
        """A variable with the new form of what `call` gives; None where it has none."""
        name = dataflow.name(call)
        if name == "permute_dims":
            return self._permuted(call)
        if name == "reshape":
            return self._reshaped(call)
        if name == "nn.conv2d" and call.attrs.data_layout == "NCHW" and call.attrs.kernel_layout == "OIHW":
            return self._conv2d(block, call)
        if name in POOLS and call.attrs.layout == "NCHW":
            return self._pool(block, call, POOLS[name])
        if name == "nn.prelu" and call.args[0] in self._images and int(call.attrs.axis) == 1:
            x = self._inward(block, call.args[0])
            return block.emit(spans.marked(relax.op.nn.prelu(x, call.args[1], axis=3), call.span))
        if name == "mean" and call.args[0] in self._images:
            return self._mean(block, call)
        if name == "concat":
            return self._concat(block, call)
        if name in UNARY | BINARY:
            return self._elementwise(block, call)
        return None

    def _inward(self, block: dataflow.Block, x: Any) -> Any:
        """The new form of an image; made from the old one the first time."""
        if self._images.get(x) is None:
            extents = dataflow.shape(x)
            if len(extents) == 4:
                self._images[x] = block.emit(relax.op.permute_dims(x, INWARD))
            else:
                image = (*extents, 1, 1) if len(extents) == 2 else (extents[0], extents[1], 1, extents[2])
                permuted = (image[0], image[2], image[3], image[1])
                if len(extents) == 2:
                    self._images[x] = block.emit(relax.op.reshape(x, permuted))
                else:
                    raised = block.emit(relax.op.reshape(x, image))
                    self._images[x] = block.emit(relax.op.permute_dims(raised, INWARD))
        return self._images[x]

    def _permuted(self, call: Any) -> Any:
        axes = [int(axis) for axis in call.attrs.axes or ()]
        return call.args[0] if axes == OUTWARD and call.args[0] not in self._images else None

    def _reshaped(self, call: Any) -> Any:
        x, target = call.args[0], arguments.ints(call.args[1])
        source = dataflow.shape(x)
        if x in self._images and self._images[x] is not None:
            same = _image(source) == _image(target) is not None
            return self._images[x] if same else None
        is_dense = len(source) == 4 and source[1:3] == (1, 1) and x not in self._images
        return x if is_dense and target == (source[0], source[3]) else None

    def _conv2d(self, block: dataflow.Block, call: Any) -> Any:
        x, w, attrs = self._inward(block, call.args[0]), call.args[1], call.attrs
        if dataflow.is_constant(w):
            kernel = relax.const(np.ascontiguousarray(arguments.array(w).transpose(2, 3, 1, 0)))
        else:
            kernel = block.emit(relax.op.permute_dims(w, [2, 3, 1, 0]))
        conv = relax.op.nn.conv2d(
            x,
            kernel,
            strides=attrs.strides,
            padding=attrs.padding,
            dilation=attrs.dilation,
            groups=attrs.groups,
            data_layout="NHWC",
            kernel_layout="HWIO",
        )
        return block.emit(spans.marked(conv, call.span))

    def _pool(self, block: dataflow.Block, call: Any, op: Any) -> Any:
        attrs = call.attrs
        pool = op(
            self._inward(block, call.args[0]),
            pool_size=attrs.pool_size,
            strides=attrs.strides,
            padding=attrs.padding,
            dilation=attrs.dilation,
            ceil_mode=attrs.ceil_mode,
            count_include_pad=attrs.count_include_pad,
            layout="NHWC",
        )
        return block.emit(spans.marked(pool, call.span))

    def _mean(self, block: dataflow.Block, call: Any) -> Any:
        """Over height and width. Without keepdims the result [N, C] is an image of one pixel as well."""
        rank = len(dataflow.shape(call.args[0]))
        if rank != 4 or sorted(int(axis) % rank for axis in call.attrs.axis or ()) != [2, 3]:
            return None
        x = self._inward(block, call.args[0])
        return block.emit(spans.marked(relax.op.mean(x, axis=[1, 2], keepdims=True), call.span))

    def _concat(self, block: dataflow.Block, call: Any) -> Any:
        fields = list(call.args[0].fields) if isinstance(call.args[0], relax.Tuple) else []
        axis = call.attrs.axis
        if axis is None or not any(self._known(field) for field in fields):
            return None
        if any(len(dataflow.shape(field)) != 4 or not isinstance(field, relax.Var) for field in fields):
            return None
        inner = relax.op.concat([self._inward(block, field) for field in fields], axis=INWARD.index(int(axis) % 4))
        return block.emit(spans.marked(inner, call.span))

    def _known(self, x: Any) -> bool:
        return isinstance(x, relax.Var) and x in self._images

    def _elementwise(self, block: dataflow.Block, call: Any) -> Any:
        """Follows when an operand is an image of the result's shape and the others can be turned."""
        operands = call.args if dataflow.name(call) in BINARY else call.args[:1]
        extents = dataflow.shape(block.typed(call))
        if not any(self._known(x) and dataflow.shape(x) == extents for x in operands):
            return None
        turned = []
        for x in operands:
            if dataflow.is_constant(x):
                turned.append(_turned_constant(x, len(extents)))
            elif isinstance(x, relax.Var) and len(dataflow.shape(x)) == len(extents):
                turned.append(self._inward(block, x))
            else:
                return None
        rest = list(call.args[len(operands) :])
        return block.emit(relax.Call(call.op, turned + rest, call.attrs, call.ty_args, call.span))


def _image(extents: tuple[int, ...]) -> tuple[int, ...] | None:
    """[N, C, H, W] for the shapes that are one image written differently."""
    if len(extents) == 4:
        return extents
    if len(extents) == 3:
        return (extents[0], extents[1], 1, extents[2])
    return (*extents, 1, 1) if len(extents) == 2 else None


def _outward(inner: Any, extents: tuple[int, ...]) -> Any:
    """From the new form to the old: a permutation, or a reshape where nothing moves."""
    _, height, width, channels = dataflow.shape(inner)
    if len(extents) == 4:
        return relax.op.permute_dims(inner, OUTWARD)
    if height * width == 1 or channels == 1:
        return relax.op.reshape(inner, extents)
    return relax.op.reshape(relax.op.permute_dims(inner, OUTWARD), extents)


def _turned_constant(constant: Any, rank: int) -> Any:
    """A constant that broadcasts over [N, C, ...], as one that broadcasts over [N, H, W, C]; a scalar stays one."""
    array = arguments.array(constant)
    if array.size == 1:
        return relax.const(array.reshape(()), str(array.dtype))
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    image = _image(array.shape)
    assert image is not None
    return relax.const(np.ascontiguousarray(array.reshape(image).transpose(INWARD)), str(array.dtype))
