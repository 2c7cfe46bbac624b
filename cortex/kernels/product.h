/* The matrix products of generated code: rows of the left side times columns in panels.

   Index notation: sums[i, j] = sum_k a[i, k] * b[k, j]; rows of a are `pitch` floats apart, b lies
   in panels (Packed) or in rows as it is (Unpacked). Every sum is taken in the order of k by one
   multiply-add after another, so its bits are the same whatever rows, threads and place it has.

   A block is up to 6 rows x 2 vectors (AVX2, 16 registers) or 6 x 4 (AVX-512, 32): 12 or 24 sums
   under way hide a multiply-add of 4 cycles at two a cycle. Rows are read by broadcasts from where
   they lie; they need no packing of their own. Few rows take several panels at once, so that one row
   is a stream of weights at the speed of the memory they lie in. Depths and pitches are constants,
   so an address in the loop is one register and a number. */
#ifndef MLSYS21_CORTEX_PRODUCT_H
#define MLSYS21_CORTEX_PRODUCT_H

#include <algorithm>
#include <tuple>
#include <type_traits>
#include <utility>

#include "simd.h"

#pragma GCC visibility push(hidden)
namespace cortex {

using simd::vec;

constexpr int block_rows = simd::width == 1 ? 4 : 6;
constexpr int panel_vectors = simd::width == 16 || simd::width == 1 ? 4 : 2;
constexpr int panel_columns = panel_vectors * simd::width;
constexpr int unrolled = simd::width == 8 ? 4 : 1;
/* How far ahead of its use a panel is asked for, in floats. */
constexpr int64_t ahead = 96 * panel_columns;

constexpr int64_t panels(int64_t columns) { return (columns + panel_columns - 1) / panel_columns; }
constexpr int64_t packed_size(int64_t depth, int64_t columns) {
  return panels(columns) * panel_columns * depth;
}

/* How many lanes of a vector count: all, known when this is compiled, or the first few. */
struct Whole {
  static constexpr int lanes = simd::width;
};
struct Part {
  int lanes;
};
SIMD_INLINE vec load(const float *p, Whole) { return simd::load(p); }
SIMD_INLINE vec load(const float *p, Part n) { return simd::load_first(p, n.lanes); }
SIMD_INLINE void store(float *p, vec v, Whole) { simd::store(p, v); }
SIMD_INLINE void store(float *p, vec v, Part n) { simd::store_first(p, v, n.lanes); }

/* b in panels, [panel][k][column], zeros in the columns past the last. */
template <int64_t depth> struct Packed {
  static constexpr bool is_padded = true;
  static constexpr int64_t step = panel_columns;
  const float *data;
  /* The first of the panels at `column`, a multiple of panel_columns. */
  const float *from(int64_t column) const { return data + column * depth; }
  static SIMD_INLINE const float *vector(const float *at, int v) {
    return at + v / panel_vectors * (depth * panel_columns) + v % panel_vectors * simd::width;
  }
};

/* b by rows, `pitch` floats apart. */
template <int64_t pitch> struct Unpacked {
  static constexpr bool is_padded = false;
  static constexpr int64_t step = pitch;
  const float *data;
  const float *from(int64_t column) const { return data + column; }
  static SIMD_INLINE const float *vector(const float *at, int v) { return at + v * simd::width; }
};

/* Panels that `rows` rows take at once, so that there are at least 8 sums under way. */
constexpr int at_once(int rows) {
  if (simd::width == 16) return rows == 1 ? 2 : 1;
  if (simd::width == 8 || simd::width == 4) return rows == 1 ? 4 : rows <= 3 ? 2 : 1;
  return 1;
}

/* `last`: lanes of the last vector, for a b that must not be read beyond its end. */
template <int rows, int vectors, int64_t depth, int64_t pitch, bool asks, class Right, class Last>
SIMD_INLINE void multiply(const float *a, const float *b, int64_t distance, Last last,
                          vec (&sums)[rows][vectors]) {
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v++) sums[i][v] = vec{};
#pragma GCC unroll unrolled
  for (int64_t k = 0; k < depth; k++, a++, b += Right::step) {
    if constexpr (rows <= 3 && rows > 1 && vectors > panel_vectors) {
      /* More vectors than rows: it is the broadcasts that stay in registers. */
      vec left[rows];
#pragma GCC unroll 16
      for (int i = 0; i < rows; i++) left[i] = simd::broadcast(a[i * pitch]);
#pragma GCC unroll 16
      for (int v = 0; v < vectors; v++) {
        const float *const at = Right::vector(b, v);
        if constexpr (asks) 
          if (v * simd::width % 16 == 0) __builtin_prefetch(at + distance);
        const vec right = v + 1 < vectors ? simd::load(at) : load(at, last);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) sums[i][v] += left[i] * right;
      }
    } else {
      vec right[vectors];
#pragma GCC unroll 16
      for (int v = 0; v < vectors; v++) {
        const float *const at = Right::vector(b, v);
        if constexpr (asks) 
          if (v * simd::width % 16 == 0) __builtin_prefetch(at + distance);
        right[v] = v + 1 < vectors ? simd::load(at) : load(at, last);
      }
#pragma GCC unroll 16
      for (int i = 0; i < rows; i++) {
        const vec left = simd::broadcast(a[i * pitch]);
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) sums[i][v] += left * right[v];
      }
    }
  }
}

/* One product of a nest: rows of a, `pitch` apart, times b. */
template <int64_t depth_, int64_t pitch_, class Right_> struct Term {
  static constexpr int64_t depth = depth_, pitch = pitch_;
  using Right = Right_;
  const float *a;
  Right b;
};

/* The sums of one term over a block, to `out` (rows, vectors) in the nearest cache. */
template <int rows, int vectors, class T, bool asks, class Last>
__attribute__((noinline)) void block(const float *a, const float *b, int64_t distance, Last last,
                                     vec *out) {
  vec sums[rows][vectors];
  multiply<rows, vectors, T::depth, T::pitch, asks, typename T::Right>(a, b, distance, last, sums);
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v++) out[i * vectors + v] = sums[i][v];
}

/* The function of a block of `rows` rows, picked at run time. */
template <int rows, int vectors, class T>
SIMD_INLINE void sum_rows(int n_rows, const float *a, const float *b, int64_t distance, int lanes,
                          vec *out) {
  if constexpr (rows > 1) {
    if (n_rows < rows) return sum_rows<rows - 1, vectors, T>(n_rows, a, b, distance, lanes, out);
  }
  constexpr bool asks = rows > 3 && T::Right::is_padded;
  if constexpr (!T::Right::is_padded)
    if (lanes < simd::width)
      return block<rows, vectors, T, asks>(a, b, distance, Part{lanes}, out);
  block<rows, vectors, T, asks>(a, b, distance, Whole(), out);
}

/* Widths a block may have: of one row, of few, and the panel that the columns end in. */
constexpr int widest = at_once(1) * panel_vectors, wider = at_once(3) * panel_vectors;

template <int rest_vectors, class T>
SIMD_INLINE void sum_block(const T &term, int n_rows, int vectors, int64_t row, int64_t column,
                           int64_t distance, int lanes, vec *out) {
  const float *const a = term.a + row * T::pitch, *const b = term.b.from(column);
  /* 1 or -1: the panel after this one or before it. */
  if (distance == 1 || distance == -1) distance *= T::Right::step * T::depth;
  if constexpr (widest > wider)
    if (vectors == widest) return sum_rows<1, widest, T>(1, a, b, distance, lanes, out);
  if constexpr (wider > panel_vectors)
    if (vectors == wider) return sum_rows<3, wider, T>(n_rows, a, b, distance, lanes, out);
  if constexpr (rest_vectors > 0 && rest_vectors < panel_vectors)
    if (vectors == rest_vectors)
      return sum_rows<block_rows, rest_vectors, T>(n_rows, a, b, distance, lanes, out);
  sum_rows<block_rows, panel_vectors, T>(n_rows, a, b, distance, lanes, out);
}

/* Every term's sums over a block, `next` vectors apart. */
template <int rest_vectors, class Terms, size_t... n>
SIMD_INLINE void sum_terms(const Terms &term, bool back, int n_rows, int vectors, int64_t row,
                           int64_t column, int64_t distance, int lanes, vec *tile, int64_t next,
                           std::index_sequence<n...>) {
  constexpr size_t last = sizeof...(n) - 1;
  if (back)
    (sum_block<rest_vectors>(std::get<last - n>(term), n_rows, vectors, row, column, distance,
                             lanes, tile + (last - n) * next),
     ...);
  else
    (sum_block<rest_vectors>(std::get<n>(term), n_rows, vectors, row, column, distance, lanes,
                             tile + n * next),
     ...);
}

/* One vector of the results: f(row, column, lanes, sums...). */
template <class F, class Lanes, size_t... n>
SIMD_INLINE void put(const F &f, int64_t i, int64_t j, Lanes lanes, const vec *tile, int64_t next,
                     std::index_sequence<n...>) {
  f(i, j, lanes, tile[n * next]...);
}

/* Blocks of columns: as many of `most` vectors as there is room for, some of `wider`, then single
   panels, the last perhaps of fewer vectors. */
template <int64_t columns> struct Columns {
  static constexpr int64_t whole = columns / panel_columns * panel_columns, rest = columns - whole;
  static constexpr int rest_vectors = static_cast<int>((rest + simd::width - 1) / simd::width);
  int sizes[3];
  int64_t counts[3];

  explicit Columns(int most) : sizes{most, std::min(most, wider), panel_vectors} {
    int64_t left = whole;
    for (int i = 0; i < 3; i++) {
      counts[i] = left / (sizes[i] * simd::width);
      left -= counts[i] * sizes[i] * simd::width;
    }
  }
  int64_t blocks() const { return counts[0] + counts[1] + counts[2] + (rest > 0); }
  /* Where block n begins, and its vectors. */
  int64_t begin(int64_t n, int &vectors) const {
    int64_t column = 0;
    for (int i = 0; i < 3; i++) {
      vectors = sizes[i];
      if (n < counts[i]) return column + n * vectors * simd::width;
      column += counts[i] * vectors * simd::width;
      n -= counts[i];
    }
    vectors = rest_vectors;
    return column;
  }
};

/* f(i, j, lanes, sum of each term...) for all i < n_rows and, a vector at a time, all j < columns.

   A panel is used by all blocks of rows while it is near; the last of them asks for the next.
   ask(i, j) before the products of a block asks for what f will read of columns j .. j + 15.
   back: blocks of columns and terms from the last to the first. */
template <int64_t columns, class Ask, class F, class... T>
SIMD_INLINE void product(bool back, int64_t n_rows, const Ask &ask, const F &f, const T &...terms) {
  using Blocks = Columns<columns>;
  constexpr int tile_size = std::max({widest, 3 * wider, block_rows * panel_vectors});
  constexpr std::make_index_sequence<sizeof...(T)> all;
  const std::tuple<const T &...> term(terms...);
  if (n_rows <= 0) return;
  /* Rows are dealt to blocks as evenly as can be. */
  const int64_t blocks = (n_rows + block_rows - 1) / block_rows;
  const int64_t base = n_rows / blocks, longer = n_rows % blocks;
  const Blocks parts(n_rows == 1 ? widest : n_rows <= 3 ? wider : panel_vectors);
  const int64_t n_parts = parts.blocks();
  for (int64_t part = 0; part < n_parts; part++) {
    int vectors;
    const int64_t column = parts.begin(back ? n_parts - 1 - part : part, vectors);
    const int64_t taken = std::min<int64_t>(vectors * simd::width, columns - column);
    const int full = static_cast<int>(taken / simd::width);
    const int lanes = taken % simd::width ? static_cast<int>(taken % simd::width) : simd::width;
    for (int64_t i = 0, row = 0; i < blocks; i++) {
      const int size = static_cast<int>(base + (i < longer));
      const int64_t distance = i == 0 ? ahead : i + 1 < blocks ? 0 : back ? -1 : 1;
      for (int r = 0; r < size; r++)
        for (int64_t j = column; j < column + taken; j += 16) ask(row + r, j);
      vec tile[sizeof...(T) * tile_size];
      sum_terms<Blocks::rest_vectors>(term, back, size, vectors, row, column, distance, lanes, tile,
                                      tile_size, all);
      const int64_t end = row + size;
      for (const vec *at = tile; row < end; row++) {
        for (int v = 0; v < full; v++, at++)
          put(f, row, column + v * simd::width, Whole(), at, tile_size, all);
        if constexpr (columns % simd::width > 0)
          if (lanes < simd::width)
            put(f, row, column + full * simd::width, Part{lanes}, at++, tile_size, all);
      }
    }
  }
}

/* Panels of a matrix b[k, j] = data[k * row + j * column]. */
inline void pack(const float *data, int64_t row, int64_t column, int64_t depth, int64_t columns,
                 float *out) {
  for (int64_t left = 0; left < columns; left += panel_columns)
    for (int64_t k = 0; k < depth; k++)
      for (int64_t j = left; j < left + panel_columns; j++)
        *out++ = j < columns ? data[k * row + j * column] : 0.0f;
}

} // namespace cortex
#pragma GCC visibility pop

#endif
