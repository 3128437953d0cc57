"""What every pass here does to `main`: walk its one dataflow block, binding by binding, and build it anew.

The importer gives `main` one block, every value bound to a variable, every tensor of fixed shape; passes keep it so. A
function of another form is returned as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import tvm
from tvm import relax

from bnncc.ops.expressions import is_constant
from bnncc.passes.contract import Outcome

# Given an expression whose operands are already new ones, its replacement, or None to keep it.
Visit = Callable[["Block", relax.Expr], relax.Expr | None]


class Block:
    """The block being built, what is known about the one being read, and what the pass did so far: `rewrites` and
    `refused` as in its Outcome."""

    def __init__(self, builder: relax.BlockBuilder, uses: Counter[relax.Var]) -> None:
        self.rewrites = 0
        self.refused: list[str] = []
        self._builder = builder
        self._values: dict[relax.Var, relax.Expr] = {}
        self._uses = uses
        self._old: dict[relax.Expr, list[relax.Var]] = {}

    def emit(self, expression: relax.Expr) -> relax.Var:
        """Bind an expression to a new variable."""
        variable = self._builder.emit(expression)
        self._values[variable] = expression
        return variable

    def typed(self, expression: relax.Expr) -> relax.Expr:
        """The expression with its type inferred, not bound to anything."""
        return self._builder.normalize(expression)

    def value(self, expression: relax.Expr) -> relax.Expr:
        """The expression a new variable is bound to; anything else is itself, a parameter too."""
        return self._values.get(expression, expression) if isinstance(expression, relax.Var) else expression

    def uses(self, expression: relax.Expr) -> int:
        """How many operands and outputs of the old block were a variable that became `expression`."""
        return sum(self._uses[old] for old in self._old.get(expression, ()))

    def bind(self, old: relax.Binding, value: relax.Expr) -> relax.Expr:
        """What stands for the variable of an old binding from now on."""
        if not isinstance(old.var, relax.DataflowVar):
            new = self._builder.emit_output(value)
            self._values[new] = value
        elif is_constant(value):
            return value
        else:
            new = value if isinstance(value, relax.Var) else self.emit(value)
        self._old.setdefault(new, []).append(old.var)
        return new


def has_static_shape(value: relax.Expr) -> bool:
    """Whether `value` is a tensor of fixed extents."""
    kind = value.ty
    if not isinstance(kind, relax.TensorType) or not isinstance(kind.shape, relax.ShapeExpr):
        return False
    return all(hasattr(extent, "value") for extent in kind.shape.values)


def variables(value: relax.Expr) -> Iterator[relax.Var]:
    """The variables that an expression of a block reads, with repetition."""
    if isinstance(value, relax.Var):
        yield value
    elif isinstance(value, relax.Call):
        for argument in value.args:
            yield from variables(argument)
    elif isinstance(value, relax.Tuple):
        for field in value.fields:
            yield from variables(field)
    elif isinstance(value, relax.TupleGetItem):
        yield from variables(value.tuple_value)


def replace(value: relax.Expr, mapping: Mapping[relax.Var, relax.Expr]) -> relax.Expr:
    """The expression with its variables replaced."""
    if isinstance(value, relax.Var):
        return mapping.get(value, value)
    if isinstance(value, relax.Call):
        arguments = [replace(argument, mapping) for argument in value.args]
        return relax.Call(value.op, arguments, value.attrs, value.ty_args, value.span)
    if isinstance(value, relax.Tuple):
        return relax.Tuple([replace(field, mapping) for field in value.fields])
    if isinstance(value, relax.TupleGetItem):
        return relax.TupleGetItem(replace(value.tuple_value, mapping), value.index)
    return value


def on(call: relax.Call, first: relax.Expr) -> relax.Call:
    """The same call with another first operand."""
    return relax.Call(call.op, [first, *call.args[1:]], call.attrs, call.ty_args, call.span)


def one_block(function: relax.Function) -> relax.DataflowBlock | None:
    """The function's dataflow block if it has exactly one block, and parameters of fixed shape; else None."""
    body = function.body
    blocks = body.blocks if isinstance(body, relax.SeqExpr) else []
    is_static = all(has_static_shape(parameter) for parameter in function.params)
    return blocks[0] if is_static and len(blocks) == 1 and isinstance(blocks[0], relax.DataflowBlock) else None


def bindings(function: relax.Function) -> list[relax.Binding]:
    """The bindings of its block, none where it has another form."""
    block = one_block(function)
    return [] if block is None else list(block.bindings)


def attributes(function: relax.Function) -> dict[str, object]:
    """The attributes of a function."""
    return {} if function.attrs is None else dict(function.attrs.items())


def count_uses(function: relax.Function) -> Counter[relax.Var]:
    """How often each variable of the block is an operand or an output."""
    uses = Counter[relax.Var]()
    for binding in bindings(function):
        uses.update(variables(binding.value))
    uses.update(variables(function.body.body))
    return uses


def rewrite(module: tvm.IRModule, visit: Visit) -> Outcome:
    """Walk the block of `main` in order; each value becomes what `visit` answers. What nobody reads any more is left
    out."""
    main = module["main"]
    old = one_block(main)
    if old is None:
        return Outcome(module)
    builder = relax.BlockBuilder()
    block = Block(builder, count_uses(main))
    mapping: dict[relax.Var, relax.Expr] = {}
    has_copy = False  # an output that is only another name for a variable
    kept = attributes(main)
    with builder.function("main", list(main.params), kept, private="global_symbol" not in kept):
        with builder.dataflow():
            for binding in old.bindings:
                value = replace(binding.value, mapping)
                found = visit(block, value)
                value = value if found is None else found
                is_output = not isinstance(binding.var, relax.DataflowVar)
                has_copy = has_copy or (is_output and isinstance(value, relax.Var))
                mapping[binding.var] = block.bind(binding, value)
            result = replace(main.body.body, mapping)
        builder.emit_func_output(result)
    built = builder.get()
    if has_copy:
        built = relax.transform.CanonicalizeBindings()(built)
    function = relax.analysis.remove_all_unused(built["main"])
    return Outcome(with_main(module, function), block.rewrites, tuple(block.refused))


def with_main(module: tvm.IRModule, main: relax.Function) -> tvm.IRModule:
    """A module with another `main`."""
    changed = module.clone()
    changed.update_func(changed.get_global_var("main"), main)
    return changed


class LocalPass:
    """A pass that looks at one expression at a time."""

    name: ClassVar[str]

    def __call__(self, module: tvm.IRModule) -> Outcome:
        return rewrite(module, self.visit)

    def visit(self, block: Block, value: relax.Expr) -> relax.Expr | None:
        """The replacement of `value`, whose operands are already new ones, or None to keep it."""
        raise NotImplementedError
