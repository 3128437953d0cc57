"""ONNX text that turns packed weights into bits and signs; the bodies of operators that read weights begin with it.

Works in int32 with Div and Mod, which every runtime folds at load: the bits never exist as floats in the file.

UNPACK_BITS reads ``w`` uint8 [rows, taps, bytes] (bit order as in bnncc/bitpack.py), ``last`` = [-1] and ``end`` = [the
channels]; it defines ``real_bits`` int32 [rows, taps, channels] and the constants ``zero`` = [0], ``one`` = 1, ``two``
= 2 and ``place`` = [1, 2, 4, ..., 128]. UNPACK_SIGNS reads ``w`` and the attribute ``channels``; it defines ``signs``
float32 [rows, taps, channels] holding -1 and +1, and all of the above.
"""

UNPACK_BITS = """
    zero = Constant <value_ints: ints = [0]> ()
    wide = Cast <to: int = 6> (w)
    column = Unsqueeze (wide, last)
    place = Constant <value = int32[8] {1, 2, 4, 8, 16, 32, 64, 128}> ()
    shifted = Div (column, place)
    two = Constant <value = int32 {2}> ()
    one = Constant <value = int32 {1}> ()
    bits = Mod (shifted, two)
    by_tap = Constant <value_ints: ints = [0, 0, -1]> ()
    every_bit = Reshape (bits, by_tap)
    axis = Constant <value_ints: ints = [2]> ()
    real_bits = Slice (every_bit, zero, end, axis)
"""

UNPACK_SIGNS = f"""
    last = Constant <value_ints: ints = [-1]> ()
    count = Constant <value_int: int = @channels> ()
    end = Reshape (count, last)
    {UNPACK_BITS}
    doubled = Mul (real_bits, two)
    plus_minus = Sub (doubled, one)
    signs = Cast <to: int = 1> (plus_minus)
"""
