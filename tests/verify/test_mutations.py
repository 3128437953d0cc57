"""Passes and kernels, broken on purpose: each is caught, and named as the first that differs."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
from tvm import relax
from tvm.tirx.script.builder import ir as T

from bnncc import bitpack
from bnncc.frontend.converters import binary as binary_converters
from bnncc.kernels.xnor_conv2d import XnorConv2d
from bnncc.ops import pad_bits
from bnncc.ops.binarize import Binarize
from bnncc.ops.expressions import array, is_constant
from bnncc.ops.standard import Multiply
from bnncc.passes import (
    dense_as_conv,
    drop_scale_before_sign,
    fold_batch_norm,
    fold_thresholds,
    lower_to_xnor,
    sign_before_max_pool,
    to_nhwc,
)
from bnncc.selection import steps
from bnncc.tir import epilogue
from bnncc.verify import stages
from bnncc.verify.execute import MACHINE_CODE
from bnncc.verify.verification import verify
from tests.verify.networks import NETWORKS

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutation:
    """network: where it shows. stage and layers: what verify must name, the layer being one of these."""

    name: str
    network: str
    stage: str
    layers: tuple[str, ...]
    apply: Callable[[Patch], None]


def weights_seen_as(module: Any, change: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """Packed weights come out of `bitpack.unpack` changed, in one pass."""
    seen = SimpleNamespace(pack=bitpack.pack, unpack=lambda packed, channels: change(bitpack.unpack(packed, channels)))
    return lambda patch: patch.setattr(module, "bitpack", seen)


def wrapped(module: Any, name: str, change: Callable[[Any], Any]) -> Callable[[Patch], None]:
    """What a function returns comes out changed."""
    original = getattr(module, name)
    return lambda patch: patch.setattr(module, name, lambda *args, **more: change(original(*args, **more)))


def norm_seen_as(**change: Callable[[Any], Any]) -> Callable[[Patch], None]:
    original = fold_batch_norm._rewrite

    def rewrite(block: Any, seen: Any) -> Any:
        return original(block, dataclasses.replace(seen, **{key: new(seen) for key, new in change.items()}))

    return lambda patch: patch.setattr(fold_batch_norm, "_rewrite", rewrite)


def pads_swapped(patch: Patch) -> None:
    original = pad_bits.call

    def call(bits: Any, pads: Any, *rest: Any) -> Any:
        top, left, bottom, right = pads
        return original(bits, (bottom, right, top, left), *rest)

    patch.setattr(lower_to_xnor, "pad_bits", SimpleNamespace(call=call))


def scale_always_dropped(patch: Patch) -> None:
    def without(block: Any, source: Any, place: str) -> Any:
        call = Multiply.match(block.value(source))
        return call.a if call is not None and is_constant(call.b) else None

    patch.setattr(drop_scale_before_sign, "_without_scale", without)


def prelu_shifted(patch: Patch) -> None:
    original = to_nhwc._Walk._prelu

    def prelu(self: Any, block: Any, call: Any) -> Any:
        slope = relax.const(np.roll(array(call.slope), 1))
        return original(self, block, dataclasses.replace(call, slope=slope))

    patch.setattr(to_nhwc._Walk, "_prelu", prelu)
    elementwise = to_nhwc._turned_constant

    def turned(constant: Any, rank: int) -> Any:
        made = array(elementwise(constant, rank))
        return relax.const(np.roll(made, 1, axis=-1)) if made.min() >= 0.1 else relax.const(made)

    patch.setattr(to_nhwc, "_turned_constant", turned)


def concat_reversed(patch: Patch) -> None:
    original = to_nhwc._Walk._concat

    def concat(self: Any, block: Any, call: Any) -> Any:
        return original(self, block, dataclasses.replace(call, fields=call.fields[::-1]))

    patch.setattr(to_nhwc._Walk, "_concat", concat)


def conv_taps_transposed(patch: Patch) -> None:
    original = to_nhwc._Walk._conv2d

    def conv2d(self: Any, block: Any, conv: Any) -> Any:
        turned = relax.const(np.ascontiguousarray(array(conv.weights).swapaxes(2, 3)))
        return original(self, block, dataclasses.replace(conv, weights=turned))

    patch.setattr(to_nhwc._Walk, "_conv2d", conv2d)


def threshold_forgotten(patch: Patch) -> None:
    """{0, 1} is taken from 0 on."""
    original = Binarize.of.__func__  # type: ignore[attr-defined]

    class Seen(Binarize):
        @classmethod
        def of(cls, call: Any) -> Any:
            return dataclasses.replace(original(Binarize, call), threshold=0.0)

    patch.setattr(lower_to_xnor, "Binarize", Seen)


def weights_inverted(patch: Patch) -> None:
    original = binary_converters._packed_weight

    def packed(taken: Any, channels: int, **more: Any) -> Any:
        w = original(taken, channels, **more)
        return bitpack.pack(~bitpack.unpack(w, channels)) if w.shape[0] == 16 else w

    patch.setattr(binary_converters, "_packed_weight", packed)


def step_dropped(patch: Patch) -> None:
    """A kernel's epilogue leaves an addition out."""
    original = epilogue._compute
    patch.setattr(
        epilogue, "_compute", lambda step, args, lanes: args[0] if step.op == "add" else original(step, args, lanes)
    )


def thresholds_exclusive(patch: Patch) -> None:
    """A kernel compares with > where >= is meant."""
    made = dict(epilogue._COMPARISONS)
    made["at_least"] = lambda a, least: a > least
    made["threshold"] = lambda a, lo, hi: T.bitwise_and(a > lo, a <= hi)
    patch.setattr(epilogue, "_COMPARISONS", made)


def stride_forgotten(patch: Patch) -> None:
    """A kernel takes every row where every other is meant."""
    original = XnorConv2d.first_tap

    def first_tap(self: Any, *place: Any) -> Any:
        return original(dataclasses.replace(self, strides=(1, self.strides[1])), *place)

    patch.setattr(XnorConv2d, "first_tap", first_tap)


def filters_rolled(patch: Patch) -> None:
    """A kernel's filters are laid out one place off."""
    original = XnorConv2d.arrange

    def arrange(self: Any, constants: Any, target: Any, schedule: Any) -> Any:
        first, *rest = constants
        return original(self, [np.roll(first, 1, axis=0), *rest], target, schedule)

    patch.setattr(XnorConv2d, "arrange", arrange)


def parameters_rolled(patch: Patch) -> None:
    """Selection hands a kernel its per-channel numbers one channel off."""
    original = steps.Collector._operand

    def operand(self: Any, argument: Any) -> Any:
        known = len(self.sources)
        found = original(self, argument)
        for i in range(known, len(self.sources)):
            if not isinstance(self.sources[i], str):
                self.sources[i] = np.roll(self.sources[i], 1, axis=-1)
        return found

    patch.setattr(steps.Collector, "_operand", operand)


BITS = "bnncc.LowerToXnor"
MUTATIONS = [
    Mutation("weights inverted on import", "straight", "import", ("conv1",), weights_inverted),
    Mutation(
        "gamma's sign flipped",
        "straight",
        "bnncc.FoldBatchNorm",
        ("conv2",),
        norm_seen_as(gamma=lambda seen: relax.const(-array(seen.gamma))),
    ),
    Mutation("epsilon ignored", "straight", "bnncc.FoldBatchNorm", ("conv2",), norm_seen_as(epsilon=lambda seen: 0.0)),
    Mutation(
        "variance for mean",
        "straight",
        "bnncc.FoldBatchNorm",
        ("conv2",),
        norm_seen_as(mean=lambda seen: seen.variance),
    ),
    Mutation("PReLU's slopes shifted", "branches", "bnncc.ToNHWC", ("prelu", "residual", "conv2", "y"), prelu_shifted),
    Mutation("channel order in concat", "branches", "bnncc.ToNHWC", ("y",), concat_reversed),
    Mutation("float taps transposed", "branches", "bnncc.ToNHWC", ("conv1", "stem"), conv_taps_transposed),
    Mutation(
        "order of a dense layer's taps",
        "dense",
        "bnncc.DenseAsConv",
        ("y",),
        weights_seen_as(dense_as_conv, lambda w: w[..., ::-1]),
    ),
    Mutation(
        "sign before a max-pool, not flipped",
        "straight",
        "bnncc.SignBeforeMaxPool",
        ("y",),
        wrapped(sign_before_max_pool, "_direction", lambda d: None if d is None else np.abs(d)),
    ),
    Mutation("negative scale dropped", "dense", "bnncc.DropScaleBeforeSign", ("y",), scale_always_dropped),
    Mutation(
        "wrong border class",
        "straight",
        BITS,
        ("conv1", "conv2"),
        wrapped(lower_to_xnor, "_classes", lambda found: (found[0], np.roll(found[1], 1))),
    ),
    Mutation("swapped taps", "straight", BITS, ("conv1",), weights_seen_as(lower_to_xnor, lambda w: w[:, ::-1])),
    Mutation("pads on the wrong sides", "straight", BITS, ("conv1",), pads_swapped),
    Mutation(
        "groups swapped", "straight", BITS, ("conv1",), weights_seen_as(lower_to_xnor, lambda w: np.roll(w, 8, axis=0))
    ),
    Mutation(
        "wrong weight of a bit",
        "branches",
        BITS,
        ("conv2",),
        wrapped(lower_to_xnor, "accumulator_constants", lambda found: found._replace(bit_weight=2)),
    ),
    Mutation("{0, 1} without its threshold", "branches", BITS, ("conv2",), threshold_forgotten),
    Mutation(
        "threshold off by one",
        "straight",
        "bnncc.FoldThresholds",
        ("conv2",),
        wrapped(fold_thresholds, "intervals", lambda found: None if found is None else (found[0] + 1, found[1])),
    ),
    Mutation(
        "thresholds of the next channel",
        "straight",
        "bnncc.FoldThresholds",
        ("conv2",),
        wrapped(
            fold_thresholds, "intervals", lambda found: None if found is None else tuple(np.roll(f, 1) for f in found)
        ),
    ),
    Mutation(
        "additions dropped from a kernel, a residual among them",
        "branches",
        MACHINE_CODE,
        ("prelu", "residual", "conv2"),
        step_dropped,
    ),
    Mutation("> for >= in a kernel", "straight", MACHINE_CODE, ("conv2",), thresholds_exclusive),
    Mutation("a forgotten stride in a kernel", "straight", MACHINE_CODE, ("y",), stride_forgotten),
    Mutation("filters one place off", "straight", MACHINE_CODE, ("conv1",), filters_rolled),
    Mutation("per-channel numbers one off", "straight", MACHINE_CODE, ("conv1", "conv2"), parameters_rolled),
]


def check(network: str, folder: Path) -> Any:
    path = folder / "net.onnx"
    path.write_bytes(NETWORKS[network]())
    x = np.random.default_rng(2).standard_normal((1, 8, 9, 8)).astype(np.float32)
    return verify(path, {"x": x})


@pytest.fixture(scope="module", autouse=True)
def compiled_once() -> Iterator[None]:
    """Stages in front of a mutation are the same in every test: TVM compiles each once."""
    known: dict[int, list[tuple[tvm.IRModule, stages.Executable]]] = {}
    original = stages.Executable

    def executable(module: tvm.IRModule) -> stages.Executable:
        same = known.setdefault(tvm_ffi.structural_hash(module), [])
        for other, made in same:
            if tvm_ffi.structural_equal(module, other):
                return made
        same.append((module, original(module)))
        return same[-1][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "Executable", executable)
        yield


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_nothing_differs_unless_broken(network: str, tmp_path: Path) -> None:
    found = check(network, tmp_path)
    assert found.failure is None
    assert [stage.name for stage in found.stages][-1] == MACHINE_CODE


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_caught(mutation: Mutation, tmp_path: Path, monkeypatch: Patch) -> None:
    mutation.apply(monkeypatch)
    failure = check(mutation.network, tmp_path).failure
    assert failure is not None, "not caught"
    layer = failure.difference.check.layer
    print(f"{mutation.name}: {failure.stage}, {layer}, {failure.difference.differ} of {failure.difference.total}")
    assert (failure.stage, layer in mutation.layers) == (mutation.stage, True), (failure.stage, layer)
    assert failure.case.differs
