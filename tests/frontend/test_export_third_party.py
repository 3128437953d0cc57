"""Modules as third parties write them: hooks, subclasses, patches, reparametrisations, layers held anywhere."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm
from torch.utils.checkpoint import checkpoint

import bnncc
from bnncc.nn import BinaryConv1d, BinaryConv2d, BinaryLinear, Bits, Sign
from bnncc.runtime.errors import ModelError
from tests.frontend.exporting import assert_file_equals_module

Call = Callable[..., Any]


def conv(**options: Any) -> BinaryConv2d:
    return BinaryConv2d(4, 4, 3, padding=1, **options)


def changed(change: Callable[[Any], object], layer: nn.Module | None = None) -> nn.Module:
    """A network around one layer after `change` of it."""
    network = nn.Sequential(nn.BatchNorm2d(4), layer or conv(scale="channel"), nn.Hardtanh(-3, 3))
    change(network[1])
    return network


class Calling(nn.Module):
    """Children by name, and a function of the module and its input as forward."""

    def __init__(self, forward: Call, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.call = forward

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


# Hooks.


def hooks() -> dict[str, Callable[[], nn.Module]]:
    def globally(layer: nn.Module) -> None:
        for _ in range(2):  # two hooks on one layer run one after the other
            layer.register_forward_hook(lambda m, i, o: o + 0.5)

    def with_keywords(layer: nn.Module) -> None:
        layer.register_forward_pre_hook(lambda m, args, kwargs: ((args[0] * -1,), kwargs), with_kwargs=True)

    def records(layer: nn.Module) -> None:
        seen: list[Tensor] = []
        layer.register_forward_hook(lambda m, i, o: seen.append(o.mean()))

    def root() -> nn.Module:
        layer = conv()
        layer.register_forward_pre_hook(lambda m, i: (i[0] - 0.25,))
        layer.register_forward_hook(lambda m, i, o: o * 3)
        return layer

    return {
        "forward hook": lambda: changed(lambda m: m.register_forward_hook(lambda m, i, o: o * 2)),
        "pre-hook": lambda: changed(lambda m: m.register_forward_pre_hook(lambda m, i: (i[0] - 0.5,))),
        "pre-hook with keywords": lambda: changed(with_keywords),
        "two hooks": lambda: changed(globally),
        "hook that records": lambda: changed(records),
        "hooks on the whole module": root,
        "hook on the input's Sign": lambda: changed(
            lambda m: m.input_quantizer.register_forward_hook(lambda m, i, o: -o)
        ),
        "pre-hook on the input's Sign": lambda: changed(
            lambda m: m.input_quantizer.register_forward_pre_hook(lambda m, i: (i[0] + 0.5,))
        ),
        "hook on the weight's Sign": lambda: changed(
            lambda m: m.weight_quantizer.register_forward_hook(lambda m, i, o: -o)
        ),
        "bits turned round": lambda: changed(
            lambda m: m.input_quantizer.register_forward_hook(lambda m, i, o: 1 - o), conv(activation="bits")
        ),
        "bits made signs": lambda: changed(
            lambda m: m.input_quantizer.register_forward_hook(lambda m, i, o: 2 * o - 1), conv(activation="bits")
        ),
    }


# Subclasses and patches.


class Doubled(BinaryConv2d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * 2


class Centred(BinaryConv2d):
    """Overrides a method that forward calls."""

    def correlate(self, signs: Tensor, weight: Tensor) -> Tensor:
        y = super().correlate(signs, weight)
        return y - y.mean((2, 3), keepdim=True)


class Unscaled(BinaryConv2d):
    def weight_scale(self) -> Tensor | None:
        return self.weight.abs().amax((1, 2, 3))


class Late(Sign):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - 0.5)


def subclasses() -> dict[str, Callable[[], nn.Module]]:
    def patched(layer: nn.Module) -> None:
        original = layer.forward
        layer.forward = lambda x: original(x).clamp(-4, 4)

    def scale_patched(layer: Any) -> None:
        layer.weight_scale = lambda: layer.weight.abs().amax((1, 2, 3))

    def wrapped_call(layer: nn.Module) -> None:
        layer.forward = functools.partial(lambda forward, x: forward(x) + x, layer.forward)

    return {
        "forward overridden": lambda: changed(lambda m: None, Doubled(4, 4, 3, padding=1)),
        "correlate overridden": lambda: changed(lambda m: None, Centred(4, 4, 3, padding=1)),
        "weight_scale overridden": lambda: changed(lambda m: None, Unscaled(4, 4, 3, padding=1, scale="channel")),
        "Sign subclassed": lambda: changed(lambda m: None, conv(input_quantizer=Late())),
        "forward patched on the instance": lambda: changed(patched),
        "weight_scale patched on the instance": lambda: changed(scale_patched),
        "forward a partial": lambda: changed(wrapped_call),
        "class changed at run time": lambda: changed(lambda m: setattr(m, "__class__", Doubled)),
    }


# What forward asks its layers.


def questions() -> dict[str, Callable[[], nn.Module]]:
    def over(condition: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
        def forward(self: nn.Module, x: Tensor) -> Tensor:
            for layer in self.children():
                x = layer(x) + x if condition(layer) else layer(x)
            return x

        return lambda: Calling(forward, a=conv(), b=nn.BatchNorm2d(4))

    def reading(self: Any, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, [self.a.kernel_size[0] // 2] * 4)
        y: Tensor = self.a(padded) * self.a.weight.std() + float(self.a.stride[0])
        return y

    def signs_of_weight(self: Any, x: Tensor) -> Tensor:
        y: Tensor = self.a(x) * torch.sign(self.a.weight).mean()
        return y

    return {
        "isinstance of ours": over(lambda m: isinstance(m, BinaryConv2d)),
        "isinstance of torch's": over(lambda m: isinstance(m, nn.Conv2d)),
        "type is": over(lambda m: type(m) is BinaryConv2d),
        "hasattr": over(lambda m: hasattr(m, "weight_quantizer")),
        "class name": over(lambda m: m.__class__.__name__.startswith("Binary")),
        "attributes read in forward": lambda: Calling(reading, a=BinaryConv2d(4, 4, 3)),
        "weight read in forward": lambda: Calling(signs_of_weight, a=conv()),
    }


# Weights that something computes.


class Centre(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight - weight.mean((1, 2, 3), keepdim=True)


class Alpha(nn.Module):
    """Learned scale times a nested quantizer."""

    def __init__(self) -> None:
        super().__init__()
        self.alpha, self.inner = nn.Parameter(torch.linspace(-1, 1, 4)), nn.Sequential(Centre(), Sign())

    def forward(self, weight: Tensor) -> Tensor:
        y: Tensor = self.alpha.reshape(-1, 1, 1, 1) * self.inner(weight)
        return y


def loaded_after(reparametrise: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    """A checkpoint is loaded after the first call, so that `layer.weight` is what it was before."""

    def build() -> nn.Module:
        network = changed(reparametrise).eval()
        with torch.no_grad():
            network(torch.randn(1, 4, 6, 6))
            layer = network.get_submodule("1")
            state = {name: torch.randn_like(v) for name, v in layer.state_dict().items() if "mask" not in name}
            layer.load_state_dict(state, strict=False)
        return network

    return build


def reparametrised() -> dict[str, Callable[[], nn.Module]]:
    return {
        "spectral_norm": loaded_after(spectral_norm),
        "prune": loaded_after(lambda m: prune.l1_unstructured(m, "weight", 0.3)),  # type: ignore[no-untyped-call]
        "parametrizations.weight_norm": loaded_after(parametrizations.weight_norm),
        "parametrizations.spectral_norm": loaded_after(parametrizations.spectral_norm),
        "parametrizations.orthogonal": lambda: changed(parametrizations.orthogonal),
        "own parametrization": loaded_after(lambda m: parametrize.register_parametrization(m, "weight", Centre())),
        "nested quantizer with a scale": lambda: changed(lambda m: None, conv(weight_quantizer=Alpha())),
        "trained threshold": lambda: changed(
            lambda m: None, conv(input_quantizer=Bits(nn.Parameter(torch.linspace(-1, 1, 4).reshape(4, 1, 1))))
        ),
        "threshold that is a buffer": lambda: changed(lambda m: None, conv(input_quantizer=Bits(torch.tensor(0.5)))),
    }


# Layers held where torch does not look, and used in unusual ways.


def held() -> dict[str, Callable[[], nn.Module]]:
    def in_attribute(make: Callable[[BinaryConv2d], object], call: Call) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            module = Calling(lambda self, x: call(self.held, x))
            cast(Any, module).held = make(conv())
            return module

        return build

    def closure() -> nn.Module:
        layer = conv()
        return Calling(lambda self, x: self.norm(layer(x)), norm=nn.BatchNorm2d(4))

    def shared() -> nn.Module:
        layer = conv(scale="channel")
        return nn.Sequential(layer, nn.BatchNorm2d(4), layer)

    def tied() -> nn.Module:
        first, second = BinaryLinear(4, 4, bias=False), BinaryLinear(4, 4, bias=False)
        second.weight = first.weight
        return nn.Sequential(first, nn.BatchNorm1d(4), second)

    def scripted_loop(self: Any, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.a(x)
        return x

    def functional(self: Any, x: Tensor) -> Tensor:
        weights = {"weight": self.a.weight.flip(0), "bias": self.a.bias * 2}
        return cast(Tensor, torch.func.functional_call(self.a, weights, (x,)))

    def split(self: Any, x: Tensor) -> Tensor:
        return torch.cat([self.a(part) for part in x.chunk(2, 1)], 1)

    def transposed(self: Any, x: Tensor) -> Tensor:
        return cast(Tensor, self.a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))

    def flattened(self: Any, x: Tensor) -> Tensor:
        return cast(Tensor, self.a(x.flatten(2)).mean(-1))

    def in_place(self: Any, x: Tensor) -> Tensor:
        y = self.a(x)
        y += x
        y[:, 0] = y[:, 1]
        return cast(Tensor, y.relu_())

    def counts(self: Any, x: Tensor) -> Tensor:
        self.calls += 1
        return cast(Tensor, self.a(x))

    def counting() -> nn.Module:
        module = Calling(counts, a=conv())
        module.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        return module

    return {
        "list": in_attribute(lambda m: [m], lambda held, x: held[0](x)),
        "dict": in_attribute(lambda m: {"m": m}, lambda held, x: held["m"](x)),
        "bound method": in_attribute(lambda m: m.forward, lambda held, x: held(x)),
        "closure": closure,
        "layer used twice": shared,
        "loop": lambda: Calling(scripted_loop, a=conv()),
        "functional_call": lambda: Calling(functional, a=conv()),
        "split channels": lambda: Calling(split, a=BinaryConv2d(2, 2, 3)),
        "dense over the last axis": lambda: Calling(transposed, a=BinaryLinear(4, 3, scale="layer")),
        "one spatial axis": lambda: Calling(flattened, a=BinaryConv1d(4, 3, 3, scale="channel")),
        "in place": lambda: Calling(in_place, a=conv()),
        "checkpointed": lambda: Calling(lambda self, x: checkpoint(self.a, x, use_reentrant=False), a=conv()),
        "a buffer that counts": counting,
        "ModuleDict": lambda: Calling(lambda self, x: self.d["a"](x), d=nn.ModuleDict({"a": conv()})),
        "tied weights": lambda: Calling(lambda self, x: self.t(x.mean((2, 3))), t=tied()),
        "attention beside": lambda: Calling(
            lambda self, x: self.t(self.a(x).flatten(2)), a=conv(), t=nn.TransformerEncoderLayer(36, 4, 8)
        ),
    }


KINDS = {"hooks": hooks, "subclasses": subclasses, "questions": questions, "weights": reparametrised, "held": held}
LAYERS = {"layer used twice": 2, "tied weights": 2, "loop": 3, "split channels": 2}


@pytest.mark.parametrize("case", [(kind, name) for kind, cases in KINDS.items() for name in cases()], ids=" - ".join)
def test_file_equals_module(case: tuple[str, str], tmp_path: Path) -> None:
    torch.manual_seed(sum(map(ord, case[1])))
    module = KINDS[case[0]]()[case[1]]()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    bits = LAYERS.get(case[1], 1)
    assert_file_equals_module(module, torch.randn(2, 4, 6, 6), path=tmp_path / "net.onnx", binary=bits)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items() if name != "calls")


def test_module_is_left_as_it_was(tmp_path: Path) -> None:
    """Modes, buffers and parameters; also where export fails."""
    module = cast(Any, held()["a buffer that counts"]())
    module.eval()
    module.a.train()
    weight = module.a.weight
    bnncc.export(module, torch.randn(1, 4, 6, 6), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"^Calling: forward fails on the example: RuntimeError: .* Pass an example"):
        bnncc.export(module, torch.randn(1, 5, 6, 6), tmp_path / "other.onnx")
    assert [module.training, module.a.training, module.a.input_quantizer.training] == [False, True, True]
    assert module.calls == 0
    assert module.a.weight is weight
    assert not (tmp_path / "other.onnx").exists()


def test_weight_from_the_input_is_refused(tmp_path: Path) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        return cast(
            Tensor, torch.func.functional_call(self.a, {"weight": x[:, :, :3, :3], "bias": x[0, :, 0, 0]}, (x,))
        )

    with pytest.raises(ModelError, match=r"^a: its weight is computed from the network's input; allowed"):
        assert_file_equals_module(Calling(forward, a=conv()), torch.randn(4, 4, 6, 6), path=tmp_path / "n", binary=1)
    assert list(tmp_path.iterdir()) == []
