// Functions of rows in integers throughout, by shifts, tables and multiplications: for cores without floats, and as a model of them.
//
// Values are fixed-point numbers, integers of 2^-16. An operand of codes is (u - zero) times its scale in 2^-24, rounded; one of floats is
// rounded to 2^-16. What lies beyond +-16384 counts as that, before and behind sums.
//
//     exp(-d) = 2^(-d log2 e): a shift by the integer part, a table of 2^(-i / 256), linear between entries        as I-ViT's shifts (Li
//     and sigmoid, tanh, gelu, gelu_tanh, silu: tables of 4096 entries for |v| < 16, linear between them; their limits beyond     Gu, ICCV
//     2023, softmax: exp(v - max), times one quotient for the row                                            sections 3.3 to 3.5), but
//     finer layer_norm, rms_norm: mean and variance in 64 bits, an integer square root, one quotient for the row
//
// Errors against float64, of operands that are exact in fixed point (tests/test_plan_rows.py):
//
//     softmax 2^-14;  sigmoid, tanh 2^-14;  gelu, gelu_tanh, silu 2^-13
//     layer_norm, rms_norm, deviation at least 1/16: 2^-11 (|gamma| max |y| + 1), y being the result before gamma
//
// Codes of targets are rint(v * inverse), ties upwards, the inverse as a factor of 31 bits and a shift. Plain integers: the same bits
// everywhere.
#pragma once

#include "rows.h"

namespace ulp {

// Whether there is a form in integers of it.
bool in_integers(RowFunction function);
// As RowOps::rows. False if an operand is a NaN.
bool integer_rows(const RowWork& w);

}  // namespace ulp
