/* The element-wise operators of a transformer layer, and the sums over rows that go with them.

   x, residual, out, d, ... are (rows, columns) row-major, E = float or bfloat16; bias (columns) of
   E or null; d_bias (columns) float; bits (rows, padded / 32) int32 or null for no dropout
   (philox.h).

   forward:   out = [residual +] dropout(act(x + bias))          act: identity, ReLU or GELU
   backward:  dx = d keep scale act'(x + bias)                    [d_bias = sum_r dx]
   add:       out = x + y
   sum_rows:  d_bias = sum_r d

   GELU is the exact form, see gelu.h. Backward goes through several rows side by side: their part
   of d_bias is added up in registers before it goes to memory. */
#include "gelu.h"
#include "rows.h"

namespace {

using namespace rows;

/* function(x); slope(d, x) = d function'(x); rows: how many backward has side by side. */
struct Identity {
  static constexpr int rows = 4;
  static constexpr bool reads_input = false;
  static SIMD_INLINE vec function(vec x) { return x; }
  static SIMD_INLINE vec slope(vec d, vec) { return d; }
};

/* Comparisons that are false for NaN: NaN stays itself, and lets a gradient pass, as in torch. */
struct Relu {
  static constexpr int rows = 4;
  static constexpr bool reads_input = true;
  static SIMD_INLINE vec function(vec x) { return simd::select(x < vec{}, vec{}, x); }
  static SIMD_INLINE vec slope(vec d, vec x) { return simd::select(x <= vec{}, vec{}, d); }
};

struct Gelu {
  static constexpr int rows = 1;
  static constexpr bool reads_input = true;
  static SIMD_INLINE vec function(vec x) { return gelu::value(x); }
  static SIMD_INLINE vec slope(vec d, vec x) { return d * gelu::slope(x); }
};

enum Activation : int64_t { is_identity, is_relu, is_gelu };

template <class Call> void with_activation(int64_t activation, const Call &call) {
  switch (activation) {
  case is_relu: return call(Relu{});
  case is_gelu: return call(Gelu{});
  default: return call(Identity{});
  }
}

template <class E>
void forward(const E *x, const E *bias, const E *residual, E *out, int32_t *bits, float *workspace,
             int64_t n_rows, int64_t columns, int64_t activation, float scale, uint64_t seed,
             uint32_t stream, uint32_t threshold, int64_t threads) {
  const float *b = expand(bias, 0.0f, columns, workspace);
  with_activation(activation, [&](auto act) {
    with_drawn(bits, columns, scale, seed, stream, threshold, [&](const auto &dropout) {
      blocks(n_rows, threads, [&](int64_t, int64_t from, int64_t to, int64_t) {
        for (int64_t r = from; r < to; r++)
          for (int64_t first = 0; first < columns; first += philox::group_size) {
            prefetch(x + r * columns + first);
            dropout.draw(r, first);
            const int64_t last = std::min<int64_t>(columns, first + philox::group_size);
            const auto element = [&](int64_t c, auto lanes, int v) __attribute__((always_inline)) {
              const int64_t at = r * columns + c;
              vec a = act.function(load(x + at, lanes) + simd::load(b + c));
              a = dropout.apply(a, r, c, v);
              if (residual) a += load(residual + at, lanes);
              store(out + at, a, lanes);
            };
            vectors(first, last, element);
          }
      });
    });
  });
}

/* n rows side by side. dx may be d. */
template <int n, class E, class Act, class Dropout>
SIMD_INLINE void backward_rows(const E *d, const E *x, const float *b, E *dx, float *partial,
                               const Act &act, const Dropout &dropout, int64_t r,
                               int64_t columns) {
  const auto column = [&](int64_t c, auto lanes, int v) __attribute__((always_inline)) {
    vec sum = {};
#pragma GCC unroll 4
    for (int i = 0; i < n; i++) {
      const int64_t at = (r + i) * columns + c;
      vec g = dropout.apply(load(d + at, lanes), r + i, c, v);
      if constexpr (Act::reads_input) g = act.slope(g, load(x + at, lanes) + simd::load(b + c));
      if (dx) store(dx + at, g, lanes);
      sum += g;
    }
    if (partial) simd::store(partial + c, simd::load(partial + c) + only(sum, lanes));
  };
  vectors(0, columns, column);
}

/* dx null: only sums are wanted; d_bias null: only dx is. */
template <class E>
void backward(const E *d, const E *x, const E *bias, const int32_t *bits, E *dx, float *d_bias,
              float *workspace, int64_t n_rows, int64_t columns, int64_t activation, float scale,
              int64_t threads) {
  const int64_t pitch = padded(columns);
  const float *b = expand(bias, 0.0f, columns, workspace);
  float *partials = workspace + pitch;
  with_activation(activation, [&](auto act) {
    with_stored(bits, columns, scale, [&](const auto &dropout) {
      blocks(n_rows, threads, [&](int64_t block, int64_t from, int64_t to, int64_t) {
        float *partial = d_bias ? partials + block * pitch : nullptr;
        if (partial) std::fill(partial, partial + pitch, 0.0f);
        int64_t r = from;
        for (; r + act.rows <= to; r += act.rows)
          backward_rows<act.rows>(d, x, b, dx, partial, act, dropout, r, columns);
        for (; r < to; r++) backward_rows<1>(d, x, b, dx, partial, act, dropout, r, columns);
      });
    });
  });
  if (d_bias) add_blocks(partials, pitch, n_rows, columns, d_bias);
}

/* All elements in a row: there is nothing that goes by columns. */
template <class E> void add(const E *x, const E *y, E *out, int64_t n, int64_t threads) {
  constexpr int64_t chunk = 4096;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t first = 0; first < n; first += chunk)
    vectors(first, std::min(n, first + chunk), [&](int64_t i, auto lanes, int) {
      store(out + i, load(x + i, lanes) + load(y + i, lanes), lanes);
    });
}

} // namespace

/* Floats the kernels need beside their tensors: the bias, and a sum for each block. */
EXPORT int64_t activation_workspace(int64_t n_rows, int64_t columns) {
  return padded(columns) * (1 + (n_rows + block_rows - 1) / block_rows);
}

#define ENTRIES(suffix, C, E)                                                                      \
  EXPORT void activation_forward_##suffix(                                                         \
      const C *x, const C *bias, const C *residual, C *out, int32_t *bits, float *workspace,       \
      int64_t n_rows, int64_t columns, int64_t activation, float scale, uint64_t seed,             \
      uint32_t stream, uint32_t threshold, int64_t threads) {                                      \
    forward((const E *)x, (const E *)bias, (const E *)residual, (E *)out, bits, workspace, n_rows, \
            columns, activation, scale, seed, stream, threshold, threads);                         \
  }                                                                                                \
  EXPORT void activation_backward_##suffix(                                                        \
      const C *d, const C *x, const C *bias, const int32_t *bits, C *dx, float *d_bias,            \
      float *workspace, int64_t n_rows, int64_t columns, int64_t activation, float scale,          \
      int64_t threads) {                                                                           \
    backward((const E *)d, (const E *)x, (const E *)bias, bits, (E *)dx, d_bias, workspace,        \
             n_rows, columns, activation, scale, threads);                                         \
  }                                                                                                \
  EXPORT void activation_add_##suffix(const C *x, const C *y, C *out, int64_t n,                   \
                                      int64_t threads) {                                           \
    add((const E *)x, (const E *)y, (E *)out, n, threads);                                         \
  }

ENTRIES(fp32, float, float)
ENTRIES(bf16, uint16_t, bf16)
