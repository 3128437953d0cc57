"""Torch module -> ONNX file with operators of the domain `bnncc`.

Torch records the module itself (bnncc/frontend/capture.py): its hooks, subclasses and attributes count, and binary
layers stay single nodes wherever they are called from, because they run on operators of that domain
(bnncc/nn/operators.py). What parameters alone decide is computed by torch (fold.py); weights are stored one bit each
(translate.py). Each operator used is also written into the file as a function in standard ONNX, so stock onnxruntime
runs it. BatchNorm after a binary layer stays a node; a layer's scale and bias become Mul and Add. Nodes and values are
named after the module they come from (naming.py). At last the file is compared with the module (selfcheck.py).
"""

import logging
import os
import time

import onnx
from onnx import checker, helper, inliner
from torch import nn
from torch.export import ExportedProgram

from bnncc import __version__
from bnncc.frontend import naming
from bnncc.frontend.binarised import state_binarised
from bnncc.frontend.capture import Example, capture, first_line
from bnncc.frontend.fold import fold
from bnncc.frontend.selfcheck import compare
from bnncc.frontend.translate import OPSET, translate
from bnncc.ops import ONNX_DOMAIN, ONNX_VERSION
from bnncc.ops.onnx import LAYERS, OPERATORS
from bnncc.runtime import atomic
from bnncc.runtime.errors import ModelError

_LOGGER = logging.getLogger(__name__)


def export(
    module: nn.Module | ExportedProgram, example: Example, path: str | os.PathLike[str], *, check: bool = True
) -> None:
    """Write `module`, in eval mode, to the ONNX file `path`, whose shapes (batch too) are those of `example`.

    module    also inside DistributedDataParallel, DataParallel or torch.compile, or an ExportedProgram; it is left as
              it is. Do not use it in another thread meanwhile.
    example   a tensor, or a tuple with one entry for each argument of forward: a tensor, or a nest of tuples, lists
              and dicts of tensors
    check     compare the file with the module's own forward on the example and on random inputs like it: torch with
              torch by ==, the file layer by layer, in onnxruntime or, where that is missing, in onnx's reference

    A single input is called "input", several take the names of forward's parameters or their keys. A single output is
    called "output", several "output_0", "output_1", ..., those of a dict their keys. One INFO line of the logger
    `bnncc.frontend.export` tells the number of binary layers and the seconds, in all and for the check.

    ModelError names the layer: a weight that is not +-s per output channel, a value that is not finite or not
    float32, a binary layer whose input is not binarised, an operator torch cannot export, a result that differs from
    the module's. InputError: an example that is not made of tensors. OptionError: `path` cannot be written. The file
    appears whole or not at all.
    """
    start = time.perf_counter()
    with capture(module, example) as captured:
        name = type(captured.module).__name__
        program, parameters = fold(captured.program)
        model, decomposed = translate(program, name)
        if model.functions:  # of the exporter's own
            model = inliner.inline_local_functions(model)
        state_binarised(model, name)
        origins = naming.name(model, captured.module, captured.inputs, captured.outputs, parameters)
        _attach_functions(model)
        try:
            checker.check_model(model, full_check=True)
        except (checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ModelError(f"{name}: torch exports it to a file that is not valid: {first_line(error)}") from error
        checking = time.perf_counter()
        compared = compare(captured, program, decomposed, model, origins) if check else 0
        checked = time.perf_counter() - checking if check else 0.0
    atomic.write(path, model.SerializeToString(deterministic=True))
    layers = sum(node.domain == ONNX_DOMAIN and node.op_type in LAYERS for node in model.graph.node)
    checks = f"{checked:.1f} s of them to check it on {compared} inputs" if check else "not checked"
    seconds = time.perf_counter() - start
    _LOGGER.info("%s: %d binary layers, exported in %.1f s, %s", path, layers, seconds, checks)


def _attach_functions(model: onnx.ModelProto) -> None:
    used = {node.op_type for node in model.graph.node if node.domain == ONNX_DOMAIN}
    model.functions.extend(operator.function() for operator in OPERATORS if operator.NAME in used)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    if used:
        model.opset_import.append(helper.make_opsetid(ONNX_DOMAIN, ONNX_VERSION))
    model.producer_name, model.producer_version = "bnncc", __version__
