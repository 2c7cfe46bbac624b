/* Layer normalisation with what stands before and after it in a transformer layer.

   Rows r, columns c; x, residual, y, xhat, total, dy, ... are (rows, columns) row-major, E = float
   or bfloat16; bias, gamma, beta (columns) of E or null; rstd (rows), d_gamma, d_beta, d_bias
   (columns) float; bits (rows, padded / 32) int32 or null for no dropout (philox.h).

   forward:   t = residual + dropout(x + bias)      mean, var over the row, rstd = 1/sqrt(var + eps)
              xhat = (t - mean) rstd                y = xhat gamma + beta            [total = t]
   backward:  d = dy [+ dy2]                        d_gamma = sum_r d xhat,  d_beta = sum_r d
              g = d gamma
              dr = rstd (g - mean_c(g) - xhat mean_c(g xhat)) [+ d_total]
              dx = dr keep scale                    d_bias = sum_r dx

   A row is read from memory once: t stays in `row`, a buffer of floats that fits the nearest cache,
   and the variance is of the differences from the mean. Workspace: see norm_workspace. */
#include <cmath>

#include "rows.h"

namespace {

using namespace rows;
using simd::broadcast;

/* Several sums under way hide the latency of adding. */
constexpr int sums = 4;

float total_of(const vec (&sum)[sums]) { return simd::sum((sum[0] + sum[1]) + (sum[2] + sum[3])); }

/* t of one row into `row`; returns its sum. Without x, t = residual. */
template <class E, class Dropout>
SIMD_INLINE float add_residual(const E *x, const float *bias, const E *residual, E *total,
                               float *row, const Dropout &dropout, int64_t r, int64_t columns) {
  vec sum[sums] = {};
  for (int64_t first = 0; first < columns; first += philox::group_size) {
    if (x) prefetch(x + first);
    prefetch(residual + first);
    dropout.draw(r, first);
    const int64_t last = std::min<int64_t>(columns, first + philox::group_size);
    vectors(first, last, [&](int64_t c, auto lanes, int v) __attribute__((always_inline)) {
      vec t = load(residual + c, lanes);
      if (x) t += dropout.apply(load(x + c, lanes) + simd::load(bias + c), r, c, v);
      t = only(t, lanes);
      if (total) store(total + c, t, lanes);
      simd::store(row + c, t);
      sum[v % sums] += t;
    });
  }
  return total_of(sum);
}

template <class E>
void forward(const E *x, const E *bias, const E *residual, const E *gamma, const E *beta, E *y,
             E *xhat, float *rstd, int32_t *bits, E *total, float *workspace, int64_t n_rows,
             int64_t columns, float eps, float scale, uint64_t seed, uint32_t stream,
             uint32_t threshold, int64_t threads) {
  const int64_t pitch = padded(columns);
  const float *b = expand(bias, 0.0f, columns, workspace);
  const float *scales = expand(gamma, 1.0f, columns, workspace + pitch);
  const float *shifts = expand(beta, 0.0f, columns, workspace + 2 * pitch);
  with_drawn(bits, columns, scale, seed, stream, threshold, [&](const auto &dropout) {
    blocks(n_rows, threads, [&](int64_t, int64_t from, int64_t to, int64_t thread) {
      float *row = workspace + (3 + thread) * pitch;
      for (int64_t r = from; r < to; r++) {
        const int64_t at = r * columns;
        const float sum = add_residual(x ? x + at : nullptr, b, residual + at,
                                       total ? total + at : nullptr, row, dropout, r, columns);
        const vec mean = broadcast(sum / static_cast<float>(columns));
        vec square[sums] = {};
        vectors(0, columns, [&](int64_t c, auto lanes, int v) __attribute__((always_inline)) {
          const vec difference = only(simd::load(row + c) - mean, lanes);
          square[v % sums] += difference * difference;
        });
        const float variance = total_of(square) / static_cast<float>(columns);
        rstd[r] = 1.0f / std::sqrt(variance + eps);
        const vec factor = broadcast(rstd[r]);
        vectors(0, columns, [&](int64_t c, auto lanes, int) __attribute__((always_inline)) {
          const vec h = (simd::load(row + c) - mean) * factor;
          store(xhat + at + c, h, lanes);
          store(y + at + c, h * simd::load(scales + c) + simd::load(shifts + c), lanes);
        });
      }
    });
  });
}

/* Adds a vector to memory. */
SIMD_INLINE void add(float *p, vec v) { simd::store(p, simd::load(p) + v); }

template <class E> struct Backward {
  const E *dy, *dy2, *d_total, *xhat;
  const float *rstd, *scales;
  E *dr, *dx;
  int64_t columns;

  template <class Lanes> SIMD_INLINE vec d_y(int64_t at, Lanes lanes) const {
    const vec d = load(dy + at, lanes);
    return dy2 ? d + load(dy2 + at, lanes) : d;
  }

  /* Row r, read twice, the second time from a near cache. By value: a store through a pointer might
     change what a reference holds, so it would be loaded again for every vector. */
  template <class Dropout>
  SIMD_INLINE static void row(const Backward x, int64_t r, const Dropout dropout, float *gammas,
                              float *betas, float *biases) {
    const int64_t first = r * x.columns;
    vec sum[sums] = {}, product[sums] = {};
    vectors(0, x.columns, [&](int64_t c, auto lanes, int v) __attribute__((always_inline)) {
      const vec d = x.d_y(first + c, lanes), h = load(x.xhat + first + c, lanes);
      add(gammas + c, d * h);
      add(betas + c, d);
      const vec g = d * simd::load(x.scales + c);
      sum[v % sums] += g;
      product[v % sums] += g * h;
    });
    const float n = static_cast<float>(x.columns);
    const vec mean = broadcast(total_of(sum) / n), slope = broadcast(total_of(product) / n);
    const vec factor = broadcast(x.rstd[r]);
    vectors(0, x.columns, [&](int64_t c, auto lanes, int v) __attribute__((always_inline)) {
      const int64_t at = first + c;
      const vec g = x.d_y(at, lanes) * simd::load(x.scales + c);
      vec d = factor * (g - mean - load(x.xhat + at, lanes) * slope);
      if (x.d_total) d += load(x.d_total + at, lanes);
      store(x.dr + at, d, lanes);
      d = only(dropout.apply(d, r, c, v), lanes);
      if (x.dx) store(x.dx + at, d, lanes);
      if (biases) add(biases + c, d);
    });
  }
};

/* dx null: dr itself is the gradient of x. d_bias null: it is not wanted. */
template <class E>
void backward(const E *dy, const E *dy2, const E *d_total, const E *xhat, const float *rstd,
              const E *gamma, const int32_t *bits, E *dr, E *dx, float *d_gamma, float *d_beta,
              float *d_bias, float *workspace, int64_t n_rows, int64_t columns, float scale,
              int64_t threads) {
  const int64_t pitch = padded(columns);
  const float *scales = expand(gamma, 1.0f, columns, workspace);
  float *partial = workspace + (1 + threads) * pitch;
  const Backward<E> pass{dy, dy2, d_total, xhat, rstd, scales, dr, dx, columns};
  with_stored(dx ? bits : nullptr, columns, scale, [&](const auto &dropout) {
    blocks(n_rows, threads, [&](int64_t block, int64_t from, int64_t to, int64_t) {
      float *gammas = partial + 3 * block * pitch, *betas = gammas + pitch;
      float *biases = d_bias ? betas + pitch : nullptr;
      std::fill(gammas, gammas + 3 * pitch, 0.0f);
      for (int64_t r = from; r < to; r++)
        Backward<E>::row(pass, r, dropout, gammas, betas, biases);
    });
  });
  add_blocks(partial, 3 * pitch, n_rows, columns, d_gamma);
  add_blocks(partial + pitch, 3 * pitch, n_rows, columns, d_beta);
  if (d_bias) add_blocks(partial + 2 * pitch, 3 * pitch, n_rows, columns, d_bias);
}

/* The two halves of backward as operators of their own, as the paper's set of kernels has them. */

/* g = d gamma, d_gamma, d_beta, with d = dy [+ dy2]; and d_bias = sum_r d_linear if that is given.
 */
template <class E>
void backward_scale(const E *dy, const E *dy2, const E *xhat, const E *gamma, const E *d_linear,
                    E *g, float *d_gamma, float *d_beta, float *d_bias, float *workspace,
                    int64_t n_rows, int64_t columns, int64_t threads) {
  const int64_t pitch = padded(columns);
  const float *scales = expand(gamma, 1.0f, columns, workspace);
  float *partial = workspace + (1 + threads) * pitch;
  blocks(n_rows, threads, [&](int64_t block, int64_t from, int64_t to, int64_t) {
    float *gammas = partial + 3 * block * pitch, *betas = gammas + pitch, *biases = betas + pitch;
    std::fill(gammas, gammas + 3 * pitch, 0.0f);
    for (int64_t r = from; r < to; r++) {
      const int64_t at = r * columns;
      vectors(0, columns, [&](int64_t c, auto lanes, int) __attribute__((always_inline)) {
        vec d = load(dy + at + c, lanes);
        if (dy2) d += load(dy2 + at + c, lanes);
        add(gammas + c, d * load(xhat + at + c, lanes));
        add(betas + c, d);
        if (d_bias) add(biases + c, load(d_linear + at + c, lanes));
        store(g + at + c, d * simd::load(scales + c), lanes);
      });
    }
  });
  add_blocks(partial, 3 * pitch, n_rows, columns, d_gamma);
  add_blocks(partial + pitch, 3 * pitch, n_rows, columns, d_beta);
  if (d_bias) add_blocks(partial + 2 * pitch, 3 * pitch, n_rows, columns, d_bias);
}

/* dr = rstd (g - mean(g) - xhat mean(g xhat)) and dx = dr keep scale, the latter unless null. */
template <class E>
void backward_normalize(const E *g, const E *xhat, const float *rstd, const int32_t *bits, E *dr,
                        E *dx, int64_t n_rows, int64_t columns, float scale, int64_t threads) {
  with_stored(dx ? bits : nullptr, columns, scale, [&](const auto &dropout) {
    blocks(n_rows, threads, [&](int64_t, int64_t from, int64_t to, int64_t) {
      for (int64_t r = from; r < to; r++) {
        const int64_t at = r * columns;
        vec sum[sums] = {}, product[sums] = {};
        vectors(0, columns, [&](int64_t c, auto lanes, int v) __attribute__((always_inline)) {
          const vec d = load(g + at + c, lanes);
          sum[v % sums] += d;
          product[v % sums] += d * load(xhat + at + c, lanes);
        });
        const float n = static_cast<float>(columns);
        const vec mean = broadcast(total_of(sum) / n), slope = broadcast(total_of(product) / n);
        const vec factor = broadcast(rstd[r]);
        vectors(0, columns, [&](int64_t c, auto lanes, int v) __attribute__((always_inline)) {
          const vec h = load(xhat + at + c, lanes);
          const vec d = factor * (load(g + at + c, lanes) - mean - h * slope);
          store(dr + at + c, d, lanes);
          if (dx) store(dx + at + c, dropout.apply(d, r, c, v), lanes);
        });
      }
    });
  });
}

} // namespace

/* Floats the kernels need beside their tensors: three parameters, a row for each thread, and three
   sums for each block. */
EXPORT int64_t norm_workspace(int64_t n_rows, int64_t columns, int64_t threads) {
  return padded(columns) * (3 + threads + 3 * ((n_rows + block_rows - 1) / block_rows));
}

#define ENTRIES(suffix, C, E)                                                                      \
  EXPORT void norm_forward_##suffix(                                                               \
      const C *x, const C *bias, const C *residual, const C *gamma, const C *beta, C *y, C *xhat,  \
      float *rstd, int32_t *bits, C *total, float *workspace, int64_t n_rows, int64_t columns,     \
      float eps, float scale, uint64_t seed, uint32_t stream, uint32_t threshold,                  \
      int64_t threads) {                                                                           \
    forward((const E *)x, (const E *)bias, (const E *)residual, (const E *)gamma,                  \
            (const E *)beta, (E *)y, (E *)xhat, rstd, bits, (E *)total, workspace, n_rows,         \
            columns, eps, scale, seed, stream, threshold, threads);                                \
  }                                                                                                \
  EXPORT void norm_backward_##suffix(                                                              \
      const C *dy, const C *dy2, const C *d_total, const C *xhat, const float *rstd,               \
      const C *gamma, const int32_t *bits, C *dr, C *dx, float *d_gamma, float *d_beta,            \
      float *d_bias, float *workspace, int64_t n_rows, int64_t columns, float scale,               \
      int64_t threads) {                                                                           \
    backward((const E *)dy, (const E *)dy2, (const E *)d_total, (const E *)xhat, rstd,             \
             (const E *)gamma, bits, (E *)dr, (E *)dx, d_gamma, d_beta, d_bias, workspace,         \
             n_rows, columns, scale, threads);                                                     \
  }                                                                                                \
  EXPORT void norm_backward_scale_##suffix(                                                        \
      const C *dy, const C *dy2, const C *xhat, const C *gamma, const C *d_linear, C *g,           \
      float *d_gamma, float *d_beta, float *d_bias, float *workspace, int64_t n_rows,              \
      int64_t columns, int64_t threads) {                                                          \
    backward_scale((const E *)dy, (const E *)dy2, (const E *)xhat, (const E *)gamma,               \
                   (const E *)d_linear, (E *)g, d_gamma, d_beta, d_bias, workspace, n_rows,        \
                   columns, threads);                                                              \
  }                                                                                                \
  EXPORT void norm_backward_normalize_##suffix(                                                    \
      const C *g, const C *xhat, const float *rstd, const int32_t *bits, C *dr, C *dx,             \
      int64_t n_rows, int64_t columns, float scale, int64_t threads) {                             \
    backward_normalize((const E *)g, (const E *)xhat, rstd, bits, (E *)dr, (E *)dx, n_rows,        \
                       columns, scale, threads);                                                   \
  }

ENTRIES(fp32, float, float)
ENTRIES(bf16, uint16_t, bf16)
