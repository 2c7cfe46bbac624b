/* One vector of floats for every kernel, in the width of the target, and the functions on it.

   The type is a GNU vector of 16 (AVX-512), 8 (AVX2), 4 (NEON) or 1 (anything else, or with
   -DSIMD_SCALAR) floats, so + - * / and comparisons are the language's own. C++17, gcc or clang.

   Largest errors over all floats, in units in the last place of the result: exp 1.1, tanh 1.5,
   sigmoid 2.5, erf 1.5. GELU: 4e-7 max(1, |x|), the exact form's own rounding; for negative x its
   digits cancel. Infinities give the limits, NaN stays NaN. (tests/common/test_simd.py) */
#ifndef MLSYS21_SIMD_H
#define MLSYS21_SIMD_H

#include <cstdint>
#include <cstring>
#include <limits>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#pragma GCC visibility push(hidden)
namespace simd {

#if defined(SIMD_SCALAR)
constexpr int width = 1;
#elif defined(__AVX512F__)
constexpr int width = 16;
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int width = 8;
#elif defined(__ARM_NEON)
constexpr int width = 4;
#else
constexpr int width = 1;
#endif

#define SIMD_INLINE inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(width * 4)));
typedef int32_t ivec __attribute__((vector_size(width * 4)));
typedef float loose_vec __attribute__((vector_size(width * 4), aligned(4), may_alias));

SIMD_INLINE vec load(const float *p) { return *reinterpret_cast<const loose_vec *>(p); }
SIMD_INLINE void store(float *p, vec v) { *reinterpret_cast<loose_vec *>(p) = v; }

/* x - 0 rather than x + 0: it keeps -0, so the compiler sees a plain broadcast. */
SIMD_INLINE vec broadcast(float x) { return x - vec{}; }
SIMD_INLINE ivec broadcast_int(int32_t x) { return x - ivec{}; }

SIMD_INLINE ivec lanes() {
  ivec index;
  for (int i = 0; i < width; i++) index[i] = i;
  return index;
}

/* The first n lanes (0 <= n <= width); the others read as 0 and are not touched in memory. */
SIMD_INLINE vec load_first(const float *p, int n) {
#if defined(__AVX512F__) && !defined(SIMD_SCALAR)
  return vec(_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1), p));
#elif defined(__AVX2__) && !defined(SIMD_SCALAR)
  return vec(_mm256_maskload_ps(p, __m256i(broadcast_int(n) > lanes())));
#else
  vec v = {};
  for (int i = 0; i < n; i++) v[i] = p[i];
  return v;
#endif
}
SIMD_INLINE void store_first(float *p, vec v, int n) {
#if defined(__AVX512F__) && !defined(SIMD_SCALAR)
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1), __m512(v));
#elif defined(__AVX2__) && !defined(SIMD_SCALAR)
  /* By halves, quarters, single lanes: a masked store is microcode of some 40 steps on AMD. */
  if (n >= 8) return store(p, v);
  __m128 part = _mm256_castps256_ps128(__m256(v));
  if (n & 4) {
    _mm_storeu_ps(p, part);
    part = _mm256_extractf128_ps(__m256(v), 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64 *>(p), part);
    part = _mm_movehl_ps(part, part);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, part);
#else
  for (int i = 0; i < n; i++) p[i] = v[i];
#endif
}

SIMD_INLINE vec select(ivec mask, vec yes, vec no) { return mask ? yes : no; }
SIMD_INLINE vec max(vec a, vec b) { return select(a > b, a, b); }
SIMD_INLINE vec min(vec a, vec b) { return select(a < b, a, b); }

SIMD_INLINE ivec bits(vec v) { return reinterpret_cast<ivec>(v); }
SIMD_INLINE vec from_bits(ivec v) { return reinterpret_cast<vec>(v); }
SIMD_INLINE vec abs(vec v) { return from_bits(bits(v) & 0x7fffffff); }
SIMD_INLINE vec copy_sign(vec magnitude, vec sign) {
  return from_bits((bits(magnitude) & 0x7fffffff) | (bits(sign) & INT32_MIN));
}

/* Sum and largest of all lanes, by halves: the same order whatever the surroundings. */
SIMD_INLINE float sum(vec v) {
  float lane[width];
  std::memcpy(lane, &v, sizeof lane);
#pragma GCC unroll 4
  for (int half = width / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; i++) lane[i] += lane[i + half];
  return lane[0];
}
SIMD_INLINE float largest(vec v) {
  float lane[width];
  std::memcpy(lane, &v, sizeof lane);
#pragma GCC unroll 4
  for (int half = width / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; i++) lane[i] = lane[i] > lane[i + half] ? lane[i] : lane[i + half];
  return lane[0];
}

/* coefficients[0] + x * (coefficients[1] + x * ...) */
template <int n>
SIMD_INLINE vec polynomial(vec x, const float (&coefficients)[n]) {
  vec y = broadcast(coefficients[n - 1]);
#pragma GCC unroll 16
  for (int i = n - 2; i >= 0; i--) y = y * x + coefficients[i];
  return y;
}

/* e^x: x = n ln 2 + r with |r| <= ln 2 / 2, then 2^n (1 + r + r^2 P(r)). Overflows to infinity,
   underflows through the denormals to 0; NaN stays NaN. */
SIMD_INLINE vec exp(vec x) {
  static constexpr float tail[] = {0.50000001f, 0.166665189f, 0.041666206f, 0.00836888243f,
                                   0.00139504768f};
  const vec low = broadcast(-104.0f), high = broadcast(89.0f);
  x = select(x < low, low, select(x > high, high, x));
  const vec shift = broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
  vec n = x * 1.44269504f + shift;
  const ivec whole = bits(n) - 0x4b400000;
  n -= shift;
  const vec r = (x - n * 0.693145752f) - n * 1.42860677e-6f;
  vec y = r * r * polynomial(r, tail) + r + 1.0f;
  /* In two halves, as 2^n alone leaves the range of normal numbers at both ends. */
  const ivec half = whole >> 1, rest = whole - half;
  y *= from_bits((half + 127) << 23);
  return y * from_bits((rest + 127) << 23);
}

/* e^-|x| cannot overflow, and as the numerator for x < 0 it keeps every digit of a small result. */
SIMD_INLINE vec sigmoid(vec x) {
  const vec e = exp(-abs(x));
  return select(x < vec{}, e, broadcast(1.0f)) / (1.0f + e);
}

/* Odd polynomial near 0, where 1 - 2 / (e^2x + 1) would cancel. */
SIMD_INLINE vec tanh(vec x) {
  static constexpr float odd[] = {-0.333332839f, 0.133314912f, -0.0537434953f, 0.020650579f,
                                  -0.00571703656f};
  const vec size = abs(x), square = x * x;
  const vec near = size * square * polynomial(square, odd) + size;
  const vec far = 1.0f - 2.0f / (exp(2.0f * size) + 1.0f);
  return copy_sign(select(size < broadcast(0.625f), near, far), x);
}

/* Odd polynomial up to 1; beyond, 1 - erfc with log erfc as a polynomial. */
SIMD_INLINE vec erf(vec x) {
  static constexpr float odd[] = {0.128379167f,   -0.376126271f,  0.112836002f,  -0.0268544446f,
                                  0.00518953534f, -0.000802084128f, 7.88911952e-05f};
  static constexpr float log_erfc[] = {-0.000353708929f, -1.12704008f,    -0.638225602f,
                                       -0.103037436f,    0.0218053512f,   -0.00293961573f,
                                       0.000185574893f};
  const vec size = abs(x);
  const vec near = size * polynomial(x * x, odd) + size;
  const vec capped = min(size, broadcast(4.0f)); /* erf(4) rounds to 1 */
  const vec far = 1.0f - exp(polynomial(capped, log_erfc));
  /* A NaN must not be capped away. */
  return copy_sign(select(size < broadcast(1.0f), near, select(size >= broadcast(1.0f), far, size)),
                   x);
}

/* GELU, exact form: x/2 (1 + erf(x / sqrt 2)); below -6 it rounds to 0, also at -infinity. */
SIMD_INLINE vec gelu(vec x) {
  x = select(x < broadcast(-6.0f), broadcast(-6.0f), x);
  return 0.5f * x * (1.0f + erf(x * 0.707106781f));
}

} // namespace simd
#pragma GCC visibility pop

#endif
