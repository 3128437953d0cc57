"""What a target is: plain, frozen data, from which kernels choose their default schedules.

No code branches on its name."""

from dataclasses import dataclass
from typing import Literal

from bnncc.runtime.cpu import Host

Int8Dot = Literal["", "vnni", "madd", "sdot", "smlal", "vmlal"]


@dataclass(frozen=True)
class Tiles:
    """Tiles that stay in this machine's registers, best first: (pixels, vectors), a vector being the machine's own.

    weight_load: what loading a vector of weights, often from the second-level cache, costs more than loading a value of
    a pixel.
    """

    extents: tuple[tuple[int, int], ...]
    weight_load: float = 1.0


@dataclass(frozen=True)
class ByteTiles:
    """Tiles of byte popcounts for machines where instructions of the vector pipes decide (NEON), best first.

    channels: (pixels, vectors, rows) of tiles whose lanes are output channels. windows: (pixels, channels, rows) of
    tiles whose lanes are bytes of the window. load: vector-pipe slots that loading a vector takes, little where other
    pipes do it. broadcast: the same for bringing one byte of the input into all lanes.
    """

    channels: tuple[tuple[int, int, int], ...]
    windows: tuple[tuple[int, int, int], ...] = ()
    load: float = 1.0
    broadcast: float = 1.0


@dataclass(frozen=True)
class Target:
    """A family of machines that one artifact runs on.

    triple, cpu, attributes: what LLVM is told. features: names as /proc/cpuinfo gives them, checked before loading.
    vector_bits: width of the vectors that the kernels use. registers: how many of them the machine has. lane_bits:
    width of a popcount lane: 64 where the machine counts the bits of 64-bit lanes in one instruction, 8 where it counts
    bytes (and sums are flushed to 16 bits).
    binary, float32, int8: tiles that default schedules are chosen from; binary_1x1 instead of binary for windows of one
    column.
    int8_dot: how 8-bit integers are multiplied: "vnni", "madd", "sdot", "smlal" or "vmlal" (see tir/int8_dot.py), ""
    where float32 is as fast.
    broadcasts_lanes: whether broadcasting lanes of a register is better than broadcasting each byte from memory.
    pointer_bits: width of an address, and of the size that memset and memcpy take.
    options: of LLVM's code generator, as TVM writes them ("-name:type=value").
    """

    name: str
    description: str
    triple: str
    cpu: str
    attributes: tuple[str, ...]
    features: tuple[str, ...]
    vector_bits: int
    registers: int
    lane_bits: int
    binary: Tiles | ByteTiles
    float32: Tiles
    int8: Tiles
    binary_1x1: Tiles | ByteTiles | None = None
    float_abi: str = ""
    int8_dot: Int8Dot = ""
    broadcasts_lanes: bool = False
    pointer_bits: int = 64
    options: tuple[str, ...] = ()

    @property
    def machine(self) -> str:
        """The processor family as `uname -m` prints it."""
        return self.triple.split("-")[0]

    @property
    def word_bytes(self) -> int:
        """Bytes of the words that packed activations are read in."""
        return self.lane_bits // 8

    @property
    def popcount_lanes(self) -> int:
        """Output channels in one popcount vector."""
        return self.vector_bits // self.lane_bits

    @property
    def float_lanes(self) -> int:
        """float32 values in one vector."""
        return self.vector_bits // 32

    @property
    def int8_inputs(self) -> str:
        """The type that activations of an int8 convolution are kept in; int16 where nothing multiplies bytes exactly,
        "" where no convolution should become one."""
        return {"": "", "vnni": "uint8", "madd": "int16"}.get(self.int8_dot, "int8")

    @property
    def llvm(self) -> dict[str, object]:
        """The target as TVM wants it (strings are rejected in 0.27)."""
        config: dict[str, object] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        if self.attributes:
            config["mattr"] = list(self.attributes)
        if self.float_abi:
            config["mfloat-abi"] = self.float_abi
        if self.options:
            config["cl-opt"] = list(self.options)
        return config

    def runs_on(self, host: Host) -> bool:
        """Whether `host` runs its code."""
        return not host.why_not(self.triple, self.features)
