"""One builder for networks and methods, so that a comparison differs in one word.

build("resnet20", "xnor"), build("resnet20", "trained-binarization"), build("resnet20", "float"), ...
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch

from bnncc.models.group_net import Grouping, group_resnet, group_vgg
from bnncc.models.methods import (
    Backbone,
    Downsample,
    Merge,
    Recipe,
    circulant_conv,
    float_conv,
    layerwise_conv,
    scaled_conv,
    trained_conv,
)
from bnncc.models.network import Network, cifar_stem, imagenet_stem
from bnncc.models.reactnet import react_conv, shifted_prelu
from bnncc.models.resnet import resnet
from bnncc.models.vgg import POOLS, vgg
from bnncc.nn.estimators import clipped, polynomial
from bnncc.nn.group_net import FusionKind, Gates
from bnncc.nn.layer import Activation
from bnncc.nn.summary import Summary, summary
from bnncc.nn.trained_binarization import Granularity
from bnncc.ops.circulant_expand import Mixing
from bnncc.runtime.errors import OptionError

Architecture = Literal["resnet18", "resnet20", "vgg-small"]
Method = Literal["float", "xnor", "bireal", "reactnet", "trained-binarization", "group-net", "ci-bcnn", "cbcn"]
Decomposition = Literal["group", "layer"]
EqualTo = Literal["macs", "bits"] | None

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
METHODS: tuple[Method, ...] = get_args(Method)

_WIDTHS = {"resnet18": (64, 128, 256, 512), "resnet20": (16, 32, 64), "vgg-small": (128, 256, 512)}
_CONVOLUTIONS = {"resnet18": 4, "resnet20": 6}
_LARGE = 64  # pixels: above, ResNet-18 has the stem of 224x224 images
_TRIES = 6  # to find a width


def build(
    model: Architecture,
    method: Method,
    *,
    classes: int = 10,
    image: tuple[int, int, int] = (3, 32, 32),
    width: float = 1.0,
    equal_to: EqualTo = None,
    reference: Method = "xnor",
    backbone: Backbone | None = None,
    downsample: Downsample | None = None,
    activation: Activation = "bits",
    granularity: Granularity = "channel",
    bases: int = 5,
    decomposition: Decomposition = "group",
    blocks: int | None = 1,
    gates: Gates = "group",
    fusion: FusionKind = "equal",
    orientations: int = 4,
    mixing: Mixing = "oriented",
    merge: Merge = "max",
    sigma: float = 1.0,
) -> Network:
    """An untrained network, float [N, *image] -> float [N, classes]. Weights come from torch's random state.

    Args:
        model: "resnet18": four stages of four convolutions, 64 to 512 channels; a stem for 224x224 where a side exceeds
            64, else for 32x32. "resnet20": three of six, 16 to 64. "vgg-small": six convolutions, 128 to 512, the first
            of them the stem.
        method: "float": the full-precision twin, ReLU in place of the sign, weights as they are.
            "xnor": XNOR-Net (Rastegari et al., ECCV 2016): clipped estimator, mean of absolute weights of each filter,
            without the input's scale map, which the authors' release leaves out too.
            "bireal": Bi-Real Net (Liu et al., ECCV 2018): polynomial estimator, a shortcut around each convolution.
            "reactnet": ReActNet (Liu et al., ECCV 2020): Bi-Real with trained shifts around sign and PReLU.
            "trained-binarization": Xu and Cheung, BMVC 2019 (bnncc/nn/trained_binarization.py).
            "ci-bcnn": Wang et al., CVPR 2019: the network of its backbone, "bireal" (the better of the paper's two) or
            "xnor", with a `ChannelInteraction` in every binary convolution, without edges until they are mined.
            "group-net": Zhuang et al., CVPR 2019 (bnncc/nn/group_net.py).
            "cbcn": Liu et al., CVPR 2019 (bnncc/nn/circulant.py). Channels are those of one orientation: products grow
            with the square of `orientations`, so choose `equal_to`.
        image: channels, height, width: multiples of the network's stride; from 8 for vgg-small.
        width: factor of every number of channels, which is then rounded.
        equal_to: None, or "macs": `width` is multiplied by what makes the products of the binary layers as many as
            those of `reference` at `width`; "bits": their stored weights. As near as a channel more or less allows.
        backbone: None: the method's own. "xnor": BatchNorm before the convolution, a shortcut around two; "bireal":
            BatchNorm behind it, a shortcut around each. For ResNets. Trained Binarization's ResNet is known to order
            BatchNorm -> step -> convolution; where its shortcuts are is not, nor CBCN's order: they share XNOR-Net's,
            so that a comparison with it differs in filters or activations alone.
        downsample: 1x1 convolution of a shortcut that changes shape, of ResNets: "float" behind an average pool, or
            "binary". None: binary for group-net (released code), else float, as Bi-Real's is and the published sizes of
            XNOR-Net's ResNets say; Trained Binarization's is not known.
        activation, granularity: of trained-binarization; see there.
        bases: of group-net: K; 5 in nearly all of the paper's experiments.
        decomposition: of group-net: "group" (default), or "layer": bases summed at every convolution, on the "bireal"
            backbone; less accurate in the paper.
        blocks: of group-net: how many, of two convolutions each, make a group; 1 (default): the released code. None:
            the body is one group, which makes an ensemble with one stem and one classifier.
        gates, fusion: of group-net; see there.
        orientations, mixing: of cbcn; see there.
        merge: of cbcn: "max" (default): the classifier reads the strongest orientation, as the authors' sibling
            networks with Gabor filters do; "all": every one. CBCN's own choice is not known.
        sigma: of cbcn: width of the Gaussian in whose place the derivative of the filters' sign stands; not known.

    OptionError: a name, number or size that is not allowed.
    """
    choices = _Choices(
        backbone=backbone,
        downsample=downsample,
        activation=activation,
        granularity=granularity,
        bases=bases,
        decomposition=decomposition,
        blocks=blocks,
        gates=gates,
        fusion=fusion,
        orientations=orientations,
        mixing=mixing,
        merge=merge,
        sigma=sigma,
    )
    _check(model, method, reference, equal_to, choices)
    _check_numbers(model, classes, image, width, choices)
    made = partial(_build, model, classes, image, choices)
    if equal_to is not None:
        goal = _amount(equal_to, lambda: made(reference, width), image)
        width *= _factor(goal, lambda factor: _amount(equal_to, lambda: made(method, width * factor), image))
    return made(method, width)


@dataclass(frozen=True)
class _Choices:
    """The arguments of `build` that some methods look at."""

    backbone: Backbone | None
    downsample: Downsample | None
    activation: Activation
    granularity: Granularity
    bases: int
    decomposition: Decomposition
    blocks: int | None
    gates: Gates
    fusion: FusionKind
    orientations: int
    mixing: Mixing
    merge: Merge
    sigma: float


def _build(
    model: Architecture,
    classes: int,
    image: tuple[int, int, int],
    choices: _Choices,
    method: Method,
    width: float,
) -> Network:
    widths = [max(1, round(channels * width)) for channels in _WIDTHS[model]]
    grouping = Grouping(choices.bases, choices.blocks, choices.gates, choices.fusion)
    in_groups = method == "group-net" and choices.decomposition == "group"
    if model == "vgg-small":
        if in_groups:
            return group_vgg(image, widths, classes, grouping)
        return vgg(image, widths, _recipe(method, choices), classes)
    large = partial(imagenet_stem, pool_first=method == "group-net")
    stem = (large if _large(model, image) else cifar_stem)(image[0], widths[0])
    if in_groups:
        downsample = choices.downsample or "binary"
        return group_resnet(stem, widths, _CONVOLUTIONS[model], classes, grouping, downsample)
    return resnet(stem, widths, _CONVOLUTIONS[model], _recipe(method, choices), classes)


def _recipe(method: Method, choices: _Choices) -> Recipe:
    downsample = choices.downsample or "float"
    pre = choices.backbone or "xnor"
    post = choices.backbone or "bireal"
    if method == "float":
        return Recipe(float_conv, pre, "float", tail=lambda channels: torch.nn.ReLU())
    if method == "xnor":
        return Recipe(scaled_conv(clipped), pre, downsample)
    if method == "bireal":
        return Recipe(scaled_conv(polynomial), post, downsample)
    if method == "reactnet":
        return Recipe(react_conv, post, downsample, shifted_prelu, shifted_prelu)
    if method == "cbcn":
        conv = circulant_conv(choices.orientations, choices.mixing, choices.sigma)
        return Recipe(conv, pre, downsample, maps=choices.orientations, merge=choices.merge)
    if method == "ci-bcnn":
        estimator = polynomial if post == "bireal" else clipped
        return Recipe(scaled_conv(estimator, interacting=True), post, downsample)
    if method == "group-net":
        return Recipe(layerwise_conv(choices.bases, choices.fusion), post, choices.downsample or "binary")
    return Recipe(trained_conv(choices.activation, choices.granularity), pre, downsample)


def _amount(of: EqualTo, made: Callable[[], Network], image: tuple[int, int, int]) -> int:
    """Counted without computing anything."""
    with torch.device("meta"):
        counted: Summary = summary(made(), torch.empty(1, *image))
    return counted.binary_macs if of == "macs" else counted.binary_weights


def _factor(goal: int, amount: Callable[[float], int]) -> float:
    """Where `amount`, which grows about as the square of its factor, is nearest to `goal` among a few tries."""
    factor, best, off = 1.0, 1.0, math.inf
    for _ in range(_TRIES):
        found = amount(factor)
        if abs(found - goal) < off:
            best, off = factor, abs(found - goal)
        if off == 0:
            break
        factor *= math.sqrt(goal / found)
    return best


def _large(model: Architecture, image: tuple[int, int, int]) -> bool:
    return model == "resnet18" and max(image[1:]) > _LARGE


def _check(model: str, method: str, reference: str, equal_to: str | None, choices: _Choices) -> None:
    for option, value, allowed in (
        ("model", model, ARCHITECTURES),
        ("method", method, METHODS),
        ("reference", reference, METHODS),
        ("equal_to", equal_to, (None, "macs", "bits")),
        ("backbone", choices.backbone, (None, *get_args(Backbone))),
        ("downsample", choices.downsample, (None, *get_args(Downsample))),
        ("decomposition", choices.decomposition, get_args(Decomposition)),
        ("merge", choices.merge, get_args(Merge)),
    ):
        if value not in allowed:
            listed = ", ".join(map(repr, allowed))
            raise OptionError(f"build: {option} is {value!r}; allowed are {listed}.")
    if equal_to is not None and "float" in (method, reference):
        raise OptionError(
            f"build: equal_to={equal_to!r} with the method float, which has no binary layers; allowed is None. "
            f"Choose its width."
        )


def _check_numbers(
    model: Architecture, classes: int, image: tuple[int, int, int], width: float, choices: _Choices
) -> None:
    if choices.blocks is not None and choices.blocks < 1:
        raise OptionError(
            f"build: blocks is {choices.blocks}; allowed are whole numbers from 1, and None for all in one group."
        )
    if classes < 1:
        raise OptionError(f"build: classes is {classes}; allowed are whole numbers from 1.")
    for name, number in (("width", width), ("sigma", choices.sigma)):
        if not 0 < number < float("inf"):
            raise OptionError(f"build: {name} is {number}; allowed are finite numbers above 0.")
    stride = {"resnet18": 32 if _large(model, image) else 8, "resnet20": 4, "vgg-small": 1}[model]
    least = 1 << POOLS if model == "vgg-small" else stride
    if len(image) != 3 or min(image) < 1 or any(side < least or side % stride for side in image[1:]):
        raise OptionError(
            f"build: image is {image}; allowed for {model} are (channels, height, width) with sides from {least} "
            f"that are multiples of {stride}. Crop or pad the images."
        )
