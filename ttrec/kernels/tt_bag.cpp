/* Tensor-train embedding bag of TT_D cores: forward, backward and backward with SGD.

   out[b, (j1..jd)] = sum over i in bag b of  w_i * sum_{a..}  G1[i1, j1, a1] G2[i2, a1, j2, a2] .. Gd[id, a, jd]

   Layout. Core k is [p_k, r_{k-1}, q_k, r_k] row-major float, so one digit is one contiguous slice. With
   Q_k = q_1 .. q_k, the partial product P_k of a row is a matrix Q_k x r_k, and
       P_k  = P_{k-1} . G_k[i_k]                  (Q_{k-1} x r_{k-1}) . (r_{k-1} x q_k r_k)
       dG_k[i_k] += P_{k-1}^T . dP_k,      dP_{k-1} = dP_k . G_k[i_k]^T
   where Q_{k-1} x q_k r_k is the same memory as Q_k x r_k: no reshuffling anywhere.

   Backward has two phases over a chunk of positions. First every position recomputes its P_k and finds its
   dP_k, and stores both; nothing shared is written. Then, core by core from the last to the first, positions
   are sorted by digit and each slice is summed by one thread in position order. So the result does not depend
   on the number of threads, needs no atomics, and SGD may overwrite a slice at once: what the remaining cores
   need of the old values is already stored, except P_1, which is the first core itself and comes last.

   sizes: rows, then p, q (TT_D each), then the TT_D - 1 inner ranks. Index checks are tt_bag_check's; the other
   entry points trust their input. No entry point allocates.                                                  */
#include <cstdint>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
#endif

#ifndef TT_D
#define TT_D 3
#endif

namespace {

constexpr int D = TT_D;
static_assert(D >= 2 && D <= 5, "two to five cores");

struct Shape {
    int64_t p[D], q[D], r[D + 1];
    int64_t slice[D];        // floats of one slice of core k
    int64_t below[D];        // prod of p after k: digit k = row / below[k] % p[k]
    int64_t wide[D + 1];     // floats of P_k
    int64_t saved_p[D + 1];  // where P_k starts in a position's saved block, k = 2..D-1
    int64_t saved_d[D + 1];  // where dP_k starts, k = 1..D
    int64_t saved;           // floats of a saved block
    int64_t largest;         // floats of the largest P_k or slice

    explicit Shape(const int64_t *sizes) {
        for (int k = 0; k < D; ++k) {
            p[k] = sizes[1 + k];
            q[k] = sizes[1 + D + k];
            r[k + 1] = k + 1 < D ? sizes[1 + 2 * D + k] : 1;
        }
        r[0] = 1;
        below[D - 1] = 1;
        for (int k = D - 1; k > 0; --k) below[k - 1] = below[k] * p[k];
        int64_t columns = 1;
        wide[0] = 1;
        largest = 1;
        for (int k = 0; k < D; ++k) {
            columns *= q[k];
            wide[k + 1] = columns * r[k + 1];
            slice[k] = r[k] * q[k] * r[k + 1];
            if (wide[k + 1] > largest) largest = wide[k + 1];
            if (slice[k] > largest) largest = slice[k];
        }
        saved = 0;
        for (int k = 2; k < D; ++k) {
            saved_p[k] = saved;
            saved += wide[k];
        }
        for (int k = 1; k <= D; ++k) {
            saved_d[k] = saved;
            saved += wide[k];
        }
    }

    int64_t digit(int k, int64_t row) const { return row / below[k] % p[k]; }
    int64_t dim() const { return wide[D]; }
    // Q_{k-1}, r_{k-1} and q_k r_k: the sizes of the product at core k (1-based)
    int64_t m(int k) const { return wide[k - 1] / r[k - 1]; }
    int64_t inner(int k) const { return r[k - 1]; }
    int64_t n(int k) const { return q[k - 1] * r[k]; }
};

/* The three small products. Each is written once for a width N known to the compiler, so that a row of the result
   stays in vector registers, and N = 0 stands for any width n. */

/* c[m, n] = a[m, l] . b[l, n] */
template <int N>
void multiply_of(const float *__restrict a, const float *__restrict b, float *__restrict c, int64_t m, int64_t l,
                 int64_t n) {
    if (N == 0) std::memset(c, 0, static_cast<size_t>(m * n) * sizeof(float));
    for (int64_t i = 0; i < m; ++i) {
        float sum[N ? N : 1] = {};
        float *__restrict row = N ? sum : c + i * n;
        for (int64_t k = 0; k < l; ++k) {
            const float x = a[i * l + k];
            const float *__restrict from = b + k * (N ? N : n);
#pragma omp simd
            for (int64_t j = 0; j < (N ? N : n); ++j) row[j] += x * from[j];
        }
        if (N) std::memcpy(c + i * N, sum, N * sizeof(float));
    }
}

/* c[m, l] = a[m, n] . b[l, n]^T */
template <int N>
void multiply_transposed_of(const float *__restrict a, const float *__restrict b, float *__restrict c, int64_t m,
                            int64_t l, int64_t n) {
    for (int64_t i = 0; i < m; ++i) {
        const float *__restrict x = a + i * (N ? N : n);
        for (int64_t k = 0; k < l; ++k) {
            const float *__restrict y = b + k * (N ? N : n);
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (int64_t j = 0; j < (N ? N : n); ++j) sum += x[j] * y[j];
            c[i * l + k] = sum;
        }
    }
}

/* c[l, n] += a[m, l]^T . b[m, n] */
template <int N>
void add_outer_of(const float *__restrict a, const float *__restrict b, float *__restrict c, int64_t m, int64_t l,
                  int64_t n) {
    for (int64_t k = 0; k < l; ++k) {
        float sum[N ? N : 1];
        float *__restrict row = N ? sum : c + k * n;
        if (N) std::memcpy(sum, c + k * N, N * sizeof(float));
        for (int64_t i = 0; i < m; ++i) {
            const float x = a[i * l + k];
            const float *__restrict from = b + i * (N ? N : n);
#pragma omp simd
            for (int64_t j = 0; j < (N ? N : n); ++j) row[j] += x * from[j];
        }
        if (N) std::memcpy(c + k * N, sum, N * sizeof(float));
    }
}

// The widths q_k r_k of usual shapes.
#define BY_WIDTH(product)                                                                                  \
    void product(const float *a, const float *b, float *c, int64_t m, int64_t l, int64_t n) {              \
        switch (n) {                                                                                       \
            case 2: return product##_of<2>(a, b, c, m, l, n);                                              \
            case 4: return product##_of<4>(a, b, c, m, l, n);                                              \
            case 8: return product##_of<8>(a, b, c, m, l, n);                                              \
            case 16: return product##_of<16>(a, b, c, m, l, n);                                            \
            case 32: return product##_of<32>(a, b, c, m, l, n);                                            \
            case 64: return product##_of<64>(a, b, c, m, l, n);                                            \
            case 128: return product##_of<128>(a, b, c, m, l, n);                                          \
            case 256: return product##_of<256>(a, b, c, m, l, n);                                          \
            default: return product##_of<0>(a, b, c, m, l, n);                                             \
        }                                                                                                  \
    }
BY_WIDTH(multiply)
BY_WIDTH(multiply_transposed)
BY_WIDTH(add_outer)

/* P_k of a row from P_{k-1}; k is 1-based and at least 2 */
void step(const Shape &s, const float *const *core, int k, int64_t row, const float *before, float *after) {
    multiply(before, core[k - 1] + s.digit(k - 1, row) * s.slice[k - 1], after, s.m(k), s.inner(k), s.n(k));
}

const float *first(const Shape &s, const float *const *core, int64_t row) {
    return core[0] + s.digit(0, row) * s.slice[0];  // P_1 is a slice of the first core
}

int64_t thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* 1 / length of the bag in mean mode, else 1 */
float bag_scale(const int64_t *bounds, int64_t bag, int64_t mean) {
    const int64_t length = bounds[bag + 1] - bounds[bag];
    return mean && length > 1 ? 1.0f / static_cast<float>(length) : 1.0f;
}

/* Phase one of backward for one position: its saved block, and the gradient of its weight, row . dout. */
void save_position(const Shape &s, const float *const *core, int64_t row, const float *dout, float scale,
                   float *saved, float *scratch, float *d_weight) {
    const float *before = first(s, core, row);
    for (int k = 2; k < D; ++k) {
        step(s, core, k, row, before, saved + s.saved_p[k]);
        before = saved + s.saved_p[k];
    }
    if (d_weight) {
        step(s, core, D, row, before, scratch);
        float sum = 0.0f;
        for (int64_t j = 0; j < s.dim(); ++j) sum += scratch[j] * dout[j];
        *d_weight = sum;
    }
    float *after = saved + s.saved_d[D];
    for (int64_t j = 0; j < s.dim(); ++j) after[j] = scale * dout[j];
    for (int k = D; k >= 2; --k) {
        float *next = saved + s.saved_d[k - 1];
        multiply_transposed(after, core[k - 1] + s.digit(k - 1, row) * s.slice[k - 1], next, s.m(k),
                            s.inner(k), s.n(k));
        after = next;
    }
}

/* Positions [0, n) sorted by digit k, stable: order lists them, start[i] is where digit i begins. */
void sort_by_digit(const Shape &s, int k, const int64_t *indices, int64_t n, int64_t *start, int64_t *order) {
    std::memset(start, 0, static_cast<size_t>(s.p[k] + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < n; ++i) ++start[s.digit(k, indices[i]) + 1];
    for (int64_t digit = 0; digit < s.p[k]; ++digit) start[digit + 1] += start[digit];
    for (int64_t i = 0; i < n; ++i) order[start[s.digit(k, indices[i])]++] = i;
    for (int64_t digit = s.p[k]; digit > 0; --digit) start[digit] = start[digit - 1];
    start[0] = 0;
}

/* Backward over the positions of one chunk. target[k] is the gradient of core k, added to, or with an lr the
   core itself, stepped. */
void backward(const Shape &s, const float *const *core, float *const *target, const int64_t *indices,
              const int64_t *owner, int64_t n, const int64_t *bounds, const float *weights, int64_t mean,
              const float *dout, float *saved, float *scratch, int64_t *start, int64_t *order, float *d_weights,
              bool fused, float lr, int64_t threads) {
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
    {
        float *mine = scratch + thread_number() * 2 * s.largest;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; ++i) {
            const float scale = weights ? weights[i] : bag_scale(bounds, owner[i], mean);
            save_position(s, core, indices[i], dout + owner[i] * s.dim(), scale, saved + i * s.saved, mine,
                          d_weights ? d_weights + i : nullptr);
        }
        for (int k = D; k >= 1; --k) {
#pragma omp single
            sort_by_digit(s, k - 1, indices, n, start, order);
#pragma omp for schedule(dynamic, 4)
            for (int64_t digit = 0; digit < s.p[k - 1]; ++digit) {
                if (start[digit] == start[digit + 1]) continue;
                float *slice = target[k - 1] + digit * s.slice[k - 1];
                float *sum = fused ? mine : slice;
                if (fused) std::memset(sum, 0, static_cast<size_t>(s.slice[k - 1]) * sizeof(float));
                for (int64_t o = start[digit]; o < start[digit + 1]; ++o) {
                    const int64_t i = order[o];
                    const float *block = saved + i * s.saved, *after = block + s.saved_d[k];
                    if (k == 1) {
                        for (int64_t j = 0; j < s.slice[0]; ++j) sum[j] += after[j];
                    } else {
                        const float *before = k == 2 ? first(s, core, indices[i]) : block + s.saved_p[k - 1];
                        add_outer(before, after, sum, s.m(k), s.inner(k), s.n(k));
                    }
                }
                if (fused)
                    for (int64_t j = 0; j < s.slice[k - 1]; ++j) slice[j] -= lr * sum[j];
            }
        }
    }
}
}  // namespace

// The d core pointers of an entry point, and the array that collects them.
#if TT_D == 2
#define CORES(type, g) type g##1, type g##2
#define LIST(g) {g##1, g##2}
#elif TT_D == 3
#define CORES(type, g) type g##1, type g##2, type g##3
#define LIST(g) {g##1, g##2, g##3}
#elif TT_D == 4
#define CORES(type, g) type g##1, type g##2, type g##3, type g##4
#define LIST(g) {g##1, g##2, g##3, g##4}
#else
#define CORES(type, g) type g##1, type g##2, type g##3, type g##4, type g##5
#define LIST(g) {g##1, g##2, g##3, g##4, g##5}
#endif

/* Checks a batch and finds the bag of every position. Returns 0, or what is wrong, with found = the position and
   the values concerned: 1 index out of range, 2 first bound not 0, 3 bounds falling, 4 bounds not ending at n. */
EXPORT int64_t tt_bag_check(const int64_t *indices, const int64_t *bounds, int64_t n, int64_t batch, int64_t rows,
                           int64_t *owner, int64_t *found) {
    for (int64_t i = 0; i < n; ++i)
        if (indices[i] < 0 || indices[i] >= rows) {
            found[0] = i;
            found[1] = indices[i];
            return 1;
        }
    if (bounds[0] != 0) {
        found[1] = bounds[0];
        return 2;
    }
    for (int64_t b = 0; b < batch; ++b)
        if (bounds[b + 1] < bounds[b]) {
            found[0] = b + 1;
            found[1] = bounds[b + 1];
            found[2] = bounds[b];
            return 3;
        }
    if (bounds[batch] != n) {
        found[0] = batch;
        found[1] = bounds[batch];
        return 4;
    }
    for (int64_t b = 0; b < batch; ++b)
        for (int64_t i = bounds[b]; i < bounds[b + 1]; ++i) owner[i] = b;
    return 0;
}

/* Floats a thread needs as scratch, and floats saved for each position of a backward chunk. */
EXPORT int64_t tt_bag_scratch(const int64_t *sizes) { return 2 * Shape(sizes).largest; }
EXPORT int64_t tt_bag_saved(const int64_t *sizes) { return Shape(sizes).saved; }

/* out (batch, D), every element written; weights (n) or NULL; scratch (threads, tt_bag_scratch). */
EXPORT void tt_bag_forward(CORES(const float *, g), const int64_t *sizes, const int64_t *indices,
                          const int64_t *bounds, const float *weights, float *scratch, float *out, int64_t batch,
                          int64_t mean, int64_t threads) {
    const Shape s(sizes);
    const float *const core[] = LIST(g);
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads)) if (threads > 1)
    for (int64_t b = 0; b < batch; ++b) {
        float *two[2] = {scratch + thread_number() * 2 * s.largest, nullptr};
        two[1] = two[0] + s.largest;
        float *pooled = out + b * s.dim();
        std::memset(pooled, 0, static_cast<size_t>(s.dim()) * sizeof(float));
        for (int64_t i = bounds[b]; i < bounds[b + 1]; ++i) {
            const float *before = first(s, core, indices[i]);
            for (int k = 2; k <= D; ++k) {
                step(s, core, k, indices[i], before, two[k & 1]);
                before = two[k & 1];
            }
            const float scale = weights ? weights[i] : 1.0f;
            for (int64_t j = 0; j < s.dim(); ++j) pooled[j] += scale * before[j];
        }
        const float scale = bag_scale(bounds, b, mean);
        for (int64_t j = 0; j < s.dim(); ++j) pooled[j] *= scale;
    }
}

/* Gradients of the cores, added to d1..dd: dout (batch, D); indices, owner, weights, d_weights of the n positions of
   a chunk; saved (n, tt_bag_saved); order (n); start (max p + 1). weights and d_weights may be NULL. */
EXPORT void tt_bag_backward(CORES(const float *, g), const int64_t *sizes, const int64_t *indices,
                           const int64_t *owner, const int64_t *bounds, const float *weights, const float *dout,
                           float *saved, float *scratch, int64_t *start, int64_t *order, CORES(float *, d),
                           float *d_weights, int64_t n, int64_t mean, int64_t threads) {
    const Shape s(sizes);
    const float *const core[] = LIST(g);
    float *const target[] = LIST(d);
    backward(s, core, target, indices, owner, n, bounds, weights, mean, dout, saved, scratch, start, order,
             d_weights, false, 0.0f, threads);
}

/* As tt_bag_backward, but the cores themselves take a step: core -= lr * gradient. One chunk only. */
EXPORT void tt_bag_backward_sgd(CORES(float *, g), const int64_t *sizes, const int64_t *indices,
                               const int64_t *owner, const int64_t *bounds, const float *weights,
                               const float *dout, float *saved, float *scratch, int64_t *start, int64_t *order,
                               float *d_weights, int64_t n, int64_t mean, int64_t threads, float lr) {
    const Shape s(sizes);
    const float *const core[] = LIST(g);
    float *const target[] = LIST(g);
    backward(s, core, target, indices, owner, n, bounds, weights, mean, dout, saved, scratch, start, order,
             d_weights, true, lr, threads);
}
