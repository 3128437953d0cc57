"""Sliding a window over an image without padding it: taps that fall outside are left out by the bounds of the loops."""

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from bnncc.tir import epilogue as ep
from bnncc.tir.registers import Expr
from bnncc.tir.shares import Share
from bnncc.tir.tiles import walk_row

_UNROLL = 9  # taps of one row of the window that are written out one by one


@dataclass(frozen=True)
class ImageWindow:
    """A window on images [N, in_rows, in_width, C]; pads are (top, left, bottom, right) pixels around them."""

    output: ep.Geometry
    in_rows: int
    in_width: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """[N, in_rows, in_width, C]."""
        return self.output.batch, self.in_rows, self.in_width, self.output.channels

    def at(self, n: Expr, y: Expr, x: Expr) -> Expr:
        """Number of the input pixel under the first tap of an output pixel; with padding it may lie outside, and so be
        negative."""
        row = n * self.in_rows + y * self.strides[0] - self.pads[0]
        return row * self.in_width + x * self.strides[1] - self.pads[1]

    def step(self, i: Expr, j: Expr, pixel: int) -> Expr:
        """Input pixels from the first tap to tap (i, j) of the output pixel `pixel` further right."""
        return i * (self.dilations[0] * self.in_width) + j * self.dilations[1] + pixel * self.strides[1]


@dataclass(frozen=True)
class Taps:
    """The taps of one row of output pixels that count: from `first` to before `end`, vertically and horizontally.

    padded: how many, vertically and horizontally, lie in the image with its padding.
    """

    first: tuple[Expr, Expr]
    end: tuple[Expr, Expr]
    padded: tuple[Expr, Expr]

    def each(self, emit: Callable[[Expr, Expr], None]) -> None:
        """Call `emit(i, j)` for the taps in a loop over rows, whose columns are written out if there are few."""
        with T.serial(self.first[0], self.end[0]) as i:
            if isinstance(self.first[1], int) and isinstance(self.end[1], int) and self.end[1] <= _UNROLL:
                for j in range(self.first[1], self.end[1]):
                    emit(i, j)
            else:
                with T.serial(self.first[1], self.end[1]) as j:
                    emit(i, j)


def walk_windows(
    window: ImageWindow, pixels: int, part: Share, emit: Callable[[Expr, Expr, Expr, int, Taps], None]
) -> None:
    """Call `emit(n, y, x, pixels, taps)` for all output pixels of the rows in `part`: `pixels` at a time where all
    columns of the window are inside, one at a time at the left and right border."""
    width = window.output.width
    left = window.pads[1]
    reach = (window.kernel[1] - 1) * window.dilations[1]
    inside = min(width, -(-left // window.strides[1]))
    outside = max(inside, min(width, (window.in_width - 1 + left - reach) // window.strides[1] + 1))

    def walk(n: Expr, y: Expr) -> None:
        rows = _range(window, 0, y)

        def at_border(first: int, end: int) -> None:
            if first < end:
                with T.serial(first, end) as x:
                    columns = _range(window, 1, x)
                    emit(n, y, x, 1, Taps(*zip(rows, columns, strict=True)))

        at_border(0, inside)
        if inside < outside:
            count = min(pixels, outside - inside)
            columns = (0, window.kernel[1], window.kernel[1])
            taps = Taps(*zip(rows, columns, strict=True))
            walk_row(outside - inside, count, lambda x: emit(n, y, x + inside, count, taps))
        at_border(outside, width)

    part.each_row(window.output.batch, window.output.rows, walk)


def _range(window: ImageWindow, axis: int, position: Expr) -> tuple[Expr, Expr, Expr]:
    """(first, end, padded) of the taps along one axis for the output pixel at `position`."""
    extent = (window.in_rows, window.in_width)[axis]
    size, stride, dilation = window.kernel[axis], window.strides[axis], window.dilations[axis]
    before, after = window.pads[axis], window.pads[axis + 2]
    last = ((window.output.rows, window.output.width)[axis] - 1) * stride + (size - 1) * dilation - before
    if not before and last < extent:
        return 0, size, size
    zero = tirx.const(0, "int32")
    start = position * stride
    first = T.Bind(T.min(T.floordiv(T.max(before - start + dilation - 1, zero), dilation), size))
    end = T.Bind(T.min(T.floordiv(T.max(extent + before - start + dilation - 1, zero), dilation), size))
    padded = T.Bind(T.min(T.floordiv(T.max(extent + before + after - start + dilation - 1, zero), dilation), size))
    return first, end, padded
