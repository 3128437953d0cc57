"""What every pass here does to a function: walk its one dataflow block, binding by binding, and build it anew.

The importer gives `main` one block, every value bound to a variable, every tensor of fixed shape; passes keep it so. A
function of another form is returned as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tvm import relax
from tvm.ir import GenericConst, Op

# Given an expression whose operands are already new ones, its replacement, or None to keep it.
Visit = Callable[["Block", Any], Any]


class Block:
    """The block being built, and what is known about the one being read."""

    def __init__(self, builder: relax.BlockBuilder, uses: Counter[Any]) -> None:
        self._builder = builder
        self._values: dict[Any, Any] = {}
        self._uses = uses
        self._old: dict[Any, list[Any]] = {}

    def emit(self, expression: Any) -> Any:
        """Bind an expression to a new variable."""
        variable = self._builder.emit(expression)
        self._values[variable] = expression
        return variable

    def typed(self, expression: Any) -> Any:
        """The expression with its type inferred, not bound to anything."""
        return self._builder.normalize(expression)

    def value(self, expression: Any) -> Any:
        """The expression a new variable is bound to; anything else is itself, a parameter too."""
        return self._values.get(expression, expression) if isinstance(expression, relax.Var) else expression

    def call(self, expression: Any, name: str) -> Any:
        """The call of operator `name` that a new variable is bound to, else None."""
        value = self.value(expression)
        return value if is_call(value, name) else None

    def uses(self, expression: Any) -> int:
        """How many operands and outputs of the old block were a variable that became `expression`."""
        return sum(self._uses[old] for old in self._old.get(expression, ()))


def is_call(value: Any, *names: str) -> bool:
    """Whether `value` is a call of one of these operators, named as in `R.<name>`."""
    return isinstance(value, relax.Call) and isinstance(value.op, Op) and value.op.name.removeprefix("relax.") in names


def name(value: Any) -> str:
    """The operator a call calls, as in `R.<name>`; "" for anything else."""
    return value.op.name.removeprefix("relax.") if isinstance(value, relax.Call) and isinstance(value.op, Op) else ""


def is_constant(value: Any) -> bool:
    """Whether `value` is a tensor constant."""
    return isinstance(value, GenericConst)


def shape(value: Any) -> tuple[int, ...]:
    """The extents of a tensor."""
    return tuple(int(extent) for extent in value.ty.shape.values)


def has_static_shape(value: Any) -> bool:
    """Whether `value` is a tensor of fixed extents."""
    kind = value.ty
    if not isinstance(kind, relax.TensorType) or not isinstance(kind.shape, relax.ShapeExpr):
        return False
    return all(hasattr(extent, "value") for extent in kind.shape.values)


def variables(value: Any) -> Iterator[Any]:
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


def replace(value: Any, mapping: dict[Any, Any]) -> Any:
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


def one_block(function: relax.Function) -> Any:
    """The function's dataflow block if it has exactly one block, and parameters of fixed shape; else None."""
    body = function.body
    blocks = body.blocks if isinstance(body, relax.SeqExpr) else []
    is_static = all(has_static_shape(parameter) for parameter in function.params)
    return blocks[0] if is_static and len(blocks) == 1 and isinstance(blocks[0], relax.DataflowBlock) else None


def attributes(function: relax.Function) -> dict[str, Any]:
    """The attributes of a function."""
    return {} if function.attrs is None else dict(function.attrs.items())


def count_uses(function: relax.Function) -> Counter[Any]:
    """How often each variable of the block is an operand or an output."""
    block = one_block(function)
    uses: Counter[Any] = Counter()
    for binding in block.bindings:
        uses.update(variables(binding.value))
    uses.update(variables(function.body.body))
    return uses


def rebuild(function: relax.Function, visit: Visit) -> relax.Function:
    """Walk the block in order; each value becomes what `visit` answers. What nobody reads any more is left out."""
    old = one_block(function)
    if old is None or "Primitive" in attributes(function):
        return function
    builder = relax.BlockBuilder()
    block = Block(builder, count_uses(function))
    mapping: dict[Any, Any] = {}
    has_copy = False
    kept = attributes(function)
    with builder.function("main", list(function.params), kept, private="global_symbol" not in kept):
        with builder.dataflow():
            for binding in old.bindings:
                value = replace(binding.value, mapping)
                found = visit(block, value)
                value = value if found is None else found
                if isinstance(binding.var, relax.DataflowVar):
                    new = value if isinstance(value, relax.Var) or is_constant(value) else block.emit(value)
                    if is_constant(new):
                        mapping[binding.var] = new
                        continue
                else:
                    has_copy = has_copy or isinstance(value, relax.Var)
                    new = builder.emit_output(value)
                    block._values[new] = value
                mapping[binding.var] = new
                block._old.setdefault(new, []).append(binding.var)
            result = replace(function.body.body, mapping)
        builder.emit_func_output(result)
    module = builder.get()
    if has_copy:  # an output that is only another name for a variable
        module = relax.transform.CanonicalizeBindings()(module)
    return relax.analysis.remove_all_unused(module["main"])


class LocalPass:
    """A pass that looks at one expression at a time. `rewrites` counts what it did, `skipped` says what it left."""

    def __init__(self) -> None:
        self.skipped: list[str] = []
        self.rewrites = 0

    def transform_function(self, function: Any, module: Any, context: Any) -> Any:
        """What TVM calls, on every function of a module."""
        return rebuild(function, self._visit)

    def _visit(self, block: Block, value: Any) -> Any:
        """The replacement of `value`, whose operands are already new ones, or None to keep it."""
        raise NotImplementedError
