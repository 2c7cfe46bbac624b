/* The last core: rows of the table from P12, and their gradients, for one row at a time.

   row[m, n] = sum_b P12[m, b] G3[b, n], m = (j1, j2), n = j3: dot products along b, `MT` x `NT` of them at a time in
   as many registers, reduced together by shuffles. Backward: dP12[m, b] += sum_n g[m, n] G3[b, n] and
   dG3[b, n] += sum_m g[m, n] P12[m, b], both with lanes along b. */
#ifndef TT_ROWS_H
#define TT_ROWS_H

#include "tt_shape.h"

namespace tt {

/* Columns n taken together by the dot products, and by backward. */
constexpr int columns_at_once(int64_t q3, int most) {
    if (q3 <= most) return static_cast<int>(q3);
    return q3 % 4 == 0 && most >= 4 ? 4 : q3 % 2 == 0 && most >= 2 ? 2 : 1;
}

/* out[m * q3 + n]; p: P12 (q1 q2 rows), t: G3 transposed. Padded layout. */
template <int NT>
SIMD_INLINE void forward_row_padded(const Shape &s, const float *p, const float *t, float *out) {
    constexpr int MT = W / NT;
    const int64_t rows = s.q1 * s.q2, row = s.row();
    for (int64_t n = 0; n < s.q3; n += NT)
        for (int64_t m = 0; m < rows; m += MT) {
            vec sums[W] = {};
            const int64_t last = rows % MT == 0 || rows - m > MT - 1 ? MT - 1 : rows - m - 1;
            for (int64_t b = 0; b < row; b += W) {
                vec right[NT];
#pragma GCC unroll 16
                for (int j = 0; j < NT; ++j) right[j] = load(t + (n + j) * row + b);
#pragma GCC unroll 16
                for (int i = 0; i < MT; ++i) {
                    // Past the last row the last one again; its sums are not stored.
                    const vec left = load(p + (m + (i < last ? i : last)) * row + b);
#pragma GCC unroll 16
                    for (int j = 0; j < NT; ++j) sums[i * NT + j] += left * right[j];
                }
            }
            const vec sum = sums_of<W>(sums);
            const int found = static_cast<int>(last + 1) * NT;
            if (NT == s.q3) {
                if (found == W)
                    store(out + m * NT, sum);
                else
                    store_first(out + m * NT, sum, found);
            } else {
                float lane[W];
                std::memcpy(lane, &sum, sizeof lane);
                for (int i = 0; i < found; ++i) out[(m + i / NT) * s.q3 + n + i % NT] = lane[i];
            }
        }
}

/* dp (written if `first`, else added to) and dt (added to), padded layout. */
template <int NT>
SIMD_INLINE void backward_row_padded(const Shape &s, const float *p, const float *t, const float *g, float *dp,
                                     float *dt, bool first) {
    const int64_t rows = s.q1 * s.q2, row = s.row();
    for (int64_t n = 0; n < s.q3; n += NT) {
        const bool writes = first && n == 0;
        for (int64_t b = 0; b < row; b += W) {
            vec right[NT], d_right[NT];
#pragma GCC unroll 16
            for (int j = 0; j < NT; ++j) {
                right[j] = load(t + (n + j) * row + b);
                d_right[j] = load(dt + (n + j) * row + b);
            }
#pragma GCC unroll 4
            for (int64_t m = 0; m < rows; ++m) {
                const vec left = load(p + m * row + b);
                vec d_left = writes ? vec{} : load(dp + m * row + b);
#pragma GCC unroll 16
                for (int j = 0; j < NT; ++j) {
                    const vec x = broadcast(g[m * s.q3 + n + j]);
                    d_left += x * right[j];
                    d_right[j] += x * left;
                }
                store(dp + m * row + b, d_left);
            }
#pragma GCC unroll 16
            for (int j = 0; j < NT; ++j) store(dt + (n + j) * row + b, d_right[j]);
        }
    }
}

#ifdef TT_R1
/* Packed layout: vector f of P12 holds rows f rep .. f rep + rep - 1; NT = q3 and FT vectors f make W results. */
constexpr int packed_nt = static_cast<int>(Shape::q3);
constexpr int packed_ft = Shape::rep > 1 ? static_cast<int>(Shape::r2 / Shape::q3) : 1;

/* lane (m, n) of W results from, or to, lane b of vector f: m = f rep + b / r2 */
SIMD_INLINE simd::ivec packed_results() {
    simd::ivec lanes;
    for (int lane = 0; lane < W; ++lane) {
        const int n = lane % packed_nt, m = lane / packed_nt;
        lanes[lane] = (m % Shape::rep) * static_cast<int>(Shape::r2) + (m / Shape::rep) * packed_nt + n;
    }
    return lanes;
}
SIMD_INLINE simd::ivec packed_gradient(int f, int n) {
    simd::ivec lanes;
    for (int lane = 0; lane < W; ++lane)
        lanes[lane] = (f * Shape::rep + lane / static_cast<int>(Shape::r2)) * packed_nt + n;
    return lanes;
}

SIMD_INLINE void forward_row_packed(const float *p, const float *t, float *out) {
    constexpr int vectors = static_cast<int>(Shape::q1 * Shape::q2 / Shape::rep);
    vec right[packed_nt];
    for (int n = 0; n < packed_nt; ++n) right[n] = load(t + n * W);
#pragma GCC unroll 8
    for (int f = 0; f < vectors; f += packed_ft) {
        vec sums[W];
#pragma GCC unroll 8
        for (int i = 0; i < packed_ft; ++i) {
            const vec left = load(p + (f + i) * W);
#pragma GCC unroll 8
            for (int n = 0; n < packed_nt; ++n) sums[i * packed_nt + n] = left * right[n];
        }
        const vec sum = sums_of<static_cast<int>(Shape::r2)>(sums);
        store(out + f * Shape::rep * packed_nt, __builtin_shuffle(sum, packed_results()));
    }
}

SIMD_INLINE void backward_row_packed(const float *p, const float *t, const float *g, float *dp, float *dt, bool first) {
    constexpr int vectors = static_cast<int>(Shape::q1 * Shape::q2 / Shape::rep);
    vec right[packed_nt], d_right[packed_nt];
    for (int n = 0; n < packed_nt; ++n) {
        right[n] = load(t + n * W);
        d_right[n] = load(dt + n * W);
    }
#pragma GCC unroll 8
    for (int f = 0; f < vectors; f += packed_ft) {
        const vec gradient = load(g + f * Shape::rep * packed_nt);
#pragma GCC unroll 8
        for (int i = 0; i < packed_ft; ++i) {
            const vec left = load(p + (f + i) * W);
            vec d_left = first ? vec{} : load(dp + (f + i) * W);
#pragma GCC unroll 8
            for (int n = 0; n < packed_nt; ++n) {
                const vec x = __builtin_shuffle(gradient, packed_gradient(i, n));
                d_left += x * right[n];
                d_right[n] += x * left;
            }
            store(dp + (f + i) * W, d_left);
        }
    }
    for (int n = 0; n < packed_nt; ++n) store(dt + n * W, d_right[n]);
}
#endif

SIMD_INLINE void forward_row(const Shape &s, const float *p, const float *t, float *out) {
#ifdef TT_R1
    if constexpr (Shape::rep > 1)
        forward_row_packed(p, t, out);
    else
        forward_row_padded<columns_at_once(Shape::q3, W < 8 ? W : 8)>(s, p, t, out);
#else
    if (W >= 4 && s.q3 % 4 == 0) return forward_row_padded<W >= 4 ? 4 : 1>(s, p, t, out);
    if (W >= 2 && s.q3 % 2 == 0) return forward_row_padded<W >= 2 ? 2 : 1>(s, p, t, out);
    forward_row_padded<1>(s, p, t, out);
#endif
}

SIMD_INLINE void backward_row(const Shape &s, const float *p, const float *t, const float *g, float *dp, float *dt,
                              bool first) {
#ifdef TT_R1
    if constexpr (Shape::rep > 1)
        backward_row_packed(p, t, g, dp, dt, first);
    else
        backward_row_padded<columns_at_once(Shape::q3, 5)>(s, p, t, g, dp, dt, first);
#else
    if (s.q3 % 4 == 0) return backward_row_padded<4>(s, p, t, g, dp, dt, first);
    if (s.q3 % 2 == 0) return backward_row_padded<2>(s, p, t, g, dp, dt, first);
    backward_row_padded<1>(s, p, t, g, dp, dt, first);
#endif
}

/* G3[i3] (r2 x q3) -> t (q3 rows). */
SIMD_INLINE void transpose_slice3(const Shape &s, const float *slice, float *t) {
#ifdef TT_R1
    constexpr int Q = static_cast<int>(Shape::q3);
    constexpr int64_t r2 = Shape::r2;
    if constexpr (W > 1 && Q <= W && (Q & (Q - 1)) == 0 && (r2 % W == 0 || Shape::rep > 1)) {
        constexpr int64_t floats = Shape::rep > 1 ? W : r2;
        for (int64_t b = 0; b < floats; b += W) {
            vec in[Q], out[Q];
#pragma GCC unroll 16
            for (int i = 0; i < Q; ++i) in[i] = load(slice + (b * Q + i * W) % (r2 * Q));
            deinterleave<Q>(in, out);
#pragma GCC unroll 16
            for (int i = 0; i < Q; ++i) store(t + i * floats + b, out[i]);
        }
        return;
    }
#endif
    const int64_t row = s.row();
    for (int64_t n = 0; n < s.q3; ++n)
        for (int64_t b = 0; b < row; ++b)
            t[n * row + b] = s.rep > 1 || b < s.r2 ? slice[b % s.r2 * s.q3 + n] : 0.0f;
}

/* dt (q3 rows) -> the gradient of a slice (r2 x q3, and room for whole vectors). */
SIMD_INLINE void restore_slice3(const Shape &s, const float *dt, float *slice) {
#ifdef TT_R1
    constexpr int Q = static_cast<int>(Shape::q3);
    if constexpr (W > 1 && Q <= W && (Q & (Q - 1)) == 0 && Shape::r2 % W == 0) {
        for (int64_t b = 0; b < Shape::r2; b += W) {
            vec in[Q], out[Q];
#pragma GCC unroll 16
            for (int i = 0; i < Q; ++i) in[i] = load(dt + i * Shape::r2 + b);
            interleave<Q>(in, out);
#pragma GCC unroll 16
            for (int i = 0; i < Q; ++i) store(slice + b * Q + i * W, out[i]);
        }
        return;
    }
#endif
    const int64_t row = s.row();
    for (int64_t b = 0; b < s.r2; ++b)
        for (int64_t n = 0; n < s.q3; ++n) {
            float sum = 0.0f;
            for (int i = 0; i < s.rep; ++i) sum += dt[n * row + i * s.r2 + b];
            slice[b * s.q3 + n] = sum;
        }
}

} // namespace tt

#endif
