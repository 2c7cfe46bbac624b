/* Tensor-train embedding bag of three cores: what a batch shares is computed once.

   out[b, (j1 j2 j3)] = sum over positions k of bag b of w_k * sum_{a, b} G1[i1, j1, a] G2[i2, a, j2, b] G3[i3, b, j3]

   Layout. Core k is [p_k, r_{k-1}, q_k, r_k] row-major float; a digit is one contiguous slice. tt_plan.h sorts
   positions by (i2, i1, i3). Then, a group of equal i2 at a time and in chunks that stay in L1,

       S[(v j1), a]   = G1[i1(v)] stacked for the pairs v of the chunk
       P12            = S . G2[i2]                              a real product, however small q1 is
       row[u]         = P12[v(u)] . G3[i3(u)]
   and backward, with g[u] the gradient of row u summed over its positions first,
       dP12[v]       += g[u] . G3[i3]^T        dG3[i3] += P12[v]^T . g[u]
       dG2[i2]       += S^T . dP12             dS       = dP12 . G2[i2]^T, added to dG1[i1]

   Grouping on the middle digit gives each slice of G2 one owner, who may step it as soon as the last dS of the
   group is done. dG1 and dG3 are summed in a number of buffers that follows from the batch alone, and added up in
   order: no atomics, and the same bits for any number of threads. No entry point allocates; `work` is scratch. */
#include "tt_batch.h"
#include "tt_optimizer.h"
#include "tt_plan.h"
#include "tt_rows.h"

using namespace tt;

namespace {

/* Floats of P12 that a chunk may take, so that it and its gradient stay in the second-level cache beside the slices of
   G2; but enough pairs that reading a large slice from there pays. */
#ifndef TT_CHUNK_FLOATS
#define TT_CHUNK_FLOATS 12288
#endif
constexpr int64_t least_pairs = 24;
/* Fewer rows of S than this, and dP12 . G2^T is cheaper by dot products than by transposing G2. */
#ifndef TT_DOT_ROWS
#define TT_DOT_ROWS 5
#endif
/* Pairs a buffer of dG1 and dG3 should serve at least, and the most buffers there are. */
constexpr int64_t pairs_per_buffer = 2048, most_buffers = 8;

int64_t chunk_pairs(const Shape &s) { return std::max<int64_t>(TT_CHUNK_FLOATS / s.block(), least_pairs); }

int64_t buffers_of(int64_t pairs) {
    return std::min(std::max<int64_t>(pairs / pairs_per_buffer, 1), most_buffers);
}

/* One thread's scratch. */
struct Desk {
    float *s, *p, *dp, *g2, *g2_transposed, *d2, *gradient, *row;

    static int64_t floats(const Shape &s) {
        const int64_t pairs = chunk_pairs(s);
        return align(pairs * s.slice1()) + 2 * align(pairs * s.block()) + 2 * align(s.r1 * s.wide()) +
               align(s.wide() * s.r1_padded()) + align(std::max(s.dim(), s.slice3()) + W) + align(s.dim() + W);
    }

    Desk(const Shape &shape, float *base) {
        const int64_t pairs = chunk_pairs(shape);
        s = base;
        p = s + align(pairs * shape.slice1());
        dp = p + align(pairs * shape.block());
        g2 = dp + align(pairs * shape.block());
        d2 = g2 + align(shape.r1 * shape.wide());
        g2_transposed = d2 + align(shape.r1 * shape.wide());
        gradient = g2_transposed + align(shape.wide() * shape.r1_padded());
        row = gradient + align(std::max(shape.dim(), shape.slice3()) + W);
    }
};

/* A slice of G2 with rows of whole vectors: itself, or a padded copy. */
const float *slice2(const Shape &s, const float *g2, float *copy) {
    if (s.is_flat()) return g2;
    const int64_t row = s.row();
    for (int64_t a = 0; a < s.r1; ++a)
        for (int64_t j = 0; j < s.q2; ++j)
            for (int64_t b = 0; b < row; ++b)
                copy[a * s.wide() + j * row + b] = b < s.r2 ? g2[(a * s.q2 + j) * s.r2 + b] : 0.0f;
    return copy;
}

/* The other way: columns of the gradient that stand for real ones, in place. */
void unpad_slice2(const Shape &s, float *d2) {
    const int64_t row = s.row();
    for (int64_t a = 0; a < s.r1; ++a)
        for (int64_t j = 0; j < s.q2; ++j)
            std::memmove(d2 + (a * s.q2 + j) * s.r2, d2 + a * s.wide() + j * row,
                         static_cast<size_t>(s.r2) * sizeof(float));
}

/* S for `n` pairs. */
void stack(const Shape &s, const float *g1, const uint16_t *i1, int64_t n, float *out) {
    const int64_t slice = s.slice1();
    for (int64_t v = 0; v < n; ++v) {
        const float *from = g1 + i1[v] * slice;
        float *to = out + v * slice;
        int64_t i = 0;
        for (; i + W <= slice; i += W) store(to + i, load(from + i));
        for (; i < slice; ++i) to[i] = from[i];
    }
}

/* dS, added to the slices of dG1 its rows belong to. */
struct AddToFirst {
    float *d1;
    const uint16_t *i1;
    int64_t q1, ld;
    template <int M, int V>
    SIMD_INLINE void operator()(const vec (&sums)[M][V], int64_t row, int64_t column) const {
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
            const int64_t pair = (row + m) / q1, j1 = (row + m) % q1;
            float *out = d1 + (i1[pair] * q1 + j1) * ld + column * W;
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) store(out + v * W, load(out + v * W) + sums[m][v]);
        }
    }
};

/* The finished sums of dG2 step it in place. */
struct Step {
    float *core, *state;
    int64_t ld;
    Optimizer optimizer;
    template <int M, int V>
    SIMD_INLINE void operator()(const vec (&sums)[M][V], int64_t row, int64_t column) const {
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
            for (int v = 0; v < V; ++v) {
                const int64_t at = (row + m) * ld + (column + v) * W;
                if (optimizer.rule == sgd) {
                    store(core + at, load(core + at) - optimizer.lr * sums[m][v]);
                } else {
                    vec s = load(state + at);
                    store(core + at, stepped(optimizer, load(core + at), sums[m][v], s));
                    store(state + at, s);
                }
            }
    }
};

/* dS of a few rows by dot products: W columns a at a time. */
void first_by_dots(const Shape &s, const float *dp, const float *g2, const uint16_t *i1, int64_t n, float *d1) {
    const int64_t wide = s.wide(), ld = s.r1_padded();
    for (int64_t m = 0; m < n * s.q1; ++m) {
        float *out = d1 + (i1[m / s.q1] * s.q1 + m % s.q1) * ld;
        for (int64_t a = 0; a < s.r1; a += W) {
            vec sums[W] = {};
            const int64_t last = std::min<int64_t>(s.r1 - a, W) - 1;
            for (int64_t b = 0; b < wide; b += W) {
                const vec left = load(dp + m * wide + b);
#pragma GCC unroll 16
                for (int i = 0; i < W; ++i) sums[i] += left * load(g2 + (a + (i < last ? i : last)) * wide + b);
            }
            // Columns past r1 are room in the buffer that nobody reads.
            store(out + a, load(out + a) + sums_of<W>(sums));
        }
    }
}

struct Cores {
    float *g[3];      // read, or stepped; in backward without a rule only read
    float *d[3];      // where gradients go without a rule
    float *state[3];  // of Adagrad
};

void prepare_third(const Shape &s, const float *g3, const Plan &plan, float *t, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(static_cast<int>(threads)) if (threads > 1)
    for (int32_t i = 0; i < *plan.count3; ++i)
        transpose_slice3(s, g3 + plan.touched3[i] * s.slice3(), t + plan.touched3[i] * s.transposed3());
}

/* P12 of the pairs first .. last - 1, all of group i2: kept ones stay where forward left them. */
SIMD_INLINE void pair_products(const Shape &s, const float *stacked, const float *g2, int64_t n, float *p) {
    product<wide_rest>(stacked, s.r1, 1, n * s.q1, g2, s.wide(), s.r1, s.wide() / W, Store{p, s.wide()});
}

void forward_group(const Shape &s, const Cores &c, const Plan &plan, int64_t group, const float *t, Desk &desk,
                   float *kept, int64_t n_kept, float *rows, float *out) {
    const int64_t most = chunk_pairs(s), dim = s.dim(), end = plan.group_start[group + 1];
    const float *g2 = slice2(s, c.g[1] + plan.group_i2[group] * s.slice2(), desk.g2);
    for (int64_t first = plan.group_start[group]; first < end; first += most) {
        const int64_t n = std::min(most, end - first);
        stack(s, c.g[0], plan.pair_i1 + first, n, desk.s);
        float *p = first + n <= n_kept ? kept + first * s.block() : desk.p;
        pair_products(s, desk.s, g2, n, p);
        int32_t u = plan.pair_start[first];
        for (int64_t v = 0; v < n; ++v, p += s.block())
            for (const int32_t past = plan.pair_start[first + v + 1]; u < past; ++u) {
                const float *t3 = t + plan.row_i3[u] * s.transposed3();
                if (rows) {
                    forward_row(s, p, t3, rows + u * dim);
                    continue;
                }
                // Bags of one: straight to where the row is wanted, and copied to the others.
                const int32_t *at = plan.order + plan.row_start[u], *none = plan.order + plan.row_start[u + 1];
                float *row = out + *at * dim;
                forward_row(s, p, t3, row);
                while (++at < none) std::memcpy(out + *at * dim, row, static_cast<size_t>(dim) * sizeof(float));
            }
    }
}

void backward_group(const Shape &s, const Cores &c, const Plan &plan, const Batch &batch, int64_t group, const float *t, Desk &desk,
                    float *kept, int64_t n_kept, const float *d_out, float *d_weights, float *d1, float *dt,
                    const Optimizer &optimizer) {
    const int64_t most = chunk_pairs(s), dim = s.dim(), wide = s.wide(), begin = plan.group_start[group],
                  end = plan.group_start[group + 1], at2 = plan.group_i2[group] * s.slice2();
    const float *g2 = slice2(s, c.g[1] + at2, desk.g2);
    const bool is_whole = end - begin <= most;
    const bool by_dots = (end - begin) * s.q1 < TT_DOT_ROWS;
    if (!by_dots) transpose(g2, s.r1, wide, wide, desk.g2_transposed, s.r1_padded());
    float *core2 = optimizer.rule == no_rule ? c.d[1] + at2 : c.g[1] + at2;
    float *state2 = optimizer.rule == adagrad           ? c.state[1] + at2
                    : optimizer.rule == rowwise_adagrad ? c.state[1] + plan.group_i2[group]
                                                        : nullptr;
    for (int64_t first = begin; first < end; first += most) {
        const int64_t n = std::min(most, end - first);
        stack(s, c.g[0], plan.pair_i1 + first, n, desk.s);
        const bool is_kept = first + n <= n_kept;
        const float *p = is_kept ? kept + first * s.block() : desk.p;
        if (!is_kept) pair_products(s, desk.s, g2, n, desk.p);
        int32_t u = plan.pair_start[first];
        for (int64_t v = 0; v < n; ++v, p += s.block()) {
            bool is_first = true;
            for (const int32_t past = plan.pair_start[first + v + 1]; u < past; ++u) {
                const float *g = row_gradient(batch, u, d_out, dim, desk.gradient);
                const int64_t at3 = plan.row_i3[u] * s.transposed3();
                if (d_weights) {
                    forward_row(s, p, t + at3, desk.row);
                    weight_gradients(plan, u, desk.row, d_out, dim, d_weights);
                }
                backward_row(s, p, t + at3, g, desk.dp + v * s.block(), dt + at3, is_first);
                is_first = false;
            }
        }
        // With the old G2, so before its step.
        if (by_dots)
            first_by_dots(s, desk.dp, g2, plan.pair_i1 + first, n, d1);
        else
            product<first_rest>(desk.dp, wide, 1, n * s.q1, desk.g2_transposed, s.r1_padded(), wide, s.r1_padded() / W,
                    AddToFirst{d1, plan.pair_i1 + first, s.q1, s.r1_padded()});
        const int64_t vectors = wide / W, depth = n * s.q1;
        if (is_whole && s.is_flat() && optimizer.rule != rowwise_adagrad) {
            if (optimizer.rule == no_rule)
                product<wide_rest>(desk.s, 1, s.r1, s.r1, desk.dp, wide, depth, vectors, Store{core2, wide});
            else
                product<wide_rest>(desk.s, 1, s.r1, s.r1, desk.dp, wide, depth, vectors, Step{core2, state2, wide, optimizer});
            return;
        }
        if (first == begin)
            product<wide_rest>(desk.s, 1, s.r1, s.r1, desk.dp, wide, depth, vectors, Store{desk.d2, wide});
        else
            product<wide_rest>(desk.s, 1, s.r1, s.r1, desk.dp, wide, depth, vectors, Add{desk.d2, wide});
    }
    if (!s.is_flat()) unpad_slice2(s, desk.d2);
    step_slice(optimizer, core2, desk.d2, state2, s.slice2());
}

/* sum over buffers, in order, into buffer 0 */
SIMD_INLINE float *add_up(float *buffers, int64_t stride, int64_t n_buffers, int64_t floats) {
    for (int64_t i = 1; i < n_buffers; ++i)
        for (int64_t j = 0; j < floats; j += W) store(buffers + j, load(buffers + j) + load(buffers + i * stride + j));
    return buffers;
}

void finish_first(const Shape &s, const Cores &c, int64_t digit, const Optimizer &optimizer, float *gradient) {
    const int64_t at = digit * s.slice1();
    if (s.r1 != s.r1_padded())
        for (int64_t j = 1; j < s.q1; ++j)
            std::memmove(gradient + j * s.r1, gradient + j * s.r1_padded(), static_cast<size_t>(s.r1) * sizeof(float));
    float *state = optimizer.rule == adagrad ? c.state[0] + at : c.state[0] + digit;
    step_slice(optimizer, (optimizer.rule == no_rule ? c.d[0] : c.g[0]) + at, gradient, state, s.slice1());
}

void finish_third(const Shape &s, const Cores &c, int64_t digit, const Optimizer &optimizer, const float *dt,
                  float *gradient) {
    const int64_t at = digit * s.slice3();
    restore_slice3(s, dt, gradient);
    float *state = optimizer.rule == adagrad ? c.state[2] + at : c.state[2] + digit;
    step_slice(optimizer, (optimizer.rule == no_rule ? c.d[2] : c.g[2]) + at, gradient, state, s.slice3());
}

/* Checks and plans a batch. */
template <class Index>
int64_t plan_batch(const Shape &s, const Index *indices, const Index *offsets, int64_t n, int64_t batch, int64_t length,
                   int64_t origin, int64_t rows, int64_t padding, int64_t sharing, int32_t *words, int32_t *work,
                   float *scale, int64_t *found) {
    const Plan plan(words, n, s.p[0], s.p[1]);
    const int64_t length_words = Plan::words(n, s.p[0], s.p[1], s.p[2]);
    words[length_words - 2] = words[length_words - 1] = 0;
    bool is_single = false;
    const int64_t wrong = check_batch(indices, offsets, n, batch, length, origin, rows, padding, plan.owner, scale,
                                      is_single, found);
    if (wrong) return wrong;
    *plan.is_single = is_single;
    make_plan(plan, indices, n, padding, s.p, sharing, work);
    found[0] = *plan.rows;
    found[1] = is_single;
    found[2] = *plan.digest;
    return 0;
}
} // namespace

/* int32 words of a plan, floats of scratch a forward and a backward need. */
EXPORT int64_t tt_plan_words(const int64_t *sizes, int64_t n) { return Plan::words(n, sizes[0], sizes[1], sizes[2]); }
EXPORT int64_t tt_work_floats(const int64_t *sizes, int64_t n, int64_t threads) {
    const Shape s(sizes);
    const int64_t buffers = buffers_of(n);
    const int64_t kernels = align(s.p[2] * s.transposed3()) + threads * align(Desk::floats(s)) +
                            buffers * (align(s.p[0] * s.gradient1()) + align(s.p[2] * s.transposed3()));
    // Planning is over before anything else begins.
    return std::max(plan_scratch(n, s.p), kernels) + 64;
}
/* Floats of P12 of one pair. */
EXPORT int64_t tt_pair_floats(const int64_t *sizes) { return Shape(sizes).block(); }

/* Checks a batch and plans it. Returns 0, or what is wrong, with found = the position and the values concerned:
   1 index out of range, 2 first offset not 0, 3 offsets falling, 4 offsets not ending at n, 5 offset beyond n. If 0,
   found = how many distinct rows, whether every bag has exactly one position, and the plan's digest.

   indices (n), offsets (batch, or batch + 1 if has_last_or_length), counted from
   `origin`, or null: int64 if is_wide, else int32; without
   offsets bags have has_last_or_length positions each. padding < 0: none. scale (batch), in mean mode: 1 / length of each bag.
   control (steps taken, ..) or null, and number: of this forward; the plan carries both to backward. */
EXPORT int64_t tt_plan(const int64_t *sizes, const void *indices, const void *offsets, int64_t n, int64_t batch,
                        int64_t has_last_or_length, int64_t origin, int64_t is_wide, int64_t rows, int64_t padding,
                       int64_t sharing,
                        const double *control, int64_t number, int32_t *plan, float *work, float *scale,
                        int64_t *found) {
    const Shape s(sizes);
    // For backward: how many steps the cores had taken by now, and which forward this is.
    plan[8] = control ? static_cast<int32_t>(control[0]) : 0;
    plan[9] = static_cast<int32_t>(number);
    int32_t *words = reinterpret_cast<int32_t *>(work);
    if (is_wide)
        return plan_batch(s, static_cast<const int64_t *>(indices), static_cast<const int64_t *>(offsets), n, batch,
                          has_last_or_length, origin, rows, padding, sharing, plan, words, scale, found);
    return plan_batch(s, static_cast<const int32_t *>(indices), static_cast<const int32_t *>(offsets), n, batch,
                      has_last_or_length, origin, rows, padding, sharing, plan, words, scale, found);
}

/* cores: addresses of the three. out (batch, D). kept: P12 of the first n_kept pairs is left there; rows (U, D) is scratch, unused if every bag is
   single; winners (batch, D) in max mode. */
EXPORT void tt_forward(const int64_t *sizes, const int64_t *cores, int32_t *plan_words, const float *weights,
                       const float *scale, float *kept, int64_t n_kept, float *rows, float *work, float *out,
                       int32_t *winners, int64_t n, int64_t batch, int64_t threads) {
    const Shape s(sizes);
    Cores c = {};
    for (int k = 0; k < 3; ++k) c.g[k] = reinterpret_cast<float *>(cores[k]);
    const Plan plan(plan_words, n, s.p[0], s.p[1]);
    const Batch whole = {plan, weights, scale, nullptr, false};
    float *t = work, *desks = work + align(s.p[2] * s.transposed3());
    const bool is_direct = *plan.is_single && !weights && !winners;
    const int64_t dim = s.dim();
    prepare_third(s, c.g[2], plan, t, threads);
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
    {
        Desk desk(s, desks + thread_number() * align(Desk::floats(s)));
#pragma omp for schedule(dynamic, 4)
        for (int32_t group = 0; group < *plan.groups; ++group)
            forward_group(s, c, plan, group, t, desk, kept, n_kept, is_direct ? nullptr : rows, out);
        if (!is_direct) pool_bags(whole, rows, n, batch, dim, out, winners);
    }
}

/* cores: addresses of the three cores, then without a rule of their gradients (zeros before), which are written, with
   Adagrad of the states. d_weights may be null. With a rule the cores are stepped by it, and control = (steps taken,
   number of the forward that stepped last, lr, eps) says how; it must not be null then.

   Returns 0, or for a rule 1 if this plan's step was taken already, 2 if another step was taken since the plan was made
   and allows_stale is 0; nothing is written then. */
EXPORT int64_t tt_backward(const int64_t *sizes, const int64_t *cores, int32_t *plan_words, const float *weights,
                           const float *scale, const int32_t *winners, float *kept, int64_t n_kept, const float *d_out,
                           float *d_weights, float *work, int64_t n, int64_t by_frequency, int64_t rule,
                           double *control, int64_t allows_stale, int64_t threads) {
    const Shape s(sizes);
    Cores c = {};
    for (int k = 0; k < 3; ++k) {
        c.g[k] = reinterpret_cast<float *>(cores[k]);
        c.d[k] = c.state[k] = reinterpret_cast<float *>(cores[3 + k]);
    }
    Optimizer optimizer = {rule, 0.0f, 0.0f};
    if (const int64_t turn = take_turn(optimizer, control, plan_words, allows_stale)) return turn;
    const Plan plan(plan_words, n, s.p[0], s.p[1]);
    const Batch whole = {plan, weights, scale, winners, by_frequency != 0};
    const int64_t buffers = buffers_of(*plan.pairs), pairs = *plan.pairs, groups = *plan.groups;
    const int64_t stride1 = align(s.p[0] * s.gradient1()), stride3 = align(s.p[2] * s.transposed3());
    float *t = work, *desks = t + align(s.p[2] * s.transposed3());
    float *partial1 = desks + threads * align(Desk::floats(s)), *partial3 = partial1 + buffers * stride1;
    prepare_third(s, c.g[2], plan, t, threads);
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
    {
        Desk desk(s, desks + thread_number() * align(Desk::floats(s)));
#pragma omp for schedule(dynamic, 1)
        for (int64_t buffer = 0; buffer < buffers; ++buffer) {
            float *mine1 = partial1 + buffer * stride1, *mine3 = partial3 + buffer * stride3;
            for (int32_t i = 0; i < *plan.count1; ++i)
                std::memset(mine1 + plan.touched1[i] * s.gradient1(), 0, static_cast<size_t>(s.gradient1()) * sizeof(float));
            for (int32_t i = 0; i < *plan.count3; ++i)
                std::memset(mine3 + plan.touched3[i] * s.transposed3(), 0,
                            static_cast<size_t>(s.transposed3()) * sizeof(float));
            // A group belongs to the buffer its first pair falls into.
            const int32_t *starts = plan.group_start;
            int64_t group = std::lower_bound(starts, starts + groups, pairs * buffer / buffers) - starts;
            for (; group < groups && starts[group] < pairs * (buffer + 1) / buffers; ++group)
                backward_group(s, c, plan, whole, group, t, desk, kept, n_kept, d_out, d_weights, mine1, mine3, optimizer);
        }
#pragma omp for schedule(static) nowait
        for (int32_t i = 0; i < *plan.count1; ++i) {
            const int64_t digit = plan.touched1[i];
            finish_first(s, c, digit, optimizer,
                         add_up(partial1 + digit * s.gradient1(), stride1, buffers, s.gradient1()));
        }
#pragma omp for schedule(static)
        for (int32_t i = 0; i < *plan.count3; ++i) {
            const int64_t digit = plan.touched3[i];
            finish_third(s, c, digit, optimizer,
                         add_up(partial3 + digit * s.transposed3(), stride3, buffers, s.transposed3()), desk.gradient);
        }
    }
    return 0;
}

/* Addresses of the entry points, for tt_many.cpp and tt_eager.cpp. */
EXPORT int64_t tt_address(int64_t which) {
    const int64_t addresses[] = {reinterpret_cast<int64_t>(&tt_plan), reinterpret_cast<int64_t>(&tt_forward),
                                 reinterpret_cast<int64_t>(&tt_backward), reinterpret_cast<int64_t>(&tt_work_floats),
                                 reinterpret_cast<int64_t>(&tt_plan_words)};
    return addresses[which];
}
