/* Sigmoid and tanh for gates: half the time of simd.h's, for a few more units in the last place.

   A third of a Tree-LSTM's time goes into its gates where products run at the peak. Largest errors
   over all floats: sigmoid 3e-7 of the result down to e^-87, and 1e-38 below; tanh 4e-7 of it.
   NaN stays NaN. (tests/cortex/test_gates.py) */
#ifndef MLSYS21_CORTEX_GATES_H
#define MLSYS21_CORTEX_GATES_H

#include "simd.h"

#pragma GCC visibility push(hidden)
namespace cortex {

using simd::vec;

/* 1 / (1 + e^-x) from e^-|x| = 2^-n (1 + r + r^2 P(r)), which is between 2^-126 and 1: one scaling
   is enough, and every digit of a small result is kept. */
SIMD_INLINE vec sigmoid(vec x) {
  static constexpr float tail[] = {0.50000001f, 0.166665189f, 0.041666206f, 0.00836888243f,
                                   0.00139504768f};
  const vec low = simd::broadcast(-87.3f), size = -simd::abs(x);
  const vec y = simd::select(size < low, low, size);
  const vec shift = simd::broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds */
  vec n = y * 1.44269504f + shift;
  const simd::ivec power = (simd::bits(n) - 0x4b400000 + 127) << 23;
  n -= shift;
  const vec r = (y - n * 0.693145752f) - n * 1.42860677e-6f;
  const vec e = (r * r * simd::polynomial(r, tail) + r + 1.0f) * simd::from_bits(power);
  return simd::select(x < vec{}, e, simd::broadcast(1.0f)) / (1.0f + e);
}

/* x P(x^2) / Q(x^2), nearest in relative error up to 8.6; tanh rounds to 1 soon after. */
SIMD_INLINE vec tanh(vec x) {
  static constexpr float above[] = {0.99999998686f, 0.134068538577f, 0.00352637507f,
                                    2.11219062953e-05f, 1.40817398425e-08f};
  static constexpr float below[] = {1.0f, 0.467401754452f, 0.0259938017444f, 0.000333622519556f,
                                    8.07035305622e-07f};
  const vec most = simd::broadcast(8.6f), size = simd::abs(x);
  const vec y = simd::select(size > most, most, size), square = y * y;
  const vec z = y * simd::polynomial(square, above) / simd::polynomial(square, below);
  const simd::ivec is_one = (z > simd::broadcast(1.0f)) | (size > simd::broadcast(9.02f));
  return simd::copy_sign(simd::select(is_one, simd::broadcast(1.0f), z), x);
}

} // namespace cortex
#pragma GCC visibility pop

#endif
