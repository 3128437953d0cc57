"""x86-64: baseline (x86-64-v2), AVX2, AVX-512, and AVX-512 with VPOPCNTDQ and VNNI.

With VPOPCNTDQ one instruction counts the bits of eight 64-bit lanes. Without it a byte's bits are counted by looking
up its two halves in a 16-entry table (pshufb); lanes are then bytes and LLVM writes the lookup for `popcount`.
Every CPU with VPOPCNTDQ but the short-lived Knights Mill also has VNNI, dot products of bytes.
"""

from bnncc.targets.target import Target, Tile, Work, best_tile

# (pixels, vectors) that fit the register file, best first: 32 registers with AVX-512, 16 before.
_AVX512_BINARY = ((4, 4), (7, 2), (8, 2), (6, 4), (2, 4), (1, 8), (4, 2), (4, 1), (8, 1))
_AVX512_FLOAT = ((4, 4), (7, 3), (7, 2), (6, 4), (8, 2), (2, 4), (1, 8), (4, 2), (8, 1), (4, 1))
_AVX512_BYTES = ((8, 1), (7, 1), (4, 2), (4, 1), (2, 2), (1, 4), (2, 1), (1, 1))
# Weights of bytes stay in the first-level cache, so tiles need not save loads of them: (6, 4) is 10 % slower.
_AVX512_INT8 = ((4, 4), (7, 2), (8, 2), (2, 4), (1, 8), (4, 2), (8, 1), (4, 1))
_16_BINARY = ((4, 1), (2, 2), (7, 1), (3, 1), (2, 1), (1, 2), (1, 4))
_AVX2_FLOAT = ((4, 2), (6, 2), (3, 3), (2, 4), (7, 1), (1, 8), (4, 1))
_SSE_FLOAT = ((4, 2), (6, 2), (2, 4), (1, 8), (1, 2))
_WEIGHT_LOAD = 2.0


def avx512(work: Work) -> Tile | None:
    """8 channels a vector for popcounts, 16 for floats and for sums of bytes."""
    if work.kind == "xnor_conv2d":
        return best_tile(work, 8, _AVX512_BINARY)
    if work.kind == "conv2d_int8":
        return best_tile(work, 16, _AVX512_INT8)
    return best_tile(work, 16, _AVX512_FLOAT, _WEIGHT_LOAD)


def avx512_bytes(work: Work) -> Tile | None:
    """64 channels a vector for popcounts, 16 for floats."""
    if work.kind == "xnor_conv2d":
        return best_tile(work, 64, _AVX512_BYTES)
    return avx512(work)


def avx2(work: Work) -> Tile | None:
    """32 channels a vector for popcounts, 8 for floats."""
    if work.kind == "xnor_conv2d":
        return best_tile(work, 32, _16_BINARY)
    return best_tile(work, 8, _AVX2_FLOAT, _WEIGHT_LOAD)


def sse(work: Work) -> Tile | None:
    """16 channels a vector for popcounts, 4 for floats, whose vectors the kernels take in pairs."""
    if work.kind == "xnor_conv2d":
        return best_tile(work, 16, _16_BINARY)
    return best_tile(work, 4, _SSE_FLOAT, _WEIGHT_LOAD)


_TRIPLE = "x86_64-linux-gnu"
_V2 = ("ssse3", "sse4_1", "sse4_2", "popcnt")
_V3 = (*_V2, "avx", "avx2", "fma", "f16c", "bmi1", "bmi2")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

X86 = Target(
    name="x86",
    description="any 64-bit x86 since 2009 (x86-64-v2: SSSE3, SSE4.2)",
    triple=_TRIPLE,
    cpu="x86-64-v2",
    attributes=(),
    features=_V2,
    vector_bits=128,
    lane_bits=8,
    rules=(sse,),
    int8_dot="madd",
)
X86_AVX2 = Target(
    name="x86-avx2",
    description="x86-64 with AVX2 and FMA (Haswell, Zen, and later)",
    triple=_TRIPLE,
    cpu="x86-64-v3",
    attributes=(),
    features=_V3,
    vector_bits=256,
    lane_bits=8,
    rules=(avx2,),
    int8_dot="madd",
)
X86_AVX512BW = Target(
    name="x86-avx512bw",
    description="x86-64 with AVX-512 but no VPOPCNTDQ (Skylake-X, Cascade Lake)",
    triple=_TRIPLE,
    cpu="x86-64-v4",
    # LLVM prefers 256-bit vectors on x86-64-v4 unless told that 512-bit ones are wanted.
    attributes=("-prefer-256-bit",),
    features=_V4,
    vector_bits=512,
    lane_bits=8,
    rules=(avx512_bytes,),
    int8_dot="madd",
)
X86_AVX512 = Target(
    name="x86-avx512",
    description="x86-64 with AVX-512, VPOPCNTDQ and VNNI (Ice Lake, Zen 4, and later)",
    triple=_TRIPLE,
    cpu="x86-64-v4",
    attributes=("+avx512vpopcntdq", "+avx512vnni", "-prefer-256-bit"),
    features=(*_V4, "avx512_vpopcntdq", "avx512_vnni"),
    vector_bits=512,
    lane_bits=64,
    rules=(avx512,),
    int8_dot="vnni",
)
