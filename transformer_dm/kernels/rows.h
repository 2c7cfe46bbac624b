/* Rows of a matrix, vector by vector: what the normalisation and element-wise kernels share.

   Elements are float or bfloat16 in memory and float in registers. Threads own blocks of 64 rows;
   sums over rows (gradients of parameters) are kept per block and added in the order of the blocks,
   so the result has the same bits for any number of threads. Nothing here allocates. */
#ifndef MLSYS21_ROWS_H
#define MLSYS21_ROWS_H

#include <algorithm>
#if defined(_OPENMP)
#include <omp.h>
#endif

#include "gemm.h"
#include "philox.h"
#include "simd.h"

#pragma GCC visibility push(hidden)
namespace rows {

using gemm::bf16;
using simd::vec;

constexpr int64_t block_rows = 64;

/* ---- Elements ---- */

/* Lanes of a vector that are there: all, known to the compiler, or the first n at a row's end. */
struct Whole {};
struct Part {
  int n;
};

SIMD_INLINE vec load(const float *p, Whole) { return simd::load(p); }
SIMD_INLINE vec load(const float *p, Part lanes) { return simd::load_first(p, lanes.n); }
SIMD_INLINE vec load(const bf16 *p, Whole) {
  return gemm::widen(*reinterpret_cast<const gemm::loose_half_vec *>(p));
}
SIMD_INLINE vec load(const bf16 *p, Part lanes) { return gemm::load_first(p, lanes.n); }

SIMD_INLINE void store(float *p, vec v, Whole) { simd::store(p, v); }
SIMD_INLINE void store(float *p, vec v, Part lanes) { simd::store_first(p, v, lanes.n); }
SIMD_INLINE void store(bf16 *p, vec v, Whole) {
  *reinterpret_cast<gemm::loose_half_vec *>(p) = gemm::narrow(v);
}
SIMD_INLINE void store(bf16 *p, vec v, Part lanes) { gemm::store_first(p, v, lanes.n); }

/* Lanes beyond the row become 0, so that they add nothing. */
SIMD_INLINE vec only(vec v, Whole) { return v; }
SIMD_INLINE vec only(vec v, Part lanes) {
  return simd::select(simd::lanes() < simd::broadcast_int(lanes.n), v, vec{});
}

/* Asks for the elements of a later group. While the bits of one are drawn, which may take longer
   than its elements do, none of their loads is under way; with ReLU this is worth a tenth. */
template <class E> SIMD_INLINE void prefetch(const E *p) {
  constexpr int ahead = 2 * philox::group_size, line = 64 / sizeof(E);
  for (int i = ahead; i < ahead + philox::group_size; i += line) __builtin_prefetch(p + i);
}

/* ---- Walks ---- */

constexpr int word_vectors = 32 / simd::width;
/* Copies of a loop's body; more of a small one let the places of its bits be constants. */
constexpr int copies = word_vectors < 4 ? word_vectors : 4;

/* f(column, lanes, v) for every vector of columns first .. last, where v counts the vectors since
   the last multiple of 32 columns; first is one. */
template <class F> SIMD_INLINE void vectors(int64_t first, int64_t last, const F &f) {
  int64_t column = first;
  for (; column + copies * simd::width <= last; column += copies * simd::width) {
    const int v = copies == word_vectors ? 0 : static_cast<int>(column % 32 / simd::width);
#pragma GCC unroll 4
    for (int i = 0; i < copies; i++) f(column + i * simd::width, Whole{}, v + i);
  }
  for (; column < last; column += simd::width)
    f(column, Part{static_cast<int>(std::min<int64_t>(simd::width, last - column))},
      static_cast<int>(column % 32 / simd::width));
}

/* f(block, first row, last row, thread) for all blocks. */
template <class F> void blocks(int64_t n_rows, int64_t threads, const F &f) {
  const int64_t n_blocks = (n_rows + block_rows - 1) / block_rows;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
  for (int64_t block = 0; block < n_blocks; block++) {
#if defined(_OPENMP)
    const int64_t thread = omp_get_thread_num();
#else
    const int64_t thread = 0;
#endif
    f(block, block * block_rows, std::min(n_rows, (block + 1) * block_rows), thread);
  }
}

/* ---- Dropout: the three ways a kernel meets it ---- */

constexpr int64_t padded(int64_t columns) {
  return (columns + philox::group_size - 1) / philox::group_size * philox::group_size;
}

struct NoDropout {
  SIMD_INLINE void draw(int64_t, int64_t) const {}
  SIMD_INLINE vec apply(vec v, int64_t, int64_t, int) const { return v; }
};

/* Multiplies by scale or 0 rather than selecting, so that a NaN stays one, as in torch. */
class StoredMask {
public:
  StoredMask(const uint32_t *bits, int64_t columns, float scale)
      : bits_(bits), words_(padded(columns) / 32), scale_(simd::broadcast(scale)) {}
  SIMD_INLINE void draw(int64_t, int64_t) const {}
  SIMD_INLINE vec apply(vec x, int64_t row, int64_t column, int v) const {
    return x * philox::keep(scale_, bits_[row * words_ + column / 32], v * simd::width);
  }

private:
  const uint32_t *bits_;
  int64_t words_;
  vec scale_;
};

/* Draws a group of bits before its columns are visited, and leaves it for the backward. */
class DrawnMask {
public:
  DrawnMask(uint32_t *bits, int64_t columns, float scale, uint64_t seed, uint32_t stream,
            uint32_t threshold)
      : stored_(bits, columns, scale), bits_(bits), groups_(padded(columns) / philox::group_size),
        generator_(seed, stream, threshold) {}
  SIMD_INLINE void draw(int64_t row, int64_t column) const {
    const int64_t g = row * groups_ + column / philox::group_size;
    generator_.group(g, bits_ + g * philox::group_words);
  }
  SIMD_INLINE vec apply(vec x, int64_t row, int64_t column, int v) const {
    return stored_.apply(x, row, column, v);
  }

private:
  StoredMask stored_;
  uint32_t *bits_;
  int64_t groups_;
  philox::Generator generator_;
};

/* call(dropout) with the mask drawn from the seed, or none without a place for its bits. */
template <class Call>
void with_drawn(int32_t *bits, int64_t columns, float scale, uint64_t seed, uint32_t stream,
                uint32_t threshold, const Call &call) {
  if (bits)
    call(DrawnMask(reinterpret_cast<uint32_t *>(bits), columns, scale, seed, stream, threshold));
  else
    call(NoDropout{});
}

template <class Call>
void with_stored(const int32_t *bits, int64_t columns, float scale, const Call &call) {
  if (bits)
    call(StoredMask(reinterpret_cast<const uint32_t *>(bits), columns, scale));
  else
    call(NoDropout{});
}

/* ---- Parameters and their gradients ---- */

/* A parameter as floats, padded to whole vectors; `otherwise` where there is none. */
template <class E>
const float *expand(const E *parameter, float otherwise, int64_t columns, float *out) {
  vectors(0, columns, [&](int64_t column, auto lanes, int) {
    const vec v = parameter ? load(parameter + column, lanes) : simd::broadcast(otherwise);
    simd::store(out + column, v);
  });
  return out;
}

/* out (columns) = sum over blocks, in order, of partial (blocks, stride). */
inline void add_blocks(const float *partial, int64_t stride, int64_t n_rows, int64_t columns,
                       float *out) {
  std::fill(out, out + columns, 0.0f);
  for (int64_t block = 0; block * block_rows < n_rows; block++)
    vectors(0, columns, [&](int64_t column, auto lanes, int) {
      const vec sum = load(out + column, lanes);
      store(out + column, sum + load(partial + block * stride + column, lanes), lanes);
    });
}

} // namespace rows
#pragma GCC visibility pop

#endif
