"""ONNX text that turns packed weights into signs; the bodies of BinaryConv and BinaryGemm begin with it.

Works in int32 with Div and Mod, which every runtime folds at load: the bits never exist as floats in the file.
Reads ``w`` uint8 [rows, taps, bytes] (bit order as in bnncc/bitpack.py) and the attribute ``channels``;
defines ``signs`` float32 [rows, taps, channels] holding -1 and +1, and the constants ``last`` = [-1], ``zero`` = [0].
"""

UNPACK_SIGNS = """
    last = Constant <value_ints: ints = [-1]> ()
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
    count = Constant <value_int: int = @channels> ()
    end = Reshape (count, last)
    axis = Constant <value_ints: ints = [2]> ()
    real_bits = Slice (every_bit, zero, end, axis)
    doubled = Mul (real_bits, two)
    plus_minus = Sub (doubled, one)
    signs = Cast <to: int = 1> (plus_minus)
"""
