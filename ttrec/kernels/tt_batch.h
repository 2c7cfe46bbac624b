/* What every kernel does with a batch: check it, pool rows into bags, gather the gradient of a row. */
#ifndef TT_BATCH_H
#define TT_BATCH_H

#include <algorithm>
#include <cstdint>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "tt_tiles.h"

namespace tt {

enum Mode : int64_t { mode_sum = 0, mode_mean = 1, mode_max = 2 };

constexpr int64_t align(int64_t floats) { return round_up(floats, 16); }

inline int64_t thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* Distinct row u has positions order[row_start[u] .. row_start[u + 1]). */
struct Positions {
    int32_t *order;      // positions, sorted
    int32_t *inverse;    // where the row of each position lies, -1 for padding
    int32_t *owner;      // bag of each position
    int32_t *row_start;
};

/* Finds the bag of every position and the scale of every bag (1 / length; scale may be null). Returns 0, or what is
   wrong, with found as tt_plan describes. offsets count from `origin`. */
template <class Index>
int64_t check_batch(const Index *indices, const Index *offsets, int64_t n, int64_t batch, int64_t length, int64_t origin,
                    int64_t rows, int64_t padding, int32_t *owner, float *scale, bool &is_single, int64_t *found) {
    uint64_t is_bad = 0;
    for (int64_t k = 0; k < n; ++k)
        is_bad |= static_cast<uint64_t>(static_cast<int64_t>(indices[k])) >= static_cast<uint64_t>(rows);
    if (is_bad)
        for (int64_t k = 0; k < n; ++k)
            if (indices[k] < 0 || indices[k] >= rows) {
                found[0] = k;
                found[1] = indices[k];
                return 1;
            }
    is_single = n == batch;
    if (offsets) {
        // With the last offset given a batch of no bags still has one entry.
        if ((batch > 0 || length) && offsets[0] != origin) {
            found[1] = offsets[0] - origin;
            return 2;
        }
        for (int64_t b = 0; b < batch; ++b) {
            const int64_t first = offsets[b] - origin,
                          last = b + 1 < batch || length ? offsets[b + 1] - origin : n;
            if (last < first || last > n) {
                found[0] = b + 1;
                found[1] = last;
                found[2] = first;
                return last < first ? 3 : 5;
            }
            if (b + 1 == batch && last != n) {
                found[0] = batch;
                found[1] = last;
                return 4;
            }
            is_single &= last - first == 1;
            for (int64_t k = first; k < last; ++k) owner[k] = static_cast<int32_t>(b);
            if (scale) scale[b] = static_cast<float>(last - first);
        }
    } else {
        for (int64_t b = 0; b < batch; ++b) {
            for (int64_t k = 0; k < length; ++k) *owner++ = static_cast<int32_t>(b);
            if (scale) scale[b] = static_cast<float>(length);
        }
        owner -= batch * length;
    }
    if (offsets && batch == 0 && n > 0) {
        found[0] = found[1] = 0;
        return 4;
    }
    if (padding >= 0)
        for (int64_t k = 0; k < n; ++k)
            if (indices[k] == padding) {
                is_single = false;
                if (scale) scale[owner[k]] -= 1.0f;
            }
    if (scale)
        for (int64_t b = 0; b < batch; ++b) scale[b] = scale[b] > 1.0f ? 1.0f / scale[b] : 1.0f;
    return 0;
}

/* Everything a batch is made of. */
struct Batch {
    Positions plan;
    const float *weights;    // of positions, or null
    const float *scale;      // of bags: 1 / length in mean mode, else null
    const int32_t *winners;  // position of every output element in max mode, else null
    bool by_frequency;
};

/* out[bag] from the rows of its positions, in their order. */
inline void pool_bag(const Batch &batch, const float *rows, int64_t first, int64_t last, int64_t bag, int64_t dim, float *out,
              int32_t *winners) {
    const int32_t *inverse = batch.plan.inverse;
    if (winners) {
        bool is_empty = true;
        for (int64_t j = 0; j < dim; ++j) {
            out[j] = 0.0f;
            winners[j] = -1;
        }
        for (int64_t k = first; k < last; ++k) {
            if (inverse[k] < 0) continue;
            const float *row = rows + inverse[k] * dim;
            for (int64_t j = 0; j < dim; ++j)
                if (is_empty || row[j] > out[j]) {
                    out[j] = row[j];
                    winners[j] = static_cast<int32_t>(k);
                }
            is_empty = false;
        }
        return;
    }
    for (int64_t j = 0; j < dim; j += W) {
        const int lanes = static_cast<int>(std::min<int64_t>(W, dim - j));
        vec sum = {};
        for (int64_t k = first; k < last; ++k) {
            if (inverse[k] < 0) continue;
            const float *row = rows + inverse[k] * dim + j;
            const vec x = lanes == W ? load(row) : load_first(row, lanes);
            sum += batch.weights ? batch.weights[k] * x : x;
        }
        if (batch.scale) sum *= batch.scale[bag];
        if (lanes == W)
            store(out + j, sum);
        else
            store_first(out + j, sum, lanes);
    }
}

/* Every bag of this thread's share, inside a parallel region. */
inline void pool_bags(const Batch &whole, const float *rows, int64_t n, int64_t batch, int64_t dim, float *out,
                      int32_t *winners) {
#ifdef _OPENMP
    const int64_t parts = omp_get_num_threads(), part = omp_get_thread_num();
#else
    const int64_t parts = 1, part = 0;
#endif
    const int32_t *owner = whole.plan.owner;
    const int64_t first_bag = batch * part / parts, last_bag = batch * (part + 1) / parts;
    int64_t k = std::lower_bound(owner, owner + n, static_cast<int32_t>(first_bag)) - owner;
    for (int64_t bag = first_bag; bag < last_bag; ++bag) {
        const int64_t first = k;
        while (k < n && owner[k] == bag) ++k;
        pool_bag(whole, rows, first, k, bag, dim, out + bag * dim, winners ? winners + bag * dim : nullptr);
    }
}

/* The gradient of row u: of its only position as it lies, or summed up in `sum`. */
SIMD_INLINE const float *row_gradient(const Batch &batch, int32_t u, const float *d_out, int64_t dim, float *sum) {
    const Positions &plan = batch.plan;
    const int32_t first = plan.row_start[u], last = plan.row_start[u + 1];
    if (last - first == 1 && !batch.weights && !batch.scale && !batch.winners)
        return d_out + plan.owner[plan.order[first]] * dim;
    if (batch.winners) {
        std::memset(sum, 0, static_cast<size_t>(dim) * sizeof(float));
        for (int32_t o = first; o < last; ++o) {
            const int32_t k = plan.order[o];
            const float *from = d_out + plan.owner[k] * dim;
            const int32_t *winners = batch.winners + plan.owner[k] * dim;
            for (int64_t j = 0; j < dim; ++j) sum[j] += winners[j] == k ? from[j] : 0.0f;
        }
        return sum;
    }
    const float part = batch.by_frequency ? 1.0f / static_cast<float>(last - first) : 1.0f;
    const bool is_plain = !batch.weights && !batch.scale;
    for (int64_t j = 0; j < dim; j += W) {
        const int lanes = static_cast<int>(std::min<int64_t>(W, dim - j));
        vec total = {};
        for (int32_t o = first; o < last; ++o) {
            const int32_t k = plan.order[o], bag = plan.owner[k];
            const float *from = d_out + bag * dim + j;
            const vec x = lanes == W ? load(from) : load_first(from, lanes);
            if (is_plain)
                total += x;
            else
                total += (batch.weights ? batch.weights[k] : batch.scale[bag]) * x;
        }
        total *= part;
        if (lanes == W)
            store(sum + j, total);
        else
            store_first(sum + j, total, lanes);
    }
    return sum;
}

/* d_weights of the positions of row u: row . d_out. */
inline void weight_gradients(const Positions &plan, int32_t u, const float *row, const float *d_out, int64_t dim, float *d_weights) {
    for (int32_t o = plan.row_start[u]; o < plan.row_start[u + 1]; ++o) {
        const int32_t k = plan.order[o];
        const float *from = d_out + plan.owner[k] * dim;
        float sum = 0.0f;
        for (int64_t j = 0; j < dim; ++j) sum += row[j] * from[j];
        d_weights[k] = sum;
    }
}

} // namespace tt

#endif
