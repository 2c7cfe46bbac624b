/* Matrix product C = f(A B) for one thread: panels, a register-blocked kernel, and a driver.

   Index notation: c[i, j] = f(sum_p a[i, p] * b[p, j], i, j); a (m, k), b (k, n), c (m, n).

   B lies in panels of `panel_columns` columns, [panel][p][column], zeros in the columns past n, so
   the kernel reads it as one stream. A is packed inside, `kernel_rows` rows at a time, [p][row].
   A block of 14 rows x 2 vectors (AVX-512; 6 x 2 with AVX2's 16 registers) keeps 28 independent
   sums: enough to hide a 4-cycle FMA at two a cycle, with 16 loads for 28 FMAs.

   f is a functor: vec operator()(vec sum, int64_t row, int64_t column, int lanes), called once for
   every element when its sum is complete. It may read other arrays at (row, column .. column+lanes).

   The order of additions in every c[i, j] depends on k alone: not on m, n, threads or the place of
   (i, j), so results are equal bit for bit however the product is split by rows or panels. */
#ifndef MLSYS21_GEMM_H
#define MLSYS21_GEMM_H

#include <algorithm>
#include <utility>

#include "simd.h"

namespace gemm {

using simd::vec;

/* width 16: 28 sums + 2 of b + 1 of a in 32 registers; width 8: 12 + 2 + 1 in 16. */
constexpr int kernel_rows = simd::width == 16 ? 14 : simd::width == 1 ? 4 : 6;
constexpr int panel_vectors = simd::width == 1 ? 4 : 2;
constexpr int panel_columns = panel_vectors * simd::width;

/* Depth of one pass: a panel of it (512 x 32 x 4 B) stays in L2 beside the packed rows, and the
   sums are written and read again once per pass only. */
constexpr int64_t depth = 512;
constexpr int64_t block_rows = 24 * kernel_rows;
/* How far ahead of its use B is asked for, in rows of a panel: beyond what the prefetcher sees. */
constexpr int64_t ahead = 96;

constexpr int64_t panels(int64_t n) { return (n + panel_columns - 1) / panel_columns; }
constexpr int64_t packed_size(int64_t k, int64_t n) { return panels(n) * panel_columns * k; }
constexpr int64_t workspace_size() { return block_rows * depth + simd::width; }

/* Strides of a matrix in elements: (row, column). */
struct View {
  const float *data;
  int64_t row, column;
};

/* out = panels of b; any strides, fast where one of them is 1. */
inline void pack_panel(View b, int64_t k, int64_t columns, float *out) {
  if (b.column == 1 && columns == panel_columns) {
    for (int64_t p = 0; p < k; p++, out += panel_columns)
      std::memcpy(out, b.data + p * b.row, panel_columns * sizeof(float));
    return;
  }
  for (int64_t p = 0; p < k; p++, out += panel_columns)
    for (int64_t j = 0; j < panel_columns; j++)
      out[j] = j < columns ? b.data[p * b.row + j * b.column] : 0.0f;
}

inline void pack_b(View b, int64_t k, int64_t n, float *out) {
  for (int64_t j = 0; j < n; j += panel_columns)
    pack_panel({b.data + j * b.column, b.row, b.column}, k,
               std::min<int64_t>(panel_columns, n - j), out + j * k);
}

/* One step of a transposition in registers: swap the blocks `distance` apart. */
template <int distance>
SIMD_INLINE void exchange(vec (&rows)[simd::width]) {
  simd::ivec low, high;
  for (int lane = 0; lane < simd::width; lane++) {
    low[lane] = lane & distance ? simd::width + (lane ^ distance) : lane;
    high[lane] = lane & distance ? simd::width + lane : lane ^ distance;
  }
#pragma GCC unroll 16
  for (int i = 0; i < simd::width; i++)
    if (!(i & distance)) {
      const vec x = rows[i], y = rows[i + distance];
      rows[i] = __builtin_shuffle(x, y, low);
      rows[i + distance] = __builtin_shuffle(x, y, high);
    }
}

/* rows x k of a, as [p][row]. Writes up to `width` floats past the end of out. */
inline void pack_a(View a, int64_t rows, int64_t k, float *out) {
  if (a.row == 1) {
    for (int64_t p = 0; p < k; p++)
      for (int64_t i = 0; i < rows; i++) out[p * rows + i] = a.data[i + p * a.column];
    return;
  }
  int64_t p = 0;
  if constexpr (simd::width > 1) {
    if (a.column == 1 && rows <= simd::width)
      for (; p + simd::width <= k; p += simd::width) {
        vec block[simd::width];
#pragma GCC unroll 16
        for (int i = 0; i < simd::width; i++)
          block[i] = i < rows ? simd::load(a.data + i * a.row + p) : vec{};
        if constexpr (simd::width >= 16) exchange<8>(block);
        if constexpr (simd::width >= 8) exchange<4>(block);
        exchange<2>(block);
        exchange<1>(block);
        /* Each store runs into the next row's place, which is written after it. */
#pragma GCC unroll 16
        for (int i = 0; i < simd::width; i++) simd::store(out + (p + i) * rows, block[i]);
      }
  }
  for (; p < k; p++)
    for (int64_t i = 0; i < rows; i++) out[p * rows + i] = a.data[i * a.row + p * a.column];
}

/* sums of rows x panel over k steps; a packed, b with `stride` floats from step to step. */
template <int rows>
SIMD_INLINE void multiply(int64_t k, const float *a, const float *b, int64_t stride,
                          vec (&sums)[rows][panel_vectors]) {
  for (int64_t p = 0; p < k; p++, a += rows, b += stride) {
    vec right[panel_vectors];
#pragma GCC unroll 4
    for (int v = 0; v < panel_vectors; v++) {
      right[v] = simd::load(b + v * simd::width);
      __builtin_prefetch(b + ahead * panel_columns + v * simd::width);
    }
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      const vec left = simd::broadcast(a[i]);
#pragma GCC unroll 4
      for (int v = 0; v < panel_vectors; v++) sums[i][v] += left * right[v];
    }
  }
}

/* Write the sums of one block, through f if they are complete. c += when `adds`. */
template <int rows, class F>
SIMD_INLINE void finish(const vec (&sums)[rows][panel_vectors], float *c, int64_t ldc, int64_t row,
                        int64_t column, int64_t columns, bool adds, bool is_complete, const F &f) {
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int v = 0; v < panel_vectors; v++) {
      const int lanes = static_cast<int>(
          std::clamp<int64_t>(columns - v * simd::width, 0, simd::width));
      float *out = c + i * ldc + v * simd::width;
      vec sum = sums[i][v];
      if (lanes == simd::width) {
        if (adds) sum += simd::load(out);
        if (is_complete) sum = f(sum, row + i, column + v * simd::width, lanes);
        simd::store(out, sum);
      } else if (lanes > 0) {
        if (adds) sum += simd::load_first(out, lanes);
        if (is_complete) sum = f(sum, row + i, column + v * simd::width, lanes);
        simd::store_first(out, sum, lanes);
      }
    }
}

template <int rows, class F>
__attribute__((noinline)) void block(int64_t k, const float *a, const float *b, int64_t stride,
                                     float *c, int64_t ldc, int64_t row, int64_t column,
                                     int64_t columns, bool adds, bool is_complete, const F &f) {
  vec sums[rows][panel_vectors] = {};
  multiply<rows>(k, a, b, stride, sums);
  finish<rows>(sums, c, ldc, row, column, columns, adds, is_complete, f);
}

template <class F>
using Block = void (*)(int64_t, const float *, const float *, int64_t, float *, int64_t, int64_t,
                       int64_t, int64_t, bool, bool, const F &);

/* block<rows, F> for rows known at run time only. */
template <class F, int... i>
Block<F> block_of(int rows, std::integer_sequence<int, i...>) {
  static constexpr Block<F> table[] = {block<i + 1, F>...};
  return table[rows - 1];
}
template <class F> Block<F> block_of(int64_t rows) {
  return block_of<F>(static_cast<int>(rows), std::make_integer_sequence<int, kernel_rows>());
}

/* Rows are dealt to blocks as evenly as can be: 16 rows are 8 + 8, not 14 + 2. */
struct Split {
  int64_t blocks, base, longer;
  explicit Split(int64_t rows)
      : blocks((rows + kernel_rows - 1) / kernel_rows), base(rows / blocks), longer(rows % blocks) {}
  int64_t size(int64_t i) const { return base + (i < longer); }
};

/* c = f(a b) (or f(c + a b) with `adds`) for b in panels.

   a, c, n, first .. last: the whole product's; this call does the panels first .. last - 1, so
   that threads can share a product. workspace: workspace_size() floats of this thread's own. */
template <class F>
void run(View a, const float *panels_of_b, float *c, int64_t ldc, int64_t m, int64_t n, int64_t k,
         int64_t first, int64_t last, bool adds, const F &f, float *workspace) {
  for (int64_t p = 0; p < k || p == 0; p += depth) {
    const int64_t steps = std::min(depth, k - p);
    const bool is_complete = p + steps == k;
    for (int64_t top = 0; top < m; top += block_rows) {
      const Split split(std::min(block_rows, m - top));
      int64_t row = top;
      for (int64_t i = 0; i < split.blocks; row += split.size(i++))
        pack_a({a.data + row * a.row + p * a.column, a.row, a.column}, split.size(i), steps,
               workspace + (row - top) * steps);
      for (int64_t panel = first; panel < last; panel++) {
        const int64_t column = panel * panel_columns;
        const float *b = panels_of_b + column * k + p * panel_columns;
        row = top;
        for (int64_t i = 0; i < split.blocks; row += split.size(i++))
          block_of<F>(split.size(i))(steps, workspace + (row - top) * steps, b, panel_columns,
                                     c + row * ldc + column, ldc, row, column,
                                     std::min<int64_t>(panel_columns, n - column), adds || p > 0,
                                     is_complete, f);
      }
    }
  }
}

struct Identity {
  SIMD_INLINE vec operator()(vec sum, int64_t, int64_t, int) const { return sum; }
};

} // namespace gemm

#endif
