"""The exported file against the module it came from, on the example and on random inputs like it.

1. module == recorded program, bit for bit, the second under another random seed
2. recorded program ~ what the exporter made of it ~ the file

A sign near 0 that flips would change everything behind it, so in step 2 each step function (Binarize, comparisons,
roundings) gets the very tensor that the recorded program gave it: what lies between two of them is compared alone.
Binary layers must agree by ==; what floats compute to 1e-4 of the tensor's largest number, and 1e-6 of the largest that
it was computed from, since a sum may cancel.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from bnncc.frontend.capture import Capture, first_line, path_of, scope_path, tensors
from bnncc.frontend.fold import constants
from bnncc.ops import ONNX_DOMAIN
from bnncc.ops.onnx import LAYERS
from bnncc.runtime.errors import ModelError

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
RANDOM_INPUTS = 2
TOLERANCE = 1e-4
CANCELLED = 1e-6
_COMPARES = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_STEPS = (*_COMPARES, "ArgMax", "ArgMin", "Ceil", "Floor", "Mod", "Round", "Sign", "TopK")


def compare(
    captured: Capture,
    program: ExportedProgram,
    decomposed: ExportedProgram,
    model: "onnx.ModelProto",
    origins: Mapping[str, str],
) -> int:
    """The number of inputs compared. `origins`: for each value of `model`, the node of `decomposed` it came from.

    ModelError: a difference; it names the first layer.
    """
    file = _File(model, origins)
    name = path_of(captured.module, "")
    compared = 0
    for seed in range(1 + RANDOM_INPUTS):
        arguments = captured.arguments if seed == 0 else _random_like(captured.arguments, seed)
        inputs = tensors(arguments)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                expected = captured.call(arguments)
            except Exception:
                if seed == 0:
                    raise
                continue  # not every module takes random numbers
            torch.manual_seed(seed + 1000)
            recorded = _Recorded(program)
            found = recorded.outputs(inputs)
            if not all(map(_same, expected, found)):
                raise _torch_differs(captured, program, arguments, recorded)
        forced = _Forced(decomposed, recorded.binary)
        outputs = forced.outputs(inputs)
        ends = decomposed.graph.output_node().all_input_nodes
        for i, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
            if not _close(ours.numpy(), theirs.numpy(), forced.largest(ends)):
                raise ModelError(
                    f"{name}: torch's exporter changes the network: output {captured.outputs[i]} "
                    f"{_difference(ours.numpy(), theirs.numpy())}. Write forward with simpler operators."
                )
        file.check(inputs, forced.values, [y.numpy() for y in expected], name)
        compared += 1
    return compared


class _Run(fx.Interpreter):
    """One run of a program; `values` are its tensors by the names of their nodes."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__(program.graph_module, garbage_collect_values=False)
        self.program = program
        self.values: dict[str, Tensor] = {}

    def outputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """What the module returns, without the buffers that a program hands out beside."""
        held, given = constants(self.program), iter(inputs)
        signature = self.program.graph_signature
        arguments = [
            held[spec.arg.name].clone() if spec.arg.name in held else next(given).clone()
            for spec in signature.input_specs
        ]
        results = self.run(*arguments)
        user = signature.user_outputs
        return [y for y, spec in zip(results, signature.output_specs, strict=True) if spec.arg.name in user]

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):
            self.values[n.name] = result
        return result

    def largest(self, nodes: Sequence[fx.Node]) -> float:
        """The largest number that these nodes read."""
        read = {before.name for node in nodes for before in node.all_input_nodes}
        return max((_largest(self.values[name].numpy()) for name in read if name in self.values), default=0.0)


class _Recorded(_Run):
    """Keeps what each Binarize gave, in the order of execution."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__(program)
        self.binary: list[Tensor] = []

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target is torch.ops.bnncc.binarize.default:
            self.binary.append(result)
        return result


class _Forced(_Run):
    """Gives out those tensors again in place of its own."""

    def __init__(self, program: ExportedProgram, binary: Sequence[Tensor]) -> None:
        super().__init__(program)
        steps = program.graph.find_nodes(op="call_function", target=torch.ops.bnncc.binarize.default)
        self.binary = iter(binary if len(steps) == len(binary) else ())

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.target is torch.ops.bnncc.binarize.default:
            result = next(self.binary, result)
            self.values[n.name] = result
        return result


class _File:
    """The model to write, cut at its step functions, ready to run."""

    def __init__(self, model: "onnx.ModelProto", origins: Mapping[str, str]) -> None:
        self.model, self.origins = model, origins
        self.known: Mapping[str, Tensor] = {}
        self.session: tuple[Any, list[str], list[str]] | None = None

    def check(self, inputs: Sequence[Tensor], values: Mapping[str, Tensor], expected: list[Array], name: str) -> None:
        """Compare with `values`, by the nodes' names, and with the module's outputs; ModelError where it differs."""
        self.known = values
        names = [value.name for value in self.model.graph.input]
        feeds = {given: x.numpy() for given, x in zip(names, inputs, strict=True)}
        ends = dict(zip([value.name for value in self.model.graph.output], expected, strict=True))
        if self.session is None:
            self.session = self._session(self._between_steps(), name)
        wrong = next(self._wrong(self.session, feeds, ends, name), None)
        if wrong is None:
            return
        everything = [output for node in self.model.graph.node for output in node.output]
        first = next(self._wrong(self._session(everything, name), feeds, ends, name), wrong)
        value, found, reference = first
        where = next((node.name for node in self.model.graph.node if value in node.output), value)
        raise ModelError(
            f"{where}: the file differs from the module: it {_difference(found, reference)}. torch's exporter writes "
            f"this layer wrongly; replace it, or pass check=False to write the file all the same."
        )

    def _between_steps(self) -> list[str]:
        """What step functions read and binary layers give."""
        chosen = []
        for node in self.model.graph.node:
            if node.op_type in _STEPS or (node.domain == ONNX_DOMAIN and node.op_type == "Binarize"):
                chosen += [value for value in node.input if value]
            elif node.domain == ONNX_DOMAIN and node.op_type in LAYERS:
                chosen.append(node.output[0])
        return chosen

    def _reference(self, value: str) -> Tensor | None:
        reference = self.known.get(self.origins.get(value, ""))
        return reference if reference is not None and reference.dtype == torch.float32 else None

    def _largest(self, node: "onnx.NodeProto") -> float:
        """The largest number that a node reads."""
        known = (self._reference(value) for value in node.input)
        return max((_largest(value.numpy()) for value in known if value is not None), default=0.0)

    def _session(self, chosen: Sequence[str], name: str) -> tuple[Any, list[str], list[str]]:
        """The model with `chosen` as further outputs and steps fed from outside, and which values those are."""
        from onnx import TensorProto, helper

        model = copy.deepcopy(self.model)
        made = {output for node in model.graph.node for output in node.output}
        ends = {value.name for value in model.graph.output}
        shown = [v for v in dict.fromkeys(chosen) if v in made - ends and self._reference(v) is not None]
        model.graph.output.extend(helper.make_tensor_value_info(v, TensorProto.FLOAT, None) for v in shown)
        fed: list[str] = []
        for node in model.graph.node:
            step = node.op_type in _STEPS or (node.domain == ONNX_DOMAIN and node.op_type == "Binarize")
            for i, value in enumerate(node.input):
                if step and value in made and self._reference(value) is not None:
                    node.input[i] = f"{value}/given"
                    fed.append(value)
        fed = list(dict.fromkeys(fed))
        for value in fed:
            reference = self._reference(value)
            assert reference is not None
            model.graph.input.append(
                helper.make_tensor_value_info(f"{value}/given", TensorProto.FLOAT, tuple(reference.shape))
            )
        return _runtime(model, name), shown, fed

    def _wrong(
        self, session: tuple[Any, list[str], list[str]], feeds: dict[str, Array], ends: dict[str, Array], name: str
    ) -> Iterator[tuple[str, Array, Array]]:
        """Values that differ, in the order of the nodes: name, what the file gave, what torch gave."""
        running, shown, fed = session
        given = {f"{value}/given": self.known[self.origins[value]].numpy() for value in fed}
        try:
            results = running.run([*ends, *shown], feeds | given)
        except Exception as error:
            raise _cannot_run(error, name) from error
        found = dict(zip([*ends, *shown], results, strict=True))
        for node in self.model.graph.node:
            exact = node.domain == ONNX_DOMAIN
            for value in node.output:
                if value in ends:
                    reference = ends[value]
                elif value in found:
                    reference = self.known[self.origins[value]].numpy()
                else:
                    continue
                if exact and (reference == np.rint(reference)).all():
                    right = np.array_equal(found[value], reference)
                else:
                    right = _close(found[value], reference, self._largest(node))
                if not right:
                    yield value, found[value], reference


def _runtime(model: "onnx.ModelProto", name: str) -> Any:
    """Something that runs it: onnxruntime, or onnx's own reference."""
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise _cannot_run(error, name) from error


def _cannot_run(error: Exception, name: str) -> ModelError:
    return ModelError(
        f"{name}: the file does not run: {first_line(error)} Write forward with simpler operators, or pass check=False "
        f"to write the file all the same."
    )


def _random_like(value: Any, seed: int) -> Any:
    """Other numbers of the same shapes and types: normal with the example's mean and deviation, or between its ends."""
    generator = torch.Generator().manual_seed(seed)

    def fill(x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x
        if x.is_floating_point():
            spread = x.std(correction=0)
            usual = bool(torch.isfinite(spread)) and float(spread) > 0
            normal = torch.randn(x.shape, generator=generator)
            return normal * spread + x.mean() if usual else normal
        low, high = (0, 1) if x.dtype == torch.bool else (int(x.min()), int(x.max()))
        return torch.randint(low, high + 1, x.shape, generator=generator).to(x.dtype)

    return torch.utils._pytree.tree_map_only(Tensor, fill, value)


def _same(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return bool(((a == b) | ((a != a) & (b != b))).all())


def _close(found: Array, reference: Array, inputs: float) -> bool:
    """`inputs`: the largest number that it was computed from."""
    if found.shape != reference.shape or found.dtype != reference.dtype:
        return False
    if reference.dtype.kind != "f":
        return np.array_equal(found, reference)
    allowed = TOLERANCE * _largest(reference) + CANCELLED * inputs
    return np.allclose(found, reference, rtol=TOLERANCE, atol=allowed, equal_nan=True)


def _largest(values: Array) -> float:
    """The largest magnitude of a finite number; 0 where there is none."""
    finite = np.abs(values[np.isfinite(values)]) if values.dtype.kind == "f" else np.zeros(0)
    return float(finite.max()) if finite.size else 0.0


def _difference(found: Array, reference: Array) -> str:
    if found.shape != reference.shape or found.dtype != reference.dtype:
        return f"gives {found.dtype} {list(found.shape)} for {reference.dtype} {list(reference.shape)}"
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(np.abs(found.astype(float) - reference.astype(float)), nan=np.inf)
    index = np.unravel_index(int(distance.argmax()), distance.shape)
    return f"gives {found[index]} for {reference[index]} at {[int(i) for i in index]}"


def _torch_differs(
    captured: Capture, program: ExportedProgram, arguments: tuple[Any, ...], recorded: _Run
) -> ModelError:
    """Names what draws random numbers, or else the first module none of whose tensors was recorded."""
    again = _Run(program)
    torch.manual_seed(2000)
    again.outputs(tensors(arguments))
    for node in program.graph.nodes:
        value = again.values.get(node.name)
        if value is not None and not _same(value, recorded.values[node.name]):
            return ModelError(
                f"{path_of(captured.module, scope_path(node))}: {node.target} draws random numbers in eval mode; "
                f"allowed are layers that give the same each time. Turn dropout and noise off for export."
            )
    where = path_of(captured.module, _first_unrecorded(captured, arguments, list(recorded.values.values())))
    return ModelError(
        f"{where}: its result in eval mode is not the one torch recorded: forward depends on something besides its "
        f"input and parameters, or on the input's numbers. Make it depend on tensors alone."
    )


def _first_unrecorded(captured: Capture, arguments: tuple[Any, ...], values: list[Tensor]) -> str:
    wrong: list[str] = []

    def look(path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not any(_same(output, value) for value in values):
                wrong.append(path)

        return hook

    hooks = [part.register_forward_hook(look(path)) for path, part in captured.module.named_modules()]
    try:
        captured.call(arguments)
    finally:
        for hook in hooks:
            hook.remove()
    return wrong[0] if wrong else ""
