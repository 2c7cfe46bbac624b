/* What generated code stands on besides its products: threads, shares of loops, vectors of columns.

   Every thread of a team executes the whole program; parallel loops are dealt out in equal runs of
   iterations, and a barrier waits for as many threads as there are, not as were asked for. */
#ifndef MLSYS21_CORTEX_RUNTIME_H
#define MLSYS21_CORTEX_RUNTIME_H

#include <atomic>
#include <cmath>
#include <limits>
#include <omp.h>
#include <sched.h>

#include "gates.h"
#include "product.h"

#pragma GCC visibility push(hidden)
namespace cortex {

struct alignas(64) Meeting {
  std::atomic<int> arrived{0};
  alignas(64) std::atomic<int> phase{0};
};

struct Team {
  Meeting *meeting;
  int thread, size;

  /* Spins about 2 us, as long as a level's threads may differ, then gives the processor away. */
  void wait() const {
    if (size == 1) return;
    const int phase = meeting->phase.load(std::memory_order_acquire);
    if (meeting->arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      meeting->arrived.store(0, std::memory_order_relaxed);
      meeting->phase.store(phase + 1, std::memory_order_release);
      return;
    }
    for (int spins = 0; meeting->phase.load(std::memory_order_acquire) == phase; spins++) {
      if (spins >= 100) {
        sched_yield();
        continue;
      }
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
  }
};

/* The iterations of a parallel loop that are this thread's. */
struct Share {
  int64_t first, last;
  Share(int64_t begin, int64_t extent, const Team &team) {
    if (extent < 0) extent = 0;
    first = begin + extent * team.thread / team.size;
    last = begin + extent * (team.thread + 1) / team.size;
  }
};

SIMD_INLINE int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
SIMD_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
SIMD_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* f(j, lanes) for j = 0, width, .. below the extent. */
template <int64_t extent, class F> SIMD_INLINE void columns(const F &f) {
  constexpr int64_t whole = extent / simd::width * simd::width;
  for (int64_t j = 0; j < whole; j += simd::width) f(j, Whole());
  if constexpr (extent > whole) f(whole, Part{static_cast<int>(extent - whole)});
}
template <class F> SIMD_INLINE void columns(int64_t extent, const F &f) {
  int64_t j = 0;
  for (; j + simd::width <= extent; j += simd::width) f(j, Whole());
  if (j < extent) f(j, Part{static_cast<int>(extent - j)});
}

/* Lanes whose places are no run of memory: at(lane) is the address of one. */
template <class Lanes, class F> SIMD_INLINE vec gather(Lanes n, const F &at) {
  vec v = {};
  for (int i = 0; i < n.lanes; i++) v[i] = *at(i);
  return v;
}
template <class Lanes, class F> SIMD_INLINE void scatter(vec v, Lanes n, const F &at) {
  for (int i = 0; i < n.lanes; i++) *at(i) = v[i];
}

SIMD_INLINE vec wide(float x) { return simd::broadcast(x); }
SIMD_INLINE vec wide(vec x) { return x; }

SIMD_INLINE vec relu(vec x) { return simd::select(x < vec{}, vec{}, x); }
/* As the vectors have it: of a NaN and a number, the second. */
SIMD_INLINE float max(float a, float b) { return a > b ? a : b; }
SIMD_INLINE float min(float a, float b) { return a < b ? a : b; }
SIMD_INLINE float relu(float x) { return x < 0.0f ? 0.0f : x; }
SIMD_INLINE vec exp(vec x) { return simd::exp(x); }
SIMD_INLINE float exp(float x) { return simd::exp(wide(x))[0]; }
SIMD_INLINE float tanh(float x) { return tanh(wide(x))[0]; }
SIMD_INLINE float sigmoid(float x) { return sigmoid(wide(x))[0]; }
SIMD_INLINE vec max(vec a, vec b) { return simd::max(a, b); }
SIMD_INLINE vec min(vec a, vec b) { return simd::min(a, b); }

SIMD_INLINE vec first(vec v, vec, Whole) { return v; }
SIMD_INLINE vec first(vec v, vec rest, Part n) {
  return simd::select(simd::lanes() < simd::broadcast_int(n.lanes), v, rest);
}

/* The sum and the largest of f(k, lanes) over k < extent; of nothing, 0. */
template <class F> SIMD_INLINE float sum(int64_t extent, const F &f) {
  vec total = {};
  columns(extent, [&](int64_t k, auto lanes) __attribute__((always_inline)) {
    total += first(f(k, lanes), vec{}, lanes);
  });
  return simd::sum(total);
}
template <class F> SIMD_INLINE float largest(int64_t extent, const F &f) {
  if (extent <= 0) return 0.0f;
  vec top = wide(-std::numeric_limits<float>::infinity());
  columns(extent, [&](int64_t k, auto lanes) __attribute__((always_inline)) {
    top = simd::max(first(f(k, lanes), top, lanes), top);
  });
  return simd::largest(top);
}

} // namespace cortex
#pragma GCC visibility pop

#endif
