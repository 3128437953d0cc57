"""x86-64: baseline (x86-64-v2), AVX2, AVX-512, and AVX-512 with VPOPCNTDQ and VNNI.

With VPOPCNTDQ one instruction counts the bits of eight 64-bit lanes. Without it a byte's bits are counted by looking
up its two halves in a 16-entry table (pshufb); lanes are then bytes and LLVM writes the lookup for `popcount`.
Every CPU with VPOPCNTDQ but the short-lived Knights Mill also has VNNI, dot products of bytes.
"""

from bnncc.targets.target import Target, Tiles

_WEIGHT_LOAD = 2.0  # of float weights, which rarely fit the first-level cache
_AVX512_WORDS = Tiles(((4, 4), (7, 2), (8, 2), (6, 4), (2, 4), (1, 8), (4, 2), (4, 1), (8, 1)))
_AVX512_BYTES = Tiles(((8, 1), (7, 1), (4, 2), (4, 1), (2, 2), (1, 4), (2, 1), (1, 1)))
_AVX512_FLOAT = Tiles(
    ((4, 4), (7, 3), (7, 2), (6, 4), (8, 2), (2, 4), (1, 8), (4, 2), (8, 1), (4, 1)), weight_load=_WEIGHT_LOAD
)
# Weights of bytes stay in the first-level cache, so tiles need not save loads of them: (6, 4) is 10 % slower.
_AVX512_INT8 = Tiles(((4, 4), (7, 2), (8, 2), (2, 4), (1, 8), (4, 2), (8, 1), (4, 1)))
_BINARY_16 = Tiles(((4, 1), (2, 2), (7, 1), (3, 1), (2, 1), (1, 2), (1, 4)))
_AVX2_FLOAT = Tiles(((4, 2), (6, 2), (3, 3), (2, 4), (7, 1), (1, 8), (4, 1)), weight_load=_WEIGHT_LOAD)
_SSE_FLOAT = Tiles(((4, 2), (6, 2), (2, 4), (1, 8), (1, 2)), weight_load=_WEIGHT_LOAD)

_TRIPLE = "x86_64-linux-gnu"
_V2 = ("ssse3", "sse4_1", "sse4_2", "popcnt")
_V3 = (*_V2, "avx", "avx2", "fma", "f16c", "bmi1", "bmi2")
# What LLVM counts among x86-64-v3 and is not asked for: what a target may contain, it must declare.
_NOT_V3 = ("-lzcnt", "-movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")

X86 = Target(
    name="x86",
    description="any 64-bit x86 since 2009 (x86-64-v2: SSSE3, SSE4.2)",
    triple=_TRIPLE,
    cpu="x86-64-v2",
    attributes=(),
    features=_V2,
    vector_bits=128,
    registers=16,
    lane_bits=8,
    binary=_BINARY_16,
    float32=_SSE_FLOAT,
    int8=_SSE_FLOAT,
    int8_dot="madd",
)
X86_AVX2 = Target(
    name="x86-avx2",
    description="x86-64 with AVX2 and FMA (Haswell, Zen, and later)",
    triple=_TRIPLE,
    cpu="x86-64-v3",
    attributes=_NOT_V3,
    features=_V3,
    vector_bits=256,
    registers=16,
    lane_bits=8,
    binary=_BINARY_16,
    float32=_AVX2_FLOAT,
    int8=_AVX2_FLOAT,
    int8_dot="madd",
)
X86_AVX512BW = Target(
    name="x86-avx512bw",
    description="x86-64 with AVX-512 but no VPOPCNTDQ (Skylake-X, Cascade Lake)",
    triple=_TRIPLE,
    cpu="x86-64-v4",
    # LLVM prefers 256-bit vectors on x86-64-v4 unless told that 512-bit ones are wanted.
    attributes=("-prefer-256-bit", *_NOT_V3),
    features=_V4,
    vector_bits=512,
    registers=32,
    lane_bits=8,
    binary=_AVX512_BYTES,
    float32=_AVX512_FLOAT,
    int8=_AVX512_INT8,
    int8_dot="madd",
)
X86_AVX512 = Target(
    name="x86-avx512",
    description="x86-64 with AVX-512, VPOPCNTDQ and VNNI (Ice Lake, Zen 4, and later)",
    triple=_TRIPLE,
    cpu="x86-64-v4",
    attributes=("+avx512vpopcntdq", "+avx512vnni", "-prefer-256-bit", *_NOT_V3),
    features=(*_V4, "avx512_vpopcntdq", "avx512_vnni"),
    vector_bits=512,
    registers=32,
    lane_bits=64,
    binary=_AVX512_WORDS,
    float32=_AVX512_FLOAT,
    int8=_AVX512_INT8,
    int8_dot="vnni",
)
