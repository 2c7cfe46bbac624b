/* From a graph as flat arrays to nodes numbered by height. */
#ifndef MLSYS21_CORTEX_NUMBERING_H
#define MLSYS21_CORTEX_NUMBERING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>

#if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030C0000
#define HAS_INLINE_VALUES 1
#else
#define HAS_INLINE_VALUES 0
#endif

namespace {

constexpr int32_t kNone = -1;
constexpr int64_t kMaxNodes = INT32_MAX - 8;
constexpr int64_t kKeptBytes = 1 << 22;  // scratch larger than this is given back after a call

/* A growing array of plain values that keeps its memory between calls. */
template <class T>
struct Pile {
  T* at = nullptr;
  int64_t size = 0, room = 0;

  ~Pile() { std::free(at); }
  T& operator[](int64_t i) { return at[i]; }

  void reserve(int64_t wanted) {
    if (wanted <= room) return;
    int64_t next = room < 256 ? 512 : room + room;
    if (next < wanted) next = wanted;
    void* moved = std::realloc(static_cast<void*>(at), sizeof(T) * next);
    if (!moved) throw std::bad_alloc();
    at = static_cast<T*>(moved);
    room = next;
  }
  T* resize(int64_t wanted) {
    reserve(wanted);
    size = wanted;
    return at;
  }
  void push(T value) {
    if (__builtin_expect(size == room, 0)) reserve(size + 1);
    at[size++] = value;
  }
  void trim() {
    if (room * static_cast<int64_t>(sizeof(T)) > kKeptBytes) {
      std::free(at);
      at = nullptr;
      room = 0;
    }
    size = 0;
  }
};

/* Address -> id, open addressing. */
struct Table {
  struct Slot {
    PyObject* key;
    int32_t id;
  };
  Pile<Slot> slots;
  int64_t used = 0, mask = -1;

  static uint64_t mix(PyObject* key) {
    return (reinterpret_cast<uintptr_t>(key) >> 4) * 0x9E3779B97F4A7C15ull >> 20;
  }
  void clear() {
    used = 0;
    mask = -1;
    slots.trim();
  }
  void grow() {
    int64_t before = mask + 1, after = before ? before * 2 : 256;
    Pile<Slot> old;
    old.resize(before);
    if (before) std::memcpy(old.at, slots.at, sizeof(Slot) * before);
    std::memset(static_cast<void*>(slots.resize(after)), 0, sizeof(Slot) * after);
    mask = after - 1;
    for (int64_t i = 0; i < before; ++i)
      if (old[i].key) *find(old[i].key) = old[i];
  }
  Slot* find(PyObject* key) {
    uint64_t i = mix(key) & mask;
    while (slots[i].key && slots[i].key != key) i = (i + 1) & mask;
    return &slots[i];
  }
  /* The id of key, `next` if it is new. */
  int32_t id(PyObject* key, int32_t next) {
    if (used * 2 > mask) grow();
    Slot* slot = find(key);
    if (slot->key) return slot->id;
    *slot = {key, next};
    ++used;
    return next;
  }
};

/* How the attribute of one type is read. */
struct Access {
  enum Way : uint8_t { kAsk, kSlot, kInline } way = kAsk;
  Py_ssize_t offset = 0;  // of the slot in the object, or of the value among the inline values
};

struct Known {
  PyTypeObject* type = nullptr;
  int64_t epoch = -1;
  Access children, token;
};

struct Scratch {
  Pile<PyObject*> nodes;
  Pile<int32_t> child_ptr, child_idx, roots, token;
  Pile<int32_t> height, key, count, order, id_of, work, parent_ptr, parent_idx, distinct, inner;
  Pile<uint64_t> hashes;
  Table table;
  Known known[4];
  int n_known = 0;
  int64_t epoch = 0;
  bool owns_nodes = false;

  void finish() {
    if (owns_nodes) {
      for (int64_t i = 0; i < nodes.size; ++i) Py_DECREF(nodes[i]);
      owns_nodes = false;
    }
    nodes.trim();
    for (Pile<int32_t>* pile : {&child_ptr, &child_idx, &roots, &token, &height, &key, &count,
                                &order, &id_of, &work, &parent_ptr, &parent_idx, &distinct,
                                &inner})
      pile->trim();
    hashes.trim();
    table.clear();
    n_known = 0;
  }
};

/* One spare scratch a thread; a walk inside a walk, from a property say, makes its own. */
struct Spare {
  Scratch* scratch = nullptr;
  ~Spare() { delete scratch; }
};
thread_local Spare spare;

struct Borrowed {
  Scratch* s;
  Borrowed() : s(spare.scratch ? spare.scratch : new Scratch) { spare.scratch = nullptr; }
  ~Borrowed() {
    s->finish();
    if (spare.scratch)
      delete s;
    else
      spare.scratch = s;
  }
};

struct Graph {
  const int32_t *child_ptr, *child_idx, *roots, *token;
  int64_t n, n_edges, n_roots;
};

struct Options {
  int32_t arity;     // children of an inner node, -1 for any number
  bool is_tree;      // at most one parent
  bool kinds, dedup;
  int32_t depth;     // heights a block spans; above 1 only for trees, without kinds and dedup
  int32_t tokens;    // 0 not read, 1 leaves need one, 2 all need one, 3 read where there is one
  int32_t vocab;     // tokens that are read lie below it; -1 is unbounded
  const uint8_t* features;
  int64_t feature_bytes;
  bool is_walked;   // by a walk that found nothing unfit, and split inner nodes from leaves
  bool is_forest;   // a walk met no node twice: one parent each, and parents before children
};

/* ---- numbering ------------------------------------------------------------------------------ */

/* Inner nodes into s.inner, so that later loops do not have to guess which nodes are leaves, and
   leaves to the front of s.order. */
void split_leaves(Scratch& s, const Graph& g) {
  int32_t* inner = s.inner.resize(g.n);
  int32_t* leaves = s.order.resize(g.n);
  int64_t n_inner = 0;
  for (int64_t n = 0; n < g.n; ++n) {
    inner[n_inner] = leaves[n - n_inner] = static_cast<int32_t>(n);
    n_inner += g.child_ptr[n + 1] > g.child_ptr[n];
  }
  s.inner.size = n_inner;
}

/* height[n] for every node, once leaves are split off; false if there is a cycle. */
bool find_heights(Scratch& s, const Graph& g, int32_t arity, bool is_forest) {
  int32_t* height = s.height.resize(g.n);
  const int32_t *ptr = g.child_ptr, *idx = g.child_idx, *inner = s.inner.at;
  const int64_t n_inner = s.inner.size;
  int32_t down = 1, up = 1;  // children after parents, children before parents
  if (is_forest) {
    up = 0;
  } else if (arity > 0) {
    for (int32_t j = 0; j < arity; ++j)
      for (int64_t i = 0; i < n_inner; ++i) {
        down &= idx[i * arity + j] > inner[i];
        up &= idx[i * arity + j] < inner[i];
      }
  } else {
    for (int64_t i = 0; i < n_inner; ++i)
      for (int32_t n = inner[i], e = ptr[n]; e < ptr[n + 1]; ++e) {
        down &= idx[e] > n;
        up &= idx[e] < n;
      }
  }
  if (down || up) std::memset(height, 0, sizeof(int32_t) * g.n);
  if (arity == 2 && (down || up)) {
    const int64_t step = down ? -1 : 1;
    int64_t i = down ? n_inner - 1 : 0;
    for (int64_t k = 0; k < n_inner; ++k, i += step) {
      int32_t left = height[idx[2 * i]], right = height[idx[2 * i + 1]];
      height[inner[i]] = (left > right ? left : right) + 1;
    }
    return true;
  }
  auto visit = [&](int64_t n) {
    int32_t tallest = -1;
    for (int32_t e = ptr[n]; e < ptr[n + 1]; ++e)
      if (height[idx[e]] > tallest) tallest = height[idx[e]];
    height[n] = tallest + 1;
  };
  if (down || up) {
    for (int64_t k = 0; k < n_inner; ++k) visit(inner[down ? n_inner - 1 - k : k]);
    return true;
  }
  /* Any numbering: parents become ready when their last child is done. */
  int32_t* begin = s.parent_ptr.resize(g.n + 2);
  std::memset(begin, 0, sizeof(int32_t) * (g.n + 2));
  for (int64_t e = 0; e < g.n_edges; ++e) ++begin[idx[e] + 2];
  for (int64_t n = 0; n < g.n; ++n) begin[n + 2] += begin[n + 1];
  int32_t* parents = s.parent_idx.resize(g.n_edges);
  for (int64_t n = 0; n < g.n; ++n)
    for (int32_t e = ptr[n]; e < ptr[n + 1]; ++e)
      parents[begin[idx[e] + 1]++] = static_cast<int32_t>(n);
  int32_t* missing = s.count.resize(g.n);
  int32_t* queue = s.work.resize(g.n);
  int64_t head = 0, tail = 0;
  for (int64_t n = 0; n < g.n; ++n) {
    missing[n] = ptr[n + 1] - ptr[n];
    height[n] = 0;
    if (!missing[n]) queue[tail++] = static_cast<int32_t>(n);
  }
  while (head < tail) {
    int32_t n = queue[head++];
    for (int32_t e = begin[n]; e < begin[n + 1]; ++e) {
      int32_t p = parents[e];
      if (height[p] <= height[n]) height[p] = height[n] + 1;
      if (--missing[p] == 0) queue[tail++] = p;
    }
  }
  return tail == g.n;
}

/* Ranges, arities, parents and tokens as the model wants them. */
bool is_fit(Scratch& s, const Graph& g, const Options& o) {
  int32_t fit = g.child_ptr[0] == 0 && g.child_ptr[g.n] == g.n_edges;
  /* Written without branches, so that many nodes are looked at in one instruction. A token is fit
     if token - least, which wraps below least, is under the limit. */
  const bool all_read = o.tokens >= 2, none_read = o.tokens == 0, any_arity = o.arity < 0;
  const int32_t least = o.tokens == 3 ? kNone : 0, arity = o.arity;
  const uint32_t limit = (o.vocab < 0 ? uint32_t{1} << 31 : static_cast<uint32_t>(o.vocab)) - least;
  const int32_t *ptr = g.child_ptr, *token = g.token;
  for (int64_t n = 0; n < g.n; ++n) {
    const int32_t children = static_cast<int32_t>(static_cast<uint32_t>(ptr[n + 1]) -
                                                  static_cast<uint32_t>(ptr[n]));
    fit &= (ptr[n] >= 0) & (children >= 0) & (any_arity | (children == 0) | (children == arity));
    fit &= none_read | ((children != 0) & !all_read) |
           (static_cast<uint32_t>(token[n]) - static_cast<uint32_t>(least) < limit);
  }
  for (int64_t r = 0; r < g.n_roots; ++r) fit &= static_cast<uint32_t>(g.roots[r]) < g.n;
  uint32_t highest = 0;
  for (int64_t e = 0; e < g.n_edges; ++e) {
    uint32_t child = static_cast<uint32_t>(g.child_idx[e]);
    highest = child > highest ? child : highest;
  }
  if (!fit || (g.n_edges && highest >= g.n)) return false;
  if (o.is_tree) {
    uint8_t* has_parent = reinterpret_cast<uint8_t*>(s.count.resize(g.n / 4 + 1));
    std::memset(has_parent, 0, g.n);
    int32_t shared = 0;
    for (int64_t e = 0; e < g.n_edges; ++e) {
      shared |= has_parent[g.child_idx[e]];
      has_parent[g.child_idx[e]] = 1;
    }
    fit &= !shared;
  }
  return fit;
}

int32_t kind_of(const Graph& g, const int32_t* height, int64_t n) {
  int32_t kind = 0;
  if (height[n] == 0) return 0;
  for (int32_t e = g.child_ptr[n], j = 0; e < g.child_ptr[n + 1]; ++e, ++j)
    kind |= (height[g.child_idx[e]] == 0) << j;
  return kind;
}

uint64_t mixed(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9E3779B97F4A7C15ull;
  return hash ^ (hash >> 29);
}

/* Equal subtrees become one: fills distinct[n] with the first equal node, and keeps those alone in
   order. Nodes are compared children first, so equal children have the same representative. */
int64_t merge_equal(Scratch& s, const Graph& g, const Options& o, int64_t n_in_order) {
  int32_t *order = s.order.at, *same = s.distinct.resize(g.n);
  int64_t room = 16;
  while (room < n_in_order * 2) room *= 2;
  int32_t* slots = s.work.resize(room);
  std::memset(slots, 0xff, sizeof(int32_t) * room);
  uint64_t* hashes = s.hashes.resize(g.n);
  auto is_read = [&](int64_t n) {
    return o.tokens >= 2 || (o.tokens == 1 && g.child_ptr[n] == g.child_ptr[n + 1]);
  };
  auto equal = [&](int64_t a, int64_t b) {
    int32_t children = g.child_ptr[a + 1] - g.child_ptr[a];
    if (hashes[a] != hashes[b] || children != g.child_ptr[b + 1] - g.child_ptr[b]) return false;
    if (is_read(a) && g.token[a] != g.token[b]) return false;
    for (int32_t j = 0; j < children; ++j)
      if (same[g.child_idx[g.child_ptr[a] + j]] != same[g.child_idx[g.child_ptr[b] + j]])
        return false;
    return !o.features || std::memcmp(o.features + a * o.feature_bytes,
                                      o.features + b * o.feature_bytes, o.feature_bytes) == 0;
  };
  int64_t kept = 0;
  for (int64_t i = 0; i < n_in_order; ++i) {
    int32_t n = order[i];
    uint64_t hash = mixed(1, is_read(n) ? static_cast<uint32_t>(g.token[n]) : 7);
    for (int32_t e = g.child_ptr[n]; e < g.child_ptr[n + 1]; ++e)
      hash = mixed(hash, static_cast<uint64_t>(same[g.child_idx[e]]) + 2);
    for (int64_t b = 0; o.features && b + 4 <= o.feature_bytes; b += 4) {
      uint32_t word;
      std::memcpy(&word, o.features + n * o.feature_bytes + b, 4);
      hash = mixed(hash, word);
    }
    hashes[n] = hash;
    uint64_t slot = (hash >> 7) & (room - 1);
    while (slots[slot] >= 0 && !equal(slots[slot], n)) slot = (slot + 1) & (room - 1);
    if (slots[slot] < 0) {
      slots[slot] = same[n] = n;
      order[kept++] = n;
    } else {
      same[n] = slots[slot];
    }
  }
  return kept;
}

/* Sorts the inner nodes, which are in order of height, by blocks of `depth` heights and within a
   block by super nodes: a node whose parent lies in another block, with all below it that lie in
   this one. Fills distinct with the first node of each super node, in the new order, and a last
   entry; parent_idx with the first super node of each block, and a last entry.

   The tops of a block are above those of the blocks before it, so the place of a node's top in the
   old order is all there is to sort by; equal ones stay in order of height, children first. */
void group_into_blocks(Scratch& s, const Graph& g, int32_t depth, int64_t n_leaves) {
  const int32_t* height = s.height.at;
  const int64_t n_inner = g.n - n_leaves;
  int32_t* inner = s.order.at + n_leaves;
  int32_t* top = s.key.resize(g.n);  // of a node of the forest; its top's place among the inner
  int32_t* count = s.count.resize(n_inner + 1);
  std::memset(count, 0, sizeof(int32_t) * (n_inner + 1));
  for (int64_t i = 0; i < n_inner; ++i) top[inner[i]] = static_cast<int32_t>(i);
  int32_t lowest = INT32_MAX;  // height of this node's block
  for (int64_t i = n_inner - 1; i >= 0; --i) {
    int32_t n = inner[i];
    if (height[n] < lowest) lowest = (height[n] - 1) / depth * depth + 1;
    ++count[top[n]];
    for (int32_t e = g.child_ptr[n]; e < g.child_ptr[n + 1]; ++e)
      if (height[g.child_idx[e]] >= lowest) top[g.child_idx[e]] = top[n];
  }
  s.distinct.size = s.parent_idx.size = 0;
  int32_t begin = 0, highest = 0;  // of the block we are in
  for (int64_t i = 0; i < n_inner; ++i) {
    if (!count[i]) continue;
    if (height[inner[i]] > highest) {
      s.parent_idx.push(static_cast<int32_t>(s.distinct.size));
      highest = ((height[inner[i]] - 1) / depth + 1) * int64_t{depth} < INT32_MAX
                    ? ((height[inner[i]] - 1) / depth + 1) * depth
                    : INT32_MAX;
    }
    s.distinct.push(static_cast<int32_t>(n_leaves) + begin);
    int32_t size = count[i];
    count[i] = begin;
    begin += size;
  }
  s.parent_idx.push(static_cast<int32_t>(s.distinct.size));
  s.distinct.push(static_cast<int32_t>(g.n));
  int32_t* placed = s.work.resize(n_inner);
  for (int64_t i = 0; i < n_inner; ++i) placed[count[top[inner[i]]]++] = inner[i];
  if (n_inner) std::memcpy(inner, placed, sizeof(int32_t) * n_inner);
}

/* The whole numbering as bytes; None if the graph is not what the options allow. */
PyObject* number(Scratch& s, const Graph& g, const Options& o) {
  if (!(o.is_walked && (o.is_forest || !o.is_tree)) && !is_fit(s, g, o)) Py_RETURN_NONE;
  if (o.is_walked)
    s.order.resize(g.n);
  else
    split_leaves(s, g);
  if (!find_heights(s, g, o.arity, o.is_forest)) Py_RETURN_NONE;
  const int32_t* height = s.height.at;
  const int32_t n_kinds = o.kinds ? 1 << o.arity : 0, width = o.kinds ? n_kinds : 1;
  const int64_t n_inner_all = s.inner.size, n_leaves_all = g.n - n_inner_all;
  const int32_t* inner = s.inner.at;
  int32_t n_levels = g.n > 0;
  for (int64_t i = 0; i < n_inner_all; ++i)
    n_levels = height[inner[i]] >= n_levels ? height[inner[i]] + 1 : n_levels;

  /* Counting sort of the inner nodes by (height, kind). Leaves, of height and kind 0, stand at the
     front of order already. */
  const int64_t n_keys = static_cast<int64_t>(n_levels) * width;
  int32_t* count = s.count.resize(n_keys + 1);
  std::memset(count, 0, sizeof(int32_t) * (n_keys + 1));
  const int32_t* key = height;
  if (o.kinds) {
    int32_t* both = s.key.resize(g.n);
    for (int64_t n = 0; n < g.n; ++n) both[n] = height[n] * width + kind_of(g, height, n);
    key = both;
  }
  count[0] = static_cast<int32_t>(n_leaves_all);
  for (int64_t i = 0; i < n_inner_all; ++i) ++count[key[inner[i]] + 1];
  if (n_keys) count[1] += count[0];
  for (int64_t k = 1; k < n_keys; ++k) count[k + 1] += count[k];
  int32_t* order = s.order.at;
  for (int64_t i = 0; i < n_inner_all; ++i) order[count[key[inner[i]]]++] = inner[i];
  /* Now count[k] is the end of key k. */
  int64_t n_kept = g.n, n_edges = g.n_edges;
  if (o.dedup) {
    n_kept = merge_equal(s, g, o, g.n);
    std::memset(count, 0, sizeof(int32_t) * (n_keys + 1));
    n_edges = 0;
    for (int64_t i = 0; i < n_kept; ++i) {
      ++count[key[order[i]]];
      n_edges += g.child_ptr[order[i] + 1] - g.child_ptr[order[i]];
    }
    for (int64_t k = 1; k < n_keys; ++k) count[k] += count[k - 1];
  }
  const int64_t n_leaves = n_levels ? count[width - 1] : 0, n_inner = n_kept - n_leaves;
  const bool blocks = o.depth > 1;
  if (blocks) {
    group_into_blocks(s, g, o.depth, n_leaves);
    if (n_levels) n_levels = static_cast<int32_t>(s.parent_idx.size);  // the leaves and each block
  }

  const int64_t links = o.arity >= 0 ? o.arity * n_inner : n_inner + 1 + n_edges;
  const int64_t words = 8 + n_kept + g.n + n_levels + 1 +
                        static_cast<int64_t>(o.kinds) * n_levels * (n_kinds + 1) + links +
                        n_kept + g.n_roots +
                        (blocks ? s.parent_idx.size + s.distinct.size : 0);
  PyObject* bytes = PyBytes_FromStringAndSize(nullptr, words * 4);
  if (!bytes) return nullptr;
  int32_t* out = reinterpret_cast<int32_t*>(PyBytes_AS_STRING(bytes));
  const int64_t header[8] = {n_kept,  n_leaves, n_levels, n_edges,
                             o.arity, n_kinds,  g.n,      g.n_roots};
  for (int64_t word : header) *out++ = static_cast<int32_t>(word);

  int32_t* new_order = out;
  out += n_kept;
  int32_t* id_of = out;
  out += g.n;
  for (int64_t i = 0; i < n_kept; ++i) {
    new_order[i] = order[i];
    id_of[order[i]] = static_cast<int32_t>(i);
  }
  if (o.dedup)
    for (int64_t n = 0; n < g.n; ++n) id_of[n] = id_of[s.distinct[n]];
  *out++ = 0;
  for (int64_t b = 0; b < n_levels; ++b)
    *out++ = blocks ? s.distinct[s.parent_idx[b]] : count[(b + 1) * width - 1];
  if (o.kinds)
    for (int64_t b = 0, end = 0; b < n_levels; ++b) {
      *out++ = static_cast<int32_t>(end);
      for (int32_t k = 0; k < n_kinds; ++k) *out++ = count[b * width + k];
      end = count[b * width + n_kinds - 1];
    }

  if (o.arity == 2) {
    int32_t *left = out, *right = out + n_inner;
    for (int64_t i = 0; i < n_inner; ++i) {
      const int32_t* child = g.child_idx + g.child_ptr[order[n_leaves + i]];
      left[i] = id_of[child[0]];
      right[i] = id_of[child[1]];
    }
  } else if (o.arity >= 0) {
    for (int64_t i = 0; i < n_inner; ++i) {
      const int32_t* child = g.child_idx + g.child_ptr[order[n_leaves + i]];
      for (int32_t j = 0; j < o.arity; ++j) out[j * n_inner + i] = id_of[child[j]];
    }
  } else {
    int32_t *ptr = out, *at = out + n_inner + 1, edges = 0;
    for (int64_t i = 0; i < n_inner; ++i) {
      int32_t n = order[n_leaves + i];
      ptr[i] = edges;
      for (int32_t e = g.child_ptr[n]; e < g.child_ptr[n + 1]; ++e)
        at[edges++] = id_of[g.child_idx[e]];
    }
    ptr[n_inner] = edges;
  }
  out += links;
  for (int64_t i = 0; i < n_kept; ++i) out[i] = g.token[order[i]];
  out += n_kept;
  for (int64_t r = 0; r < g.n_roots; ++r) out[r] = id_of[g.roots[r]];
  out += g.n_roots;
  if (blocks) {
    std::memcpy(out, s.parent_idx.at, sizeof(int32_t) * s.parent_idx.size);
    std::memcpy(out + s.parent_idx.size, s.distinct.at, sizeof(int32_t) * s.distinct.size);
  }
  return bytes;
}

}  // namespace

#endif
