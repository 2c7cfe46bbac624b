/* The small dense products of a tensor-train bag, for matrices of a few dozen rows that lie in L1.

   `product` is c[i, :] = sum_k a[i, k] b[k, :] with b in rows of whole vectors, a read element by element
   (broadcast): no packing at all, as a chunk of a group is too small to pay for it. Its epilogue gets the
   sums of a tile in registers. Every sum runs over k in order and on its own, so a result does not depend
   on how rows are split into tiles.

   `transpose_slices` turns a core slice [r][q] into [q][r] and back by shuffles. */
#ifndef TT_TILES_H
#define TT_TILES_H

#include <cstdint>
#include <cstring>

#include "simd.h"

namespace tt {

using simd::broadcast;
using simd::load;
using simd::load_first;
using simd::store;
using simd::store_first;
using simd::vec;
constexpr int W = simd::width;

constexpr int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* Tiles of `vectors` columns by so many rows: 24 to 28 sums for 32 registers, 8 to 12 for 16. */
constexpr int most_vectors = W == 16 ? 4 : 2;
constexpr int most_rows(int vectors) {
    if (W == 16) return vectors == 1 ? 14 : vectors == 2 ? 12 : vectors == 3 ? 8 : 6;
    return vectors == 1 ? 8 : 5;
}

template <int M, int V, class Epilogue>
SIMD_INLINE void tile(const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t ldb, int64_t depth,
                      int64_t row, int64_t column, const Epilogue &finish) {
    vec sums[M][V] = {};
    a += row * a_row;
    b += column * W;
#pragma GCC unroll 2
    for (int64_t k = 0; k < depth; ++k, a += a_k, b += ldb) {
        vec right[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) right[v] = load(b + v * W);
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const vec left = broadcast(a[m * a_row]);
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) sums[m][v] += left * right[v];
        }
    }
    finish.template operator()<M, V>(sums, row, column);
}

/* The tile of `rows` <= M rows. */
template <int M, int V, class Epilogue>
SIMD_INLINE void tile_of(int64_t rows, const float *a, int64_t a_row, int64_t a_k, const float *b, int64_t ldb,
                         int64_t depth, int64_t row, int64_t column, const Epilogue &finish) {
    if constexpr (M > 1) {
        if (rows < M) return tile_of<M - 1, V>(rows, a, a_row, a_k, b, ldb, depth, row, column, finish);
    }
    tile<M, V>(a, a_row, a_k, b, ldb, depth, row, column, finish);
}

template <int V, class Epilogue>
SIMD_INLINE void strip(const float *a, int64_t a_row, int64_t a_k, int64_t m, const float *b, int64_t ldb,
                       int64_t depth, int64_t column, const Epilogue &finish) {
    constexpr int most = most_rows(V);
    // Rows are dealt to tiles as evenly as can be: 8 are 4 + 4, not 6 + 2.
    const int64_t blocks = (m + most - 1) / most, least = m / blocks, longer = m % blocks;
    for (int64_t i = 0, row = 0; i < blocks; ++i) {
        const int64_t rows = least + (i < longer);
        tile_of<most, V>(rows, a, a_row, a_k, b, ldb, depth, row, column, finish);
        row += rows;
    }
}

/* finish(sums[M][V], row, column) for tiles that cover m rows and `vectors` columns of W floats.
   a[i, k] = a[i * a_row + k * a_k]; b[k, :] = b + k * ldb. known_rest: vectors % most_vectors where the compiler can
   know it, which saves it the tiles of other widths; else -1. */
template <int known_rest, class Epilogue>
__attribute__((noinline)) void product(const float *a, int64_t a_row, int64_t a_k, int64_t m, const float *b,
                                       int64_t ldb, int64_t depth, int64_t vectors, const Epilogue &finish) {
    int64_t column = 0;
    for (; column + most_vectors <= vectors; column += most_vectors)
        strip<most_vectors>(a, a_row, a_k, m, b, ldb, depth, column, finish);
    const int64_t rest = known_rest < 0 ? vectors - column : known_rest;
    if constexpr (most_vectors > 3) {
        if (rest == 3) return strip<3>(a, a_row, a_k, m, b, ldb, depth, column, finish);
        if (rest == 2) return strip<2>(a, a_row, a_k, m, b, ldb, depth, column, finish);
    }
    if (rest == 1) strip<1>(a, a_row, a_k, m, b, ldb, depth, column, finish);
}

struct Store {
    float *c;
    int64_t ldc;
    template <int M, int V>
    SIMD_INLINE void operator()(const vec (&sums)[M][V], int64_t row, int64_t column) const {
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) store(c + (row + m) * ldc + (column + v) * W, sums[m][v]);
    }
};

struct Add {
    float *c;
    int64_t ldc;
    template <int M, int V>
    SIMD_INLINE void operator()(const vec (&sums)[M][V], int64_t row, int64_t column) const {
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                float *out = c + (row + m) * ldc + (column + v) * W;
                store(out, load(out) + sums[m][v]);
            }
    }
};

/* x' and y' of one step of a reduction or transposition: blocks of `distance` lanes change places. */
template <int distance>
SIMD_INLINE void exchange(vec x, vec y, vec &low, vec &high) {
    simd::ivec first, second;
    for (int lane = 0; lane < W; ++lane) {
        first[lane] = lane & distance ? W + (lane ^ distance) : lane;
        second[lane] = lane & distance ? W + lane : lane ^ distance;
    }
    low = __builtin_shuffle(x, y, first);
    high = __builtin_shuffle(x, y, second);
}

/* Lane i of the result is the sum over the lanes of rows[i], each added up within blocks of `block` lanes: with
   block < W, lane b * block + i is the sum over block b of rows[i]. rows[0 .. block) are read. */
template <int block>
SIMD_INLINE vec sums_of(vec (&rows)[W]) {
    if constexpr (block > 8)
#pragma GCC unroll 16
        for (int i = 0; i < 8; ++i) {
            vec low, high;
            exchange<8>(rows[i], rows[i + 8], low, high);
            rows[i] = low + high;
        }
    if constexpr (block > 4)
#pragma GCC unroll 16
        for (int i = 0; i < 4; ++i) {
            vec low, high;
            exchange<4>(rows[i], rows[i + 4], low, high);
            rows[i] = low + high;
        }
    if constexpr (block > 2)
#pragma GCC unroll 16
        for (int i = 0; i < 2; ++i) {
            vec low, high;
            exchange<2>(rows[i], rows[i + 2], low, high);
            rows[i] = low + high;
        }
    if constexpr (block > 1) {
        vec low, high;
        exchange<1>(rows[0], rows[1], low, high);
        rows[0] = low + high;
    }
    return rows[0];
}

/* out[j, i] = in[i, j] for m x n, m rows of stride ld_in readable to whole vectors; out has whole vectors of rows,
   zeros past m. n is a multiple of W. */
SIMD_INLINE void transpose(const float *in, int64_t m, int64_t n, int64_t ld_in, float *out, int64_t ld_out) {
    for (int64_t i = 0; i < m; i += W)
        for (int64_t j = 0; j < n; j += W) {
            vec rows[W];
#pragma GCC unroll 16
            for (int x = 0; x < W; ++x) rows[x] = i + x < m ? load(in + (i + x) * ld_in + j) : vec{};
            if constexpr (W > 8)
#pragma GCC unroll 16
                for (int x = 0; x < 8; ++x) exchange<8>(rows[x], rows[x + 8], rows[x], rows[x + 8]);
            if constexpr (W > 4)
#pragma GCC unroll 16
                for (int x = 0; x < W; ++x)
                    if (!(x & 4)) exchange<4>(rows[x], rows[x + 4], rows[x], rows[x + 4]);
            if constexpr (W > 2)
#pragma GCC unroll 16
                for (int x = 0; x < W; ++x)
                    if (!(x & 2)) exchange<2>(rows[x], rows[x + 2], rows[x], rows[x + 2]);
            if constexpr (W > 1)
#pragma GCC unroll 16
                for (int x = 0; x < W; x += 2) exchange<1>(rows[x], rows[x + 1], rows[x], rows[x + 1]);
#pragma GCC unroll 16
            for (int x = 0; x < W; ++x) store(out + (j + x) * ld_out + i, rows[x]);
        }
}

/* out[x] = element x, x + Q, x + 2 Q .. of the Q * W floats in v, Q a power of two. */
template <int Q>
SIMD_INLINE void deinterleave(const vec (&v)[Q], vec (&out)[Q]) {
    if constexpr (Q == 1) {
        out[0] = v[0];
    } else {
        simd::ivec even;
        for (int lane = 0; lane < W; ++lane) even[lane] = 2 * lane;
        vec evens[Q / 2], odds[Q / 2], half[Q / 2];
#pragma GCC unroll 16
        for (int i = 0; i < Q / 2; ++i) {
            evens[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even);
            odds[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even + 1);
        }
        deinterleave<Q / 2>(evens, half);
#pragma GCC unroll 16
        for (int i = 0; i < Q / 2; ++i) out[2 * i] = half[i];
        deinterleave<Q / 2>(odds, half);
#pragma GCC unroll 16
        for (int i = 0; i < Q / 2; ++i) out[2 * i + 1] = half[i];
    }
}

/* The inverse of deinterleave. */
template <int Q>
SIMD_INLINE void interleave(const vec (&v)[Q], vec (&out)[Q]) {
    if constexpr (Q == 1) {
        out[0] = v[0];
    } else {
        simd::ivec low, high;
        for (int lane = 0; lane < W; ++lane) {
            low[lane] = lane / 2 + (lane & 1) * W;
            high[lane] = low[lane] + W / 2;
        }
        vec evens[Q / 2], odds[Q / 2], half[Q / 2];
#pragma GCC unroll 16
        for (int i = 0; i < Q / 2; ++i) half[i] = v[2 * i];
        interleave<Q / 2>(half, evens);
#pragma GCC unroll 16
        for (int i = 0; i < Q / 2; ++i) half[i] = v[2 * i + 1];
        interleave<Q / 2>(half, odds);
#pragma GCC unroll 16
        for (int i = 0; i < Q / 2; ++i) {
            out[2 * i] = __builtin_shuffle(evens[i], odds[i], low);
            out[2 * i + 1] = __builtin_shuffle(evens[i], odds[i], high);
        }
    }
}

} // namespace tt

#endif
