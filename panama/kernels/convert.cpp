/* Number formats of packets, to and from float32: panama/wire/numbers.py in one pass each.

     to_bf16:    out[i] = upper half of x[i], to nearest even; subnormals as zeros of their sign,
                 every NaN as 0x7fc0
     from_bf16:  out[i] = q[i] widened / divisor
     to_fixed:   out[i] = x[i] * scale to the nearest integer, ties to even, saturating
     from_fixed: out[i] = (float)(q[i] * scale) / divisor
     largest:    out[0] = max |x[i]|, or NaN if any x[i] is one; 0 of nothing

   Arrays of n elements, no alignment asked for, in and out apart. scale is a power of two for which
   every product is exact in double precision; x of to_fixed holds no NaN. The loops are plain: the
   compiler makes vectors of them, tails included. Division, as the mean of a stock all-reduce is one:
   multiplying by 1/divisor would round twice. */
#include "simd.h"

namespace {

SIMD_INLINE uint32_t bits_of(float x) {
  uint32_t b;
  std::memcpy(&b, &x, sizeof b);
  return b;
}
SIMD_INLINE float of_bits(uint32_t b) {
  float x;
  std::memcpy(&x, &b, sizeof x);
  return x;
}

}  // namespace

EXPORT void to_bf16(const float *__restrict x, uint16_t *__restrict out, int64_t n) {
  for (int64_t i = 0; i < n; i++) {
    uint32_t b = bits_of(x[i]);
    uint32_t magnitude = b & 0x7fffffff;
    uint32_t kept = magnitude < 0x00800000 ? b & 0x80000000 : b;
    uint32_t rounded = (kept + 0x7fff + ((kept >> 16) & 1)) >> 16;
    out[i] = magnitude > 0x7f800000 ? 0x7fc0 : rounded;
  }
}

EXPORT void from_bf16(const uint16_t *__restrict q, float *__restrict out, int64_t n,
                      float divisor) {
  for (int64_t i = 0; i < n; i++) out[i] = of_bits(uint32_t(q[i]) << 16) / divisor;
}

EXPORT void to_fixed(const float *__restrict x, int32_t *__restrict out, int64_t n, double scale) {
  /* Adding 1.5 * 2^52 leaves the integer, rounded as the processor rounds, in the low bits. */
  const double shift = 6755399441055744.0;
  for (int64_t i = 0; i < n; i++) {
    double v = x[i] * scale;
    v = v < -2147483648.0 ? -2147483648.0 : v;
    v = v > 2147483647.0 ? 2147483647.0 : v;
    double moved = v + shift;
    int64_t b;
    std::memcpy(&b, &moved, sizeof b);
    out[i] = int32_t(b);
  }
}

EXPORT void from_fixed(const int32_t *__restrict q, float *__restrict out, int64_t n, double scale,
                       float divisor) {
  for (int64_t i = 0; i < n; i++) out[i] = float(q[i] * scale) / divisor;
}

EXPORT void largest(const float *__restrict x, float *__restrict out, int64_t n) {
  /* As integers magnitudes keep their order, and NaN lies above all of them. */
  int32_t most = 0;
  for (int64_t i = 0; i < n; i++) {
    int32_t b = int32_t(bits_of(x[i]) & 0x7fffffff);
    most = b > most ? b : most;
  }
  out[0] = of_bits(uint32_t(most));
}
