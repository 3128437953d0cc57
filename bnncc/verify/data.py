"""Samples to verify on: a .npz file, or a folder of images and the recipe that the network was trained with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bnncc.runtime import npz
from bnncc.runtime.array import Array
from bnncc.runtime.errors import InputError, OptionError

IMAGES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp")
MOST_IMAGES = 100_000


@dataclass(frozen=True)
class Recipe:
    """How an image becomes float32: its shorter side is resized to `resize` pixels (bilinear), the middle `crop` x
    `crop` is cut out, values are divided by 255, then (value - mean) / std by channel. As many channels as `mean` has:
    1 (grey) or 3. layout: "NCHW" or "NHWC"."""

    resize: int | None = None
    crop: int | None = None
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    layout: str = "NCHW"


def read(path: Path, recipe: Recipe, name: str) -> dict[str, Array]:
    """Arrays by input name, and labels if there are any. name: of the network's input that images are for.

    In a folder of folders each of these is a class, numbered in the order of their names.

    Raises:
        InputError: nothing readable there, or images of several sizes.
        OptionError: Pillow is not installed, or a recipe that makes no sense.
    """
    if not path.is_dir():
        return npz.read_any(path)
    if len(recipe.mean) not in (1, 3) or len(recipe.mean) != len(recipe.std) or 0 in recipe.std:
        raise OptionError("--mean, --std: allowed are 1 number each, or 3, and no 0 in --std")
    folders = sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))
    found = [(file, label) for label, folder in enumerate(folders or [path]) for file in sorted(folder.iterdir())]
    found = [(file, label) for file, label in found if file.suffix.lower() in IMAGES]
    if not 0 < len(found) <= MOST_IMAGES:
        raise InputError(f"{path}: found {len(found)} images, allowed are 1 to {MOST_IMAGES} ({', '.join(IMAGES)})")
    arrays = [_image(file, recipe) for file, _ in found]
    for (file, _), array in zip(found, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise InputError(
                f"{file}: found {list(array.shape)}, the first image gave {list(arrays[0].shape)}; give --crop"
            )
    labels = {npz.LABELS: np.array([label for _, label in found], np.int64)} if folders else {}
    return {name: np.stack(arrays), **labels}


def _image(path: Path, recipe: Recipe) -> Array:
    try:
        from PIL import Image
    except ImportError:
        raise OptionError("images: Pillow is not installed; pip install 'bnncc[images]', or give a .npz file") from None
    try:
        with Image.open(path) as opened:
            image = opened.convert("L" if len(recipe.mean) == 1 else "RGB")
    except Exception as error:  # Pillow's decoders raise whatever they like
        message = " ".join(str(error).split())[:120]
        raise InputError(f"{path}: is no image that can be read ({message}); remove it") from error
    if recipe.resize:
        scale = recipe.resize / min(image.size)
        size = [max(1, round(extent * scale)) for extent in image.size]
        image = image.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    if recipe.crop:
        left, top = ((extent - recipe.crop) // 2 for extent in image.size)
        if min(left, top) < 0:
            raise InputError(f"{path}: is {image.size[0]}x{image.size[1]}, smaller than --crop {recipe.crop}")
        image = image.crop((left, top, left + recipe.crop, top + recipe.crop))
    pixels = np.asarray(image, np.float32).reshape(image.size[1], image.size[0], -1) / np.float32(255)
    values: Array = (pixels - np.array(recipe.mean, np.float32)) / np.array(recipe.std, np.float32)
    return values if recipe.layout == "NHWC" else np.ascontiguousarray(values.transpose(2, 0, 1))
