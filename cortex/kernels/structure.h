/* The functions of a structure that generated code calls, over the memory a linearizer filled.

   Its layout, in 32-bit words: 8 sizes (nodes, leaves, levels, edges, arity or -1, kinds, nodes of
   the forest, roots), then order, id_of, level_ptr, kind_ptr, child or child_ptr and child_at,
   token, roots, and for unrolled recursion block_ptr and super_ptr. Nodes are numbered leaves first,
   then by height. */
#ifndef MLSYS21_CORTEX_STRUCTURE_H
#define MLSYS21_CORTEX_STRUCTURE_H

#include "simd.h"

#pragma GCC visibility push(hidden)
namespace cortex {

struct Structure {
  int64_t nodes, leaves, levels, edges, arity, kinds, forest_nodes, trees;
  const int32_t *level_ptr, *kind_ptr, *child, *child_ptr, *child_node, *tokens, *roots;
  const int32_t *block_ptr, *super_ptr; /* with unrolled recursion, where a level is a block */

  explicit Structure(const int32_t *m) {
    nodes = m[0], leaves = m[1], levels = m[2], edges = m[3];
    arity = m[4], kinds = m[5], forest_nodes = m[6], trees = m[7];
    level_ptr = m + 8 + nodes + forest_nodes;
    kind_ptr = level_ptr + levels + 1;
    child = child_ptr = kind_ptr + (kinds ? levels * (kinds + 1) : 0);
    child_node = child_ptr + inner() + 1;
    tokens = arity < 0 ? child_node + edges : child + arity * inner();
    roots = tokens + nodes;
    block_ptr = roots + trees;
    super_ptr = block_ptr + levels;
  }
  int64_t inner() const { return nodes - leaves; }
  int64_t n_nodes() const { return nodes; }
  int64_t n_leaves() const { return leaves; }
  int64_t n_levels() const { return levels; }
  int64_t n_edges() const { return edges; }
  int64_t n_roots() const { return trees; }
  int64_t widest_level() const { return widest_from(0); }
  int64_t widest_inner() const { return widest_from(1); }
  int64_t widest_from(int64_t b) const {
    int64_t widest = 0;
    for (; b < n_levels(); b++)
      widest = level_end(b) - level_begin(b) > widest ? level_end(b) - level_begin(b) : widest;
    return widest;
  }
  SIMD_INLINE int64_t level_begin(int64_t b) const { return level_ptr[b]; }
  SIMD_INLINE int64_t level_end(int64_t b) const { return level_ptr[b + 1]; }
  SIMD_INLINE int64_t kind_begin(int64_t b, int64_t k) const {
    return kind_ptr[b * (kinds + 1) + k];
  }
  SIMD_INLINE int64_t kind_end(int64_t b, int64_t k) const { return kind_begin(b, k + 1); }
  SIMD_INLINE int64_t child_of(int64_t j, int64_t n) const {
    return child[j * inner() + n - leaves];
  }
  SIMD_INLINE int64_t child_begin(int64_t n) const { return n < leaves ? 0 : child_ptr[n - leaves]; }
  SIMD_INLINE int64_t child_end(int64_t n) const { return n < leaves ? 0 : child_ptr[n - leaves + 1]; }
  SIMD_INLINE int64_t child_at(int64_t e) const { return child_node[e]; }
  SIMD_INLINE int64_t token(int64_t n) const { return tokens[n]; }
  SIMD_INLINE int64_t root(int64_t r) const { return roots[r]; }
  int64_t n_blocks() const { return levels > 0 ? levels - 1 : 0; }
  SIMD_INLINE int64_t block_begin(int64_t b) const { return block_ptr[b]; }
  SIMD_INLINE int64_t block_end(int64_t b) const { return block_ptr[b + 1]; }
  SIMD_INLINE int64_t super_begin(int64_t s) const { return super_ptr[s]; }
  SIMD_INLINE int64_t super_end(int64_t s) const { return super_ptr[s + 1]; }
};

} // namespace cortex
#pragma GCC visibility pop

#endif
