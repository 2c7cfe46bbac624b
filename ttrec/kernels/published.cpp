/* The published TT-EmbeddingBag kernel in the microkernels of tt_three.cpp: every position runs its own chain.

   As in FBTT-Embedding: positions in sub-batches, one product a core boundary for all of a sub-batch (P12, then rows,
   then pooling), nothing kept for backward, which computes P12 again; gradients of the cores are dense, summed position
   by position, and applied by SGD at the end. What a GPU does with atomic adds is plain addition on one thread. Slices
   no position touches are neither zeroed nor stepped, and G3 is transposed once a call: both make the peer faster.

   With sub-batches of one position it is our kernel with everything shared switched off: no plan, no rows or pairs used
   twice, no stacked products. Cores and sizes as in tt_three.cpp. One thread. */
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "tt_optimizer.h"
#include "tt_rows.h"

using namespace tt;

namespace {

struct Digits {
    int64_t i1, i2, i3;
};

SIMD_INLINE Digits digits_of(const Shape &s, int64_t row) {
    const int64_t outer = row / s.p[2];
    return {outer / s.p[1], outer % s.p[1], row % s.p[2]};
}

/* Scratch: G3 transposed, one sub-batch of P12, dP12 and rows, and the dense gradients with a mark per slice. */
struct Desk {
    float *t, *p, *dp, *row, *d1, *d2, *d3;
    uint8_t *touched[3];

    static int64_t floats(const Shape &s, int64_t sub_batch) {
        return s.p[2] * s.transposed3() * 2 + sub_batch * (2 * s.block() + s.dim()) + s.dim() + s.slice3() +
               s.p[0] * s.gradient1() + s.p[1] * s.slice2() + (s.p[0] + s.p[1] + s.p[2]) / 4 + 8 * W;
    }

    Desk(const Shape &s, int64_t sub_batch, float *base) {
        t = base;
        p = t + s.p[2] * s.transposed3();
        dp = p + sub_batch * s.block();
        row = dp + sub_batch * s.block();
        d3 = row + (sub_batch + 1) * s.dim() + s.slice3() + W;
        d1 = d3 + s.p[2] * s.transposed3();
        d2 = d1 + s.p[0] * s.gradient1();
        touched[0] = reinterpret_cast<uint8_t *>(d2 + s.p[1] * s.slice2());
        touched[1] = touched[0] + s.p[0];
        touched[2] = touched[1] + s.p[1];
    }
};

/* P12 of a sub-batch, one small product each. */
void pair_products(const Shape &s, const float *g1, const float *g2, const int64_t *indices, int64_t n, float *p) {
    for (int64_t k = 0; k < n; ++k) {
        const Digits i = digits_of(s, indices[k]);
        product<wide_rest>(g1 + i.i1 * s.slice1(), s.r1, 1, s.q1, g2 + i.i2 * s.slice2(), s.wide(), s.r1, s.wide() / W,
                           Store{p + k * s.block(), s.wide()});
    }
}

void transpose_third(const Shape &s, const float *g3, const uint8_t *touched, float *t) {
    for (int64_t i = 0; i < s.p[2]; ++i)
        if (touched[i]) transpose_slice3(s, g3 + i * s.slice3(), t + i * s.transposed3());
}

void mark(const Shape &s, const int64_t *indices, int64_t n, const Desk &desk) {
    std::memset(desk.touched[0], 0, static_cast<size_t>(s.p[0] + s.p[1] + s.p[2]));
    for (int64_t k = 0; k < n; ++k) {
        const Digits i = digits_of(s, indices[k]);
        desk.touched[0][i.i1] = desk.touched[1][i.i2] = desk.touched[2][i.i3] = 1;
    }
}

/* dS of one position by dot products, W columns at a time, added to its slice of dG1. */
void first_gradient(const Shape &s, const float *dp, const float *g2, float *d1) {
    const int64_t wide = s.wide();
    for (int64_t m = 0; m < s.q1; ++m)
        for (int64_t a = 0; a < s.r1; a += W) {
            vec sums[W] = {};
            const int64_t last = std::min<int64_t>(s.r1 - a, W) - 1;
            for (int64_t b = 0; b < wide; b += W) {
                const vec left = load(dp + m * wide + b);
#pragma GCC unroll 16
                for (int i = 0; i < W; ++i) sums[i] += left * load(g2 + (a + (i < last ? i : last)) * wide + b);
            }
            float *out = d1 + m * s.r1_padded() + a;
            store(out, load(out) + sums_of<W>(sums));
        }
}
} // namespace

EXPORT int64_t published_floats(const int64_t *sizes, int64_t sub_batch) {
    return Desk::floats(Shape(sizes), sub_batch);
}

/* out (batch, D) = sums over bags; owner (n) is the bag of each position. Shapes whose G2 rows are whole vectors. */
EXPORT void published_forward(const int64_t *sizes, const float *g1, const float *g2, const float *g3,
                              const int64_t *indices, const int64_t *owner, float *work, float *out, int64_t n,
                              int64_t batch, int64_t sub_batch) {
    const Shape s(sizes);
    const Desk desk(s, sub_batch, work);
    const int64_t dim = s.dim();
    mark(s, indices, n, desk);
    transpose_third(s, g3, desk.touched[2], desk.t);
    std::memset(out, 0, static_cast<size_t>(batch * dim) * sizeof(float));
    for (int64_t first = 0; first < n; first += sub_batch) {
        const int64_t length = std::min(sub_batch, n - first);
        pair_products(s, g1, g2, indices + first, length, desk.p);
        for (int64_t k = 0; k < length; ++k)
            forward_row(s, desk.p + k * s.block(), desk.t + digits_of(s, indices[first + k]).i3 * s.transposed3(),
                        desk.row + k * dim);
        for (int64_t k = 0; k < length; ++k) {
            float *bag = out + owner[first + k] * dim;
            const float *row = desk.row + k * dim;
            for (int64_t j = 0; j < dim; ++j) bag[j] += row[j];
        }
    }
}

/* The cores after SGD on d_out (batch, D). */
EXPORT void published_step(const int64_t *sizes, float *g1, float *g2, float *g3, const int64_t *indices,
                           const int64_t *owner, const float *d_out, float *work, int64_t n, int64_t sub_batch,
                           float lr) {
    const Shape s(sizes);
    const Desk desk(s, sub_batch, work);
    const int64_t dim = s.dim(), wide = s.wide();
    mark(s, indices, n, desk);
    transpose_third(s, g3, desk.touched[2], desk.t);
    for (int64_t i = 0; i < s.p[0]; ++i)
        if (desk.touched[0][i])
            std::memset(desk.d1 + i * s.gradient1(), 0, static_cast<size_t>(s.gradient1()) * sizeof(float));
    for (int64_t i = 0; i < s.p[1]; ++i)
        if (desk.touched[1][i])
            std::memset(desk.d2 + i * s.slice2(), 0, static_cast<size_t>(s.slice2()) * sizeof(float));
    for (int64_t i = 0; i < s.p[2]; ++i)
        if (desk.touched[2][i])
            std::memset(desk.d3 + i * s.transposed3(), 0, static_cast<size_t>(s.transposed3()) * sizeof(float));
    for (int64_t first = 0; first < n; first += sub_batch) {
        const int64_t length = std::min(sub_batch, n - first);
        pair_products(s, g1, g2, indices + first, length, desk.p);
        for (int64_t k = 0; k < length; ++k) {
            const int64_t at3 = digits_of(s, indices[first + k]).i3 * s.transposed3();
            backward_row(s, desk.p + k * s.block(), desk.t + at3, d_out + owner[first + k] * dim,
                         desk.dp + k * s.block(), desk.d3 + at3, true);
        }
        for (int64_t k = 0; k < length; ++k) {
            const Digits i = digits_of(s, indices[first + k]);
            const float *dp = desk.dp + k * s.block();
            first_gradient(s, dp, g2 + i.i2 * s.slice2(), desk.d1 + i.i1 * s.gradient1());
            product<wide_rest>(g1 + i.i1 * s.slice1(), 1, s.r1, s.r1, dp, wide, s.q1, wide / W,
                               Add{desk.d2 + i.i2 * s.slice2(), wide});
        }
    }
    const Optimizer optimizer = {sgd, lr, 0.0f};
    for (int64_t i = 0; i < s.p[0]; ++i)
        if (desk.touched[0][i])
            for (int64_t j = 0; j < s.q1; ++j)
                step_slice(optimizer, g1 + (i * s.q1 + j) * s.r1, desk.d1 + (i * s.q1 + j) * s.r1_padded(), nullptr, s.r1);
    for (int64_t i = 0; i < s.p[1]; ++i)
        if (desk.touched[1][i]) step_slice(optimizer, g2 + i * s.slice2(), desk.d2 + i * s.slice2(), nullptr, s.slice2());
    for (int64_t i = 0; i < s.p[2]; ++i)
        if (desk.touched[2][i]) {
            restore_slice3(s, desk.d3 + i * s.transposed3(), desk.row);
            step_slice(optimizer, g3 + i * s.slice3(), desk.row, nullptr, s.slice3());
        }
}
