/* Matrix product C = f(A B) for one thread: packed panels, register-blocked kernels, two drivers.

   Index notation: c[i, j] = f(sum_p a[i, p] * b[p, j], i, j); a (m, k), b (k, n), c (m, n).

   B lies in panels of `panel_columns` columns, [panel][step][column], zeros in the columns past n,
   so the kernel reads it as one stream. A is packed inside, `kernel_rows` rows at a time,
   [step][row]. A step is one 32-bit lane: one float, or, where the processor multiplies pairs of
   bf16, two of them. Elsewhere bf16 is widened to float when it is packed.

   A block of 14 rows x 2 vectors (AVX-512; 6 x 2 with AVX2's 16 registers) keeps 28 independent
   sums: enough to hide a 4-cycle multiply-add at two a cycle, with 16 loads for 28 of them.
   Few rows have few sums, so they take several panels at once.

   f is a functor: vec operator()(vec sum, int64_t row, int64_t column, int lanes), called once for
   every element when its sum is complete; its result is stored in c. It may read other arrays at
   (row, column .. column + lanes), for a step of an optimizer c itself.

   Every c[i, j] is summed in the order of p over `depth` steps at a time, and these sums in order
   again, after the old c[i, j] with `adds`; whatever m, n, the place of (i, j) and the split into
   threads are. So its bits are the same always. */
#ifndef MLSYS21_GEMM_H
#define MLSYS21_GEMM_H

#include <algorithm>
#include <type_traits>
#include <utility>

#include "simd.h"

/* Two libraries in one process may hold these for different vectors: nothing may be merged. */
#pragma GCC visibility push(hidden)
namespace gemm {

using simd::vec;

struct bf16 {
  uint16_t bits;
};

/* width 16: 28 sums + 2 of b + 1 of a in 32 registers; width 8: 12 + 2 + 1 in 16. */
constexpr int kernel_rows = simd::width == 16 ? 14 : simd::width == 1 ? 4 : 6;
constexpr int panel_vectors = simd::width == 1 ? 4 : 2;
constexpr int panel_columns = panel_vectors * simd::width;
/* Steps of the inner loop at once: a block of 12 sums has few instructions to hide the counting. */
constexpr int unrolled = simd::width == 8 ? 4 : 1;

/* Steps of one pass: the sums are written and read again once per pass, which costs more than a
   panel (1024 x 32 x 4 B) and the rows of a block not fitting the nearest cache together. */
constexpr int64_t depth = 1024;
/* Floats of packed A at a time: most of a second-level cache. */
constexpr int64_t packed_rows = 12 * kernel_rows * depth;
/* How far ahead of its use B is asked for, in steps: beyond what the prefetcher sees. */
constexpr int64_t ahead = 96;
/* Panels of an unpacked B that are packed before more rows than are packed at a time use them. All
   of A is packed again for each such group, so it is as large as the shared cache allows: 4 MiB. */
constexpr int64_t group_panels = simd::width == 8 ? 64 : 16;
constexpr int64_t page = 4096; /* bytes */

/* A matrix of any strides, in elements: (row, column). */
template <class E> struct Strided {
  const E *data;
  int64_t row, column;
  const E *at(int64_t i, int64_t j) const { return data + i * row + j * column; }
  Strided from(int64_t i, int64_t j) const { return {at(i, j), row, column}; }
};
using View = Strided<float>;

/* ---- Lanes: what 32 bits of a packed row hold, from elements of type E ---- */

typedef uint16_t half_vec __attribute__((vector_size(simd::width * 2)));
typedef half_vec loose_half_vec __attribute__((aligned(1), may_alias));

SIMD_INLINE vec widen(half_vec v) {
  typedef uint32_t uvec __attribute__((vector_size(simd::width * 4)));
  return reinterpret_cast<vec>(__builtin_convertvector(v, uvec) << 16);
}
SIMD_INLINE float widen(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, sizeof y);
  return y;
}

/* To nearest, ties to even; NaN stays NaN. */
SIMD_INLINE half_vec narrow(vec v) {
#if defined(__AVX512BF16__) && !defined(SIMD_SCALAR)
  return half_vec(_mm512_cvtneps_pbh(__m512(v)));
#else
  typedef uint32_t uvec __attribute__((vector_size(simd::width * 4)));
  const uvec bits = reinterpret_cast<uvec>(v);
  const uvec rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const uvec quiet = (bits >> 16) | 0x40;
  return __builtin_convertvector(v == v ? rounded : quiet, half_vec);
#endif
}

SIMD_INLINE vec load_first(const float *p, int lanes) { return simd::load_first(p, lanes); }
SIMD_INLINE vec load_first(const bf16 *p, int lanes) {
#if defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(SIMD_SCALAR)
  return widen(half_vec(_mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << lanes) - 1), p)));
#else
  half_vec h = {};
  for (int i = 0; i < lanes; i++) h[i] = p[i].bits;
  return widen(h);
#endif
}

/* One element in each lane. */
template <class E> struct Single {
  static constexpr int terms = 1;
  /* Lanes 0 .. width of one row, consecutive in memory along columns (pitch unused). */
  static SIMD_INLINE vec along_columns(const E *p, int64_t) {
    if constexpr (std::is_same_v<E, float>)
      return simd::load(p);
    else
      return widen(*reinterpret_cast<const loose_half_vec *>(p));
  }
  static SIMD_INLINE vec first_columns(const E *p, int64_t, int lanes) {
    return load_first(p, lanes);
  }
  /* Lanes of consecutive steps, consecutive in memory. */
  static SIMD_INLINE vec along_steps(const E *p) { return along_columns(p, 0); }
  static SIMD_INLINE float one(const E *p, int64_t, int64_t) {
    if constexpr (std::is_same_v<E, float>)
      return *p;
    else
      return widen(*p);
  }
  static SIMD_INLINE vec broadcast(const float *p) { return simd::broadcast(*p); }
  static SIMD_INLINE vec multiply_add(vec sum, vec left, vec right) { return sum + left * right; }
};

#if defined(__AVX512BF16__) && defined(__AVX512BW__) && !defined(SIMD_SCALAR)
/* Two consecutive elements along p in each lane, the first in the low half. */
template <class E> struct Pair {
  static constexpr int terms = 2;
  static SIMD_INLINE vec both(vec low, vec high) {
    return simd::from_bits(simd::bits(high) | ((simd::bits(low) >> 16) & 0xffff));
  }
  static SIMD_INLINE vec along_columns(const E *p, int64_t pitch) {
    return both(widen(*reinterpret_cast<const loose_half_vec *>(p)),
                widen(*reinterpret_cast<const loose_half_vec *>(p + pitch)));
  }
  static SIMD_INLINE vec first_columns(const E *p, int64_t pitch, int lanes) {
    return both(load_first(p, lanes), load_first(p + pitch, lanes));
  }
  static SIMD_INLINE vec along_steps(const E *p) {
    return simd::load(reinterpret_cast<const float *>(p));
  }
  /* `left` elements remain from p on; past the end is 0. */
  static SIMD_INLINE float one(const E *p, int64_t pitch, int64_t left) {
    const uint32_t bits = p->bits | (left > 1 ? static_cast<uint32_t>(p[pitch].bits) << 16 : 0);
    float lane;
    std::memcpy(&lane, &bits, sizeof lane);
    return lane;
  }
  static SIMD_INLINE vec broadcast(const float *p) {
    int32_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return vec(_mm512_set1_epi32(bits));
  }
  static SIMD_INLINE vec multiply_add(vec sum, vec left, vec right) {
    return vec(_mm512_dpbf16_ps(__m512(sum), reinterpret_cast<__m512bh>(left),
                                reinterpret_cast<__m512bh>(right)));
  }
};
template <class E> using Lane = std::conditional_t<std::is_same_v<E, bf16>, Pair<E>, Single<E>>;
#else
template <class E> using Lane = Single<E>;
#endif

template <class E> constexpr int64_t steps_of(int64_t k) {
  return (k + Lane<E>::terms - 1) / Lane<E>::terms;
}

/* ---- Packing ---- */

constexpr int64_t panels(int64_t n) { return (n + panel_columns - 1) / panel_columns; }
/* Rows of A that are packed before panels use them, for a product of k terms: whole blocks. */
template <class E> constexpr int64_t block_rows(int64_t k) {
  return packed_rows / kernel_rows / std::clamp<int64_t>(steps_of<E>(k), depth / 4, depth) *
         kernel_rows;
}
/* Floats of packed B. */
template <class E = float> constexpr int64_t packed_size(int64_t k, int64_t n) {
  return panels(n) * panel_columns * steps_of<E>(k);
}
/* Floats of workspace each thread needs of its own. */
constexpr int64_t workspace_size() { return packed_rows + simd::width; }
constexpr int64_t unpacked_workspace_size() {
  return workspace_size() + group_panels * panel_columns * depth;
}
/* Floats of `partial`, for results narrower than float of more than `depth` steps. */
constexpr int64_t partial_size(int64_t n) {
  return packed_rows / depth * panels(n) * panel_columns;
}

/* lanes[0], lanes[1], .. of x (0 .. group - 1) and y (group .. 2 group - 1), in every run of `group`
   lanes alike. */
template <int group> SIMD_INLINE vec mix(vec x, vec y, const int (&lanes)[group]) {
  simd::ivec index;
#pragma GCC unroll 16
  for (int lane = 0; lane < simd::width; lane++) {
    const int from = lanes[lane % group];
    index[lane] = lane / group * group + (from < group ? from : from - group + simd::width);
  }
  return __builtin_shuffle(x, y, index);
}

/* rows[i][j] <-> rows[j][i], by shuffles inside runs of four lanes, then of whole runs: each is one
   cheap instruction, which the textbook's swaps of halves, quarters and so on are not. */
SIMD_INLINE void transpose(vec (&rows)[simd::width]) {
  if constexpr (simd::width >= 4) {
#pragma GCC unroll 16
    for (int i = 0; i < simd::width; i += 4) {
      const vec low01 = mix<4>(rows[i], rows[i + 1], {0, 4, 1, 5});
      const vec high01 = mix<4>(rows[i], rows[i + 1], {2, 6, 3, 7});
      const vec low23 = mix<4>(rows[i + 2], rows[i + 3], {0, 4, 1, 5});
      const vec high23 = mix<4>(rows[i + 2], rows[i + 3], {2, 6, 3, 7});
      rows[i] = mix<4>(low01, low23, {0, 1, 4, 5});
      rows[i + 1] = mix<4>(low01, low23, {2, 3, 6, 7});
      rows[i + 2] = mix<4>(high01, high23, {0, 1, 4, 5});
      rows[i + 3] = mix<4>(high01, high23, {2, 3, 6, 7});
    }
  }
  if constexpr (simd::width == 8) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const vec x = rows[i], y = rows[i + 4];
      rows[i] = mix<8>(x, y, {0, 1, 2, 3, 8, 9, 10, 11});
      rows[i + 4] = mix<8>(x, y, {4, 5, 6, 7, 12, 13, 14, 15});
    }
  }
  if constexpr (simd::width == 16) {
    constexpr int even[] = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
    constexpr int odd[] = {4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31};
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const vec even01 = mix<16>(rows[i], rows[i + 4], even);
      const vec odd01 = mix<16>(rows[i], rows[i + 4], odd);
      const vec even23 = mix<16>(rows[i + 8], rows[i + 12], even);
      const vec odd23 = mix<16>(rows[i + 8], rows[i + 12], odd);
      rows[i] = mix<16>(even01, even23, even);
      rows[i + 4] = mix<16>(odd01, odd23, even);
      rows[i + 8] = mix<16>(even01, even23, odd);
      rows[i + 12] = mix<16>(odd01, odd23, odd);
    }
  }
}

/* out[step * pitch + i] = the lane of row i at `step`, for x (rows, k), rows <= width.
   May write up to `width` floats past the last row of a step, before that place is written. */
template <class E>
inline void pack_rows(Strided<E> x, int64_t rows, int64_t k, int64_t pitch, float *out) {
  using L = Lane<E>;
  const int64_t steps = steps_of<E>(k);
  int64_t s = 0;
  if (simd::width > 1 && x.column == 1) {
    for (; (s + simd::width) * L::terms <= k; s += simd::width) {
      vec block[simd::width];
#pragma GCC unroll 16
      for (int i = 0; i < simd::width; i++)
        block[i] = i < rows ? L::along_steps(x.at(i, s * L::terms)) : vec{};
      transpose(block);
#pragma GCC unroll 16
      for (int i = 0; i < simd::width; i++) simd::store(out + (s + i) * pitch, block[i]);
    }
  } else if (simd::width > 1 && x.row == 1) {
    for (; (s + 1) * L::terms <= k; s++)
      simd::store(out + s * pitch, L::first_columns(x.at(0, s * L::terms), x.column, rows));
  }
  for (; s < steps; s++)
    for (int64_t i = 0; i < rows; i++)
      out[s * pitch + i] = L::one(x.at(i, s * L::terms), x.column, k - s * L::terms);
}

/* One panel of `columns` <= panel_columns columns of b. */
template <class E>
inline void pack_panel(Strided<E> b, int64_t k, int64_t columns, float *out) {
  if (columns < panel_columns)
    std::memset(out, 0, steps_of<E>(k) * panel_columns * sizeof(float));
  if (b.column == 1 && columns == panel_columns) {
    using L = Lane<E>;
    int64_t s = 0;
    for (; (s + 1) * L::terms <= k; s++)
#pragma GCC unroll 4
      for (int v = 0; v < panel_vectors; v++)
        simd::store(out + s * panel_columns + v * simd::width,
                    L::along_columns(b.at(s * L::terms, v * simd::width), b.row));
    if (s < steps_of<E>(k))
      for (int64_t j = 0; j < columns; j++)
        out[s * panel_columns + j] = L::one(b.at(s * L::terms, j), b.row, 1);
    return;
  }
  if (columns < panel_columns) {
    for (int64_t s = 0; s < steps_of<E>(k); s++)
      for (int64_t j = 0; j < columns; j++)
        out[s * panel_columns + j] =
            Lane<E>::one(b.at(s * Lane<E>::terms, j), b.row, k - s * Lane<E>::terms);
    return;
  }
  /* The columns of b are the rows of its transpose. */
  for (int v = 0; v < panel_vectors; v++)
    pack_rows<E>({b.at(0, v * simd::width), b.column, b.row}, simd::width, k, panel_columns,
                 out + v * simd::width);
}

/* out = panels of b; packed_size<E>(k, n) floats. Any strides, fast where one of them is 1. */
template <class E> inline void pack_b(Strided<E> b, int64_t k, int64_t n, float *out) {
  for (int64_t j = 0; j < n; j += panel_columns)
    pack_panel<E>(b.from(0, j), k, std::min<int64_t>(panel_columns, n - j),
                  out + j * steps_of<E>(k));
}
inline void pack_b(View b, int64_t k, int64_t n, float *out) { pack_b<float>(b, k, n, out); }

/* rows x k of a, as [step][row]. Writes up to `width` floats past the end of out. */
template <class E> inline void pack_a(Strided<E> a, int64_t rows, int64_t k, float *out) {
  pack_rows<E>(a, rows, k, rows, out);
}

/* Rows are dealt to blocks as evenly as can be: 16 rows are 8 + 8, not 14 + 2. */
struct Split {
  int64_t blocks, base, longer;
  explicit Split(int64_t rows)
      : blocks((rows + kernel_rows - 1) / kernel_rows), base(rows / blocks), longer(rows % blocks) {}
  int64_t size(int64_t i) const { return base + (i < longer); }
};

/* The rows of all blocks, each as pack_a packs it, one after the other. */
template <class E>
inline void pack_blocks(Strided<E> a, const Split &split, int64_t k, float *out) {
  using L = Lane<E>;
  const int64_t steps = steps_of<E>(k);
  int64_t s = 0;
  /* A column of a matrix stored by columns is one short run: all blocks take their part of it at
     once, as runs a large power of two apart would be evicted before the next block came by. A
     vector may be longer than a block, so the last steps are left to those who know. */
  if (simd::width > 1 && split.blocks > 1 && a.row == 1 && split.base + 1 >= simd::width / 2) {
    const int64_t n_rows = split.base * split.blocks + split.longer;
    const int64_t whole = split.blocks - 2;
    for (; s < steps - simd::width; s++) {
      const E *from = a.at(0, s * L::terms);
      for (int64_t r = 0; r < n_rows; r += 64 / int64_t(sizeof(E)))
        for (int t = 0; t < L::terms; t++)
          __builtin_prefetch(from + (16 * L::terms + t) * a.column + r);
      float *to = out;
      for (int64_t i = 0, size; i < split.blocks; i++, from += size, to += steps * size) {
        size = split.size(i);
        /* The first lanes beyond the block are those of the next, but the last blocks have none. */
        simd::store(to + s * size, i < whole ? L::along_columns(from, a.column)
                                             : L::first_columns(from, a.column, static_cast<int>(size)));
      }
    }
  }
  const bool is_started = s > 0;
  int64_t row = 0;
  for (int64_t i = 0; i < split.blocks; row += split.size(i++)) {
    float *const to = out + row * steps;
    const int64_t size = split.size(i);
    if (!is_started) {
      pack_rows<E>(a.from(row, 0), size, k, size, to);
      continue;
    }
    for (int64_t last = s; last < steps; last++)
      for (int64_t r = 0; r < size; r++)
        to[last * size + r] =
            L::one(a.at(row + r, last * L::terms), a.column, k - last * L::terms);
  }
}

/* ---- The kernel ---- */

/* B as packed panels, `next` floats apart; asks for what lies `distance` floats on. One row reads
   faster than it can ask. */
template <class E, bool asks = true> struct FromPanels {
  using L = Lane<E>;
  /* Panels taken at once by a block of few rows, so that there are at least 8 sums under way. */
  static constexpr int at_once(int rows) {
    if (simd::width == 16) return rows <= 2 ? 4 : rows <= 6 ? 2 : 1;
    if (simd::width == 8) return rows == 1 ? 4 : rows == 2 ? 2 : 1;
    return 1;
  }
  const float *at;
  int64_t next, distance;
  SIMD_INLINE vec load(int v) const {
    const float *p = at + (v / panel_vectors) * next + (v % panel_vectors) * simd::width;
    if constexpr (asks) __builtin_prefetch(p + distance);
    return simd::load(p);
  }
  SIMD_INLINE void step() { at += panel_columns; }
};

/* B as it is, row-major, rows `next` elements apart, whole panels of columns. */
template <class E, bool asks = true> struct FromRows {
  using L = Lane<E>;
  /* One row takes as much of each row of B as it has sums for: long runs of memory. */
  static constexpr int at_once(int rows) {
    return simd::width == 16 && rows == 1 ? 8 : FromPanels<E>::at_once(rows);
  }
  const E *at;
  int64_t next, distance;
  SIMD_INLINE vec load(int v) const {
    const E *p = at + v * simd::width;
    if constexpr (asks) __builtin_prefetch(p + distance);
    if constexpr (asks && L::terms > 1) __builtin_prefetch(p + distance + next);
    return L::along_columns(p, next);
  }
  SIMD_INLINE void step() { at += L::terms * next; }
};

/* Where a block's sums go: `partial` until they are complete, then `out`, both at (row, column).
   For an Out of float they are the same. */
template <class Out> struct Target {
  float *partial;
  int64_t partial_pitch;
  Out *out;
  int64_t pitch;
  int64_t row, column, columns;
  bool adds_partial, adds_out, is_complete;
};

/* f's code is large: apply it in a loop rather than once for every register. */
template <class F, class = void> struct is_large : std::false_type {};
template <class F> struct is_large<F, std::enable_if_t<F::is_large>> : std::true_type {};

SIMD_INLINE void store_first(float *p, vec v, int lanes) {
  /* A whole vector is known to be one when this is compiled. */
  if (lanes == simd::width)
    simd::store(p, v);
  else
    simd::store_first(p, v, lanes);
}
SIMD_INLINE void store_first(bf16 *p, vec v, int lanes) {
  const half_vec h = narrow(v);
  if (lanes == simd::width)
    *reinterpret_cast<loose_half_vec *>(p) = h;
  else
    for (int i = 0; i < lanes; i++) p[i].bits = h[i];
}

/* f of one complete vector, its first lanes, to where it belongs. */
template <class Out, class F>
SIMD_INLINE void put(vec sum, const Target<Out> &t, int i, int v, int lanes, const F &f) {
  store_first(t.out + i * t.pitch + v * simd::width,
              f(sum, t.row + i, t.column + v * simd::width, lanes), lanes);
}

/* The same for a part of a block, or with much code in f: in a loop, from memory. */
template <class Out, class F>
__attribute__((noinline)) void finish_slowly(const vec *sums, int rows, int vectors, const Target<Out> &t,
                               const F &f) {
  for (int i = 0; i < rows; i++)
    for (int v = 0; v < vectors && v * simd::width < t.columns; v++) {
      const int lanes = static_cast<int>(std::min<int64_t>(t.columns - v * simd::width, simd::width));
      float *partial = t.partial + i * t.partial_pitch + v * simd::width;
      vec sum = sums[i * vectors + v];
      if (t.adds_partial) sum = simd::load_first(partial, lanes) + sum;
      if (t.adds_out) sum = load_first(t.out + i * t.pitch + v * simd::width, lanes) + sum;
      if (t.is_complete)
        put(sum, t, i, v, lanes, f);
      else
        simd::store_first(partial, sum, lanes);
    }
}

template <int rows, int vectors, class Out, class F>
SIMD_INLINE void finish(vec (&sums)[rows][vectors], const Target<Out> &target, const F &f) {
  const Target<Out> t = target; /* in registers: a store to c might change what a reference holds */
  const bool is_whole = t.columns >= vectors * simd::width;
  if (!is_whole || t.adds_out || (t.is_complete && is_large<F>::value)) {
    vec tile[rows * vectors];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; v++) tile[i * vectors + v] = sums[i][v];
    finish_slowly(tile, rows, vectors, t, f);
    return;
  }
  if (t.adds_partial) {
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; v++)
        sums[i][v] = simd::load(t.partial + i * t.partial_pitch + v * simd::width) + sums[i][v];
  }
  if (t.is_complete) {
    if constexpr (!is_large<F>::value) {
#pragma GCC unroll 16
      for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++) put(sums[i][v], t, i, v, simd::width, f);
    }
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
      for (int v = 0; v < vectors; v++)
        simd::store(t.partial + i * t.partial_pitch + v * simd::width, sums[i][v]);
  }
}

/* sums[i][v] += a (packed, [step][rows]) times b; b is kept at `keep` as one panel if asked to. */
template <int rows, int vectors, bool keeps = false, class Right>
SIMD_INLINE void multiply(int64_t steps, const float *a, Right b, float *keep,
                          vec (&sums)[rows][vectors]) {
#pragma GCC unroll unrolled
  for (int64_t s = 0; s < steps; s++, a += rows) {
    vec right[vectors];
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v++) {
      right[v] = b.load(v);
      if constexpr (keeps) simd::store(keep + v * simd::width, right[v]);
    }
    b.step();
    if constexpr (keeps) keep += vectors * simd::width;
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      const vec left = Right::L::broadcast(a + i);
#pragma GCC unroll 16
      for (int v = 0; v < vectors; v++)
        sums[i][v] = Right::L::multiply_add(sums[i][v], left, right[v]);
    }
  }
}

template <int rows, int wide, bool keeps, class Right, class Out, class F>
__attribute__((noinline)) void block(int64_t steps, const float *a, Right b, float *keep,
                                     const Target<Out> &t, const F &f) {
  constexpr int vectors = wide * panel_vectors;
  /* C arrives while the products are summed. */
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
    for (int v = 0; v < vectors; v += 16 / simd::width * (4 / (int)sizeof(Out)))
      __builtin_prefetch(t.out + i * t.pitch + v * simd::width, 1);
  if constexpr (sizeof(Out) < sizeof(float))
    if (t.adds_partial)
#pragma GCC unroll 16
      for (int i = 0; i < rows; i++)
#pragma GCC unroll 16
        for (int v = 0; v < vectors; v++)
          __builtin_prefetch(t.partial + i * t.partial_pitch + v * simd::width, 1);
  vec sums[rows][vectors] = {};
  multiply<rows, vectors, keeps>(steps, a, b, keep, sums);
  finish<rows>(sums, t, f);
}

/* Blocks for a number of rows known at run time only. */
template <class E, class Out, class F> struct Blocks {
  template <class Right>
  using Function = void (*)(int64_t, const float *, Right, float *, const Target<Out> &, const F &);

  template <class Right, bool is_wide, int... i>
  static Function<Right> pick(int64_t rows, std::integer_sequence<int, i...>) {
    static constexpr Function<Right> table[] = {
        block<i + 1, is_wide ? Right::at_once(i + 1) : 1, false, Right, Out, F>...};
    return table[rows - 1];
  }
  template <class Right, int... i>
  static Function<Right> pick_keeping(int64_t rows, std::integer_sequence<int, i...>) {
    static constexpr Function<Right> table[] = {block<fewest + i, 1, true, Right, Out, F>...};
    return table[rows - fewest];
  }
  /* Rows that fill several blocks are dealt out evenly, so no block is nearly empty. */
  static constexpr int fewest = (kernel_rows + 1) / 2;
  using Any = std::make_integer_sequence<int, kernel_rows>;
  using Many = std::make_integer_sequence<int, kernel_rows - fewest + 1>;

  /* Of a few rows over one panel or, if taken > 1, as many panels as they take at once. */
  template <template <class, bool> class Right>
  static void call(int64_t rows, int64_t taken, int64_t steps, const float *a, Right<E, true> b,
                   const Target<Out> &t, const F &f) {
    if (rows == 1) {
      const Right<E, false> silent{b.at, b.next, 0};
      (taken > 1 ? block<1, Right<E, false>::at_once(1), false, Right<E, false>, Out, F>
                 : block<1, 1, false, Right<E, false>, Out, F>)(steps, a, silent, nullptr, t, f);
    } else {
      (taken > 1 ? pick<Right<E, true>, true>(rows, Any()) : pick<Right<E, true>, false>(rows, Any()))(
          steps, a, b, nullptr, t, f);
    }
  }
  static void call_keeping(int64_t rows, int64_t steps, const float *a, FromRows<E> b, float *keep,
                           const Target<Out> &t, const F &f) {
    pick_keeping<FromRows<E>>(rows, Many())(steps, a, b, keep, t, f);
  }
};

/* ---- Drivers ---- */

/* What every driver is told about its product. `partial`, for an Out narrower than float and k
   beyond one pass: partial_size(n) floats; else null. */
template <class E, class Out, class F> struct Product {
  Strided<E> a;
  Out *c;
  int64_t ldc, m, n, k, first, last;
  bool adds;
  const F &f;
  float *workspace, *partial;

  /* Of the block at (row, panel), `taken` panels wide, for the steps from `step` to `end`. Sums not
     yet complete lie block by block in `partial`, unless c itself can hold them. */
  Target<Out> target([[maybe_unused]] int64_t top, int64_t row, int64_t panel,
                     [[maybe_unused]] int64_t taken, int64_t step, int64_t end) const {
    const int64_t column = panel * panel_columns;
    Out *out = c + row * ldc + column;
    const bool is_complete = end == steps_of<E>(k);
    if constexpr (std::is_same_v<Out, float>)
      return {out, ldc, out, ldc, row, column, n - column, adds || step > 0, false, is_complete};
    else
      return {partial + column * (packed_rows / depth) + (row - top) * panel_columns, taken * panel_columns,
              out, ldc, row, column, n - column, step > 0, adds && step == 0, is_complete};
  }
  /* Rows that go through all steps before others start: as many as `partial` has room for. */
  int64_t stripe() const {
    return std::is_same_v<Out, float> || steps_of<E>(k) <= depth ? std::max<int64_t>(m, 1)
                                                                 : block_rows<E>(k);
  }
  int64_t terms(int64_t step, int64_t end) const {
    return std::min(k, end * Lane<E>::terms) - step * Lane<E>::terms;
  }
};

template <class E, class Out, class F>
void run_stripe(const Product<E, Out, F> &x, const float *panels_of_b, int64_t start,
                int64_t stop) {
  const int64_t all = steps_of<E>(x.k);
  const int64_t next = all * panel_columns;
  /* Few rows: the whole depth of a panel after another, so that B is one uninterrupted stream. */
  const bool is_few = x.m <= 2 * kernel_rows;
  const int64_t at_most = block_rows<E>(x.k);
  const int64_t most = is_few ? workspace_size() / (2 * kernel_rows) / depth * depth : depth;
  for (int64_t step = 0; step < all || step == 0; step += most) {
    const int64_t end = std::min(all, step + most), steps = end - step;
    for (int64_t top = start; top < stop; top += at_most) {
      const Split split(std::min(at_most, stop - top));
      int64_t row = top;
      pack_blocks<E>(x.a.from(top, step * Lane<E>::terms), split, x.terms(step, end), x.workspace);
      const int64_t at_once = split.blocks == 1 ? FromPanels<E>::at_once(split.base) : 1;
      for (int64_t panel = x.first, taken = 0; panel < x.last; panel += taken) {
        taken = x.last - panel >= at_once ? at_once : 1;
        for (int64_t from = step; from < end || from == step; from += depth) {
          const int64_t to = std::min(end, from + depth);
          FromPanels<E> right{panels_of_b + panel * next + from * panel_columns, next,
                              ahead * panel_columns};
          row = top;
          for (int64_t i = 0; i < split.blocks; row += split.size(i++)) {
            const int64_t rows = split.size(i);
            /* The last of many blocks over this panel asks for the next panel. */
            if (!is_few && i > 0) right.distance = i + 1 == split.blocks ? next : 0;
            Blocks<E, Out, F>::call(rows, taken, to - from,
                                    x.workspace + (row - top) * steps + (from - step) * rows, right,
                                    x.target(top, row, panel, taken, from, to), x.f);
          }
        }
      }
    }
  }
}

/* c = f(a b) (or f(c + a b) with `adds`) for b in panels.

   a, c, n, first .. last: the whole product's; this call does the panels first .. last - 1, so
   that threads can share a product. workspace: workspace_size() floats of this thread's own. */
template <class E, class Out, class F>
void run(Strided<E> a, const float *panels_of_b, Out *c, int64_t ldc, int64_t m, int64_t n,
         int64_t k, int64_t first, int64_t last, bool adds, const F &f, float *workspace,
         float *partial = nullptr) {
  const Product<E, Out, F> x{a, c, ldc, m, n, k, first, last, adds, f, workspace, partial};
  for (int64_t row = 0; row < m; row += x.stripe())
    run_stripe(x, panels_of_b, row, std::min(m, row + x.stripe()));
}

/* One row of a and row-major b: rows of b as the long runs of memory they are, `runs` of them at a
   time, with the sums of a stretch of columns in the nearest cache. A strip of b as narrow as the
   registers would jump a row further at every step. */
template <class E, class Out, class F>
void run_single(const Product<E, Out, F> &x, Strided<E> b) {
  using L = Lane<E>;
  constexpr int64_t stretch = 4096, runs = 6;
  float *const sums = x.workspace + workspace_size();
  const int64_t all = steps_of<E>(x.k), stop = std::min(x.n, x.last * panel_columns);
  for (int64_t left = x.first * panel_columns; left < stop; left += stretch) {
    const int64_t columns = std::min(stretch, stop - left);
    for (int64_t step = 0; step < all || step == 0; step += depth) {
      const int64_t end = std::min(all, step + depth);
      const Target<Out> t = x.target(0, 0, left / panel_columns, 1, step, end);
      pack_a<E>(x.a.from(0, step * L::terms), 1, x.terms(step, end), x.workspace);
      const auto add_runs = [&](int64_t s, auto n) {
        const float *a = x.workspace + (s - step);
        const auto vector = [&](int64_t j, int lanes) {
          vec sum = s == step ? vec{} : simd::load(sums + j);
          for (int64_t i = 0; i < n; i++) {
            const E *at = b.at((s + i) * L::terms, left + j);
            const vec right = lanes == simd::width ? L::along_columns(at, b.row)
                                                   : L::first_columns(at, b.row, lanes);
            sum = L::multiply_add(sum, L::broadcast(a + i), right);
          }
          if (s + runs < end) return simd::store(sums + j, sum);
          if (t.adds_partial) sum = load_first(t.partial + j, lanes) + sum;
          if (t.adds_out) sum = load_first(t.out + j, lanes) + sum;
          if (t.is_complete)
            store_first(t.out + j, x.f(sum, 0, left + j, lanes), lanes);
          else
            store_first(t.partial + j, sum, lanes);
        };
        int64_t j = 0;
        for (; j + simd::width <= columns; j += simd::width) vector(j, simd::width);
        if (j < columns) vector(j, static_cast<int>(columns - j));
      };
      int64_t s = step;
      for (; s + runs <= end; s += runs) add_runs(s, std::integral_constant<int64_t, runs>());
      if (s < end || all == 0) add_runs(s, end - s);
    }
  }
}

template <class E, class Out, class F>
void run_unpacked_stripe(const Product<E, Out, F> &x, Strided<E> b, int64_t start, int64_t stop) {
  using L = Lane<E>;
  const int64_t all = steps_of<E>(x.k);
  float *const packed = x.workspace + workspace_size();
  const bool is_rows = b.column == 1 && x.k % L::terms == 0;
  const int64_t at_most = block_rows<E>(x.k);
  const bool is_single = x.m <= kernel_rows;
  /* The panel that n ends in has no whole vectors to read. */
  const int64_t whole = is_rows ? std::min(x.last, x.n / panel_columns) : x.first;
  /* A row further on is worth asking for while several fit into a page; beyond that one block of
     few rows asks for the next panels, which lie in the same rows. */
  const bool is_dense = b.row * int64_t(sizeof(E)) <= page;
  const int64_t distance = is_dense     ? 8 * L::terms * b.row
                           : !is_single ? 24 * L::terms * b.row
                                        : FromRows<E>::at_once(x.m) * panel_columns;
  const auto strided = [&](int64_t panel, int64_t step) {
    return FromRows<E>{b.at(step * L::terms, panel * panel_columns), b.row, distance};
  };
  const auto from_panel = [&](const float *p) { return FromPanels<E>{p, 0, ahead * panel_columns}; };
  for (int64_t left = x.first; left < x.last; left += group_panels) {
    const int64_t right = std::min(x.last, left + group_panels);
    for (int64_t step = 0; step < all || step == 0; step += depth) {
      const int64_t end = std::min(all, step + depth), steps = end - step;
      for (int64_t top = start; top < stop; top += at_most) {
        const Split split(std::min(at_most, stop - top));
        int64_t row = top;
        pack_blocks<E>(x.a.from(top, step * L::terms), split, x.terms(step, end), x.workspace);
        int64_t panel = left;
        if (is_single && whole > left) {
          const int64_t at_once = FromRows<E>::at_once(x.m), stop = std::min(whole, right);
          for (int64_t taken; panel < stop; panel += taken) {
            taken = stop - panel >= at_once ? at_once : 1;
            Blocks<E, Out, F>::call(x.m, taken, steps, x.workspace, strided(panel, step),
                                    x.target(top, top, panel, taken, step, end), x.f);
          }
        }
        for (; panel < right; panel++) {
          /* One row block's panel stays in the nearest caches; more blocks come back to it. */
          float *const keep = packed + (stop - start > at_most ? panel - left : 0) * panel_columns * depth;
          row = top;
          int64_t i = 0;
          if (top == start && panel < whole && split.blocks > 1) {
            Blocks<E, Out, F>::call_keeping(split.size(0), steps, x.workspace, strided(panel, step),
                                            keep, x.target(top, row, panel, 1, step, end), x.f);
            row += split.size(i++);
          } else if (top == start) {
            pack_panel<E>(b.from(step * L::terms, panel * panel_columns), x.terms(step, end),
                          std::min<int64_t>(panel_columns, x.n - panel * panel_columns), keep);
          }
          for (; i < split.blocks; row += split.size(i++))
            Blocks<E, Out, F>::call(split.size(i), 1, steps, x.workspace + (row - top) * steps,
                                    from_panel(keep), x.target(top, row, panel, 1, step, end), x.f);
        }
      }
    }
  }
}

/* As run, with b as it is: its panels are packed on the way, or, for few rows of a and row-major
   b, not at all. workspace: unpacked_workspace_size() floats. */
template <class E, class Out, class F>
void run_unpacked(Strided<E> a, Strided<E> b, Out *c, int64_t ldc, int64_t m, int64_t n, int64_t k,
                  int64_t first, int64_t last, bool adds, const F &f, float *workspace,
                  float *partial = nullptr) {
  const Product<E, Out, F> x{a, c, ldc, m, n, k, first, last, adds, f, workspace, partial};
  /* Wider registers hold long runs themselves; rows that share a page are read well in any order. */
  if (simd::width < 16 && m == 1 && b.column == 1 && k % Lane<E>::terms == 0 &&
      b.row * int64_t(sizeof(E)) > page)
    return run_single(x, b);
  for (int64_t row = 0; row < m; row += x.stripe())
    run_unpacked_stripe(x, b, row, std::min(m, row + x.stripe()));
}

struct Identity {
  SIMD_INLINE vec operator()(vec sum, int64_t, int64_t, int) const { return sum; }
};

} // namespace gemm
#pragma GCC visibility pop

#endif
