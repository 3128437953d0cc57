"""What a recorded program computes from parameters alone becomes a constant, as torch computes it, to the bit.

    mean |w|, weight_norm, a pruning mask, the signs of a latent weight  ->  one tensor each

The exporter folds some of it too, by other kernels: a sum then differs in its last bit.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

from bnncc.nn import operators

_EXPAND = torch.ops.bnncc.circulant_expand.default
# Arguments that must be weights of the file, however large they are.
_WEIGHTS: dict[object, tuple[int, ...]] = {
    torch.ops.bnncc.binary_conv.default: (1,),
    torch.ops.bnncc.binary_gemm.default: (1,),
    torch.ops.bnncc.channel_interaction.default: (1, 2),
    _EXPAND: (0,),
}
assert operators  # defines them


def fold(program: ExportedProgram) -> tuple[ExportedProgram, dict[str, str]]:
    """The program folded, and for each of its parameters, by the name it has there, its path in the module.

    A tensor larger than what it is made of (an expanded one) stays computed, circulant weights too. Operators that
    write to their arguments are turned into ones that do not, first.
    """
    if any(_writes(node) or node.op == "get_attr" for node in program.graph.nodes):
        program = program.run_decompositions({})
    program.graph.eliminate_dead_code()
    paths = _as_constants(program)
    known = _evaluated(program)
    for node, (value, size) in known.items():
        if node.op == "placeholder" or not isinstance(value, Tensor):
            continue
        users = [user for user in node.users if user not in known]
        if any(user.op == "output" for user in users):
            continue
        weight = any(_is_weight(user, node) for user in users)
        if users and (weight or value.numel() <= size):
            constant = _constant(program, node, value)
            for user in users:
                user.replace_input_with(node, constant)
    program.graph.eliminate_dead_code()
    _drop_unused(program)
    program.graph_module.recompile()
    return program, paths


def constants(program: ExportedProgram) -> dict[str, Tensor]:
    """The tensors that a program holds, by the names of its placeholders."""
    return {
        spec.arg.name: tensor.detach()
        for spec in program.graph_signature.input_specs
        if isinstance(tensor := _held(program, spec), Tensor)
    }


def _is_weight(user: fx.Node, argument: fx.Node) -> bool:
    """Whether `user` must find this argument in the file."""
    return any(user.args[place] is argument for place in _WEIGHTS.get(user.target, ()))


def _held(program: ExportedProgram, spec: InputSpec) -> object:
    if spec.kind == InputKind.USER_INPUT or spec.target is None:
        return None
    return program.state_dict.get(spec.target, program.constants.get(spec.target))


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _as_constants(program: ExportedProgram) -> dict[str, str]:
    """Parameters and buffers become constants called as their placeholders are, which meet no other name.

    Buffers that the program writes to stay what they are.
    """
    written = program.graph_signature.buffers_to_mutate.values()
    paths: dict[str, str] = {}
    for spec in program.graph_signature.input_specs:
        tensor = _held(program, spec)
        if not isinstance(tensor, Tensor) or spec.target in written or not isinstance(spec.arg, TensorArgument):
            continue
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            paths[spec.arg.name] = str(spec.target)
        spec.kind, spec.target, spec.persistent = InputKind.CONSTANT_TENSOR, spec.arg.name, None
        program.constants[spec.arg.name] = tensor.detach()
    return paths


def _evaluated(program: ExportedProgram) -> dict[fx.Node, tuple[Any, int]]:
    """Nodes that no input reaches: their values, and how many numbers they are made of."""
    held = program.constants
    written = set(program.graph_signature.buffers_to_mutate.values())
    known: dict[fx.Node, tuple[Any, int]] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in held and node.name not in written:
            known[node] = (held[node.name], held[node.name].numel())
        elif node.op == "get_attr":
            known[node] = (getattr(program.graph_module, str(node.target)), 0)
        elif node.op == "call_function" and all(argument in known for argument in node.all_input_nodes):
            if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags:
                continue
            if node.target is _EXPAND and all(_is_weight(user, node) for user in node.users):
                continue
            arguments, options = fx.map_arg((node.args, node.kwargs), lambda argument: known[argument][0])
            size = sum(known[argument][1] for argument in node.all_input_nodes)
            known[node] = (node.target(*arguments, **options), size)
    return known


def _constant(program: ExportedProgram, node: fx.Node, value: Tensor) -> fx.Node:
    first = next(iter(program.graph.nodes))
    with program.graph.inserting_before(first):
        placeholder: fx.Node = program.graph.placeholder(f"c_{node.name}")
    placeholder.meta = {"val": node.meta["val"]}
    argument = TensorArgument(placeholder.name)
    program.graph_signature.input_specs.insert(0, InputSpec(InputKind.CONSTANT_TENSOR, argument, placeholder.name))
    program.constants[placeholder.name] = value.detach().contiguous()
    return placeholder


def _drop_unused(program: ExportedProgram) -> None:
    specs = program.graph_signature.input_specs
    placeholders = program.graph.find_nodes(op="placeholder")
    for node, spec in zip(placeholders, list(specs), strict=True):
        if spec.kind == InputKind.CONSTANT_TENSOR and not node.users:
            specs.remove(spec)
            program.graph.erase_node(node)
            program.constants.pop(node.name, None)
