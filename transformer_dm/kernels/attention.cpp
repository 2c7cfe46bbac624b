/* Multi-head attention with dropout that never stores the scores, forward and backward.

   For query j, key k of one batch entry and head, with scale 1 / sqrt(P):
     s[j, k] = scale q[j] . k[k] + mask[j, k]       -infinity where k is masked, or k > j if causal
     p[j, k] = exp(s[j, k] - lse[j])                lse[j] = log sum_k exp(s[j, k])
     m[j, k] = keep[j, k] * c                       c = 1 / (1 - dropout probability); see philox.h
     o[j]    = sum_k m[j, k] p[j, k] v[k]
     D[j]    = do[j] . o[j]
     ds[j, k] = p[j, k] (m[j, k] do[j] . v[k] - D[j])
     dq[j] = scale sum_k ds[j, k] k[k]    dk[k] = scale sum_j ds[j, k] q[j]
     dv[k] = sum_j m[j, k] p[j, k] do[j]
   A row whose keys are all masked has lse = -infinity and p = 0, so o = 0.

   Layouts: qkv, d_qkv (B, L, 3, H, P); o, d_o (B, L, H, P); lse (B, H, L) float; key_mask (B, L)
   bytes, 0 = masked; mask (L, L) or (B H, L, L) float. Element type float or bf16.

   Everything is computed transposed, one panel of queries (a panel of gemm.h: 32 columns in AVX-512)
   at a time: the panel's scores lie as [key][query]. So a query is a lane, its maximum, sum, lse and
   D are lanes of one vector, no vector is ever summed across, and the exponentials already lie as
   the right operand of the next product wants them.
     forward   S^T = K Q^T, O^T = V^T P^T
     backward  S^T = K Q^T, dP^T = V dO^T, dV += P^T dO, dK += dS^T Q, dQ^T = K^T dS^T
   Keys go in tiles of as many rows as gemm.h's kernel has, so a tile of scores is one block of
   register sums. Forward keeps the scores of up to `complete` keys, so the softmax of a row is
   complete in one pass; longer rows rescale what they have when a larger score comes (online). The
   sum under the softmax is that of the exponentials before dropout.
   Backward takes `together` queries at a time, so dK and dV, which stay in cache for a head, are
   read and written once per `together` terms.

   Exponents are kept in base 2: scores are multiplied by log2(e) with the scale.

   A thread owns a whole (batch, head): the bits do not depend on the number of threads. The
   workspace is linear in L. */
#include <cmath>

#include "gemm.h"
#include "philox.h"

namespace {

using gemm::bf16;
using simd::ivec;
using simd::vec;

constexpr int rows = gemm::kernel_rows, columns = gemm::panel_columns;
constexpr int vectors = gemm::panel_vectors, width = simd::width;
/* Queries of a step of backward; keys of a complete softmax, in tiles; keys whose ds are kept. */
constexpr int together = columns > 128 ? columns : 128 / columns * columns;
constexpr int panels_together = together / columns;
constexpr int64_t complete = (2048 + rows - 1) / rows;
constexpr int64_t kept = (256 + rows - 1) / rows;

/* Steps of a panel of scores of 16 KiB. */
constexpr int64_t near_steps = 4096 / columns;

constexpr float log2_e = 1.44269504f;
constexpr float infinity = std::numeric_limits<float>::infinity();

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
constexpr int64_t tiles(int64_t n) { return (n + rows - 1) / rows; }

/* 2^x for x below 128; 0 below 2^-126; NaN stays NaN. Relative error below 1.3e-7. */
SIMD_INLINE vec exp2(vec x) {
  static constexpr float terms[] = {1.0f,           0.693147182f,   0.240226462f,  0.0555032864f,
                                    0.00961848907f, 0.00133999309f, 0.000153458081f};
  const vec shift = simd::broadcast(12582912.0f); /* 1.5 * 2^23: adding it rounds to a whole number */
  const vec shifted = x + shift;
  const vec y = simd::polynomial(x - (shifted - shift), terms);
  /* A product, as adding to the exponent of a NaN may give a number. */
  const vec power = simd::from_bits((simd::bits(shifted) << 23) + 0x3f800000);
  return simd::select(x < simd::broadcast(-126.0f), vec{}, y * power);
}

struct Shape {
  int64_t length, heads, size;
  int64_t pitch() const { return 3 * heads * size; }
};

struct Masks {
  const uint8_t *keys;   /* (B, L) or null */
  const float *additive; /* (L, L) or, if per_head, (B H, L, L), or null */
  bool per_head, causal;
};

struct Dropout {
  philox::Generator generator;
  bool drops;
  float scale; /* of what is kept */
  Dropout(int64_t seed, int64_t threshold, float scale)
      : generator(static_cast<uint64_t>(seed), 0, static_cast<uint32_t>(threshold)),
        drops(threshold > 0), scale(scale) {}
};

/* ---- Products ---- */

template <class E> using Lane = gemm::Lane<E>;
template <class E> constexpr int64_t steps_of(int64_t k) { return gemm::steps_of<E>(k); }

/* sums += a (packed, [step][row]) b (panel). Four steps a turn: the number of turns of a short loop
   is foreseen, and guessing wrong would cost a twentieth of a tile. */
template <class E, int n>
SIMD_INLINE void multiply(int64_t steps, const float *a, const float *b, vec (&sums)[n][vectors]) {
  const auto one_step = [&]() __attribute__((always_inline)) {
    vec right[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) right[v] = simd::load(b + v * width);
#pragma GCC unroll 16
    for (int i = 0; i < n; i++) {
      const vec left = Lane<E>::broadcast(a + i);
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++)
        sums[i][v] = Lane<E>::multiply_add(sums[i][v], left, right[v]);
    }
    a += n;
    b += columns;
  };
  int64_t step = 0;
  for (; step + 4 <= steps; step += 4) {
    one_step();
    one_step();
    one_step();
    one_step();
  }
  for (; step < steps; step++) one_step();
}

template <class E>
__attribute__((noinline)) void store_product(int64_t steps, const float *a, const float *b,
                                             float *out) {
  vec sums[rows][vectors] = {};
  multiply<E>(steps, a, b, sums);
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) simd::store(out + i * columns + v * width, sums[i][v]);
}

/* out = factor * a b, and the largest of each column is added to `highest`. */
template <class E>
__attribute__((noinline)) void store_scores(int64_t steps, const float *a, const float *b,
                                            float factor, vec *highest, float *out) {
  vec sums[rows][vectors] = {};
  multiply<E>(steps, a, b, sums);
#pragma GCC unroll 4
  for (int v = 0; v < vectors; v++) {
    vec most = highest[v];
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      const vec score = sums[i][v] * factor;
      simd::store(out + i * columns + v * width, score);
      most = simd::max(most, score);
    }
    highest[v] = most;
  }
}

/* c (some rows x columns, row after row) = c * by[column] + a b; by null: c = a b. */
template <class E, int n>
__attribute__((noinline)) void rescale_and_add(int64_t steps, const float *a, const float *b,
                                               const vec *by, float *c) {
  vec sums[n][vectors] = {};
  if (by)
#pragma GCC unroll 16
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++)
        sums[i][v] = simd::load(c + i * columns + v * width) * by[v];
  multiply<E>(steps, a, b, sums);
#pragma GCC unroll 16
  for (int i = 0; i < n; i++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) simd::store(c + i * columns + v * width, sums[i][v]);
}

using RescaleAndAdd = void (*)(int64_t, const float *, const float *, const vec *, float *);
template <class E, int... i>
RescaleAndAdd rescale_of(int64_t n, std::integer_sequence<int, i...>) {
  static constexpr RescaleAndAdd table[] = {rescale_and_add<E, i + 1>...};
  return table[n - 1];
}

/* The left operand with its rows dealt evenly to blocks, each [step][row]; here the P rows of V^T or
   K^T, `pitch` elements from key to key, with the keys as terms. */
template <class E>
void pack_transposed(const E *x, int64_t pitch, int64_t size, int64_t length, int64_t padded,
                     float *out) {
  const gemm::Split split(size);
  const int64_t steps = padded / Lane<E>::terms;
  for (int64_t block = 0, row = 0; block < split.blocks; row += split.size(block++)) {
    const int64_t n = split.size(block), filled = steps_of<E>(length) * n;
    gemm::pack_rows<E>({x + row, 1, pitch}, n, length, n, out);
    std::memset(out + filled, 0, (steps * n - filled) * sizeof(float));
    out += steps * n;
  }
}

/* out (P, columns) = out * by + x^T b, for x packed by pack_transposed and b a panel of scores, over
   the steps from .. from + steps of all. */
template <class E>
void multiply_transposed(const float *packed, int64_t all, int64_t size, int64_t from,
                         int64_t steps, const float *b, const vec *by, float *out) {
  const gemm::Split split(size);
  vec one[vectors];
  for (int v = 0; v < vectors; v++) one[v] = simd::broadcast(1.0f);
  /* As many scores as stay in the nearest cache while all blocks of x pass. */
  for (int64_t step = 0; step < steps; step += near_steps, b += near_steps * columns) {
    const float *at = packed;
    float *to = out;
    for (int64_t block = 0; block < split.blocks; block++) {
      const int64_t n = split.size(block);
      rescale_of<E>(n, std::make_integer_sequence<int, rows>())(
          std::min(near_steps, steps - step), at + (from + step) * n, b, step ? one : by, to);
      at += all * n;
      to += n * columns;
    }
  }
}

/* Rows of x as tiles of the left operand, [tile][step][row], zeros past the last. */
template <class E>
void pack_tiles(const E *x, int64_t pitch, int64_t size, int64_t length, float *out) {
  const int64_t steps = steps_of<E>(size);
  for (int64_t row = 0; row < length; row += rows, out += steps * rows) {
    const int64_t n = std::min<int64_t>(rows, length - row);
    if (n < rows) std::memset(out, 0, steps * rows * sizeof(float));
    gemm::pack_rows<E>({x + row * pitch, pitch, 1}, n, size, rows, out);
  }
}

/* c (rows x columns) += a^T b: a lies as [panel][row][terms of a panel], b as [term][column]. */
template <class E>
__attribute__((noinline)) void update(const float *a, int64_t a_panel, int64_t n_panels,
                                      const float *b, float *c) {
  constexpr int steps = columns / Lane<E>::terms;
  vec sums[rows][vectors];
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) sums[i][v] = simd::load(c + i * columns + v * width);
  for (int64_t panel = 0; panel < n_panels; panel++, a += a_panel)
    for (const float *at = a; at < a + steps; at++, b += columns) {
      vec right[vectors];
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++) right[v] = simd::load(b + v * width);
#pragma GCC unroll 16
      for (int i = 0; i < rows; i++) {
        const vec left = Lane<E>::broadcast(at + i * steps);
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
          sums[i][v] = Lane<E>::multiply_add(sums[i][v], left, right[v]);
      }
    }
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) simd::store(c + i * columns + v * width, sums[i][v]);
}

/* ---- Masks ---- */

/* What is masked for one batch entry and head; the additive part and dropout of one panel. */
struct Blocked {
  const float *additive; /* [key][query of the panel], or null */
  const uint8_t *keys;   /* 1 = masked, also past the last key */
  const uint8_t *tiles;  /* whether any key of a tile is masked */
  bool causal;

  bool applies(int64_t tile, int64_t query) const {
    return additive || tiles[tile] || (causal && (tile + 1) * rows - 1 > query);
  }
  /* Masks a tile of scores in base 2 whose first query is `query`. */
  __attribute__((noinline)) void apply(int64_t tile, int64_t query, float *scores) const {
    const vec never = simd::broadcast(-infinity);
    for (int i = 0; i < rows; i++) {
      const int64_t key = tile * rows + i;
      for (int v = 0; v < vectors; v++) {
        float *at = scores + i * columns + v * width;
        vec score = simd::load(at);
        if (keys[key]) {
          score = never;
        } else {
          if (additive) score += simd::load(additive + key * columns + v * width) * log2_e;
          if (causal) {
            const ivec before = simd::broadcast_int(static_cast<int32_t>(key - query - v * width));
            score = simd::select(simd::lanes() < before, never, score);
          }
        }
        simd::store(at, score);
      }
    }
  }
};

/* Fills keys and tiles of Blocked; returns one past the last key that is not masked. */
int64_t block_keys(const uint8_t *keep, int64_t length, uint8_t *keys, uint8_t *of_tiles) {
  int64_t end = 0;
  for (int64_t key = 0; key < tiles(length) * rows; key++) {
    keys[key] = key >= length || (keep && !keep[key]);
    if (!keys[key]) end = key + 1;
  }
  for (int64_t tile = 0; tile < tiles(length); tile++) {
    uint8_t any = 0;
    for (int i = 0; i < rows; i++) any |= keys[tile * rows + i];
    of_tiles[tile] = any;
  }
  return end;
}

/* The additive mask of n queries as [key][query], zeros past the last query. */
void transpose_mask(const float *mask, int64_t length, int64_t n, float *out) {
  if (n < columns) std::memset(out, 0, length * columns * sizeof(float));
  for (int64_t query = 0; query < n; query += width)
    gemm::pack_rows<float>({mask + query * length, length, 1}, std::min<int64_t>(width, n - query),
                           length, columns, out + query);
}

/* ---- Dropout ---- */

/* Keep bits of n queries, keys 0 .. end, as [key / 32][query]; bit key % 32 set = kept. `row` is the
   first query's among all rows of scores. */
__attribute__((noinline)) void fill_keep(const philox::Generator &generator, int64_t row, int64_t n,
                                         int64_t length, int64_t end, uint32_t *keep) {
  const int64_t groups = (length + philox::group_size - 1) / philox::group_size;
  const int64_t wanted = (end + philox::group_size - 1) / philox::group_size;
  for (int64_t i = 0; i < n; i++)
    for (int64_t group = 0; group < wanted; group++) {
      uint32_t bits[philox::group_words];
      generator.group((row + i) * groups + group, bits);
      for (int64_t word = 0; word < philox::group_words; word++)
        keep[(philox::group_words * group + word) * columns + i] = bits[word];
    }
}

SIMD_INLINE ivec words_at(const uint32_t *words) {
  return simd::bits(simd::load(reinterpret_cast<const float *>(words)));
}

/* x where the bit of its word is set, else 0. */
SIMD_INLINE vec kept_of(vec x, ivec words, int32_t bit) {
  return simd::select((words & bit) != ivec{}, x, vec{});
}

/* ---- Storing ---- */

SIMD_INLINE int lanes_at(int64_t i, int64_t n) {
  return static_cast<int>(std::min<int64_t>(width, n - i));
}

/* The first lanes of a vector. Whole ones apart: masked stores take long on some processors. */
template <class E> SIMD_INLINE vec load_lanes(const E *x, int lanes) {
  return lanes == width ? gemm::Single<E>::along_steps(x) : gemm::load_first(x, lanes);
}
template <class E> SIMD_INLINE void store_lanes(E *x, vec v, int lanes) {
  if (std::is_same_v<E, float> && lanes == width)
    simd::store(reinterpret_cast<float *>(x), v);
  else
    gemm::store_first(x, v, lanes);
}

/* Two consecutive terms of a lane, rounded, or the one it holds. */
template <class E> SIMD_INLINE vec lane_of(const vec *terms) {
  if constexpr (Lane<E>::terms == 2)
    return Lane<E>::both(gemm::widen(gemm::narrow(terms[0])), gemm::widen(gemm::narrow(terms[1])));
  else
    return terms[0];
}

template <class E> SIMD_INLINE void store_row(const float *x, float factor, int64_t size, E *out) {
  for (int64_t i = 0; i < size; i += width)
    store_lanes(out + i, simd::load(x + i) * factor, lanes_at(i, size));
}

/* n rows of `size` from x (size, columns), times `by` of their column; rows round_up(size, width)
   floats apart in `out`. */
void transpose_out(float *x, const vec *by, int64_t size, float *out) {
  for (int64_t i = 0; i < size; i++)
    for (int v = 0; v < vectors; v++) {
      float *at = x + i * columns + v * width;
      simd::store(at, simd::load(at) * by[v]);
    }
  for (int64_t i = 0; i < size; i += width)
    gemm::pack_rows<float>({x + i * columns, columns, 1}, std::min<int64_t>(width, size - i), columns,
                           round_up(size, width), out + i);
}

/* Hands out parts of a workspace, in whole vectors. */
struct Arena {
  float *at;
  float *take(int64_t floats) {
    float *const part = at;
    at += round_up(floats, 16);
    return part;
  }
  /* Packing may write a vector past its end. */
  float *take_packed(int64_t floats) { return take(floats + 16); }
  uint8_t *take_bytes(int64_t n) { return reinterpret_cast<uint8_t *>(take((n + 3) / 4)); }
  uint32_t *take_words(int64_t n) { return reinterpret_cast<uint32_t *>(take(n)); }
};

/* ---- Forward ---- */

/* x[key] = 2^(x[key] - highest), in place as lanes of the right operand, for `n` keys from `key` on;
   their sum before dropout is added to `total`. */
template <class E, bool drops>
__attribute__((noinline)) void exponentials(float *x, int64_t key, int64_t n, const vec *highest,
                                            const uint32_t *keep, vec *total) {
  constexpr int terms = Lane<E>::terms;
  float *out = x;
  for (const int64_t end = key + n; key < end;) {
    /* Sums of a few first: they round less than one long sum. */
    const int64_t stop = std::min(end, (key / 32 + 1) * 32);
    vec sums[vectors] = {};
    ivec words[vectors] = {};
    if constexpr (drops)
      for (int v = 0; v < vectors; v++) words[v] = words_at(keep + key / 32 * columns + v * width);
    for (; key < stop; key += terms, x += terms * columns, out += columns) {
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++) {
        vec lanes[terms];
#pragma GCC unroll 2
        for (int term = 0; term < terms; term++) {
          lanes[term] = exp2(simd::load(x + term * columns + v * width) - highest[v]);
          sums[v] += lanes[term];
          if constexpr (drops)
            lanes[term] = kept_of(lanes[term], words[v], 1u << ((key + term) % 32));
        }
        simd::store(out + v * width, lane_of<E>(lanes));
      }
    }
    for (int v = 0; v < vectors; v++) total[v] += sums[v];
  }
}

template <class E> struct Forward {
  Shape shape;
  Masks masks;
  Dropout dropout;
  const E *qkv;
  E *o;
  float *lse;

  /* The parts of a thread's workspace. */
  struct Parts {
    float *k, *v, *q, *scores, *out, *turned, *mask;
    uint32_t *keep;
    uint8_t *blocked, *blocked_tiles;
    Parts(const Shape &shape, bool has_mask, float *workspace, int64_t *floats = nullptr) {
      const int64_t padded = tiles(shape.length) * rows, size = shape.size;
      Arena arena{workspace};
      k = arena.take_packed(padded * steps_of<E>(size));
      v = arena.take_packed(padded / Lane<E>::terms * size);
      q = arena.take_packed(steps_of<E>(size) * columns);
      scores = arena.take(std::min(padded, complete * rows) * columns);
      out = arena.take(size * columns);
      turned = arena.take_packed(round_up(size, width) * columns);
      mask = has_mask ? arena.take_packed(padded * columns) : nullptr;
      keep = arena.take_words(round_up(padded, 128) / 32 * columns);
      blocked = arena.take_bytes(padded);
      blocked_tiles = arena.take_bytes(tiles(shape.length));
      if (floats) *floats = arena.at - workspace;
    }
  };

  void head(int64_t batch, int64_t head, float *workspace) const {
    const int64_t length = shape.length, size = shape.size, pitch = shape.pitch();
    const int64_t steps = steps_of<E>(size), padded = tiles(length) * rows;
    const float factor = log2_e / std::sqrt(static_cast<float>(size));
    const Parts part(shape, masks.additive, workspace);
    const E *const q = qkv + batch * length * pitch + head * size;
    const E *const k = q + shape.heads * size, *const v = k + shape.heads * size;
    const int64_t which = batch * shape.heads + head;
    pack_tiles<E>(k, pitch, size, length, part.k);
    pack_transposed<E>(v, pitch, size, length, padded, part.v);
    const int64_t last = block_keys(masks.keys ? masks.keys + batch * length : nullptr, length,
                                    part.blocked, part.blocked_tiles);
    const Blocked blocked{part.mask, part.blocked, part.blocked_tiles, masks.causal};

    for (int64_t query = 0; query < length; query += columns) {
      const int64_t n = std::min<int64_t>(columns, length - query);
      const int64_t end = masks.causal ? std::min(last, query + n) : last;
      gemm::pack_panel<E>({q + query * pitch, 1, pitch}, size, n, part.q);
      if (masks.additive)
        transpose_mask(masks.additive + ((masks.per_head ? which : 0) * length + query) * length,
                       length, n, part.mask);
      if (dropout.drops) fill_keep(dropout.generator, which * length + query, n, length, end, part.keep);

      vec highest[vectors], total[vectors] = {}, rescale[vectors];
      for (int v = 0; v < vectors; v++) highest[v] = simd::broadcast(-infinity);
      if (end == 0) std::memset(part.out, 0, size * columns * sizeof(float));
      for (int64_t first = 0; first < tiles(end); first += complete) {
        const int64_t stop = std::min(tiles(end), first + complete);
        vec before[vectors], shift[vectors];
        for (int v = 0; v < vectors; v++) before[v] = highest[v];
        for (int64_t tile = first; tile < stop; tile++)
          score_tile(tile, query, steps, factor, part, blocked, highest,
                     part.scores + (tile - first) * rows * columns);
        for (int v = 0; v < vectors; v++) {
          /* With nothing but masked keys so far, any number keeps their exponentials at 0. */
          shift[v] = simd::select(highest[v] == simd::broadcast(-infinity), vec{}, highest[v]);
          rescale[v] = exp2(before[v] - shift[v]);
          total[v] *= rescale[v];
        }
        (dropout.drops ? exponentials<E, true> : exponentials<E, false>)(
            part.scores, first * rows, (stop - first) * rows, shift, part.keep, total);
        multiply_transposed<E>(part.v, padded / Lane<E>::terms, size,
                               first * rows / Lane<E>::terms,
                               (stop - first) * rows / Lane<E>::terms, part.scores,
                               first ? rescale : nullptr, part.out);
      }
      finish(batch, head, query, n, highest, total, part);
    }
  }

  void score_tile(int64_t tile, int64_t query, int64_t steps, float factor, const Parts &part,
                  const Blocked &blocked, vec *highest, float *scores) const {
    const float *k = part.k + tile * steps * rows;
    if (!blocked.applies(tile, query)) {
      store_scores<E>(steps, k, part.q, factor, highest, scores);
      return;
    }
    vec unused[vectors] = {};
    store_scores<E>(steps, k, part.q, factor, unused, scores);
    blocked.apply(tile, query, scores);
    for (int i = 0; i < rows; i++)
      for (int v = 0; v < vectors; v++)
        highest[v] = simd::max(highest[v], simd::load(scores + i * columns + v * width));
  }

  void finish(int64_t batch, int64_t head, int64_t query, int64_t n, const vec *highest,
              const vec *total, const Parts &part) const {
    const int64_t size = shape.size;
    vec by[vectors];
    float sums[columns], most[columns];
    for (int v = 0; v < vectors; v++) {
      by[v] = simd::select(total[v] == vec{}, vec{}, dropout.scale / total[v]);
      simd::store(sums + v * width, total[v]);
      simd::store(most + v * width, highest[v]);
    }
    transpose_out(part.out, by, size, part.turned);
    for (int64_t i = 0; i < n; i++) {
      store_row(part.turned + i * round_up(size, width), 1.0f, size,
                o + (((batch * shape.length + query + i) * shape.heads) + head) * size);
      lse[(batch * shape.heads + head) * shape.length + query + i] =
          sums[i] == 0 ? -infinity : most[i] / log2_e + std::log(sums[i]);
    }
  }
};

/* ---- Backward ---- */

template <class E> struct Backward {
  Shape shape;
  Masks masks;
  Dropout dropout;
  const E *d_o, *qkv, *o;
  const float *lse;
  E *d_qkv;
  float *sums; /* (B, 3, H, P): column sums of d_qkv for each batch entry */

  static constexpr bool pairs = Lane<E>::terms == 2;

  struct Parts {
    float *k, *v, *k_turned, *d_k, *d_v;
    float *q, *d_o;             /* [panel][step of P][query]: right operands of K Q^T, V dO^T */
    float *q_rows, *d_o_rows;   /* [panel of P][query][column]: of the updates of dK, dV */
    float *p, *d_s, *d_s_tile;  /* d_s [panel][key][query]; p, d_s_tile [panel][row][query] */
    float *d_q, *turned, *mask, *sums;
    float *lse, *dots;          /* of the queries taken together */
    uint32_t *keep;
    uint8_t *blocked, *blocked_tiles;
    Parts(const Shape &shape, bool has_mask, float *workspace, int64_t *floats = nullptr) {
      const int64_t padded = tiles(shape.length) * rows, size = shape.size;
      const int64_t wide = gemm::panels(size) * columns;
      Arena arena{workspace};
      k = arena.take_packed(padded * steps_of<E>(size));
      v = arena.take_packed(padded * steps_of<E>(size));
      k_turned = arena.take_packed(padded / Lane<E>::terms * size);
      d_k = arena.take(padded * wide);
      d_v = arena.take(padded * wide);
      q = arena.take_packed(panels_together * steps_of<E>(size) * columns);
      d_o = arena.take_packed(panels_together * steps_of<E>(size) * columns);
      q_rows = arena.take_packed(together * wide);
      d_o_rows = arena.take_packed(together * wide);
      p = arena.take(rows * together);
      d_s = arena.take(std::min(padded, kept * rows) * together);
      d_s_tile = arena.take(rows * together);
      d_q = arena.take(panels_together * size * columns);
      turned = arena.take_packed(round_up(size, width) * columns);
      mask = has_mask ? arena.take_packed(panels_together * padded * columns) : nullptr;
      sums = arena.take(round_up(wide, width));
      lse = arena.take(together);
      dots = arena.take(together);
      keep = arena.take_words(round_up(padded, 128) / 32 * together);
      blocked = arena.take_bytes(padded);
      blocked_tiles = arena.take_bytes(tiles(shape.length));
      if (floats) *floats = arena.at - workspace;
    }
  };

  void head(int64_t batch, int64_t head, float *workspace) const {
    const int64_t length = shape.length, size = shape.size, pitch = shape.pitch();
    const int64_t steps = steps_of<E>(size), padded = tiles(length) * rows;
    const int64_t wide = gemm::panels(size) * columns, which = batch * shape.heads + head;
    const int64_t words = round_up(padded, 128) / 32 * columns;
    const float scale = 1.0f / std::sqrt(static_cast<float>(size));
    const Parts part(shape, masks.additive, workspace);
    const int64_t origin = batch * length * pitch + head * size, third = shape.heads * size;
    const E *const q = qkv + origin, *const k = q + third, *const v = k + third;
    pack_tiles<E>(k, pitch, size, length, part.k);
    pack_tiles<E>(v, pitch, size, length, part.v);
    pack_transposed<E>(k, pitch, size, length, padded, part.k_turned);
    std::memset(part.d_k, 0, padded * wide * sizeof(float));
    std::memset(part.d_v, 0, padded * wide * sizeof(float));
    const int64_t last = block_keys(masks.keys ? masks.keys + batch * length : nullptr, length,
                                    part.blocked, part.blocked_tiles);
    float *const of_head = sums + (batch * 3 * shape.heads + head) * size;
    for (int i = 0; i < 3; i++) std::memset(of_head + i * third, 0, size * sizeof(float));

    for (int64_t query = 0; query < length; query += together) {
      const int64_t n = std::min<int64_t>(together, length - query);
      const int64_t n_panels = gemm::panels(n);
      const int64_t end = masks.causal ? std::min(last, query + n) : last;
      const int64_t o_pitch = third, o_origin = (batch * length + query) * o_pitch + head * size;
      for (int64_t panel = 0; panel < n_panels; panel++) {
        const int64_t at = panel * columns, here = std::min<int64_t>(columns, n - at);
        gemm::pack_panel<E>({q + (query + at) * pitch, 1, pitch}, size, here,
                            part.q + panel * steps * columns);
        gemm::pack_panel<E>({d_o + o_origin + at * o_pitch, 1, o_pitch}, size, here,
                            part.d_o + panel * steps * columns);
        if (masks.additive)
          transpose_mask(
              masks.additive + ((masks.per_head ? which : 0) * length + query + at) * length,
              length, here, part.mask + panel * padded * columns);
        if (dropout.drops)
          fill_keep(dropout.generator, which * length + query + at, here, length, end,
                    part.keep + panel * words);
      }
      pack_as_rows(q + query * pitch, pitch, n, n_panels, part.q_rows);
      pack_as_rows(d_o + o_origin, o_pitch, n, n_panels, part.d_o_rows);
      for (int64_t i = 0; i < n_panels * columns; i++) {
        const float of_row = i < n ? lse[which * length + query + i] : infinity;
        /* exp2(anything - infinity) is 0: no such row, or all its keys masked. */
        part.lse[i] = of_row == -infinity ? infinity : of_row * log2_e;
        part.dots[i] = i < n ? dot(d_o + o_origin + i * o_pitch, o + o_origin + i * o_pitch) : 0;
      }

      if (end == 0) std::memset(part.d_q, 0, panels_together * size * columns * sizeof(float));
      vec one[vectors], by[vectors];
      for (int i = 0; i < vectors; i++)
        one[i] = simd::broadcast(1.0f), by[i] = simd::broadcast(scale);
      for (int64_t first = 0; first < tiles(end); first += kept) {
        const int64_t stop = std::min(tiles(end), first + kept);
        const int64_t d_s_panel = (stop - first) * rows / Lane<E>::terms * columns;
        for (int64_t tile = first; tile < stop; tile++) {
          float *const d_s = part.d_s + (tile - first) * rows / Lane<E>::terms * columns;
          /* Causal: the panels whose last query comes before the tile's first key have no part. */
          const int64_t before =
              masks.causal ? std::max<int64_t>(0, (tile * rows - query) / columns) : 0;
          for (int64_t panel = before; panel < n_panels; panel++)
            (dropout.drops ? &Backward::gradient_tile<true> : &Backward::gradient_tile<false>)(
                tile, query, panel, steps, scale * log2_e, dropout.scale, part,
                {masks.additive ? part.mask + panel * padded * columns : nullptr, part.blocked,
                 part.blocked_tiles, masks.causal},
                part.keep + panel * words, d_s + panel * d_s_panel);
          for (int64_t column = 0; column < wide; column += columns) {
            const int64_t of_c = (tile * wide + column) * rows;
            const int64_t of_b =
                (column * panels_together + before * columns) * (columns / Lane<E>::terms);
            const int64_t p_panel = rows * columns / Lane<E>::terms;
            update<E>(part.p + before * p_panel, p_panel, n_panels - before, part.d_o_rows + of_b,
                      part.d_v + of_c);
            if constexpr (pairs)
              update<E>(part.d_s_tile + before * p_panel, p_panel, n_panels - before,
                        part.q_rows + of_b, part.d_k + of_c);
            else
              update<E>(d_s + before * d_s_panel, d_s_panel, n_panels - before, part.q_rows + of_b,
                        part.d_k + of_c);
          }
        }
        for (int64_t panel = 0; panel < n_panels; panel++) {
          const int64_t seen =
              masks.causal ? std::min(stop, tiles(std::min(end, query + (panel + 1) * columns)))
                           : stop;
          if (seen > first)
            multiply_transposed<E>(part.k_turned, padded / Lane<E>::terms, size,
                                   first * rows / Lane<E>::terms,
                                   (seen - first) * rows / Lane<E>::terms,
                                   part.d_s + panel * d_s_panel, first ? one : nullptr,
                                   part.d_q + panel * size * columns);
        }
      }
      for (int64_t panel = 0; panel < n_panels; panel++) {
        transpose_out(part.d_q + panel * size * columns, by, size, part.turned);
        const int64_t at = panel * columns, here = std::min<int64_t>(columns, n - at);
        for (int64_t i = 0; i < here; i++)
          store_row(part.turned + i * round_up(size, width), 1.0f, size,
                    d_qkv + origin + (query + at + i) * pitch);
        add_rows(part.turned, round_up(size, width), here, 1.0f, of_head);
      }
    }
    store_tiles(part.d_k, scale, d_qkv + origin + third, of_head + third);
    store_tiles(part.d_v, dropout.scale, d_qkv + origin + 2 * third, of_head + 2 * third);
  }

  /* n rows of x, as right operands with the rows as terms, one for each panel of P's columns. */
  void pack_as_rows(const E *x, int64_t pitch, int64_t n, int64_t n_panels, float *out) const {
    const int64_t steps = n_panels * columns / Lane<E>::terms, filled = steps_of<E>(n);
    for (int64_t column = 0; column < shape.size; column += columns) {
      gemm::pack_panel<E>({x + column, pitch, 1}, n, std::min<int64_t>(columns, shape.size - column),
                          out);
      std::memset(out + filled * columns, 0, (steps - filled) * columns * sizeof(float));
      out += panels_together * columns / Lane<E>::terms * columns;
    }
  }

  float dot(const E *x, const E *y) const {
    vec sum = {};
    for (int64_t i = 0; i < shape.size; i += width) {
      const int lanes = lanes_at(i, shape.size);
      sum += load_lanes(x + i, lanes) * load_lanes(y + i, lanes);
    }
    return simd::sum(sum);
  }

  /* One tile of keys and one panel of queries: p and d_s from the scores and V dO^T. */
  template <bool drops>
  static __attribute__((noinline)) void gradient_tile(int64_t tile, int64_t query, int64_t panel, int64_t steps, float factor,
                            float drop_scale, const Parts &part, const Blocked &blocked,
                            const uint32_t *keep, float *d_s) {
    alignas(64) float scores[rows * columns], d_p[rows * columns];
    vec unused[vectors] = {};
    store_scores<E>(steps, part.k + tile * steps * rows, part.q + panel * steps * columns, factor,
                    unused, scores);
    store_product<E>(steps, part.v + tile * steps * rows, part.d_o + panel * steps * columns, d_p);
    if (blocked.applies(tile, query + panel * columns))
      blocked.apply(tile, query + panel * columns, scores);
    constexpr int terms = Lane<E>::terms;
    float *p = part.p + panel * rows * columns / terms;
    float *d_s_tile = part.d_s_tile + panel * rows * columns / terms;
    vec lse[vectors], dots[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; v++) {
      lse[v] = simd::load(part.lse + panel * columns + v * width);
      dots[v] = simd::load(part.dots + panel * columns + v * width);
    }
    for (int i = 0; i < rows; i += terms)
#pragma GCC unroll 4
      for (int v = 0; v < vectors; v++) {
        vec lanes[terms];
#pragma GCC unroll 2
        for (int term = 0; term < terms; term++) {
          const int at = (i + term) * columns + v * width;
          const vec whole = exp2(simd::load(scores + at) - lse[v]);
          vec dropped = whole, d_dropped = simd::load(d_p + at);
          if constexpr (drops) {
            const int64_t key = tile * rows + i + term;
            const ivec words = words_at(keep + key / 32 * columns + v * width);
            dropped = kept_of(whole, words, 1u << (key % 32));
            d_dropped = kept_of(d_dropped * drop_scale, words, 1u << (key % 32));
          }
          lanes[term] = whole * (d_dropped - dots[v]);
          if constexpr (pairs) {
            gemm::store_first(reinterpret_cast<bf16 *>(p) + at, dropped, width);
            gemm::store_first(reinterpret_cast<bf16 *>(d_s_tile) + at, lanes[term], width);
          } else {
            simd::store(p + at, dropped);
          }
        }
        simd::store(d_s + i / terms * columns + v * width, lane_of<E>(lanes));
      }
  }

  /* sums[column] += factor * the sum over n rows. */
  void add_rows(const float *x, int64_t pitch, int64_t n, float factor, float *out) const {
    for (int64_t column = 0; column < shape.size; column += width) {
      const int lanes = lanes_at(column, shape.size);
      vec sum = {};
      for (int64_t i = 0; i < n; i++) sum += simd::load(x + i * pitch + column);
      store_lanes(out + column, load_lanes(out + column, lanes) + sum * factor, lanes);
    }
  }

  /* The rows of dK or dV, from [tile][panel][row][column]. */
  void store_tiles(const float *x, float factor, E *out, float *of_head) const {
    const int64_t wide = gemm::panels(shape.size) * columns;
    for (int64_t row = 0; row < shape.length; row += rows, x += rows * wide) {
      const int64_t n = std::min<int64_t>(rows, shape.length - row);
      for (int64_t column = 0; column < shape.size; column += columns) {
        const float *const block = x + column * rows;
        const int64_t here = std::min<int64_t>(columns, shape.size - column);
        for (int64_t i = 0; i < n; i++)
          store_row(block + i * columns, factor, here, out + (row + i) * shape.pitch() + column);
        for (int64_t at = 0; at < here; at += width) {
          const int lanes = lanes_at(at, here);
          vec sum = {};
          for (int64_t i = 0; i < n; i++) sum += simd::load(block + i * columns + at);
          float *const to = of_head + column + at;
          store_lanes(to, load_lanes(to, lanes) + sum * factor, lanes);
        }
      }
    }
  }
};

template <class Pass> int64_t floats_of(const Shape &shape, bool has_mask) {
  int64_t floats;
  /* Only differences of the pointers count; the address is never used. */
  typename Pass::Parts(shape, has_mask, nullptr, &floats);
  return round_up(floats, 32);
}

/* head(batch, head, workspace) for each; a thread takes whole heads. */
template <class Pass>
void on_heads(const Pass &pass, int64_t batch, bool has_mask, float *workspace, int64_t threads) {
  const int64_t share = floats_of<Pass>(pass.shape, has_mask), heads = pass.shape.heads;
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
  for (int64_t thread = 0; thread < threads; thread++)
    for (int64_t i = thread; i < batch * heads; i += threads)
      pass.head(i / heads, i % heads, workspace + thread * share);
}

/* In all entry points: how = causal + 2 * mask per head. */
template <class E>
void forward(const E *qkv, const uint8_t *keys, const float *mask, E *o, float *lse,
             float *workspace, int64_t batch, int64_t length, int64_t heads, int64_t size,
             int64_t how, int64_t threshold, float scale, int64_t seed, int64_t threads) {
  const Forward<E> pass{{length, heads, size},
                        {keys, mask, how / 2 % 2 != 0, how % 2 != 0},
                        {seed, threshold, scale},
                        qkv, o, lse};
  on_heads(pass, batch, mask, workspace, threads);
}

template <class E>
void backward(const E *d_o, const E *qkv, const E *o, const float *lse, const uint8_t *keys,
              const float *mask, E *d_qkv, float *d_bias, float *sums, float *workspace,
              int64_t batch, int64_t length, int64_t heads, int64_t size, int64_t how,
              int64_t threshold, float scale, int64_t seed, int64_t threads) {
  const Backward<E> pass{{length, heads, size},
                         {keys, mask, how / 2 % 2 != 0, how % 2 != 0},
                         {seed, threshold, scale},
                         d_o, qkv, o, lse, d_qkv, sums};
  on_heads(pass, batch, mask, workspace, threads);
  const int64_t n = 3 * heads * size;
  for (int64_t i = 0; i < n; i++) d_bias[i] = 0;
  for (int64_t b = 0; b < batch; b++)
    for (int64_t i = 0; i < n; i++) d_bias[i] += sums[b * n + i];
}

/* ---- Softmax and dropout of scores that are stored ---- */

/* call(first row, row after the last, thread) on each thread; rows are independent of each other. */
template <class Call> void on_rows(int64_t n, int64_t threads, const Call &call) {
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
  for (int64_t thread = 0; thread < threads; thread++)
    call(n * thread / threads, n * (thread + 1) / threads, thread);
}

/* scores, probabilities, dropped (B, H, L, L); bits (B H L, round_up(L, 128) / 32), unless nothing is
   dropped: then it and `dropped` are not touched. workspace: round_up(L, 32) floats a thread. */
template <class E>
void softmax_forward(const E *scores, const Masks &masks, const Dropout &dropout, float factor,
                     E *probabilities, E *dropped, uint32_t *bits, float *workspace, int64_t batch,
                     int64_t heads, int64_t length, int64_t threads) {
  const int64_t words = round_up(length, philox::group_size) / 32;
  const vec never = simd::broadcast(-infinity);
  on_rows(batch * heads * length, threads, [&](int64_t first, int64_t last, int64_t thread) {
    float *const row = workspace + thread * round_up(length, 32);
    for (int64_t i = first; i < last; i++) {
      const int64_t query = i % length, which = i / length;
      const uint8_t *keys = masks.keys ? masks.keys + which / heads * length : nullptr;
      const float *additive =
          masks.additive
              ? masks.additive + ((masks.per_head ? which : 0) * length + query) * length
              : nullptr;
      const E *in = scores + i * length;
      const int64_t end = masks.causal ? query + 1 : length;
      vec highest = never;
      for (int64_t k = 0; k < length; k += width) {
        const int lanes = lanes_at(k, length);
        vec score = load_lanes(in + k, lanes) * factor;
        if (additive) score += load_lanes(additive + k, lanes) * log2_e;
        if (keys) {
          ivec keep = {};
          for (int lane = 0; lane < lanes; lane++) keep[lane] = keys[k + lane];
          score = simd::select(keep != 0, score, never);
        }
        if (k + width > end)
          score = simd::select(simd::lanes() < simd::broadcast_int(static_cast<int32_t>(end - k)),
                               score, never);
        highest = simd::max(highest, score);
        simd::store(row + k, score);
      }
      const float most = simd::largest(highest);
      const vec shift = simd::broadcast(most == -infinity ? 0 : most);
      vec total = {};
      for (int64_t k = 0; k < length; k += width) {
        const vec e = exp2(simd::load(row + k) - shift);
        total += e;
        simd::store(row + k, e);
      }
      const float sum = simd::sum(total), by = sum == 0 ? 0 : 1 / sum;
      if (dropout.drops)
        dropout.generator.fill(i * (words / philox::group_words), words / philox::group_words,
                               bits + i * words);
      for (int64_t k = 0; k < length; k += width) {
        const int lanes = lanes_at(k, length);
        const vec probability = simd::load(row + k) * by;
        store_lanes(probabilities + i * length + k, probability, lanes);
        if (dropout.drops)
          store_lanes(
              dropped + i * length + k,
              philox::keep(probability * dropout.scale, bits[i * words + k / 32] >> (k % 32)), lanes);
      }
    }
  });
}

/* d_scores = factor * p (m d_dropped - sum_k m d_dropped p), m of the bits or, null, 1. */
template <class E>
void softmax_backward(const E *d_dropped, const E *probabilities, const uint32_t *bits, float scale,
                      float factor, E *d_scores, int64_t n, int64_t length, int64_t threads) {
  const int64_t words = round_up(length, philox::group_size) / 32;
  on_rows(n, threads, [&](int64_t first, int64_t last, int64_t) {
    for (int64_t i = first; i < last; i++) {
      const E *const p = probabilities + i * length;
      const auto gradient = [&](int64_t k, int lanes) {
        const vec d = load_lanes(d_dropped + i * length + k, lanes);
        return bits ? philox::keep(d * scale, bits[i * words + k / 32] >> (k % 32)) : d;
      };
      vec total = {};
      for (int64_t k = 0; k < length; k += width) {
        const int lanes = lanes_at(k, length);
        total += gradient(k, lanes) * load_lanes(p + k, lanes);
      }
      const float dot = simd::sum(total);
      for (int64_t k = 0; k < length; k += width) {
        const int lanes = lanes_at(k, length);
        store_lanes(d_scores + i * length + k,
                    load_lanes(p + k, lanes) * (gradient(k, lanes) - dot) * factor, lanes);
      }
    }
  });
}

bf16 *half(uint16_t *x) { return reinterpret_cast<bf16 *>(x); }
const bf16 *half(const uint16_t *x) { return reinterpret_cast<const bf16 *>(x); }

} // namespace

/* Floats of workspace of one thread. */
EXPORT int64_t attention_workspace_size(int64_t is_backward, int64_t is_bf16, int64_t length,
                                        int64_t heads, int64_t size, int64_t has_mask) {
  const Shape shape{length, heads, size};
  if (is_backward)
    return is_bf16 ? floats_of<Backward<bf16>>(shape, has_mask)
                   : floats_of<Backward<float>>(shape, has_mask);
  return is_bf16 ? floats_of<Forward<bf16>>(shape, has_mask)
                 : floats_of<Forward<float>>(shape, has_mask);
}

EXPORT int64_t attention_width(void) { return simd::width; }

EXPORT void attention_forward_fp32(const float *qkv, const uint8_t *keys, const float *mask,
                                   float *o, float *lse, float *workspace, int64_t batch,
                                   int64_t length, int64_t heads, int64_t size, int64_t how,
                                   int64_t threshold, float scale, int64_t seed, int64_t threads) {
  forward(qkv, keys, mask, o, lse, workspace, batch, length, heads, size, how, threshold, scale,
          seed, threads);
}

EXPORT void attention_forward_bf16(const uint16_t *qkv, const uint8_t *keys, const float *mask,
                                   uint16_t *o, float *lse, float *workspace, int64_t batch,
                                   int64_t length, int64_t heads, int64_t size, int64_t how,
                                   int64_t threshold, float scale, int64_t seed, int64_t threads) {
  forward(half(qkv), keys, mask, half(o), lse, workspace, batch, length, heads, size, how,
          threshold, scale, seed, threads);
}

EXPORT void attention_backward_fp32(const float *d_o, const float *qkv, const float *o,
                                    const float *lse, const uint8_t *keys, const float *mask,
                                    float *d_qkv, float *d_bias, float *sums, float *workspace,
                                    int64_t batch, int64_t length, int64_t heads, int64_t size,
                                    int64_t how, int64_t threshold, float scale, int64_t seed,
                                    int64_t threads) {
  backward(d_o, qkv, o, lse, keys, mask, d_qkv, d_bias, sums, workspace, batch, length, heads, size,
           how, threshold, scale, seed, threads);
}

EXPORT void attention_backward_bf16(const uint16_t *d_o, const uint16_t *qkv, const uint16_t *o,
                                    const float *lse, const uint8_t *keys, const float *mask,
                                    uint16_t *d_qkv, float *d_bias, float *sums, float *workspace,
                                    int64_t batch, int64_t length, int64_t heads, int64_t size,
                                    int64_t how, int64_t threshold, float scale, int64_t seed,
                                    int64_t threads) {
  backward(half(d_o), half(qkv), half(o), lse, keys, mask, half(d_qkv), d_bias, sums, workspace,
           batch, length, heads, size, how, threshold, scale, seed, threads);
}

EXPORT void softmax_forward_fp32(const float *scores, const uint8_t *keys, const float *mask,
                                 float *probabilities, float *dropped, uint32_t *bits,
                                 float *workspace, int64_t batch, int64_t length, int64_t heads,
                                 int64_t how, float factor, int64_t threshold, float scale,
                                 int64_t seed, int64_t threads) {
  softmax_forward(scores, {keys, mask, how / 2 % 2 != 0, how % 2 != 0},
                  {seed, threshold, scale}, factor * log2_e, probabilities, dropped, bits,
                  workspace, batch, heads, length, threads);
}

EXPORT void softmax_backward_fp32(const float *d_dropped, const float *probabilities,
                                  const uint32_t *bits, float *d_scores, int64_t n, int64_t length,
                                  float factor, float scale, int64_t threads) {
  softmax_backward(d_dropped, probabilities, bits, scale, factor, d_scores, n,
                   length, threads);
}

EXPORT void softmax_forward_bf16(const uint16_t *scores, const uint8_t *keys, const float *mask,
                                 uint16_t *probabilities, uint16_t *dropped, uint32_t *bits,
                                 float *workspace, int64_t batch, int64_t length, int64_t heads,
                                 int64_t how, float factor, int64_t threshold, float scale,
                                 int64_t seed, int64_t threads) {
  softmax_forward(half(scores), {keys, mask, how / 2 % 2 != 0, how % 2 != 0},
                  {seed, threshold, scale}, factor * log2_e, half(probabilities), half(dropped), bits,
                  workspace, batch, heads, length, threads);
}

EXPORT void softmax_backward_bf16(const uint16_t *d_dropped, const uint16_t *probabilities,
                                  const uint32_t *bits, uint16_t *d_scores, int64_t n, int64_t length,
                                  float factor, float scale, int64_t threads) {
  softmax_backward(half(d_dropped), half(probabilities), bits, scale, factor, half(d_scores), n,
                   length, threads);
}
