/* Tensor-train embedding bag of two to five cores: the trie of digit prefixes, for what tt_three.cpp does not take.

   A prefix (i1 .. il) that occurs in the batch is a node of level l, and has a product once, however often it is
   looked up: with Q_l = q_1 .. q_l,

       P_1 = G1[i1],    P_l = P_{l-1} . G_l[i_l]            (Q_{l-1} x r_{l-1}) . (r_{l-1} x q_l r_l)

   where Q_{l-1} x q_l r_l is the memory of Q_l x r_l; nodes of level d are the rows. Backward, from the leaves up:

       dG_l[i_l] += P_{l-1}^T . dP_l,    dP_{l-1}(node) = sum over its children of dP_l . G_l[i_l]^T

   The nodes of a level are stored in the order of their last digit, so those that share a slice of G_l lie together:
   their products are one stacked product, and the slice has one owner, who sums its gradient and steps it. Children are
   summed in order. So there are no atomics and no buffers per thread, and any number of threads gives the same bits.

   sizes: p, q (TT_D each), then the TT_D - 1 inner ranks. Entry points as in tt_three.cpp; nothing is kept between
   forward and backward. */
#include "tt_batch.h"
#include "tt_optimizer.h"

#ifndef TT_D
#define TT_D 3
#endif

using namespace tt;

namespace {

constexpr int D = TT_D;
static_assert(D >= 2 && D <= 5, "two to five cores");
/* Rows of a stacked product at least; more follow if they fit. */
constexpr int64_t chunk_floats = 8192;

struct Shape {
    int64_t p[D], q[D], r[D + 1];
    int64_t below[D];     // prod of p after level l: digit = row / below[l] % p[l]
    int64_t rows[D + 1];  // Q_l
    int64_t slice[D];     // floats of a slice
    int64_t wide[D];      // q_l r_l

    explicit Shape(const int64_t *sizes) {
        for (int l = 0; l < D; ++l) {
            p[l] = sizes[l];
            q[l] = sizes[D + l];
            r[l + 1] = l + 1 < D ? sizes[2 * D + l] : 1;
        }
        r[0] = rows[0] = 1;
        below[D - 1] = 1;
        for (int l = D - 1; l > 0; --l) below[l - 1] = below[l] * p[l];
        for (int l = 0; l < D; ++l) {
            rows[l + 1] = rows[l] * q[l];
            wide[l] = q[l] * r[l + 1];
            slice[l] = r[l] * wide[l];
        }
    }
    int64_t block(int l) const { return rows[l + 1] * r[l + 1]; }  // floats of the product of level l (0-based)
    int64_t stack(int l) const { return rows[l] * r[l]; }          // floats of what it is made from
    int64_t dim() const { return rows[D]; }
    int64_t chunk(int l) const { return std::max<int64_t>(chunk_floats / (stack(l) + 2 * block(l)), 1); }
    int64_t largest_chunk(bool is_stack) const {
        int64_t most = 0;
        for (int l = 1; l < D; ++l) most = std::max(most, chunk(l) * (is_stack ? stack(l) : block(l)));
        return most;
    }
    int64_t largest_slice() const { return *std::max_element(slice, slice + D); }
};

/* Views into tt_plan_words() words. Nodes are numbered in the order of their prefixes; a slot is a place in the order
   of last digits. Levels are 0-based, and each array below has one list per level. */
struct Plan : Positions {
    int32_t *count;     // nodes of each level
    int32_t *digest;
    int32_t *digit[D];  // of a slot
    int32_t *slot[D];   // of a node
    int32_t *parent[D]; // slot of the parent of a slot (levels 1 ..)
    int32_t *children[D]; // first child node of a node, and an end (levels .. D - 2)

    static int64_t words(int64_t n) { return 10 + D + 4 * n + 1 + D * (4 * n + 1); }

    Plan(int32_t *base, int64_t n) {
        digest = base + 7;
        count = base + 10;
        order = count + D;
        inverse = order + n;
        owner = inverse + n;
        row_start = owner + n;
        int32_t *next = row_start + n + 1;
        for (int l = 0; l < D; ++l) {
            digit[l] = next;
            slot[l] = digit[l] + n;
            parent[l] = slot[l] + n;
            children[l] = parent[l] + n;
            next = children[l] + n + 1;
        }
    }
};

struct Cores {
    float *g[D], *d[D], *state[D];
};

/* order sorted by one more digit, stable: from -> to; count has p + 1 words. */
template <class Digit>
void counting_pass(const Digit &digit, const int32_t *from, int32_t *to, int64_t n, int64_t p, int32_t *count) {
    std::memset(count, 0, static_cast<size_t>(p + 1) * sizeof(int32_t));
    for (int64_t i = 0; i < n; ++i) ++count[digit(from[i]) + 1];
    for (int64_t i = 0; i < p; ++i) count[i + 1] += count[i];
    for (int64_t i = 0; i < n; ++i) to[count[digit(from[i])]++] = from[i];
}

template <class Index>
void make_plan(const Shape &s, const Plan &plan, const Index *indices, int64_t n, int64_t padding, int32_t *work) {
    const int64_t most = *std::max_element(s.p, s.p + D);
    int32_t *other = work, *count = other + n, *node = count + most + 1;
    int64_t valid = 0;
    for (int64_t k = 0; k < n; ++k) {
        plan.inverse[k] = -1;
        if (indices[k] != padding) other[valid++] = static_cast<int32_t>(k);
    }
    int32_t *from = other, *to = plan.order;
    for (int l = D - 1; l >= 0; --l) {
        counting_pass([&](int32_t k) { return static_cast<int64_t>(indices[k]) / s.below[l] % s.p[l]; }, from, to, valid,
                      s.p[l], count);
        std::swap(from, to);
    }
    if (from != plan.order) std::memcpy(plan.order, from, static_cast<size_t>(valid) * sizeof(int32_t));

    // Cut into nodes: digit, parent and children by node number first.
    uint32_t digest = 0;
    int32_t found[D] = {};
    for (int64_t o = 0; o < valid; ++o) {
        const int32_t k = plan.order[o];
        const int64_t row = indices[k];
        bool is_new = o == 0;
        for (int l = 0; l < D; ++l) {
            is_new = is_new || row / s.below[l] != static_cast<int64_t>(indices[plan.order[o - 1]]) / s.below[l];
            if (!is_new) continue;
            const int32_t here = found[l]++;
            plan.digit[l][here] = static_cast<int32_t>(row / s.below[l] % s.p[l]);
            plan.parent[l][here] = l > 0 ? found[l - 1] - 1 : 0;
            if (l + 1 < D) plan.children[l][here] = found[l + 1];
            if (l == D - 1) plan.row_start[here] = static_cast<int32_t>(o);
        }
        plan.inverse[k] = found[D - 1] - 1;
        digest = (digest ^ static_cast<uint32_t>(row)) * 0x01000193u + static_cast<uint32_t>(k);
    }
    plan.row_start[found[D - 1]] = static_cast<int32_t>(valid);
    *plan.digest = static_cast<int32_t>(digest);
    // Then slots: nodes in the order of their last digit.
    for (int l = 0; l < D; ++l) {
        const int32_t nodes = plan.count[l] = found[l];
        if (l + 1 < D) plan.children[l][nodes] = found[l + 1];
        for (int32_t i = 0; i < nodes; ++i) node[i] = i;
        const int32_t *digit = plan.digit[l];
        counting_pass([&](int32_t i) { return digit[i]; }, node, other, nodes, s.p[l], count);
        for (int32_t i = 0; i < nodes; ++i) plan.slot[l][other[i]] = i;
        for (int32_t i = 0; i < nodes; ++i) node[i] = plan.digit[l][other[i]];
        std::memcpy(plan.digit[l], node, static_cast<size_t>(nodes) * sizeof(int32_t));
        for (int32_t i = 0; i < nodes; ++i) node[i] = l > 0 ? plan.slot[l - 1][plan.parent[l][other[i]]] : 0;
        std::memcpy(plan.parent[l], node, static_cast<size_t>(nodes) * sizeof(int32_t));
    }
    for (int64_t o = 0; o < valid; ++o) plan.inverse[plan.order[o]] = plan.slot[D - 1][plan.inverse[plan.order[o]]];
}

int64_t plan_scratch(const Shape &s, int64_t n) { return 2 * n + *std::max_element(s.p, s.p + D) + 2; }

/* Columns of a tile that exist: stores and adds leave the others alone. */
template <bool adds>
struct Columns {
    float *c;
    int64_t ldc, columns;
    template <int M, int V>
    SIMD_INLINE void operator()(const vec (&sums)[M][V], int64_t row, int64_t column) const {
        for (int m = 0; m < M; ++m)
            for (int v = 0; v < V; ++v) {
                const int64_t at = (column + v) * W;
                const int lanes = static_cast<int>(std::min<int64_t>(columns - at, W));
                float *out = c + (row + m) * ldc + at;
                if (lanes == W)
                    store(out, adds ? load(out) + sums[m][v] : sums[m][v]);
                else
                    store_first(out, adds ? load_first(out, lanes) + sums[m][v] : sums[m][v], lanes);
            }
    }
};

template <bool adds>
void multiply(const float *a, int64_t a_row, int64_t a_k, int64_t m, const float *b, int64_t columns, int64_t depth,
              float *c) {
    product<-1>(a, a_row, a_k, m, b, columns, depth, (columns + W - 1) / W, Columns<adds>{c, columns, columns});
}

/* Scratch: products and gradients of every level, then each thread's own. Reads of whole vectors may run past the end
   of a matrix, so each has room for one. */
struct Desk {
    float *p[D], *dp[D], *up;
    float *stacked, *slice, *transposed, *gradient, *row;

    static int64_t own(const Shape &s) {
        return align(s.largest_chunk(true) + W) + 3 * align(s.largest_slice() + W) + align(s.dim() + W);
    }
    static int64_t shared(const Shape &s, int64_t n) {
        int64_t floats = 0, most = 0;
        for (int l = 0; l < D; ++l) {
            floats += 2 * align(n * s.block(l) + W);
            most = std::max(most, align(n * s.stack(l) + W));
        }
        return floats + most;
    }
    Desk(const Shape &s, const Plan &plan, float *base, int64_t thread) {
        for (int l = 0; l < D; ++l) {
            p[l] = base;
            dp[l] = p[l] + align(plan.count[l] * s.block(l) + W);
            base = dp[l] + align(plan.count[l] * s.block(l) + W);
        }
        int64_t most = 0;
        for (int l = 1; l < D; ++l) most = std::max(most, align(plan.count[l] * s.stack(l) + W));
        up = base;
        stacked = up + most + thread * own(s);
        slice = stacked + align(s.largest_chunk(true) + W);
        transposed = slice + align(s.largest_slice() + W);
        gradient = transposed + align(s.largest_slice() + W);
        row = gradient + align(s.largest_slice() + W);
    }
};

/* First slot after `slot` with another digit. */
int32_t group_end(const Plan &plan, int l, int32_t slot) {
    const int32_t *digit = plan.digit[l], here = digit[slot];
    while (slot < plan.count[l] && digit[slot] == here) ++slot;
    return slot;
}

/* Runs work(first, last) for every group of slots of a level that share a digit, inside a parallel region. */
template <class Work>
void for_groups(const Plan &plan, int l, const Work &work) {
#pragma omp for schedule(dynamic, 16)
    for (int32_t i = 0; i < plan.count[l]; ++i)
        if (i == 0 || plan.digit[l][i] != plan.digit[l][i - 1]) work(i, group_end(plan, l, i));
}

/* P_{l-1} of the parents of slots first .., stacked. */
void gather_parents(const Shape &s, const Cores &c, const Plan &plan, int l, const float *products, int32_t first,
                    int64_t n, float *out) {
    const int64_t floats = s.stack(l);
    for (int64_t i = 0; i < n; ++i) {
        const int32_t parent = plan.parent[l][first + i];
        const float *from = l == 1 ? c.g[0] + plan.digit[0][parent] * s.slice[0] : products + parent * floats;
        std::memcpy(out + i * floats, from, static_cast<size_t>(floats) * sizeof(float));
    }
}

void forward_levels(const Shape &s, const Cores &c, const Plan &plan, const Desk &desk, int levels) {
    for (int l = 1; l < levels; ++l)
        for_groups(plan, l, [&](int32_t first, int32_t last) {
            std::memcpy(desk.slice, c.g[l] + plan.digit[l][first] * s.slice[l],
                        static_cast<size_t>(s.slice[l]) * sizeof(float));
            for (int64_t n; first < last; first += static_cast<int32_t>(n)) {
                n = std::min<int64_t>(s.chunk(l), last - first);
                gather_parents(s, c, plan, l, desk.p[l - 1], first, n, desk.stacked);
                multiply<false>(desk.stacked, s.r[l], 1, n * s.rows[l], desk.slice, s.wide[l], s.r[l],
                                desk.p[l] + first * s.block(l));
            }
        });
}

void step_digit(const Shape &s, const Cores &c, int l, int64_t digit, const Optimizer &optimizer,
                const float *gradient) {
    const int64_t at = digit * s.slice[l];
    float *state = optimizer.rule == adagrad ? c.state[l] + at : c.state[l] + digit;
    step_slice(optimizer, (optimizer.rule == no_rule ? c.d[l] : c.g[l]) + at, gradient, state, s.slice[l]);
}

void backward_level(const Shape &s, const Cores &c, const Plan &plan, const Desk &desk, int l,
                    const Optimizer &optimizer) {
    for_groups(plan, l, [&](int32_t first, int32_t last) {
        const int64_t digit = plan.digit[l][first], wide = s.wide[l], r = s.r[l];
        const float *g = c.g[l] + digit * s.slice[l];
        for (int64_t a = 0; a < r; ++a)
            for (int64_t b = 0; b < wide; ++b) desk.transposed[b * r + a] = g[a * wide + b];
        std::memset(desk.gradient, 0, static_cast<size_t>(s.slice[l]) * sizeof(float));
        for (int64_t n; first < last; first += static_cast<int32_t>(n)) {
            n = std::min<int64_t>(s.chunk(l), last - first);
            const float *dp = desk.dp[l] + first * s.block(l);
            gather_parents(s, c, plan, l, desk.p[l - 1], first, n, desk.stacked);
            multiply<true>(desk.stacked, 1, r, r, dp, wide, n * s.rows[l], desk.gradient);
            multiply<false>(dp, wide, 1, n * s.rows[l], desk.transposed, r, wide, desk.up + first * s.stack(l));
        }
        step_digit(s, c, l, digit, optimizer, desk.gradient);
    });
    // Children of a node lie anywhere among the slots, but are summed in the order of their numbers.
    const int64_t floats = s.stack(l);
#pragma omp for schedule(static)
    for (int32_t node = 0; node < plan.count[l - 1]; ++node) {
        float *sum = desk.dp[l - 1] + plan.slot[l - 1][node] * floats;
        std::memset(sum, 0, static_cast<size_t>(floats) * sizeof(float));
        for (int32_t child = plan.children[l - 1][node]; child < plan.children[l - 1][node + 1]; ++child) {
            const float *part = desk.up + plan.slot[l][child] * floats;
            for (int64_t j = 0; j < floats; ++j) sum[j] += part[j];
        }
    }
}

template <class Index>
int64_t plan_batch(const Shape &s, const Index *indices, const Index *offsets, int64_t n, int64_t batch, int64_t length,
                   int64_t origin, int64_t rows, int64_t padding, int32_t *words, int32_t *work, float *scale,
                   int64_t *found) {
    // What a plan does not fill is zero, so that equal batches have equal plans.
    std::memset(words + 10, 0, static_cast<size_t>(Plan::words(n) - 10) * sizeof(int32_t));
    std::memset(words, 0, 8 * sizeof(int32_t));
    const Plan plan(words, n);
    bool is_single = false;
    const int64_t wrong = check_batch(indices, offsets, n, batch, length, origin, rows, padding, plan.owner, scale,
                                      is_single, found);
    if (wrong) return wrong;
    make_plan(s, plan, indices, n, padding, work);
    // Rows are in the scratch of the levels, and none are asked for.
    found[0] = 0;
    found[1] = 0;
    found[2] = *plan.digest;
    return 0;
}

Cores cores_at(const int64_t *addresses, bool has_targets) {
    Cores c = {};
    for (int l = 0; l < D; ++l) {
        c.g[l] = reinterpret_cast<float *>(addresses[l]);
        if (has_targets) c.d[l] = c.state[l] = reinterpret_cast<float *>(addresses[D + l]);
    }
    return c;
}
} // namespace

EXPORT int64_t tt_plan_words(const int64_t *, int64_t n) { return Plan::words(n); }
EXPORT int64_t tt_work_floats(const int64_t *sizes, int64_t n, int64_t threads) {
    const Shape s(sizes);
    return std::max(align(plan_scratch(s, n)), Desk::shared(s, n) + threads * Desk::own(s)) + 64;
}
EXPORT int64_t tt_pair_floats(const int64_t *) { return 0; }

/* As tt_plan of tt_three.cpp; rows and prefixes are always shared. */
EXPORT int64_t tt_plan(const int64_t *sizes, const void *indices, const void *offsets, int64_t n, int64_t batch,
                       int64_t has_last_or_length, int64_t origin, int64_t is_wide, int64_t rows, int64_t padding,
                       int64_t, const double *control, int64_t number, int32_t *plan, float *work, float *scale,
                       int64_t *found) {
    const Shape s(sizes);
    int32_t *words = reinterpret_cast<int32_t *>(work);
    const int64_t wrong =
        is_wide ? plan_batch(s, static_cast<const int64_t *>(indices), static_cast<const int64_t *>(offsets), n, batch,
                             has_last_or_length, origin, rows, padding, plan, words, scale, found)
                : plan_batch(s, static_cast<const int32_t *>(indices), static_cast<const int32_t *>(offsets), n, batch,
                             has_last_or_length, origin, rows, padding, plan, words, scale, found);
    plan[8] = control ? static_cast<int32_t>(control[0]) : 0;
    plan[9] = static_cast<int32_t>(number);
    return wrong;
}

EXPORT void tt_forward(const int64_t *sizes, const int64_t *cores, int32_t *plan_words, const float *weights,
                       const float *scale, float *, int64_t, float *, float *work, float *out, int32_t *winners,
                       int64_t n, int64_t batch, int64_t threads) {
    const Shape s(sizes);
    const Cores c = cores_at(cores, false);
    const Plan plan(plan_words, n);
    const Batch whole = {plan, weights, scale, nullptr, false};
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
    {
        const Desk desk(s, plan, work, thread_number());
        forward_levels(s, c, plan, desk, D);
        pool_bags(whole, desk.p[D - 1], n, batch, s.dim(), out, winners);
    }
}

EXPORT int64_t tt_backward(const int64_t *sizes, const int64_t *cores, int32_t *plan_words, const float *weights,
                           const float *scale, const int32_t *winners, float *, int64_t, const float *d_out,
                           float *d_weights, float *work, int64_t n, int64_t by_frequency, int64_t rule,
                           double *control, int64_t allows_stale, int64_t threads) {
    const Shape s(sizes);
    const Cores c = cores_at(cores, true);
    const Plan plan(plan_words, n);
    const Batch whole = {plan, weights, scale, winners, by_frequency != 0};
    Optimizer optimizer = {rule, 0.0f, 0.0f};
    if (const int64_t turn = take_turn(optimizer, control, plan_words, allows_stale)) return turn;
    const int64_t dim = s.dim();
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
    {
        const Desk desk(s, plan, work, thread_number());
        forward_levels(s, c, plan, desk, d_weights ? D : D - 1);
#pragma omp for schedule(static)
        for (int32_t u = 0; u < plan.count[D - 1]; ++u) {
            const int64_t at = plan.slot[D - 1][u] * dim;
            const float *g = row_gradient(whole, u, d_out, dim, desk.row);
            std::memcpy(desk.dp[D - 1] + at, g, static_cast<size_t>(dim) * sizeof(float));
            if (d_weights) weight_gradients(plan, u, desk.p[D - 1] + at, d_out, dim, d_weights);
        }
        for (int l = D - 1; l > 0; --l) backward_level(s, c, plan, desk, l, optimizer);
#pragma omp for schedule(static)
        for (int32_t i = 0; i < plan.count[0]; ++i)
            step_digit(s, c, 0, plan.digit[0][i], optimizer, desk.dp[0] + i * s.block(0));
    }
    return 0;
}

EXPORT int64_t tt_address(int64_t which) {
    const int64_t addresses[] = {reinterpret_cast<int64_t>(&tt_plan), reinterpret_cast<int64_t>(&tt_forward),
                                 reinterpret_cast<int64_t>(&tt_backward), reinterpret_cast<int64_t>(&tt_work_floats),
                                 reinterpret_cast<int64_t>(&tt_plan_words)};
    return addresses[which];
}
