"""Torch module and example -> torch.export program, recorded from the module itself: nothing is copied or replaced.

What people wrap modules in is taken off, or refused in one line; so are values that no file can hold.
"""

import contextlib
import copy
import inspect
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.nn.parallel import DataParallel, DistributedDataParallel

from bnncc.runtime.errors import InputError, ModelError

Example: TypeAlias = Tensor | tuple[Any, ...] | Mapping[Any, Any]
_REFUSED_TYPES = (torch.float16, torch.bfloat16, torch.complex32, torch.complex64, torch.complex128)
_ONE_AT_A_TIME = threading.RLock()  # torch's exporters change torch itself while they run


@dataclass(frozen=True)
class Capture:
    """A module as it was recorded. arguments: what forward was called with; inputs, outputs: the file's names."""

    module: nn.Module
    program: ExportedProgram
    arguments: tuple[Any, ...]
    inputs: list[str]
    outputs: list[str]

    def call(self, arguments: tuple[Any, ...]) -> list[Tensor]:
        """The module's own outputs, in the file's order; the arguments are copied, since forward may write to them."""
        return tensors(self.module(*copy.deepcopy(arguments)))


@contextlib.contextmanager
def capture(module: nn.Module | ExportedProgram, example: Example) -> Iterator[Capture]:
    """Record `module` in eval mode on the CPU, and keep it so until the context ends; then it is as it was before.

    Inside there is no gradient, no autocast, no torch.compile, and no warning of the exporter's.
    """
    with _ONE_AT_A_TIME, _plain_torch():
        unwrapped = _unwrapped(module)
        _check_values(unwrapped)
        arguments = _arguments(example)
        unwrapped = _on_cpu(unwrapped)
        with _evaluating(unwrapped):
            inputs = _input_names(unwrapped, arguments)
            outputs = _output_names(_called(unwrapped, arguments))
            for name in set(inputs) & set(outputs):
                raise ModelError(
                    f"forward: an input and an output are both named {name!a}; allowed is each name once. "
                    f"Rename the key."
                )
            yield Capture(unwrapped, _program(unwrapped, arguments), arguments, inputs, outputs)


def tensors(value: object) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts, in torch.export's order."""
    return [tensor for _, tensor in leaves(value, "")]


def leaves(value: object, name: str) -> list[tuple[str, Tensor]]:
    """Those tensors with names: a dict's entries are called by their keys, a tuple's by numbers after `name`."""
    if isinstance(value, Tensor):
        return [(name, value)]
    if isinstance(value, Mapping):
        return [leaf for key, item in value.items() for leaf in leaves(item, str(key))]
    if isinstance(value, tuple | list):
        prefix = f"{name}_" if name else ""
        return [leaf for i, item in enumerate(value) for leaf in leaves(item, f"{prefix}{i}")]
    raise TypeError(type(value).__name__)


def path_of(module: nn.Module, path: str) -> str:
    """What an error calls the part at `path`: the whole module by its class."""
    return path or type(module).__name__


def scope_path(node: fx.Node) -> str:
    """The path of the module that a recorded node comes from."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return plain_path(str(stack[-1][0])) if stack else ""


def plain_path(path: str) -> str:
    """Without the number of a module's second call, and without torch.compile's wrapper."""
    again = path.rpartition("@")
    path = again[0] if again[0] and again[2].isdigit() else path
    return ".".join(part for part in path.split(".") if part != "_orig_mod")


def first_line(error: BaseException) -> str:
    """The error's own words, without the stacks that torch prints after them."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)


@contextlib.contextmanager
def _plain_torch() -> Iterator[None]:
    """MultiheadAttention's fused path in eval mode rounds otherwise than what torch.export records."""
    logger, fused = logging.getLogger("torch.onnx"), torch.backends.mha.get_fastpath_enabled()
    level = logger.level
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        for kind in {"cpu", torch.accelerator.current_accelerator(check_available=True) or "cpu"}:
            name = kind if isinstance(kind, str) else kind.type
            if torch.amp.is_autocast_available(name):
                stack.enter_context(torch.autocast(name, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.callback(logger.setLevel, level)
        stack.callback(torch.backends.mha.set_fastpath_enabled, fused)
        logger.setLevel(logging.ERROR)
        torch.backends.mha.set_fastpath_enabled(False)
        yield


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode; training flags, and buffers that forward writes to, are put back in the end."""
    training = {part: part.training for part in module.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part, flag in training.items():
            part.training = flag
        for buffer, before in buffers:
            buffer.copy_(before)


def _unwrapped(module: object) -> nn.Module:
    """The module in DistributedDataParallel, DataParallel and torch.compile, or that of an ExportedProgram."""
    if isinstance(module, ExportedProgram):
        return module.module()
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"module: found {type(module).__name__}; allowed is a torch.nn.Module or a torch.export.ExportedProgram. "
            f"Put a function into the forward of a module."
        )
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError("module: found TorchScript; allowed is torch.nn.Module. Pass the module it was made from.")
    original = getattr(module, "_orig_mod", None)
    if isinstance(original, nn.Module) or isinstance(module, DistributedDataParallel | DataParallel):
        inner = original if isinstance(original, nn.Module) else module.module
        assert isinstance(inner, nn.Module)
        if module._forward_hooks or module._forward_pre_hooks:
            raise ModelError(
                f"{type(module).__name__}: carries forward hooks; allowed are hooks on the module inside. "
                f"Register them there."
            )
        return _unwrapped(inner)
    for path, part in module.named_modules():
        collective = isinstance(part, DistributedDataParallel) or (isinstance(part, DataParallel) and part.device_ids)
        if collective or type(part).__name__ == "FullyShardedDataParallel":
            raise ModelError(
                f"{path_of(part, path)}: is wrapped by {type(part).__name__}, which talks to other devices; allowed is "
                f"such a wrapper around the whole module only. Put its .module in its place."
            )
    return module


def _check_values(module: nn.Module) -> None:
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise ModelError(f"{name}: has no shape yet, its layer is lazy. Call module(example) once before export.")
        if tensor.is_meta:
            raise ModelError(
                f"{name}: is on the meta device and has no values. "
                f"Call module.to_empty(device='cpu') and load a checkpoint."
            )
        if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__ or tensor.layout != torch.strided:
            raise ModelError(
                f"{name}: is a {type(tensor).__name__} of layout {tensor.layout}; allowed are plain dense tensors. "
                f"Load the values into a module of such."
            )
        if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            raise ModelError(f"{name}: type is {tensor.dtype}; allowed is torch.float32. Call module.float() first.")
        bad = ~torch.isfinite(tensor) if tensor.is_floating_point() else torch.zeros(())
        if bad.any():
            index = bad.nonzero()[0].tolist()
            raise ModelError(
                f"{name}: found {tensor[tuple(index)].item()} at index {index}; allowed are finite numbers. "
                f"Export a checkpoint from before training diverged."
            )


def _on_cpu(module: nn.Module) -> nn.Module:
    """The module itself where it is on the CPU, else a copy there."""
    if all(tensor.device.type == "cpu" for tensor in (*module.parameters(), *module.buffers())):
        return module
    try:
        return copy.deepcopy(module).cpu()
    except RuntimeError as error:
        raise ModelError(
            f"{type(module).__name__}: is not on the CPU and cannot be copied there: {first_line(error)} "
            f"Call module.cpu() first."
        ) from error


def _arguments(example: object) -> tuple[Any, ...]:
    arguments = example if isinstance(example, tuple) else (example,)
    try:
        found = [] if isinstance(example, list) else leaves(arguments, "")
    except TypeError as error:
        raise _not_tensors(str(error)) from None
    if not found:
        raise _not_tensors("list" if isinstance(example, list) else "nothing")
    for _, tensor in found:
        if tensor.is_meta:
            raise InputError("example: is on the meta device; allowed is a tensor with values. Pass torch.zeros(...).")
        if tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype != torch.float32):
            raise InputError(f"example: type is {tensor.dtype}; allowed is torch.float32. Call example.float() first.")
    return tuple(_plain(argument) for argument in arguments)


def _not_tensors(found: str) -> InputError:
    return InputError(
        f"example: found {found}; allowed is a tensor or a tuple of tensors, one for each argument of forward; "
        f"an argument may be a tuple, list or dict of tensors."
    )


def _plain(value: Any) -> Any:
    """The same nest of tensors, detached copies on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone(memory_format=torch.contiguous_format)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    items = [_plain(item) for item in value]
    if isinstance(value, list):
        return items
    return type(value)(*items) if hasattr(value, "_fields") else tuple(items)


def _called(module: nn.Module, arguments: tuple[Any, ...]) -> object:
    try:
        return module(*copy.deepcopy(arguments))
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__}: forward fails on the example: {type(error).__name__}: {first_line(error)} "
            f"Pass an example that module(*example) takes."
        ) from error


def _program(module: nn.Module, arguments: tuple[Any, ...]) -> ExportedProgram:
    try:
        program = torch.export.export(module, copy.deepcopy(arguments), strict=False)
    except Exception as error:
        raise ModelError(
            f"{type(module).__name__}: torch cannot export it: {first_line(error)} "
            f"Write forward with operators that torch.export.export knows."
        ) from error
    for graph in (part.graph for part in program.graph_module.modules() if isinstance(part, fx.GraphModule)):
        for node in graph.nodes:
            value = node.meta.get("val")
            if isinstance(value, Tensor) and value.dtype in _REFUSED_TYPES:
                raise ModelError(
                    f"{path_of(module, scope_path(node))}: forward computes in {value.dtype}; allowed is "
                    f"torch.float32. Leave autocast and half() out of forward, with a flag for export."
                )
    return program


def _input_names(module: nn.Module, arguments: tuple[Any, ...]) -> list[str]:
    if len(tensors(arguments)) == 1:
        return ["input"]
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
        elif parameter.kind == parameter.VAR_POSITIONAL:
            names += [f"{parameter.name}_{i}" for i in range(len(arguments) - len(names))]
    names += [f"input_{i}" for i in range(len(names), len(arguments))]
    nests = [[name for name, _ in leaves(argument, "")] for argument in arguments]
    found = [name for given, argument in zip(names, arguments, strict=False) for name, _ in leaves(argument, given)]
    if len(set(found)) < len(found):
        paired = zip(names, nests, strict=False)
        found = [f"{given}.{name}" if name else given for given, nest in paired for name in nest]
    return _encodable(found, "input")


def _output_names(result: object) -> list[str]:
    if isinstance(result, Tensor):
        return ["output"]
    if isinstance(result, Mapping) and all(isinstance(v, Tensor) for v in result.values()):
        return _encodable([str(key) for key in result], "output")
    if isinstance(result, tuple | list) and result and all(isinstance(v, Tensor) for v in result):
        return [f"output_{i}" for i in range(len(result))]
    raise ModelError(
        f"forward: returns {type(result).__name__}; allowed is a tensor, or a tuple, list or dict of tensors."
    )


def _encodable(names: list[str], kind: str) -> list[str]:
    """Each name once; files hold text in UTF-8, and an empty name means a value that is missing."""
    for i, name in enumerate(names):
        if not name or name in names[:i] or (not name.isascii() and name.encode("utf-8", "replace").decode() != name):
            raise ModelError(
                f"forward: the name of {kind} {i} is {name!a}; allowed is text of one letter or more, each name once. "
                f"Rename the key."
            )
    return names
