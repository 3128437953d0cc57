"""Relax modules in tests: parse text, build one call, run through TVM's own lowering, read a pass's docstring."""

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from bnncc.ops.relax import register
from bnncc.options import KEEP, FloatConvs
from bnncc.passes import Outcome, Pass, pipeline, steps
from bnncc.targets import find
from bnncc.verify.stages import evaluate

__all__ = ["build", "docstring_example", "evaluate", "parse", "random_inputs", "run", "transform", "whole"]

Array = np.ndarray[Any, Any]


def parse(text: str) -> tvm.IRModule:
    """The module of one or more `@R.function`, written as TVMScript prints them but without a class around them."""
    register()
    return tvm.script.from_source("@I.ir_module\nclass Module:\n" + textwrap.indent(textwrap.dedent(text), "    "))


def build(call: Callable[..., Any], inputs: Sequence[Array]) -> tvm.IRModule:
    """A module whose `main` returns `call` of parameters shaped like the inputs."""
    register()
    builder = relax.BlockBuilder()
    parameters = [relax.Var(f"in{i}", relax.TensorType(a.shape, str(a.dtype))) for i, a in enumerate(inputs)]
    with builder.function("main", parameters):
        with builder.dataflow():
            result = builder.emit_output(call(*parameters))
        builder.emit_func_output(result)
    return builder.get()


def run(module: tvm.IRModule, *passes: Pass) -> list[Outcome]:
    """What each of these passes did, one after the other. After each the module must be well formed for TVM."""
    outcomes = []
    for each in passes:
        outcome = each(module)
        module = outcome.module
        relax.analysis.well_formed(module)  # raises where it is not
        outcomes.append(outcome)
    return outcomes


def transform(module: tvm.IRModule, *passes: Pass) -> tvm.IRModule:
    """The module after these passes."""
    return run(module, *passes)[-1].module


def whole(target: str, float_convs: FloatConvs = KEEP) -> list[Pass]:
    """Every pass of the pipeline for a target."""
    return [step.run for step in steps(pipeline(find(target), float_convs))]


def docstring_example(module: Any) -> tuple[tvm.IRModule, tvm.IRModule]:
    """The modules under `Before::` and `After::` in a pass's docstring."""
    text = module.__doc__
    before, _, after = text.partition("Before::")[2].partition("After::")
    return parse(before), parse(after.partition("Refuses:")[0])


def random_inputs(module: tvm.IRModule, rng: np.random.Generator) -> list[Array]:
    """Arguments for `main`: whole numbers from -8 to 8, which sums and products keep exact, and any bytes."""
    arrays = []
    for parameter in module["main"].params:
        shape, dtype = [int(e) for e in parameter.ty.shape.values], str(parameter.ty.dtype)
        low, high = (0, 256) if dtype == "uint8" else (-8, 9)
        arrays.append(rng.integers(low, high, shape).astype(dtype))
    return arrays
