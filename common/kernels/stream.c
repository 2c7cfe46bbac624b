/* Memory rates: the two loops whose traffic is known beforehand, and a chain of known length.

   Vectors are as wide as the processor's; eight sums under way at once keep enough lines in flight
   and fit its registers: wider ones would go through memory at every step. n is a count of floats,
   a multiple of 128, arrays 64-byte aligned. threads split the range evenly. */
#include <stdint.h>

/* Without OpenMP the threads' shares run one after the other. */
#if defined(_OPENMP)
#define ON_THREADS(clauses) _Pragma(STRING(omp parallel for schedule(static, 1) clauses))
#define STRING(text) #text
#else
#define ON_THREADS(clauses)
#endif

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
#define SUMS 4
#define VECTORS_AT_ONCE (2 * SUMS)

/* Two places at a time: one core reads 4% more from memory than along a single line of march. */
static float sum_range(const vec *restrict x, int64_t vectors) {
    vec low[SUMS] = {}, high[SUMS] = {};
    const int64_t half = vectors / 2;
    for (int64_t i = 0; i + SUMS <= half; i += SUMS) {
#pragma GCC unroll 4
        for (int s = 0; s < SUMS; s++) low[s] += x[i + s];
#pragma GCC unroll 4
        for (int s = 0; s < SUMS; s++) high[s] += x[half + i + s];
    }
    float total = 0.0f;
    for (int s = 0; s < SUMS; s++) {
        for (int lane = 0; lane < LANES; lane++) total += low[s][lane] + high[s][lane];
    }
    return total;
}

/* *out = passes * sum_i x[i]; reads 4 n bytes a pass. */
EXPORT void read_sum(const float *restrict x, float *restrict out, int64_t n, int64_t passes,
                     int64_t threads) {
    float total = 0.0f;
    const int64_t share = n / LANES / threads / VECTORS_AT_ONCE * VECTORS_AT_ONCE;
    ON_THREADS(num_threads(threads) reduction(+ : total))
    for (int64_t t = 0; t < threads; t++) {
        for (int64_t p = 0; p < passes; p++) {
            total += sum_range((const vec *)x + t * share, share);
            __asm__ volatile("" ::: "memory"); /* or one pass would serve for all */
        }
    }
    *out = total;
}

/* a[i] = b[i] + scale * c[i]; three transfers of 4 n bytes, and a fourth that nobody counts where
   the cache reads a line before writing it. */
EXPORT void triad(const float *restrict b, const float *restrict c, float *restrict a, int64_t n,
                  int64_t threads, float scale) {
    const int64_t share = n / LANES / threads / VECTORS_AT_ONCE * VECTORS_AT_ONCE;
    ON_THREADS(num_threads(threads))
    for (int64_t t = 0; t < threads; t++) {
        vec *restrict to = (vec *)a + t * share;
        const vec *restrict x = (const vec *)b + t * share;
        const vec *restrict y = (const vec *)c + t * share;
        for (int64_t i = 0; i < share; i++) to[i] = x[i] + scale * y[i];
    }
}

/* A chain of n dependent multiply-adds: its time is n times a constant, on any machine and
   whatever the caches hold. Work of exactly known ratio for judging a timing method. */
EXPORT void chain(int64_t *restrict out, int64_t n) {
    uint64_t x = 1;
    for (int64_t i = 0; i < n; i++) {
        x = x * 0x9E3779B97F4A7C15u + 1;
        __asm__("" : "+r"(x));
    }
    *out = (int64_t)(x >> 1);
}
