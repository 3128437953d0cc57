"""Reads an ONNX file that nobody vouches for: checked and bounded before anything looks at a node.

What is returned is a valid model with fixed input shapes and all its weights inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bnncc.runtime.errors import ModelError, OptionError

if TYPE_CHECKING:
    import onnx

Shapes = Mapping[str, Sequence[int]]

# protobuf's own limit; a larger network keeps its weights in files beside it.
MOST_FILE_BYTES = 2**31 - 1
MOST_NODES = 100_000
# One tensor: 2 GiB of float32. Guards against a small file that asks for a huge tensor.
MOST_ELEMENTS = 2**29
OPSETS = range(9, 27)
_SIGNED = ("INT8", "INT16", "INT32", "INT64")
TYPES = ("FLOAT", "DOUBLE", "BOOL", *_SIGNED, *(f"U{name}" for name in _SIGNED))


def read(source: str | Path | bytes | onnx.ModelProto, shapes: Shapes | None = None) -> tuple[onnx.ModelProto, str]:
    """The checked model, and the name that errors call it by.

    source: a path, the bytes of a file, or a model (which is not changed). shapes: input name -> shape, for inputs
    with free dimensions. Raises ModelError, or OptionError for a shape of an input that is not there.
    """
    import onnx

    folder = None
    if isinstance(source, onnx.ModelProto):
        where, model = source.graph.name or "model", onnx.ModelProto()
        model.CopyFrom(source)
    else:
        where = "model" if isinstance(source, bytes) else Path(source).name
        model = _parse(source if isinstance(source, bytes) else _file_bytes(Path(source)), where)
        folder = None if isinstance(source, bytes) else Path(source).resolve().parent
    _load_external_data(model, folder, where)
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise ModelError(f"{where}: not a valid ONNX model: {first_line(error)}") from None
    _check_versions(model, where)
    if len(model.graph.node) > MOST_NODES:
        raise ModelError(f"{where}: {len(model.graph.node)} nodes, allowed: {MOST_NODES}")
    for tensor in model.graph.initializer:
        check_type(tensor.data_type, f"{where}: weight {tensor.name!r}")
        _check_content(tensor, f"{where}: weight {tensor.name!r}")
    for node in model.graph.node:
        for attribute in node.attribute:
            for tensor in _attribute_tensors(attribute):
                _check_content(tensor, f"{where}: node {node.name!r}: attribute {attribute.name!r}")
    if model.graph.sparse_initializer:
        raise ModelError(f"{where}: sparse weights are not supported; store them dense")
    _fix_inputs(model, dict(shapes or {}), where)
    return model, where


def input_names(model: onnx.ModelProto) -> tuple[str, ...]:
    """The inputs a caller has to give: those of the graph that are not weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return tuple(value.name for value in model.graph.input if value.name not in weights)


def _file_bytes(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MOST_FILE_BYTES:
            raise ModelError(f"{path}: {size} bytes, allowed: {MOST_FILE_BYTES}; keep the weights as external data")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None


def _parse(content: bytes, where: str) -> onnx.ModelProto:
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except Exception:
        raise ModelError(f"{where}: not an ONNX file, or cut short; export it again") from None
    if not model.HasField("graph") or not model.ir_version:
        raise ModelError(f"{where}: holds no graph: not an ONNX file, or empty")
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the graph: weights, and attributes at any depth."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: onnx.AttributeProto) -> Iterator[onnx.TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
        yield from _tensors(graph)


def _load_external_data(model: onnx.ModelProto, folder: Path | None, where: str) -> None:
    """Reads weights stored in other files, which have to lie in the model's own folder."""
    from onnx import external_data_helper

    bodies = (node for function in model.functions for node in function.node)
    in_bodies = (t for node in bodies for attribute in node.attribute for t in _attribute_tensors(attribute))
    total = 0
    for tensor in [*_tensors(model.graph), *in_bodies]:
        if not external_data_helper.uses_external_data(tensor):
            continue
        about = {entry.key: entry.value for entry in tensor.external_data}
        location = about.get("location", "")
        place = f"{where}: weight {tensor.name!r} is stored in {location!r}"
        if folder is None:
            raise ModelError(f"{place}, which bytes cannot point to; give the path of the model instead")
        file = folder / location
        if not location or Path(location).is_absolute() or ".." in Path(location).parts or file.is_symlink():
            raise ModelError(f"{place}; allowed: a file in the model's folder")
        if not file.resolve().is_relative_to(folder) or not file.is_file():
            raise ModelError(f"{place}, which is not a file in {folder}")
        check_extents(tensor.dims, f"{where}: weight {tensor.name!r}", zero_allowed=True)
        try:
            size = int(about.get("length", file.stat().st_size))
            total += size
            if total > 2 * MOST_FILE_BYTES or size < 0 or int(about.get("offset", 0)) + size > file.stat().st_size:
                raise ModelError(f"{place}: {size} bytes at {about.get('offset', 0)} are not in that file")
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"{place}: {first_line(error)}") from None
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _check_versions(model: onnx.ModelProto, where: str) -> None:
    from bnncc.ops import ONNX_DOMAIN, ONNX_VERSION

    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx") and entry.version not in OPSETS:
            allowed = f"{OPSETS.start} to {OPSETS.stop - 1}"
            raise ModelError(f"{where}: ONNX opset {entry.version}, allowed: {allowed}; export with opset 18")
        if entry.domain == ONNX_DOMAIN and entry.version != ONNX_VERSION:
            raise ModelError(f"{where}: opset {entry.version} of domain {ONNX_DOMAIN}, allowed: {ONNX_VERSION}")


def check_type(number: int, what: str) -> None:
    """Numbers and truth values of 8 to 64 bits; strings, complex, half-precision and sub-byte numbers are out."""
    from onnx import TensorProto

    if number not in {TensorProto.DataType.Value(name) for name in TYPES}:
        known = number in TensorProto.DataType.values()
        found = TensorProto.DataType.Name(number) if known else str(number)
        hint = "; convert the model to float32" if "FLOAT" in found else ""
        raise ModelError(f"{what} has type {found}, allowed: {', '.join(TYPES)}{hint}")


def _check_content(tensor: onnx.TensorProto, what: str) -> None:
    """Whether a tensor holds as many numbers as its extents say."""
    from onnx import numpy_helper

    check_extents(tensor.dims, what, zero_allowed=True)
    try:
        numpy_helper.to_array(tensor)
    except Exception as error:
        raise ModelError(f"{what}: its data does not fit its shape {tuple(tensor.dims)}: {first_line(error)}") from None


def check_extents(extents: Sequence[int], what: str, *, zero_allowed: bool = False) -> None:
    elements = 1
    for extent in extents:
        if extent < (0 if zero_allowed else 1):
            raise ModelError(f"{what} has shape {tuple(extents)}; every extent must be at least 1")
        elements *= extent
    if elements > MOST_ELEMENTS:
        raise ModelError(f"{what} has shape {tuple(extents)}: {elements} values, allowed: {MOST_ELEMENTS}")


def _fix_inputs(model: onnx.ModelProto, shapes: dict[str, Sequence[int]], where: str) -> None:
    """Writes the given shapes into the graph's inputs; afterwards none is free."""
    names = input_names(model)
    for name in shapes:
        if name not in names:
            raise OptionError(f"--shape {name}: {where} has no such input; its inputs: {', '.join(names) or 'none'}")
    for value in model.graph.input:
        if value.name not in names:
            continue
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"{where}: input {value.name!r} is not a tensor")
        found = [d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in kind.shape.dim]
        known = kind.HasField("shape")
        given = [int(extent) for extent in shapes.get(value.name, ())]
        printed = f"({', '.join(str(d) for d in found)})" if known else "unknown"
        if value.name in shapes:
            if known and (
                len(given) != len(found)
                or any(isinstance(f, int) and f != g for f, g in zip(found, given, strict=True))
            ):
                raise ModelError(f"{where}: input {value.name!r} has shape {printed}; --shape gives {tuple(given)}")
        elif not known or not all(isinstance(d, int) for d in found):
            example = ",".join(str(d) if isinstance(d, int) else "1" for d in found) or "1,3,224,224"
            raise ModelError(
                f"{where}: input {value.name!r} has shape {printed}, which is not fixed; "
                f"give it, as in --shape {value.name}={example}"
            )
        else:
            given = [int(d) for d in found]
        check_type(kind.elem_type, f"{where}: input {value.name!r}")
        check_extents(given, f"{where}: input {value.name!r}")
        del kind.shape.dim[:]
        kind.shape.SetInParent()
        for extent in given:
            kind.shape.dim.add().dim_value = extent


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
