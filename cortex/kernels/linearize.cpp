/* From linked Python objects, or from flat arrays, to nodes numbered by height.

   Everything is called with the interpreter lock held (ctypes.PyDLL) and returns a bytes object of
   int32, or None or a tuple when something is wrong; the wording of errors is not done here.

   walk_objects finds the nodes breadth first, one tree after another, so the children of a node get
   consecutive ids and no stack is needed, however deep a tree is. A node that only its parent's
   list refers to cannot be met twice; all others go through a table of addresses.

   Linear, in words of int32: 8 of header {n, n_leaves, n_levels, n_edges, arity or -1, n_kinds or
   0, n_forest, n_roots}, then
     order[n] id_of[n_forest] level_ptr[n_levels + 1] kind_ptr[n_levels][n_kinds + 1] (with kinds)
     child[arity][n - n_leaves]  or  child_ptr[n - n_leaves + 1] child_at[n_edges]
     token[n] roots[n_roots]
     block_ptr[n_blocks + 1] super_ptr[n_supers + 1]   (depth above 1; a level is then a block)
   Forest: 4 of header {n, n_edges, n_roots, 0}, then child_ptr[n + 1] child_idx roots token.
   Inner nodes of Linear are counted from n_leaves on. Equal heights keep the order of the forest. */
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

#define EXPORT extern "C" __attribute__((visibility("default")))

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
  bool is_walked;   // ranges hold, as a walk made them
  bool is_forest;   // a walk met no node twice: one parent each, and parents before children
};

/* ---- numbering ------------------------------------------------------------------------------ */

/* height[n] for every node; false if there is a cycle. */
bool find_heights(Scratch& s, const Graph& g, int32_t arity, bool is_forest) {
  int32_t* height = s.height.resize(g.n);
  const int32_t *ptr = g.child_ptr, *idx = g.child_idx;
  /* Inner nodes alone, so that the loops below do not have to guess which nodes are leaves. */
  int32_t* inner = s.inner.resize(g.n);
  int32_t* leaves = s.order.resize(g.n);
  int64_t n_inner = 0;
  for (int64_t n = 0; n < g.n; ++n) {
    inner[n_inner] = leaves[n - n_inner] = static_cast<int32_t>(n);
    n_inner += ptr[n + 1] > ptr[n];
  }
  s.inner.size = n_inner;
  int32_t down = 1, up = 1;  // children after parents, children before parents
  if (is_forest) {
    up = 0;
  } else if (arity > 0) {
    for (int64_t i = 0; i < n_inner; ++i)
      for (int32_t j = 0; j < arity; ++j) {
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
    for (int64_t k = 0; k < n_inner; ++k) {
      int64_t i = down ? n_inner - 1 - k : k;
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
  for (int64_t n = 0; n < g.n; ++n) {
    int64_t children = int64_t{g.child_ptr[n + 1]} - g.child_ptr[n];
    fit &= children >= 0 && (o.arity < 0 || children == 0 || children == o.arity);
    if (o.tokens >= 2 || (o.tokens == 1 && children == 0))
      fit &= g.token[n] >= (o.tokens == 3 ? kNone : 0) && (o.vocab < 0 || g.token[n] < o.vocab);
  }
  if (o.is_walked && (o.is_forest || !o.is_tree)) return fit;
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
  if (!is_fit(s, g, o) || !find_heights(s, g, o.arity, o.is_forest)) Py_RETURN_NONE;
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

  std::memcpy(out, order, sizeof(int32_t) * n_kept);
  out += n_kept;
  int32_t* id_of = out;
  out += g.n;
  for (int64_t i = 0; i < n_kept; ++i) id_of[order[i]] = static_cast<int32_t>(i);
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

/* A reference of ours, given back however we leave. */
struct Held {
  PyObject* object;
  explicit Held(PyObject* taken = nullptr) : object(taken) {}
  Held(const Held&) = delete;
  ~Held() { Py_XDECREF(object); }
};

/* ---- the walk over Python objects ----------------------------------------------------------- */

enum Wrong : int { kBadChildren = 1, kNoneChild = 2, kBadToken = 3, kNegativeToken = 4, kNoneRoot = 5 };

struct Walk {
  Scratch& s;
  PyObject *children_name, *token_name;
  bool leaf_tokens_only;

  /* What is wrong, if something is; detail is a reference of ours. */
  int wrong = 0;
  bool met_again = false;
  int64_t position = 0;
  PyObject* detail = nullptr;

  ~Walk() { Py_XDECREF(detail); }

  bool fail(int what, int64_t where, PyObject* object) {
    wrong = what;
    position = where;
    Py_INCREF(object);
    detail = object;
    return false;
  }

  /* Python code may run from here on. It may drop nodes, so every node is held; and it may hand out
     a node that was met at its only reference, so every node goes through the table. */
  void own() {
    ++s.epoch;
    if (s.owns_nodes) return;
    for (int64_t i = 0; i < s.nodes.size; ++i) Py_INCREF(s.nodes[i]);
    s.owns_nodes = true;
    for (int64_t i = 0; i < s.nodes.size; ++i) s.table.id(s.nodes[i], static_cast<int32_t>(i));
  }

  Access look(PyTypeObject* type, PyObject* name) {
    Access access;
    if (!name || type->tp_getattro != PyObject_GenericGetAttr) return access;
    PyObject* found = _PyType_Lookup(type, name);
    if (found) {
      if (Py_TYPE(found) == &PyMemberDescr_Type) {
        PyMemberDef* member = reinterpret_cast<PyMemberDescrObject*>(found)->d_member;
        if (member->type == T_OBJECT_EX) {
          access.way = Access::kSlot;
          access.offset = member->offset;
        }
        return access;
      }
      if (Py_TYPE(found)->tp_descr_set) return access;
    }
#if HAS_INLINE_VALUES
    /* Instances of one class share their keys; a value is found by the key's position in them. */
    struct Keys {
      Py_ssize_t refcount;
      uint8_t log2_size, log2_index_bytes, kind;
      uint32_t version;
      Py_ssize_t usable, n_entries;
    };
    struct Entry {
      PyObject *key, *value;
    };
    if (!(type->tp_flags & Py_TPFLAGS_MANAGED_DICT)) return access;
    Keys* keys = reinterpret_cast<Keys*>(
        reinterpret_cast<PyHeapTypeObject*>(type)->ht_cached_keys);
    constexpr uint8_t kUnicode = 1, kSplit = 2;
    if (!keys || (keys->kind != kSplit && keys->kind != kUnicode)) return access;
    Entry* entries = reinterpret_cast<Entry*>(reinterpret_cast<char*>(keys + 1) +
                                              (size_t{1} << keys->log2_index_bytes));
    for (Py_ssize_t i = 0; i < keys->n_entries; ++i)
      if (entries[i].key == name) {
        access.way = Access::kInline;
        access.offset = i;
        return access;
      }
#endif
    return access;
  }

  const Known& known(PyTypeObject* type) {
    for (int i = 0; i < s.n_known; ++i)
      if (s.known[i].type == type && s.known[i].epoch == s.epoch) return s.known[i];
    constexpr int kMost = sizeof(s.known) / sizeof(s.known[0]);
    if (s.n_known && s.known[0].epoch != s.epoch) s.n_known = 0;
    Known& next = s.known[s.n_known < kMost ? s.n_known++ : kMost - 1];
    next.type = type;
    next.epoch = s.epoch;
    next.children = look(type, children_name);
    next.token = look(type, token_name);
    return next;
  }

  /* A new reference, or null: without an exception if there is no such attribute. */
  static PyObject* quick(PyObject* node, const Access& access) {
    PyObject* value = nullptr;
    if (access.way == Access::kSlot) {
      value = *reinterpret_cast<PyObject**>(reinterpret_cast<char*>(node) + access.offset);
    }
#if HAS_INLINE_VALUES
    else if (access.way == Access::kInline) {
      PyObject** values = reinterpret_cast<PyObject***>(node)[-4];
      if (values) value = values[access.offset];
    }
#endif
    return value;
  }

  PyObject* ask(PyObject* node, PyObject* name, bool& is_error) {
    is_error = false;
    PyObject* value;
    if (PyDict_CheckExact(node)) {
      value = PyDict_GetItemWithError(node, name);
      Py_XINCREF(value);
      is_error = !value && PyErr_Occurred();
      return value;
    }
    own();
    value = PyObject_GetAttr(node, name);
    if (value) return value;
    if (PyErr_ExceptionMatches(PyExc_AttributeError))
      PyErr_Clear();
    else
      is_error = true;
    return nullptr;
  }

  /* The id of a node, added if it is new. is_met_once: nothing but the place we found it at refers
     to it, and we come there once. */
  int32_t add(PyObject* node, bool is_met_once) {
    int32_t next = static_cast<int32_t>(s.nodes.size);
    if (!is_met_once) {
      int32_t id = s.table.id(node, next);
      if (id != next) {
        met_again = true;
        return id;
      }
    }
    s.nodes.push(node);
    if (s.owns_nodes) Py_INCREF(node);
    return next;
  }

  bool add_children(PyObject* value, bool is_list_alone) {
    PyObject** items;
    Py_ssize_t n;
    Held held;
    if (PyList_Check(value)) {
      items = reinterpret_cast<PyListObject*>(value)->ob_item;
      n = PyList_GET_SIZE(value);
    } else if (PyTuple_Check(value)) {
      items = reinterpret_cast<PyTupleObject*>(value)->ob_item;
      n = PyTuple_GET_SIZE(value);
    } else if (value == Py_None) {
      return true;
    } else {
      if (PyUnicode_Check(value) || PyDict_Check(value) || PyBytes_Check(value))
        return fail(kBadChildren, s.child_ptr.size - 1, value);
      own();
      held.object = PySequence_Fast(value, "");
      if (!held.object) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError)) return false;
        PyErr_Clear();
        return fail(kBadChildren, s.child_ptr.size - 1, value);
      }
      items = PySequence_Fast_ITEMS(held.object);
      n = PySequence_Fast_GET_SIZE(held.object);
    }
    if (s.nodes.size + n > kMaxNodes || s.child_idx.size + n > kMaxNodes) {
      PyErr_Format(PyExc_OverflowError, "a forest must have at most %lld nodes",
                   static_cast<long long>(kMaxNodes));
      return false;
    }
    s.child_idx.reserve(s.child_idx.size + n);
    s.nodes.reserve(s.nodes.size + n);
    bool fit = true;
    for (Py_ssize_t j = 0; j < n && fit; ++j) {
      PyObject* child = items[j];
      if (__builtin_expect(child == Py_None, 0)) {
        fit = fail(kNoneChild, j, child);
      } else {
        bool once = is_list_alone && !s.owns_nodes && Py_REFCNT(child) == 1;
        s.child_idx.push(add(child, once));
      }
    }
    return fit;
  }

  bool read_token(PyObject* value, int32_t& token) {
    token = kNone;
    if (value == Py_None) return true;
    if (PyLong_CheckExact(value)) {
#if PY_VERSION_HEX < 0x030C0000
      Py_ssize_t digits = Py_SIZE(value);
      if (digits == 0 || digits == 1) {
        token = digits ? static_cast<int32_t>(
                             reinterpret_cast<PyLongObject*>(value)->ob_digit[0])
                       : 0;
        return true;
      }
#endif
      int overflow = 0;
      long number = PyLong_AsLongAndOverflow(value, &overflow);
      if (overflow || number < 0 || number > INT32_MAX) return fail(kNegativeToken, 0, value);
      token = static_cast<int32_t>(number);
      return true;
    }
    own();
    Held index(PyNumber_Index(value));
    if (!index.object) {
      if (!PyErr_ExceptionMatches(PyExc_TypeError)) return false;
      PyErr_Clear();
      return fail(kBadToken, 0, value);
    }
    return PyLong_CheckExact(index.object) ? read_token(index.object, token)
                                           : fail(kBadToken, 0, value);
  }

  bool visit(int64_t id) {
    PyObject* node = s.nodes[id];
    const Known& kept = known(Py_TYPE(node));
    const Access for_children = kept.children, for_token = kept.token;
    int64_t before = s.child_idx.size;
    PyObject* value = quick(node, for_children);
    if (value) {
      /* The node's own field holds the list, so its items outlive this walk. */
      if (!PyList_Check(value) && !PyTuple_Check(value) && value != Py_None) {
        Py_INCREF(value);
        Held held(value);
        own();
        if (!add_children(value, false)) return false;
      } else if (!add_children(value, Py_REFCNT(value) == 1)) {
        return false;
      }
    } else {
      bool is_error;
      value = ask(node, children_name, is_error);
      if (is_error) return false;
      if (!value) return fail(kBadChildren, id, reinterpret_cast<PyObject*>(Py_TYPE(node)));
      Held held(value);
      if (!add_children(value, false)) return false;
    }
    bool is_leaf = s.child_idx.size == before;
    int32_t token = kNone;
    if (token_name && (is_leaf || !leaf_tokens_only)) {
      value = quick(node, for_token);
      if (value) {
        if (PyLong_CheckExact(value)) {
          if (!read_token(value, token)) return false;
        } else {
          Py_INCREF(value);
          Held held(value);
          if (!read_token(value, token)) return false;
        }
      } else {
        bool is_error;
        value = ask(node, token_name, is_error);
        if (is_error) return false;
        Held held(value);
        if (value && !read_token(value, token)) return false;
      }
    }
    s.token.push(token);
    s.child_ptr.push(static_cast<int32_t>(s.child_idx.size));
    return true;
  }

  /* Nodes lie anywhere in memory: what will be read of them is asked for in time. */
  void fetch_ahead(PyObject* later, PyObject* sooner) {
#if HAS_INLINE_VALUES
    const Known& usual = s.known[0];
    if (!s.n_known || usual.epoch != s.epoch || usual.children.way != Access::kInline) return;
    if (Py_TYPE(later) == usual.type)
      __builtin_prefetch(reinterpret_cast<PyObject***>(later)[-4] + usual.children.offset);
    if (Py_TYPE(sooner) == usual.type)
      if (PyObject** values = reinterpret_cast<PyObject***>(sooner)[-4])
        __builtin_prefetch(values[usual.children.offset]);
#endif
  }

  bool run(PyObject* roots) {
    s.child_ptr.push(0);
    Py_ssize_t n = PyList_GET_SIZE(roots);
    for (Py_ssize_t r = 0; r < n; ++r) {
      PyObject* root = PyList_GET_ITEM(roots, r);
      if (root == Py_None) return fail(kNoneRoot, r, root);
      int32_t id = add(root, false);
      s.roots.push(id);
      for (int64_t i = s.token.size; i < s.nodes.size; ++i) {
        if (i + 6 < s.nodes.size) fetch_ahead(s.nodes[i + 6], s.nodes[i + 3]);
        if (!visit(i)) return false;
      }
    }
    return true;
  }
};

PyObject* forest_bytes(Scratch& s) {
  /* Also of a walk that stopped half way: what was found so far. */
  int64_t n = s.token.size, n_edges = n ? s.child_ptr[n] : 0, n_roots = s.roots.size;
  PyObject* bytes = PyBytes_FromStringAndSize(nullptr, 4 * (4 + n + 1 + n_edges + n_roots + n));
  if (!bytes) return nullptr;
  int32_t* out = reinterpret_cast<int32_t*>(PyBytes_AS_STRING(bytes));
  const int64_t header[4] = {n, n_edges, n_roots, 0};
  for (int64_t word : header) *out++ = static_cast<int32_t>(word);
  auto put = [&](const int32_t* from, int64_t words) {
    if (words) std::memcpy(out, from, words * 4);
    out += words;
  };
  put(s.child_ptr.at, n + 1);
  put(s.child_idx.at, n_edges);
  put(s.roots.at, n_roots);
  put(s.token.at, n);
  return bytes;
}

PyObject* node_list(Scratch& s) {
  PyObject* list = PyList_New(s.nodes.size);
  for (int64_t i = 0; list && i < s.nodes.size; ++i) {
    Py_INCREF(s.nodes[i]);
    PyList_SET_ITEM(list, i, s.nodes[i]);
  }
  return list;
}

}  // namespace

/* Bits of the options word: 1 tree, 2 kinds, 4 dedup, 8 forest instead of linear,
   16 list of nodes beside the result. */

/* Bytes of the Linear (or Forest), or a pair with the nodes; for a graph the options do not allow
   (None, forest bytes); for an object that cannot be read
   (what, node, position, detail, forest bytes so far). */
EXPORT PyObject* cortex_walk(PyObject* roots, PyObject* children_name, PyObject* token_name,
                             int32_t arity, int32_t flags, int32_t tokens, int32_t vocab,
                             int32_t depth) {
  try {
    Borrowed lent;
    Scratch& s = *lent.s;
    Walk walk{s, children_name, token_name == Py_None ? nullptr : token_name, tokens == 1};
    if (!walk.run(roots)) {
      if (!walk.wrong) return nullptr;
      PyObject* found = forest_bytes(s);
      if (!found) return nullptr;
      return Py_BuildValue("iLLON", walk.wrong, static_cast<long long>(s.token.size),
                           static_cast<long long>(walk.position), walk.detail, found);
    }
    PyObject* result;
    if (flags & 8) {
      result = forest_bytes(s);
    } else {
      Graph g{s.child_ptr.at, s.child_idx.at,   s.roots.at, s.token.at,
              s.token.size,   s.child_idx.size, s.roots.size};
      Options o{arity,  (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0, depth,
                tokens, vocab,            nullptr,          0,                true,
                !walk.met_again};
      result = number(s, g, o);
      if (result == Py_None) {
        PyObject* found = forest_bytes(s);
        return found ? Py_BuildValue("NN", result, found) : nullptr;
      }
    }
    if (!result || !(flags & 16)) return result;
    PyObject* nodes = node_list(s);
    if (!nodes) {
      Py_DECREF(result);
      return nullptr;
    }
    return Py_BuildValue("NN", result, nodes);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

/* The memory of a C-contiguous array of int32 or float32. */
struct View {
  Py_buffer buffer{};
  bool is_held = false;
  ~View() {
    if (is_held) PyBuffer_Release(&buffer);
  }
  const int32_t* of(PyObject* array) {
    if (array == Py_None) return nullptr;
    is_held = PyObject_GetBuffer(array, &buffer, PyBUF_C_CONTIGUOUS) == 0;
    return static_cast<const int32_t*>(buffer.buf);
  }
  int64_t words() const { return buffer.len / 4; }
};

/* Bytes of the Linear of a forest's arrays, or None if it is not what the options allow. */
EXPORT PyObject* cortex_number(PyObject* child_ptr, PyObject* child_idx, PyObject* roots,
                               PyObject* token, PyObject* features, int32_t arity, int32_t flags,
                               int32_t tokens, int32_t vocab, int32_t depth) {
  try {
    View ptr, idx, first, words, rows;
    Graph g{ptr.of(child_ptr), idx.of(child_idx), first.of(roots), words.of(token), 0, 0, 0};
    const uint8_t* table = reinterpret_cast<const uint8_t*>(rows.of(features));
    if (PyErr_Occurred()) return nullptr;
    g.n = words.words();
    g.n_edges = idx.words();
    g.n_roots = first.words();
    Borrowed lent;
    Options o{arity,  (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0,
              depth,  tokens,           vocab,            table,
              g.n ? rows.buffer.len / g.n : 0,            false, false};
    return number(*lent.s, g, o);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}
