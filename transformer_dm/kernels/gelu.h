/* GELU, x Phi(x), and its derivative Phi(x) + x phi(x), with one division and no exponential.

   Phi is the normal distribution and phi its density. Phi(x) - 1/2 and the derivative less 1/2 are
   odd and nearly constant from `end` on, so each is x P(x^2) / Q(x^2) up to there: least-squares
   fits of numerator and denominator, reweighted towards the smallest largest error. That is 7e-9
   and 3e-8; evaluated in float it is 1.5e-7 and 2.1e-7, where simd.h, whose functions keep the
   relative error small for small results too, spends twice and three times the work. Times x, the
   former is below the 4e-7 max(1, |x|) by which the exact form rounds.

   NaN stays; at +-infinity and beyond `end` values are the limits within these errors, and GELU is
   exactly 0 below. */
#ifndef MLSYS21_GELU_H
#define MLSYS21_GELU_H

#include "simd.h"

#pragma GCC visibility push(hidden)
namespace gelu {

using simd::broadcast;
using simd::vec;

/* Comparisons are false for a NaN, which so goes through. */
SIMD_INLINE vec clamp(vec x, float end) {
  x = simd::select(x > broadcast(end), broadcast(end), x);
  return simd::select(x < broadcast(-end), broadcast(-end), x);
}

template <int n, int m>
SIMD_INLINE vec odd_fraction(vec x, const float (&above)[n], const float (&below)[m]) {
  const vec square = x * x;
  return x * simd::polynomial(square, above) / simd::polynomial(square, below);
}

SIMD_INLINE vec value(vec x) {
  constexpr float end = 5.5f;
  static constexpr float above[] = {0.398942235f,    0.0338528098f,   0.00467727093f,
                                    0.000168827367f, 6.3521320e-06f, 2.27492930e-08f};
  static constexpr float below[] = {1.0f,           0.251522329f,    0.0286459658f,
                                    0.00188445439f, 7.36480586e-05f, 1.19750288e-06f};
  const vec distribution = 0.5f + odd_fraction(clamp(x, end), above, below);
  return simd::select(x < broadcast(-end), vec{}, x * distribution);
}

SIMD_INLINE vec slope(vec x) {
  static constexpr float above[] = {0.797884790f,     -0.0415168735f,   0.0145299946f,
                                    -0.000148157144f, 3.30083487e-05f,  -1.00869286e-07f,
                                    2.78499902e-09f,  -1.53574580e-11f};
  static constexpr float below[] = {1.0f,           0.281302107f,    0.0369719418f,
                                    0.00295229979f, 0.000150209138f, 5.55673430e-06f};
  return 0.5f + odd_fraction(clamp(x, 6.0f), above, below);
}

} // namespace gelu
#pragma GCC visibility pop

#endif
