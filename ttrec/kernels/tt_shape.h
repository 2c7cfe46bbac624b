/* Sizes of a three-core tensor train, and the layouts its kernels work in.

   Core slices: G1[i1] is q1 x r1, G2[i2] r1 x q2 r2, G3[i3] r2 x q3, row-major. Inside, the columns b of the middle
   rank lie in whole vectors, in one of two ways:
     packed  r2 divides the vector: a vector holds `rep` rows of r2 columns, nothing is wasted;
     padded  each row of r2 columns is followed by zeros up to a whole number of vectors (none if r2 fits).
   P12 of a pair and its gradient: q1 q2 rows of `row` floats (packed: of r2 floats), `block` in all.
   G3 of a digit: transposed to q3 rows of `row` floats, packed ones with the r2 columns repeated `rep` times. */
#ifndef TT_SHAPE_H
#define TT_SHAPE_H

#include "tt_tiles.h"

namespace tt {

constexpr bool is_packed(int64_t q1, int64_t q2, int64_t q3, int64_t r2) {
    return r2 < W && W % r2 == 0 && r2 % q3 == 0 && q2 * r2 % W == 0 && q1 * q2 % (W / q3) == 0;
}

#ifdef TT_R1
#define TT_SIZE(name, value) static constexpr int64_t name = value;
#define TT_DERIVED(name, value) \
    static constexpr int64_t name() { return value; }
#else
#define TT_SIZE(name, value) int64_t name;
#define TT_DERIVED(name, value) \
    int64_t name() const { return value; }
#endif

/* Constants in a build for one shape (-DTT_Q1 .. -DTT_R2), read from `sizes` in the build for every shape. */
struct Shape {
    TT_SIZE(q1, TT_Q1)
    TT_SIZE(q2, TT_Q2)
    TT_SIZE(q3, TT_Q3)
    TT_SIZE(r1, TT_R1)
    TT_SIZE(r2, TT_R2)
#ifdef TT_R1
    static constexpr int rep = is_packed(q1, q2, q3, r2) ? static_cast<int>(W / r2) : 1;
#else
    static constexpr int rep = 1;
#endif
    int64_t p[3];

    /* sizes: p1, p2, p3, q1, q2, q3, r1, r2 */
    explicit Shape(const int64_t *sizes)
#ifndef TT_R1
        : q1(sizes[3]), q2(sizes[4]), q3(sizes[5]), r1(sizes[6]), r2(sizes[7])
#endif
    {
        for (int k = 0; k < 3; ++k) p[k] = sizes[k];
    }

    TT_DERIVED(dim, q1 *q2 *q3)
    TT_DERIVED(slice1, q1 *r1)
    TT_DERIVED(slice2, r1 *q2 *r2)
    TT_DERIVED(slice3, r2 *q3)
    TT_DERIVED(row, rep > 1 ? int64_t{W} : round_up(r2, W))
    TT_DERIVED(wide, rep > 1 ? q2 * r2 : q2 * row())  // columns of P12 as a q1-row matrix
    TT_DERIVED(block, q1 *wide())
    TT_DERIVED(r1_padded, round_up(r1, W))
    TT_DERIVED(transposed3, q3 *row())
    TT_DERIVED(gradient1, q1 *r1_padded())
    /* G2 slices can be read as they lie */
    bool is_flat() const { return rep > 1 || r2 % W == 0; }
};

#ifdef TT_R1
constexpr int wide_rest = static_cast<int>(Shape::wide() / W % most_vectors),
              first_rest = static_cast<int>(Shape::r1_padded() / W % most_vectors);
#else
constexpr int wide_rest = -1, first_rest = -1;
#endif

} // namespace tt

#endif
