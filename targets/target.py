"""What a target is: plain, frozen data and the rules that choose tile sizes. No code branches on a target's name."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """One kernel's loop extents, as far as a rule needs them to choose a tile.

    kind: "xnor_conv2d", "conv2d", "conv2d_int8" or "dense".
    width: output pixels in one row; channels: output channels of one group.
    reduction: words (binary) or floats read per output value.
    columns: taps in one row of the window, whose input neighbouring pixels share.
    window_rows: rows of the window. rows: rows of the output.
    """

    kind: str
    width: int
    channels: int
    reduction: int
    columns: int = 1
    window_rows: int = 1
    rows: int = 1


@dataclass(frozen=True)
class Tile:
    """How many accumulators a kernel holds in registers: `pixels` x `vectors`, each of the target's vector width, in
    each of `rows` rows of the output, which must divide its height.

    lanes: what the byte lanes of a binary accumulator are, "channels" or "bytes" of the window, see
    tir/byte_counts.py. With bytes, for which a pixel must have whole vectors of them, `vectors` (1, 2, 4 or 8)
    counts single channels.
    """

    pixels: int
    vectors: int
    rows: int = 1
    lanes: str = "channels"


# A rule answers a tile or None, which means "not mine"; a target's first rule that answers is taken.
Rule = Callable[[Work], Tile | None]


@dataclass(frozen=True)
class Target:
    """A family of machines that one artifact runs on.

    triple, cpu, attributes: what LLVM is told. features: names as /proc/cpuinfo gives them, checked before loading.
    vector_bits: width of the vectors that the kernels use. lane_bits: width of a popcount lane: 64 where the machine
    counts the bits of 64-bit lanes in one instruction, 8 where it counts bytes (and sums are flushed to 16 bits).
    int8_dot: how 8-bit integers are multiplied: "vnni", "madd", "sdot", "smlal" or "vmlal" (see
    tir/int8_dot.py), "" where float32 is as fast.
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
    lane_bits: int
    rules: tuple[Rule, ...]
    float_abi: str = ""
    int8_dot: str = ""
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

    def tile(self, work: Work) -> Tile:
        """The tile of the first rule that answers."""
        for rule in self.rules:
            tile = rule(work)
            if tile is not None:
                return tile
        raise AssertionError(f"target {self.name} has no rule for {work}")  # every family ends with a rule for all


def best_tile(work: Work, lanes: int, tiles: tuple[tuple[int, int], ...], weight_load: float = 1.0) -> Tile:
    """The cheapest of `tiles` (pixels, vectors) for `work`; earlier ones win ties. `weight_load` is what loading a
    vector of weights, often from the second-level cache, costs more than loading a value of a pixel.

    Cost is the accumulators computed, wasted ones included: the last tile of a row overlaps its neighbour when
    `pixels` does not divide the width, and the last block of channels is padded to whole vectors.
    """
    blocks = -(-work.channels // lanes)

    def cost(tile: tuple[int, int]) -> float:
        pixels, vectors = min(tile[0], work.width), min(tile[1], blocks)
        computed = -(-work.width // pixels) * pixels * -(-blocks // vectors) * vectors
        # A tile of few accumulators cannot hide latency and reloads its operands for each of them.
        loads = weight_load / pixels + 1 / vectors
        return computed * (1 + 0.3 * loads)

    pixels, vectors = min(tiles, key=cost)
    return Tile(min(pixels, work.width), min(vectors, blocks))
