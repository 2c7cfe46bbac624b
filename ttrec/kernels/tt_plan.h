/* The plan of a batch: which distinct rows, pairs of first digits and middle digits it looks up.

   Row i of the table has digits i1 = i / (p2 p3), i2 = i / p3 % p2, i3 = i % p3. Positions are sorted by
   (i2, i1, i3), stable, by three counting passes from the least significant digit up; one scan then cuts the
   order into rows (equal digits), pairs (equal i1, i2) and groups (equal i2). No hashing, no comparison. */
#ifndef TT_PLAN_H
#define TT_PLAN_H

#include "tt_batch.h"

namespace tt {

/* Views into one int32 array of plan_words() words. Row u has positions order[row_start[u] .. row_start[u + 1]),
   pair v rows pair_start[v] .., group g pairs group_start[g] ... */
struct Plan : Positions {
    int32_t *rows, *pairs, *groups, *positions;  // how many of each; positions without padding
    int32_t *is_single;                          // every bag has one position and it is its own number
    int32_t *count1, *count3;                    // lengths of touched1, touched3
    int32_t *digest;                             // of the order and where it came from
    int32_t *pair_start, *group_start;
    uint16_t *row_i3, *pair_i1, *group_i2;
    uint16_t *touched1, *touched3;  // distinct first and last digits, ascending

    static int64_t words(int64_t n, int64_t p1, int64_t p2, int64_t p3) {
        return 10 + 3 * n + 2 * (n + 1) + p2 + 1 + n + (p1 + p2 + p3 + 1) / 2 + 1;
    }

    Plan(int32_t *base, int64_t n, int64_t p1, int64_t p2) {
        rows = base, pairs = base + 1, groups = base + 2, positions = base + 3, is_single = base + 4;
        count1 = base + 5, count3 = base + 6, digest = base + 7;
        order = base + 10;  // words 8 and 9 are the caller's
        inverse = order + n;
        owner = inverse + n;
        row_start = owner + n;
        pair_start = row_start + n + 1;
        group_start = pair_start + n + 1;
        row_i3 = reinterpret_cast<uint16_t *>(group_start + p2 + 1);
        pair_i1 = row_i3 + n;
        group_i2 = pair_i1 + n;
        touched1 = group_i2 + p2;
        touched3 = touched1 + p1;
    }
};

/* What to share within a batch; all of it but in experiments. */
enum Sharing : int64_t { share_rows = 1, share_pairs = 2 };

/* Digits of n <= chunk indices. In double, which is exact below 2^52 and has no division: the quotient rounded to
   nearest is right or one too large. Adding 2^52 moves a whole number into the low bits of a double, which, unlike a
   conversion, every processor does to whole vectors. */
constexpr int64_t chunk = 512;
struct Digits {
    uint32_t i1[chunk], i2[chunk], i3[chunk];
};
inline double whole(uint64_t bits) { return __builtin_bit_cast(double, bits | 0x4330000000000000) - 0x1p52; }
inline uint32_t low_bits(double x) { return static_cast<uint32_t>(__builtin_bit_cast(uint64_t, x + 0x1p52)); }
inline double quotient(double x, double y, double by) {
    const double q = (x * by + 0x1p52) - 0x1p52;
    return q * y > x ? q - 1.0 : q;
}
template <class Index>
void split_digits(const Index *__restrict indices, int64_t n, int64_t p2, int64_t p3, Digits &digits) {
    const double d2 = static_cast<double>(p2), d3 = static_cast<double>(p3), by2 = 1.0 / d2, by3 = 1.0 / d3;
    for (int64_t k = 0; k < n; ++k) {
        const double i = whole(static_cast<uint64_t>(indices[k]));
        const double t = quotient(i, d3, by3), i1 = quotient(t, d2, by2);
        digits.i3[k] = low_bits(i - t * d3);
        digits.i2[k] = low_bits(t - i1 * d2);
        digits.i1[k] = low_bits(i1);
    }
}

/* count -> start; appends the digits that occur to `touched`. */
inline int32_t starts(int32_t *count, int64_t p, uint16_t *touched) {
    int32_t sum = 0, found = 0;
    for (int64_t i = 0; i < p; ++i) {
        const int32_t here = count[i];
        count[i] = sum;
        sum += here;
        touched[found] = static_cast<uint16_t>(i);
        found += here > 0;
    }
    return found;
}

/* A position and what it is sorted by, in one number: from the lowest bit up k, i3, i1, i2. Carrying the digits along
   spares each pass a look at random places. */
struct Fields {
    int i3, i1, i2, end;  // first bit of each, k begins at 0

    Fields(int64_t n, const int64_t *p)
        : i3(width(n)), i1(i3 + width(p[2])), i2(i1 + width(p[0])), end(i2 + width(p[1])) {}
    /* Bits of the numbers 0 .. n - 1. */
    static int width(int64_t n) { return n > 1 ? 64 - __builtin_clzll(static_cast<uint64_t>(n - 1)) : 0; }
};

/* Words of memory for the keys of n positions, twice. */
inline int64_t key_words(int64_t n, const int64_t *p) { return 2 * n * (Fields(n, p).end <= 64 ? 2 : 4); }
inline int64_t plan_scratch(int64_t n, const int64_t *p) { return key_words(n, p) + p[0] + p[1] + p[2]; }

/* One stable pass: keys in order of the field from bit `first` to `end`, to start[field] and on. */
template <class Key>
void distribute(const Key *__restrict in, int64_t n, int first, int end, int32_t *__restrict start, Key *__restrict out) {
    const uint32_t mask = (uint32_t{1} << (end - first)) - 1;
    for (int64_t o = 0; o < n; ++o) out[start[static_cast<uint32_t>(in[o] >> first) & mask]++] = in[o];
}

/* Fills the plan; owner is set already. padding < 0 means none. work: plan_scratch() words. */
template <class Key, class Index>
void fill_plan(const Plan &plan, const Index *indices, int64_t n, int64_t padding, const int64_t *p, int64_t sharing,
               int32_t *work) {
    const int64_t p1 = p[0], p2 = p[1], p3 = p[2];
    const Fields at(n, p);
    Key *keys = reinterpret_cast<Key *>(work), *other = keys + n;
    int32_t *count1 = work + key_words(n, p), *count2 = count1 + p1, *count3 = count2 + p2;
    std::memset(count1, 0, static_cast<size_t>(p1 + p2 + p3) * sizeof(int32_t));
    int64_t valid = 0;
    Digits digits;
    for (int64_t first = 0; first < n; first += chunk) {
        const int64_t length = std::min(chunk, n - first);
        split_digits(indices + first, length, p2, p3, digits);
        for (int64_t j = 0; j < length; ++j) {
            const int64_t k = first + j;
            if (padding >= 0 && indices[k] == padding) {
                plan.inverse[k] = -1;
                continue;
            }
            const uint32_t i1 = digits.i1[j], i2 = digits.i2[j], i3 = digits.i3[j];
            ++count1[i1];
            ++count2[i2];
            ++count3[i3];
            keys[valid++] = static_cast<Key>(i2) << at.i2 | static_cast<Key>(i1) << at.i1 |
                            static_cast<Key>(i3) << at.i3 | static_cast<Key>(k);
        }
    }
    *plan.positions = static_cast<int32_t>(valid);
    *plan.count3 = starts(count3, p3, plan.touched3);
    *plan.count1 = starts(count1, p1, plan.touched1);
    const int32_t groups = starts(count2, p2, plan.group_i2);
    distribute(keys, valid, at.i3, at.i1, count3, other);
    distribute(other, valid, at.i1, at.i2, count1, keys);
    distribute(keys, valid, at.i2, at.end, count2, other);
    const bool dedup = sharing & share_rows, reuse = sharing & share_pairs;
    const Key mask_k = (Key{1} << at.i3) - 1;
    const uint32_t mask3 = (uint32_t{1} << (at.i1 - at.i3)) - 1, mask1 = (uint32_t{1} << (at.i2 - at.i1)) - 1;
    int32_t u = 0, v = 0, o = 0;
    uint32_t digest = 0;
    for (int32_t g = 0; g < groups; ++g) {
        const int32_t end = count2[plan.group_i2[g]];  // the last pass left it at the end of the bucket
        plan.group_start[g] = v;
        digest = digest * 31 + plan.group_i2[g];
        Key last = ~other[o];  // differs in every digit
        for (; o < end; ++o) {
            const Key here = other[o], changed = here ^ last;
            const int32_t k = static_cast<int32_t>(here & mask_k);
            const int32_t is_row = !dedup | (changed >> at.i3 != 0),
                          is_pair = (!reuse && is_row) | (changed >> at.i1 != 0);
            const uint32_t i3 = static_cast<uint32_t>(here >> at.i3) & mask3,
                           i1 = static_cast<uint32_t>(here >> at.i1) & mask1;
            plan.order[o] = k;
            plan.row_start[u] = o;
            plan.row_i3[u] = static_cast<uint16_t>(i3);
            plan.pair_start[v] = u;
            plan.pair_i1[v] = static_cast<uint16_t>(i1);
            // Times the place, so that order counts and no term waits for the one before.
            digest += (static_cast<uint32_t>(k) ^ (i1 << 16 | i3) * 0x9e3779b1u) * (2 * static_cast<uint32_t>(o) + 1);
            u += is_row;
            v += is_pair;
            plan.inverse[k] = u - 1;
            last = here;
        }
    }
    plan.row_start[u] = static_cast<int32_t>(valid);
    plan.pair_start[v] = u;
    plan.group_start[groups] = v;
    // What a plan does not fill is zero, so that equal batches have equal plans.
    std::memset(plan.order + valid, 0, static_cast<size_t>(n - valid) * sizeof(int32_t));
    std::memset(plan.row_start + u + 1, 0, static_cast<size_t>(n - u) * sizeof(int32_t));
    std::memset(plan.pair_start + v + 1, 0, static_cast<size_t>(n - v) * sizeof(int32_t));
    std::memset(plan.group_start + groups + 1, 0, static_cast<size_t>(p2 - groups) * sizeof(int32_t));
    std::memset(plan.row_i3 + u, 0, static_cast<size_t>(n - u) * sizeof(uint16_t));
    std::memset(plan.pair_i1 + v, 0, static_cast<size_t>(n - v) * sizeof(uint16_t));
    std::memset(plan.group_i2 + groups, 0, static_cast<size_t>(p2 - groups) * sizeof(uint16_t));
    std::memset(plan.touched1 + *plan.count1, 0, static_cast<size_t>(p1 - *plan.count1) * sizeof(uint16_t));
    std::memset(plan.touched3 + *plan.count3, 0, static_cast<size_t>(p3 - *plan.count3) * sizeof(uint16_t));
    *plan.digest = static_cast<int32_t>(digest);
    *plan.rows = u;
    *plan.pairs = v;
    *plan.groups = groups;
}

template <class Index>
void make_plan(const Plan &plan, const Index *indices, int64_t n, int64_t padding, const int64_t *p, int64_t sharing,
               int32_t *work) {
    if (Fields(n, p).end <= 64)
        fill_plan<uint64_t>(plan, indices, n, padding, p, sharing, work);
    else  // a table of 2^40 rows, looked up 2^24 times
        fill_plan<unsigned __int128>(plan, indices, n, padding, p, sharing, work);
}

} // namespace tt

#endif
