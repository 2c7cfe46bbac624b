/* The sum a switch of P ports makes, by port and not by arrival:

     node[P - 1 + i] = row i (nothing if absent);  node[k] = node[2 k + 1] + node[2 k + 2];
     out = node[0]

   rows[i]: address of n elements of port i, 0 if no child is there; out: n elements. All row-major,
   no alignment asked for.

   fp32:  subnormals are zeros of their sign before and after each addition, NaN is 0x7fc00000
   bf16:  the bits; added as fp32, rounded to nearest even at the end
   int32: saturating

   Ports are many and n is long, so blocks of columns go through the heap one by one: partial sums of
   a block stay in the first cache, each row is read once, out is written once. Flushing is done on
   the bits, not by the processor's mode, which would be another thread's surprise. A NaN stays one
   through additions, so only the last needs the one pattern.

   No early exit, no allocation. n_ports <= 64: seven blocks of partial sums. */
#include "simd.h"

#include <type_traits>

namespace {

using simd::bits;
using simd::from_bits;
using simd::ivec;
using simd::vec;
using simd::width;

typedef uint32_t uvec __attribute__((vector_size(width * 4)));
typedef uint16_t half_vec __attribute__((vector_size(width * 2)));

constexpr int64_t block = 512; /* columns: 2 KB of partial sums a level */
constexpr int most_levels = 7;

/* `count` elements from p as a vector of them; the others are 0. */
template <class V, class T> SIMD_INLINE V take(const T *p, int64_t count) {
  V v = {};
  if (count == width)
    std::memcpy(&v, p, sizeof v);
  else
    std::memcpy(&v, p, count * sizeof(T));
  return v;
}
template <class V, class T> SIMD_INLINE void put(T *p, V v, int64_t count) {
  if (count == width)
    std::memcpy(p, &v, sizeof v);
  else
    std::memcpy(p, &v, count * sizeof(T));
}

SIMD_INLINE vec flush(vec v) {
  ivec b = bits(v);
  return from_bits(b & (((b & 0x7f800000) != 0) | INT32_MIN));
}
SIMD_INLINE ivec one_nan(vec v) {
  ivec b = bits(v);
  return (b & INT32_MAX) > 0x7f800000 ? ivec{} + 0x7fc00000 : b;
}

struct Fp32 {
  typedef float Element;
  typedef vec Value;
  static SIMD_INLINE vec leaf(const float *p, int64_t count) { return flush(take<vec>(p, count)); }
  static SIMD_INLINE vec add(vec a, vec b) { return flush(a + b); }
  static SIMD_INLINE void finish(float *p, vec v, int64_t count) { put(p, one_nan(v), count); }
};

struct Bf16 {
  typedef uint16_t Element;
  typedef vec Value;
  static SIMD_INLINE vec leaf(const uint16_t *p, int64_t count) {
    uvec wide = __builtin_convertvector(take<half_vec>(p, count), uvec) << 16;
    return flush(from_bits(ivec(wide)));
  }
  static SIMD_INLINE vec add(vec a, vec b) { return flush(a + b); }
  static SIMD_INLINE void finish(uint16_t *p, vec v, int64_t count) {
    uvec b = uvec(one_nan(v));
    uvec rounded = (b + 0x7fff + ((b >> 16) & 1)) >> 16;
    put(p, __builtin_convertvector(rounded, half_vec), count);
  }
};

struct Int32 {
  typedef int32_t Element;
  typedef ivec Value;
  static SIMD_INLINE ivec leaf(const int32_t *p, int64_t count) { return take<ivec>(p, count); }
  static SIMD_INLINE ivec add(ivec a, ivec b) {
    ivec sum = ivec(uvec(a) + uvec(b));
    ivec over = (a ^ sum) & (b ^ sum);
    return over < 0 ? (a >> 31) ^ INT32_MAX : sum;
  }
  static SIMD_INLINE void finish(int32_t *p, ivec v, int64_t count) { put(p, v, count); }
};

template <class F> struct Heap {
  typedef typename F::Element Element;
  typedef typename F::Value Value;
  typedef typename std::conditional<std::is_same<Value, vec>::value, float, int32_t>::type Part;

  const int64_t *rows;
  int64_t n_ports, at, n; /* this block: columns at .. at + n */
  Part (*parts)[block];

  bool is_leaf(int64_t k) const { return k >= n_ports - 1; }
  const Element *row(int64_t k) const {
    const Element *p = reinterpret_cast<const Element *>(rows[k - (n_ports - 1)]);
    return p ? p + at : nullptr;
  }

  /* emit(value(i, count), i, count) for all columns. */
  template <class Get, class Emit> SIMD_INLINE void each(Get get, Emit emit) const {
    int64_t i = 0;
    for (; i + width <= n; i += width) emit(get(i, int64_t(width)), i, int64_t(width));
    if (i < n) emit(get(i, n - i), i, n - i);
  }

  /* Gives the columns of node k to emit; false if all its ports are absent. */
  template <class Emit> bool give(int64_t k, int level, Emit emit) const {
    if (is_leaf(k)) {
      const Element *p = row(k);
      if (!p) return false;
      each([p](int64_t i, int64_t c) { return F::leaf(p + i, c); }, emit);
      return true;
    }
    int64_t l = 2 * k + 1, r = 2 * k + 2;
    if (is_leaf(l) && is_leaf(r) && row(l) && row(r)) {
      const Element *a = row(l), *b = row(r);
      each([=](int64_t i, int64_t c) { return F::add(F::leaf(a + i, c), F::leaf(b + i, c)); },
           emit);
      return true;
    }
    if (!is_leaf(l) && !is_leaf(r) && is_leaf(2 * l + 1) && is_leaf(2 * r + 1)) {
      const Element *a = row(2 * l + 1), *b = row(2 * l + 2), *c = row(2 * r + 1),
                    *d = row(2 * r + 2);
      if (a && b && c && d) {
        each(
            [=](int64_t i, int64_t m) {
              return F::add(F::add(F::leaf(a + i, m), F::leaf(b + i, m)),
                            F::add(F::leaf(c + i, m), F::leaf(d + i, m)));
            },
            emit);
        return true;
      }
    }
    Part *part = parts[level];
    bool has_left = keep(l, level + 1, part);
    if (!has_left) return give_plain(r, level + 1, part, emit);
    if (is_leaf(r)) {
      const Element *b = row(r);
      if (b)
        each([=](int64_t i, int64_t c) { return F::add(take<Value>(part + i, c), F::leaf(b + i, c)); },
             emit);
      else
        each([=](int64_t i, int64_t c) { return take<Value>(part + i, c); }, emit);
      return true;
    }
    Part *other = parts[level + 1];
    bool has_right = keep(r, level + 2, other);
    if (has_right)
      each([=](int64_t i, int64_t c) {
        return F::add(take<Value>(part + i, c), take<Value>(other + i, c));
      }, emit);
    else
      each([=](int64_t i, int64_t c) { return take<Value>(part + i, c); }, emit);
    return true;
  }

  /* Puts the columns of node k in a part. */
  bool keep(int64_t k, int level, Part *part) const {
    return give(k, level, [part](Value v, int64_t i, int64_t c) { put(part + i, v, c); });
  }

  template <class Emit> bool give_plain(int64_t k, int level, Part *part, Emit emit) const {
    if (!keep(k, level, part)) return false;
    each([=](int64_t i, int64_t c) { return take<Value>(part + i, c); }, emit);
    return true;
  }
};

template <class F> void sum(const int64_t *rows, int64_t out, int64_t n_ports, int64_t n) {
  typename Heap<F>::Part parts[2 * most_levels][block];
  typename F::Element *target = reinterpret_cast<typename F::Element *>(out);
  for (int64_t at = 0; at < n; at += block) {
    Heap<F> heap{rows, n_ports, at, n - at < block ? n - at : block, parts};
    typename F::Element *to = target + at;
    heap.give(0, 0, [to](typename F::Value v, int64_t i, int64_t c) { F::finish(to + i, v, c); });
  }
}

}  // namespace

EXPORT void tree_add_fp32(const int64_t *rows, int64_t out, int64_t n_ports, int64_t n) {
  sum<Fp32>(rows, out, n_ports, n);
}
EXPORT void tree_add_bf16(const int64_t *rows, int64_t out, int64_t n_ports, int64_t n) {
  sum<Bf16>(rows, out, n_ports, n);
}
EXPORT void tree_add_int32(const int64_t *rows, int64_t out, int64_t n_ports, int64_t n) {
  sum<Int32>(rows, out, n_ports, n);
}
