/* Many tables in one call: plans of all, then forwards of all; or backwards of all.

   A job is a row of int64 words, the arguments of the entry points of tt_three.cpp or tt_trie.cpp and their addresses,
   so that tables of any shapes go together. All plans are made, and so all indices checked, before anything is
   computed. `work` and `rows` are shared: tables run one after another, each with all threads. */
#include <cstdint>

namespace {

enum Word {
    plan_fn, forward_fn, backward_fn, sizes, cores, indices, offsets, n, batch, length, origin, is_wide, n_rows,
    padding, sharing, control, number, plan, scale, weights, kept, n_kept, out, winners, d_out, d_weights,
    by_frequency, rule, allows_stale, threads, found, words
};

using Plan = int64_t (*)(const int64_t *, const void *, const void *, int64_t, int64_t, int64_t, int64_t, int64_t,
                         int64_t, int64_t, int64_t, const double *, int64_t, int32_t *, float *, float *, int64_t *);
using Forward = void (*)(const int64_t *, const int64_t *, int32_t *, const float *, const float *, float *, int64_t,
                         float *, float *, float *, int32_t *, int64_t, int64_t, int64_t);
using Backward = int64_t (*)(const int64_t *, const int64_t *, int32_t *, const float *, const float *,
                             const int32_t *, float *, int64_t, const float *, float *, float *, int64_t, int64_t,
                             int64_t, double *, int64_t, int64_t);

template <class T>
T *at(const int64_t *job, Word word) {
    return reinterpret_cast<T *>(job[word]);
}
} // namespace

EXPORT int64_t tt_many_words() { return words; }

/* Plans every job; returns 0, or 1 + the job that is wrong, with its code in job[plan_fn] and what tt_plan found in its
   found words. */
EXPORT int64_t tt_many_plan(int64_t *jobs, int64_t n_jobs, float *work, int64_t *codes) {
    for (int64_t i = 0; i < n_jobs; ++i) {
        const int64_t *job = jobs + i * words;
        codes[i] = reinterpret_cast<Plan>(job[plan_fn])(
            at<const int64_t>(job, sizes), at<const void>(job, indices), at<const void>(job, offsets), job[n],
            job[batch], job[length], job[origin], job[is_wide], job[n_rows], job[padding], job[sharing],
            at<const double>(job, control), job[number], at<int32_t>(job, plan), work, at<float>(job, scale),
            at<int64_t>(job, found));
        if (codes[i]) return i + 1;
    }
    return 0;
}

EXPORT void tt_many_forward(const int64_t *jobs, int64_t n_jobs, float *rows, float *work) {
    for (int64_t i = 0; i < n_jobs; ++i) {
        const int64_t *job = jobs + i * words;
        reinterpret_cast<Forward>(job[forward_fn])(
            at<const int64_t>(job, sizes), at<const int64_t>(job, cores), at<int32_t>(job, plan),
            at<const float>(job, weights), at<const float>(job, scale), at<float>(job, kept), job[n_kept], rows, work,
            at<float>(job, out), at<int32_t>(job, winners), job[n], job[batch], job[threads]);
    }
}

/* Returns 0, or for a step that may not be taken 1 or 2 as tt_backward; all tables step together, so the first says it
   and nothing is written. */
EXPORT int64_t tt_many_backward(const int64_t *jobs, int64_t n_jobs, float *work) {
    for (int64_t i = 0; i < n_jobs; ++i) {
        const int64_t *job = jobs + i * words;
        const int64_t turn = reinterpret_cast<Backward>(job[backward_fn])(
            at<const int64_t>(job, sizes), at<const int64_t>(job, cores), at<int32_t>(job, plan),
            at<const float>(job, weights), at<const float>(job, scale), at<const int32_t>(job, winners),
            at<float>(job, kept), job[n_kept], at<const float>(job, d_out), at<float>(job, d_weights), work, job[n],
            job[by_frequency], job[rule], at<double>(job, control), job[allows_stale], job[threads]);
        if (turn) return turn;
    }
    return 0;
}
