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

/* Digits of n indices by multiplication with reciprocals, exact below 2^52: the quotient is off by one at most. */
template <class Index>
void split_digits(const Index *__restrict indices, int64_t n, int64_t p2, int64_t p3, uint32_t *__restrict outer,
                  uint16_t *__restrict middle) {
    const double by3 = 1.0 / static_cast<double>(p3), by2 = 1.0 / static_cast<double>(p2);
    for (int64_t k = 0; k < n; ++k) {
        const int64_t i = indices[k];
        int64_t t = static_cast<int64_t>(static_cast<double>(i) * by3);
        int64_t i3 = i - t * p3;
        const int64_t under3 = i3 < 0, over3 = i3 >= p3;
        t += over3 - under3;
        i3 += (under3 - over3) * p3;
        int64_t i1 = static_cast<int64_t>(static_cast<double>(t) * by2);
        int64_t i2 = t - i1 * p2;
        const int64_t under2 = i2 < 0, over2 = i2 >= p2;
        i1 += over2 - under2;
        i2 += (under2 - over2) * p2;
        outer[k] = static_cast<uint32_t>(i1 << 16 | i3);
        middle[k] = static_cast<uint16_t>(i2);
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

/* Fills the plan; owner is set already. padding < 0 means none. work: plan_scratch() words. */
template <class Index>
void make_plan(const Plan &plan, const Index *indices, int64_t n, int64_t padding, const int64_t *p, int64_t sharing,
               int32_t *work) {
    const int64_t p1 = p[0], p2 = p[1], p3 = p[2];
    int32_t *count1 = work, *count2 = count1 + p1, *count3 = count2 + p2, *other = count3 + p3;
    uint32_t *outer = reinterpret_cast<uint32_t *>(other + n);
    uint16_t *middle = reinterpret_cast<uint16_t *>(outer + n);
    std::memset(work, 0, static_cast<size_t>(p1 + p2 + p3) * sizeof(int32_t));
    split_digits(indices, n, p2, p3, outer, middle);
    int64_t valid = n;
    if (padding < 0) {
        for (int64_t k = 0; k < n; ++k) {
            ++count1[outer[k] >> 16];
            ++count2[middle[k]];
            ++count3[outer[k] & 0xffff];
        }
    } else {
        valid = 0;
        for (int64_t k = 0; k < n; ++k) {
            plan.inverse[k] = -1;
            if (indices[k] == padding) continue;
            ++valid;
            ++count1[outer[k] >> 16];
            ++count2[middle[k]];
            ++count3[outer[k] & 0xffff];
        }
    }
    *plan.positions = static_cast<int32_t>(valid);
    *plan.count3 = starts(count3, p3, plan.touched3);
    *plan.count1 = starts(count1, p1, plan.touched1);
    const int32_t groups = starts(count2, p2, plan.group_i2);
    for (int64_t k = 0; k < n; ++k)
        if (padding < 0 || indices[k] != padding)
            plan.order[count3[outer[k] & 0xffff]++] = static_cast<int32_t>(k);
    for (int64_t o = 0; o < valid; ++o) {
        const int32_t k = plan.order[o];
        other[count1[outer[k] >> 16]++] = k;
    }
    for (int64_t o = 0; o < valid; ++o) {
        const int32_t k = other[o];
        plan.order[count2[middle[k]]++] = k;
    }
    const bool dedup = sharing & share_rows, reuse = sharing & share_pairs;
    int32_t u = 0, v = 0, o = 0;
    uint32_t digest = 0;
    for (int32_t g = 0; g < groups; ++g) {
        const int32_t end = count2[plan.group_i2[g]];  // the third pass left it at the end of the bucket
        plan.group_start[g] = v;
        digest = digest * 31 + plan.group_i2[g];
        uint32_t last = ~outer[plan.order[o]];  // differs in both digits
        for (; o < end; ++o) {
            const int32_t k = plan.order[o];
            const uint32_t here = outer[k];
            const int32_t is_row = !dedup | (here != last), is_pair = (!reuse && is_row) | (here >> 16 != last >> 16);
            plan.row_start[u] = o;
            plan.row_i3[u] = static_cast<uint16_t>(here);
            plan.pair_start[v] = u;
            plan.pair_i1[v] = static_cast<uint16_t>(here >> 16);
            digest = (digest ^ here) * 0x01000193u + static_cast<uint32_t>(k);
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

inline int64_t plan_scratch(int64_t n, const int64_t *p) { return p[0] + p[1] + p[2] + 2 * n + (n + 1) / 2; }

} // namespace tt

#endif
