/* What backward does with a finished gradient: hand it out, or step the core at once. */
#ifndef TT_OPTIMIZER_H
#define TT_OPTIMIZER_H

#include <cmath>

#include "simd.h"

namespace tt {

enum Rule : int64_t { no_rule = 0, sgd = 1, adagrad = 2, rowwise_adagrad = 3 };

struct Optimizer {
    int64_t rule;
    float lr, eps;
};

/* Reads the optimizer of a backward from control = (steps taken, number of the forward that stepped last, lr, eps), and
   counts its step. plan: words 8 and 9 are the steps taken when it was made, and its number. Returns 0, or 1 if its step
   was taken already, 2 if another came between and allows_stale is 0; then nothing has changed. */
inline int64_t take_turn(Optimizer &optimizer, double *control, const int32_t *plan, int64_t allows_stale) {
    if (optimizer.rule == no_rule) return 0;
    if (static_cast<int32_t>(control[0]) != plan[8]) {
        if (static_cast<int32_t>(control[1]) == plan[9]) return 1;
        if (!allows_stale) return 2;
    }
    control[0] += 1.0;
    control[1] = plan[9];
    optimizer.lr = static_cast<float>(control[2]);
    optimizer.eps = static_cast<float>(control[3]);
    return 0;
}

SIMD_INLINE simd::vec root(simd::vec x) {
#if defined(__AVX512F__) && !defined(SIMD_SCALAR)
    return simd::vec(_mm512_maskz_sqrt_ps(0xffff, __m512(x)));
#else
    for (int i = 0; i < simd::width; ++i) x[i] = std::sqrt(x[i]);
    return x;
#endif
}

/* G -= lr g, or s += g g; G -= lr g / (sqrt(s) + eps): one vector of a core and its state. */
SIMD_INLINE simd::vec stepped(const Optimizer &o, simd::vec core, simd::vec gradient, simd::vec &state) {
    if (o.rule == sgd) return core - o.lr * gradient;
    state += gradient * gradient;
    return core - o.lr * gradient / (root(state) + o.eps);
}

/* The same for n floats; no_rule stores the gradient in `core`, row-wise Adagrad has one state for all n:
   s += mean(g^2). */
inline void step_slice(const Optimizer &o, float *core, const float *gradient, float *state, int64_t n) {
    using namespace simd;
    if (o.rule == rowwise_adagrad) {
        // In double: the mean of thousands of squares would otherwise depend on how they are added.
        double squares = 0.0;
        for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(gradient[i]) * gradient[i];
        *state += static_cast<float>(squares / static_cast<double>(n));
        const float rate = o.lr / (std::sqrt(*state) + o.eps);
        for (int64_t i = 0; i < n; ++i) core[i] -= rate * gradient[i];
        return;
    }
    for (int64_t i = 0; i < n; i += width) {
        const int lanes = static_cast<int>(n - i < width ? n - i : width);
        vec s = {};
        if (lanes == width) {
            if (o.rule == no_rule) {
                store(core + i, load(gradient + i));
                continue;
            }
            if (o.rule == adagrad) s = load(state + i);
            store(core + i, stepped(o, load(core + i), load(gradient + i), s));
            if (o.rule == adagrad) store(state + i, s);
        } else {
            const vec g = load_first(gradient + i, lanes);
            if (o.rule == no_rule) {
                store_first(core + i, g, lanes);
                continue;
            }
            if (o.rule == adagrad) s = load_first(state + i, lanes);
            // Lanes past the end hold 0, and 0 / (sqrt(0) + eps) may be 0 / 0; they are not stored.
            store_first(core + i, stepped(o, load_first(core + i, lanes), g, s), lanes);
            if (o.rule == adagrad) store_first(state + i, s, lanes);
        }
    }
}

} // namespace tt

#endif
