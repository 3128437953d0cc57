"""What a network holds and computes, layer by layer, as users of larq.models.summary expect it.

print(summary(module, torch.zeros(1, 3, 32, 32)))
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnncc.nn.layer import BinaryLayer
from bnncc.runtime.errors import InputError

_FLOAT_BITS = 32
_FLOAT_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class LayerSummary:
    """One module that holds numbers or multiplies.

    name             its path in the network
    kind             its class
    input_bits       1 where it binarises its input, else 32
    output_shape     of its last call; () for a module that only holds numbers of its own
    binary_weights   weights of one bit: the latent weights of a binary layer, base filters counted once
    floats           other numbers that are stored, of 32 bits: parameters and buffers, counters of batches aside
    trainable        how many of all these are trained
    binary_macs      products of two binarised numbers, in one forward of the example; 0 for other layers
    float_macs       products of a convolution or dense layer that is not binary
    """

    name: str
    kind: str
    input_bits: int
    output_shape: tuple[int, ...]
    binary_weights: int
    floats: int
    trainable: int
    binary_macs: int
    float_macs: int

    @property
    def binary(self) -> bool:
        return self.binary_weights > 0

    @property
    def bits(self) -> int:
        """What storing it takes."""
        return self.binary_weights + _FLOAT_BITS * self.floats


@dataclass(frozen=True)
class Summary:
    """Layers in the order of their first call, and their sums; `print` shows both."""

    layers: tuple[LayerSummary, ...]

    @property
    def binary_weights(self) -> int:
        return sum(layer.binary_weights for layer in self.layers)

    @property
    def floats(self) -> int:
        return sum(layer.floats for layer in self.layers)

    @property
    def trainable(self) -> int:
        return sum(layer.trainable for layer in self.layers)

    @property
    def bits(self) -> int:
        return sum(layer.bits for layer in self.layers)

    @property
    def binary_macs(self) -> int:
        return sum(layer.binary_macs for layer in self.layers)

    @property
    def float_macs(self) -> int:
        return sum(layer.float_macs for layer in self.layers)

    def __str__(self) -> str:
        header = ("layer", "kind", "input bits", "output", "1-bit", "32-bit", "kB", "1-bit MACs", "32-bit MACs")
        rows = [
            (
                layer.name,
                layer.kind,
                str(layer.input_bits),
                "x".join(map(str, layer.output_shape)),
                *_counts(layer),
            )
            for layer in self.layers
        ]
        total = ("total", "", "", "", *_counts(self))
        weights, macs = self.binary_weights + self.floats, self.binary_macs + self.float_macs
        as_floats = _FLOAT_BITS * weights
        facts = (
            ("parameters", f"{weights:,}"),
            ("trainable", f"{self.trainable:,}"),
            ("size", f"{_kilobytes(self.bits)} kB"),
            ("size if all were float32", f"{_kilobytes(as_floats)} kB"),
            ("times smaller", f"{as_floats / self.bits:.2f}" if self.bits else "-"),
            ("MACs", f"{macs:,}"),
            ("share of MACs that is binary", f"{self.binary_macs / macs:.4f}" if macs else "-"),
        )
        return "\n".join((*_table(header, rows, total), "", *(f"{name:30}{value:>20}" for name, value in facts)))


@torch.no_grad()
def summary(module: nn.Module, example: Tensor) -> Summary:
    """Call `module` in eval mode on `example`, float [N, ...], and say what each layer holds and computes.

    MACs are those of all N together. A parameter that several modules share counts in the first; a module that runs
    several times counts its MACs each time. Both may be on the meta device: then nothing is computed.

    InputError: forward does not take the example.
    """
    calls: dict[str, tuple[tuple[int, ...], int]] = {}
    order: list[str] = []
    units = dict(_units(module))

    def record(name: str) -> Any:
        def hook(part: nn.Module, inputs: Any, output: object) -> None:
            shape = tuple(output.shape) if isinstance(output, Tensor) else ()
            before = calls.get(name, ((), 0))[1]
            calls[name] = shape, before + _macs(part, output)

        return hook

    def enter(name: str) -> Any:
        def hook(part: nn.Module, inputs: Any) -> None:
            if name not in order:
                order.append(name)

        return hook

    training = {part: part.training for part in module.modules()}
    hooks = [part.register_forward_hook(record(name)) for name, part in units.items()]
    hooks += [part.register_forward_pre_hook(enter(name)) for name, part in units.items()]
    module.eval()
    try:
        module(example)
    except (RuntimeError, ValueError, IndexError) as error:
        raise InputError(
            f"summary: {type(module).__name__} does not take an example of shape {list(example.shape)}: "
            f"{str(error).splitlines()[0]}. Pass one that module(example) takes."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
        for part, flag in training.items():
            part.training = flag
    counted: set[int] = set()
    names = [*order, *(name for name in units if name not in order)]
    return Summary(tuple(_layer(name, units[name], calls.get(name, ((), 0)), counted) for name in names))


def _units(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Binary layers with all that is in them, and every other module that multiplies or holds numbers of its own."""
    inside: set[nn.Module] = set()
    for name, part in module.named_modules():
        if part in inside:
            continue
        if isinstance(part, BinaryLayer):
            inside.update(part.modules())
        held = (*part.parameters(recurse=False), *part.buffers(recurse=False))
        if isinstance(part, (BinaryLayer, *_FLOAT_LAYERS)) or held:
            yield name or type(module).__name__, part


def _macs(part: nn.Module, output: object) -> int:
    """Every weight of a filter meets every position of its channel in the output once."""
    if not isinstance(output, Tensor) or not isinstance(part, (BinaryLayer, *_FLOAT_LAYERS)):
        return 0
    weight = part.weight_quantizer(part.weight) if isinstance(part, BinaryLayer) else part.weight
    assert isinstance(weight, Tensor)
    return output.numel() // weight.shape[0] * weight.numel()


def _layer(name: str, part: nn.Module, call: tuple[tuple[int, ...], int], counted: set[int]) -> LayerSummary:
    binary = isinstance(part, BinaryLayer)
    shape, macs = call
    bits = floats = trainable = 0
    for tensor in (*part.parameters(recurse=binary), *part.buffers(recurse=binary)):
        if id(tensor) in counted or tensor.dtype == torch.int64:
            continue
        counted.add(id(tensor))
        if binary and tensor is part.weight:
            bits += tensor.numel()
        else:
            floats += tensor.numel()
        trainable += tensor.numel() if tensor.requires_grad else 0
    return LayerSummary(
        name=name,
        kind=type(part).__name__,
        input_bits=1 if binary else _FLOAT_BITS,
        output_shape=shape,
        binary_weights=bits,
        floats=floats,
        trainable=trainable,
        binary_macs=macs if binary else 0,
        float_macs=0 if binary else macs,
    )


def _counts(of: LayerSummary | Summary) -> tuple[str, ...]:
    numbers = (of.binary_weights, of.floats, of.binary_macs, of.float_macs)
    binary, floats, binary_macs, float_macs = (f"{number:,}" for number in numbers)
    return binary, floats, _kilobytes(of.bits), binary_macs, float_macs


def _kilobytes(bits: int) -> str:
    return f"{bits / 8 / 1024:,.2f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str]) -> Iterator[str]:
    """Text to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, total, strict=True)]
    for row in (header, None, *rows, None, total):
        if row is None:
            yield "-" * (sum(widths) + 2 * len(widths) - 2)
            continue
        cells = (
            cell.ljust(w) if i in (0, 1, 3) else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
