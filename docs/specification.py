"""Sphinx extension: `{specification} NAME` shows what bnncc/ops/NAME.py says of its operator.

That is the module's docstring, for an operator of the ONNX domain its signature, and the source of its `meaning`.
"""

import importlib
import inspect
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    import onnx


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("specification", Specification)
    return {"parallel_read_safe": True}


class Specification(SphinxDirective):
    """The directive; its argument is the name of a file in bnncc/ops."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """The nodes that take the directive's place."""
        module = importlib.import_module(f"bnncc.ops.{self.arguments[0]}")
        self.env.note_dependency(inspect.getsourcefile(module) or "")
        return self.parse_text_to_nodes(describe(module))


def describe(module: ModuleType) -> str:
    """An operator's specification as Markdown."""
    blocks = [inspect.getdoc(module) or ""]
    if hasattr(module, "schema"):
        blocks.append(signature(module.schema()))
    return "\n\n".join([*blocks, f"```python\n{inspect.getsource(module.meaning)}```"])


def signature(schema: "onnx.defs.OpSchema") -> str:
    """The table of an ONNX operator's inputs, outputs and attributes."""
    rows = [("input", tensor.name, tensor.type_str, "") for tensor in schema.inputs]
    rows += [("output", tensor.name, tensor.type_str, "") for tensor in schema.outputs]
    for name, attribute in sorted(schema.attributes.items()):
        rows.append(("attribute", name, attribute.type.name, "required" if attribute.required else _default(attribute)))
    head = "| ONNX | name | type | default |\n| --- | --- | --- | --- |\n"
    return head + "\n".join(f"| {role} | `{name}` | {kind} | {default} |" for role, name, kind, default in rows)


def _default(attribute: "onnx.defs.OpSchema.Attribute") -> str:
    from onnx import helper

    return f"`{helper.get_attribute_value(attribute.default_value)}`"
