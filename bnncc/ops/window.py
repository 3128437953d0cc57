"""The geometry that convolution and pooling share: where a window reads, and what it reads outside the image.

Images are [N, H, W, C]; pads are (top, left, bottom, right); taps are numbered row-major over the kernel.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pair = tuple[int, int]
Pads = tuple[int, int, int, int]


def output_size(size: int, before: int, after: int, kernel: int, stride: int, dilation: int = 1) -> int:
    """Windows that fit along one axis; less than 1 when the padded image is smaller than the kernel."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


@dataclass(frozen=True, kw_only=True)
class Window:
    """A sliding window over an image."""

    kernel: Pair
    strides: Pair = (1, 1)
    pads: Pads = (0, 0, 0, 0)
    dilations: Pair = (1, 1)

    def output(self, height: int, width: int) -> Pair:
        """Output height and width; ValueError when no window fits."""
        top, left, bottom, right = self.pads
        rows = output_size(height, top, bottom, self.kernel[0], self.strides[0], self.dilations[0])
        columns = output_size(width, left, right, self.kernel[1], self.strides[1], self.dilations[1])
        if rows < 1 or columns < 1:
            raise ValueError(
                f"a {self.kernel[0]}x{self.kernel[1]} kernel (dilations {self.dilations}) does not fit into "
                f"{height}x{width} padded by {self.pads}"
            )
        return rows, columns

    def taps(self, padded: npt.NDArray[np.generic]) -> Iterator[npt.NDArray[np.generic]]:
        """For each tap the pixels [N, OH, OW, C] it reads from an image [N, H, W, C] that is already padded."""
        rows, columns = Window(kernel=self.kernel, strides=self.strides, dilations=self.dilations).output(
            padded.shape[1], padded.shape[2]
        )
        (step_y, step_x), (dilate_y, dilate_x) = self.strides, self.dilations
        for y in range(self.kernel[0]):
            for x in range(self.kernel[1]):
                first_y, first_x = y * dilate_y, x * dilate_x
                yield padded[
                    :,
                    first_y : first_y + (rows - 1) * step_y + 1 : step_y,
                    first_x : first_x + (columns - 1) * step_x + 1 : step_x,
                ]
