"""Epilogues to put behind every kernel, and what they mean in numpy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from bnncc import bitpack
from bnncc.ops.elementwise import OPERATIONS
from bnncc.tir import epilogue as ep

Array = npt.NDArray[Any]


def value(i: int) -> ep.Operand:
    return ep.Operand("value", i)


def param(i: int) -> ep.Operand:
    return ep.Operand("param", i)


def scalar(x: float) -> ep.Operand:
    return ep.Operand("scalar", scalar=x)


@dataclass(frozen=True)
class Case:
    """An epilogue with values for its parameters, and the outputs [N, H, W, C...] it should write."""

    epilogue: ep.Epilogue
    params: tuple[Array, ...]

    def expected(self, accumulator: Array) -> tuple[Array, ...]:
        """The outputs for an accumulator [N, H, W, C] of float32 or int32."""
        values: list[Array] = [accumulator]
        for step in self.epilogue.steps:
            values.append(self._step(step, values))
        outputs = []
        for output in self.epilogue.outputs:
            result = values[output.value]
            outputs.append(result if output.bits is None else pack(result, output.bits))
        return tuple(outputs)

    def _step(self, step: ep.Step, values: list[Array]) -> Array:
        def operand(source: ep.Operand) -> Array:
            if source.kind == "value":
                return values[source.index]
            return self.params[source.index] if source.kind == "param" else np.asarray(source.scalar, np.float32)

        a, *rest = [operand(source) for source in step.operands]
        match step.op:
            case "pack" | "at_least":
                return a >= rest[0]
            case "threshold":
                return (rest[0] <= a) & (a <= rest[1])
        meaning = OPERATIONS[step.op].meaning
        assert meaning is not None
        return meaning(a, *rest)


def pack(bits: Array, layout: ep.BitLayout) -> Array:
    """bool [N, H, W, C] -> uint8 in `layout`, borders included."""
    n, rows, width, channels = bits.shape
    top, left, bottom, right = layout.pads
    padded = np.full((n, top + rows + bottom, left + width + right, channels), bool(layout.pad_bit))
    padded[:, top : top + rows, left : left + width] = bits
    grouped = padded.reshape(*padded.shape[:3], layout.groups, channels // layout.groups)
    packed = bitpack.pack(grouped, 1)
    packed = np.pad(packed, [(0, 0)] * 4 + [(0, layout.group_bytes - packed.shape[-1])])
    return packed.reshape(*padded.shape[:3], -1)


def layouts(channels: int, groups: int = 1) -> st.SearchStrategy[ep.BitLayout]:
    """Bit layouts that a kernel whose channels lie in `groups` groups can write."""
    pads = st.tuples(*[st.integers(0, 2)] * 4)
    possible = [g for g in (1, 2, 4) if channels % g == 0 and ep.can_pack(ep.BitLayout(channels, g, 0), groups)]
    build = st.builds(
        lambda g, word, pads, bit: ep.BitLayout(channels, g, bitpack.packed_bytes(channels // g, word), pads, bit),
        st.sampled_from(possible),
        st.sampled_from([1, 4, 8]),
        pads,
        st.integers(0, 1),
    )
    return build if possible else st.nothing()


@st.composite
def cases(draw: st.DrawFn, geometry: ep.Geometry, dtype: str = "float32", groups: int = 1) -> Case:
    """An epilogue for an accumulator of `dtype`: nothing; batch norm and ReLU; the whole of a residual block with two
    outputs; integer thresholds."""
    out, tensor = geometry, (geometry.batch, geometry.rows, geometry.width, geometry.channels)
    random = np.random.default_rng(draw(st.integers(0, 99)))
    packs = ep.can_pack(ep.BitLayout(out.channels, 1, 0), groups)
    kinds = ["plain", "affine"] + (["residual", "bits"] if packs else [])
    kind = draw(st.sampled_from(kinds))
    floats = [random.standard_normal(out.channels).astype(np.float32) for _ in range(3)]
    if kind == "plain":
        return Case(ep.Epilogue(outputs=(ep.Output(0, dtype),)), ())
    # Integers start with a conversion, so that the values after it have the same numbers as those of floats + 1.
    first = (ep.Step("astype", (value(0),)),) if dtype == "int32" else (ep.Step("add", (value(0), scalar(0.5))),)
    channel = ep.Param("channel", "float32")
    steps: tuple[ep.Step, ...]
    if kind == "affine":
        steps = (
            *first,
            ep.Step("multiply", (value(1), param(0))),
            ep.Step("add", (value(2), param(1))),
            ep.Step("relu", (value(3),)),
            ep.Step("clip", (value(4), scalar(0.0), scalar(6.0))),
        )
        return Case(ep.Epilogue((channel, channel), steps, (ep.Output(5, "float32"),)), tuple(floats[:2]))
    bits = draw(layouts(out.channels, groups))
    if kind == "residual":
        steps = (
            *first,
            ep.Step("multiply", (value(1), param(0))),
            ep.Step("add", (value(2), param(1))),
            ep.Step("prelu", (value(3), param(2))),
            ep.Step("pack", (value(4), scalar(0.25))),
        )
        params = (channel, ep.Param("tensor", "float32"), channel)
        outputs = (ep.Output(4, "float32"), ep.Output(5, "uint8", bits))
        residual = random.standard_normal(tensor).astype(np.float32)
        return Case(ep.Epilogue(params, steps, outputs), (floats[0], residual, floats[2]))
    if dtype == "float32":
        steps = (ep.Step("pack", (value(0), param(0))),)
        return Case(ep.Epilogue((channel,), steps, (ep.Output(1, "uint8", bits),)), (floats[0],))
    lo = random.integers(-20, 20, out.channels).astype(np.int32)
    hi = random.integers(-5, 30, out.channels).astype(np.int32)
    steps = (ep.Step("threshold", (value(0), param(0), param(1))),)
    integer = ep.Param("channel", "int32")
    return Case(ep.Epilogue((integer, integer), steps, (ep.Output(1, "uint8", bits),)), (lo, hi))
