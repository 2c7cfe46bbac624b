/* Highest arithmetic rate of this machine: independent chains of multiply-add in registers.

   A multiply-add takes 4 or 5 cycles and two can start per cycle, so 10 chains must be under way
   at least. 12 of them and two operands fit 16 registers; where there are 32, 24 chains give the
   scheduler the slack it needs (measured: 12 chains reach 0.92 of what 24 do, 20 chains 0.98).
   The chains are separate variables because an array of them may stay in memory. Operands are
   such that every chain stays near 1: no denormals, no overflow.

   out receives one float, so that the work has a use. Both functions return the floating-point
   operations done by all threads together, a multiply-add counting as two. */
#include <stdint.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

#define TWELVE(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11)
#if defined(__AVX512F__) || defined(__aarch64__)
#define CHAINS 24
#define EACH_CHAIN(DO)                                                                   \
    TWELVE(DO) DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)
#else
#define CHAINS 12
#define EACH_CHAIN(DO) TWELVE(DO)
#endif

/* A value the compiler cannot foresee: chains can be neither merged nor replaced by a formula. */
#if defined(__x86_64__)
#define OPAQUE(x) __asm__ volatile("" : "+v"(x))
#elif defined(__aarch64__)
#define OPAQUE(x) __asm__ volatile("" : "+w"(x))
#else
#define OPAQUE(x) __asm__ volatile("" : "+m"(x))
#endif

/* Without OpenMP the threads' shares run one after the other. */
#if defined(_OPENMP)
#define ON_THREADS(clauses) _Pragma(STRING(omp parallel for schedule(static, 1) clauses))
#define STRING(text) #text
#else
#define ON_THREADS(clauses)
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));

static float fp32_chains(int64_t steps) {
    vec half = (vec){} + 0.5f;
    OPAQUE(half);
#define START(c) vec chain##c = half + (float)c;
#define STEP(c) chain##c = chain##c * half + half;
#define HOLD(c) OPAQUE(chain##c);
#define GATHER(c) sum += chain##c;
    EACH_CHAIN(START)
    for (int64_t i = 0; i < steps; i++) {
        EACH_CHAIN(STEP)
        EACH_CHAIN(HOLD)
    }
    vec sum = (vec){};
    EACH_CHAIN(GATHER)
#undef START
#undef STEP
#undef HOLD
#undef GATHER
    float total = 0.0f;
    for (int lane = 0; lane < LANES; lane++) total += sum[lane];
    return total;
}

EXPORT int64_t peak_fp32(float *restrict out, int64_t steps, int64_t threads) {
    float total = 0.0f;
    ON_THREADS(num_threads(threads) reduction(+ : total))
    for (int64_t t = 0; t < threads; t++) total += fp32_chains(steps);
    *out = total;
    return 2 * LANES * CHAINS * steps * threads;
}

#if defined(__AVX512BF16__)
/* Each lane of a chain gains two products of bf16 pairs, too small to move it off 1. */
static float bf16_chains(int64_t steps) {
    __m512 one = _mm512_set1_ps(1.0f), tiny = _mm512_set1_ps(0x1p-40f);
    __m512bh ones = _mm512_cvtne2ps_pbh(one, one), tinies = _mm512_cvtne2ps_pbh(tiny, tiny);
#define START(c) __m512 chain##c = one;
#define STEP(c) chain##c = _mm512_dpbf16_ps(chain##c, ones, tinies);
#define HOLD(c) OPAQUE(chain##c);
#define GATHER(c) sum = _mm512_add_ps(sum, chain##c);
    EACH_CHAIN(START)
    for (int64_t i = 0; i < steps; i++) {
        EACH_CHAIN(STEP)
        EACH_CHAIN(HOLD)
    }
    __m512 sum = _mm512_setzero_ps();
    EACH_CHAIN(GATHER)
    return _mm512_reduce_add_ps(sum);
}
#endif

/* As peak_fp32 with the bf16 dot instruction, two products and two sums per lane; returns 0
   where the processor has none. */
EXPORT int64_t peak_bf16(float *restrict out, int64_t steps, int64_t threads) {
    float total = 0.0f;
    int64_t flops = 0;
#if defined(__AVX512BF16__)
    ON_THREADS(num_threads(threads) reduction(+ : total))
    for (int64_t t = 0; t < threads; t++) total += bf16_chains(steps);
    flops = 4 * LANES * CHAINS * steps * threads;
#else
    (void)steps;
    (void)threads;
#endif
    *out = total;
    return flops;
}
