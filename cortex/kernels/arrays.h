/* From sequences and from parent arrays to a graph, and sequences numbered at once.

   What is not as it should be is left to the caller, who looks for it again to say what it is. */
#ifndef MLSYS21_CORTEX_ARRAYS_H
#define MLSYS21_CORTEX_ARRAYS_H

#include "numbering.h"

namespace {

/* Integers of one dimension that lie in memory one after another, of 32 or 64 bits. */
struct Integers {
  Py_buffer buffer{};
  bool is_held = false;
  const int32_t* narrow = nullptr;
  const int64_t* wide = nullptr;
  int64_t size = 0;

  Integers() = default;
  Integers(const Integers&) = delete;
  ~Integers() {
    if (is_held) PyBuffer_Release(&buffer);
  }
  bool read(PyObject* array) {
    if (!PyObject_CheckBuffer(array)) return false;
    if (PyObject_GetBuffer(array, &buffer, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS)) {
      PyErr_Clear();
      return false;
    }
    is_held = true;
    const char* format = buffer.format ? buffer.format : "B";
    if (buffer.ndim != 1 || format[0] == 0 || format[1] != 0 || !std::strchr("ilq", format[0]))
      return false;
    size = buffer.shape[0];
    if (buffer.itemsize == 4) narrow = static_cast<const int32_t*>(buffer.buf);
    if (buffer.itemsize == 8) wide = static_cast<const int64_t*>(buffer.buf);
    return narrow || wide;
  }
  int64_t operator[](int64_t i) const { return narrow ? narrow[i] : wide[i]; }

  /* All of them as 32 bits; false if they do not fit. */
  bool copy(int32_t* to) const {
    if (narrow) {
      if (size) std::memcpy(to, narrow, sizeof(int32_t) * size);
      return true;
    }
    int64_t lost = 0;
    for (int64_t i = 0; i < size; ++i) {
      to[i] = static_cast<int32_t>(wide[i]);
      lost |= wide[i] ^ to[i];
    }
    return !lost;
  }
};

/* ---- sequences ------------------------------------------------------------------------------ */

/* Appends the elements of one sequence to s.token. */
bool add_elements(Scratch& s, PyObject* item) {
  if (PyList_CheckExact(item) || PyTuple_CheckExact(item)) {
    PyObject** values = PySequence_Fast_ITEMS(item);
    const int64_t n = PySequence_Fast_GET_SIZE(item), before = s.token.size;
    if (before + n > kMaxNodes) return false;
    int32_t* out = s.token.resize(before + n) + before;
    for (int64_t i = 0; i < n; ++i) {
      if (!PyLong_CheckExact(values[i])) return false;
      int overflow = 0;
      long number = PyLong_AsLongAndOverflow(values[i], &overflow);
      if (overflow || number < 0 || number > INT32_MAX) return false;
      out[i] = static_cast<int32_t>(number);
    }
    return n > 0;
  }
  Integers numbers;
  if (!numbers.read(item) || numbers.size == 0) return false;
  const int64_t before = s.token.size;
  if (before + numbers.size > kMaxNodes) return false;
  return numbers.copy(s.token.resize(before + numbers.size) + before);
}

/* Tokens, and the last element of each sequence as its root, from a list of sequences or from one. */
bool read_sequences(Scratch& s, PyObject* data) {
  const bool is_listed = PyList_CheckExact(data) || PyTuple_CheckExact(data);
  const int64_t n = is_listed ? PySequence_Fast_GET_SIZE(data) : 0;
  if (is_listed && n == 0) return false;
  if (!is_listed || PyLong_CheckExact(PySequence_Fast_ITEMS(data)[0])) {
    if (!add_elements(s, data)) return false;
    s.roots.push(static_cast<int32_t>(s.token.size - 1));
    return true;
  }
  for (int64_t i = 0; i < n; ++i) {
    if (!add_elements(s, PySequence_Fast_ITEMS(data)[i])) return false;
    s.roots.push(static_cast<int32_t>(s.token.size - 1));
  }
  return true;
}

/* child_ptr and child_idx of sequences that end at these nodes. */
void link_sequences(Scratch& s, const int32_t* last, int64_t n_sequences, int64_t n) {
  int32_t* ptr = s.child_ptr.resize(n + 1);
  int32_t* idx = s.child_idx.resize(n - n_sequences);
  int32_t edges = 0, node = 0;
  ptr[0] = 0;
  for (int64_t k = 0; k < n_sequences; ++k) {
    ptr[++node] = edges;
    for (; node <= last[k]; ptr[++node] = edges) idx[edges++] = node - 1;
  }
}

/* The last element of each sequence, if the graph is nothing but sequences one after another:
   child 0 of an element is the one before. */
bool are_sequences(Scratch& s, const Graph& g) {
  if (g.n == 0 || g.child_ptr[0] != 0 || g.child_ptr[g.n] != g.n_edges) return false;
  const int64_t n_sequences = g.n - g.n_edges;
  if (n_sequences < 1 || g.child_ptr[1] != 0) return false;
  int32_t* last = s.inner.resize(n_sequences + 1);
  int64_t found = 0;
  int32_t before = 0, fit = 1;
  for (int64_t n = 1; n < g.n && found < n_sequences; ++n) {
    int32_t children = g.child_ptr[n + 1] - before;
    /* Where there is no child the edge looked at is the next one, which is not looked at. */
    if (static_cast<uint32_t>(children) > 1 || before > g.n_edges - children) return false;
    if (children) fit &= g.child_idx[before] == n - 1;
    last[found] = static_cast<int32_t>(n - 1);
    found += 1 - children;
    before += children;
  }
  if (!fit || found != n_sequences - 1) return false;
  last[found] = static_cast<int32_t>(g.n - 1);
  for (int64_t r = 0; r < g.n_roots; ++r) fit &= static_cast<uint32_t>(g.roots[r]) < g.n;
  return fit;
}

/* Tokens that are read, of sequences one after another, are there and below vocab. */
bool are_tokens_fit(const Graph& g, const Options& o) {
  int32_t fit = 1;
  const int32_t least = o.tokens == 3 ? kNone : 0;
  for (int64_t n = 0; o.tokens >= 2 && n < g.n; ++n)
    fit &= g.token[n] >= least && (o.vocab < 0 || g.token[n] < o.vocab);
  for (int64_t n = 0; o.tokens == 1 && n < g.n; ++n)
    fit &= g.child_ptr[n] != g.child_ptr[n + 1] ||
           (g.token[n] >= 0 && (o.vocab < 0 || g.token[n] < o.vocab));
  return fit;
}

/* The Linear of sequences that end at these nodes, as `number` makes it: level k is the elements k
   of all sequences that are long enough. */
PyObject* number_sequences(Scratch& s, const Graph& g, const int32_t* last, int64_t n_sequences) {
  int32_t* next = s.work.resize(2 * n_sequences);  // of the sequences still going on, and its last
  int32_t n_levels = 0;
  for (int64_t k = 0, begin = 0; k < n_sequences; begin = last[k] + 1, ++k) {
    next[2 * k] = static_cast<int32_t>(begin);
    next[2 * k + 1] = last[k];
    int32_t length = static_cast<int32_t>(last[k] + 1 - begin);
    n_levels = length > n_levels ? length : n_levels;
  }
  const int64_t n = g.n, n_inner = n - n_sequences;
  const int64_t words = 8 + n + n + n_levels + 1 + n_inner + n + g.n_roots;
  PyObject* bytes = PyBytes_FromStringAndSize(nullptr, words * 4);
  if (!bytes) return nullptr;
  int32_t* out = reinterpret_cast<int32_t*>(PyBytes_AS_STRING(bytes));
  const int64_t header[8] = {n, n_sequences, n_levels, n_inner, 1, 0, n, g.n_roots};
  for (int64_t word : header) *out++ = static_cast<int32_t>(word);
  int32_t *order = out, *id_of = order + n, *level_ptr = id_of + n;
  int32_t *child = level_ptr + n_levels + 1, *token = child + n_inner, *roots = token + n;
  level_ptr[0] = 0;
  if (n_sequences == 1) {
    for (int32_t i = 0; i < n; ++i) order[i] = id_of[i] = i;
    for (int32_t i = 0; i < n; ++i) level_ptr[i + 1] = i + 1;
    for (int32_t i = 0; i < n_inner; ++i) child[i] = i;
    std::memcpy(token, g.token, sizeof(int32_t) * n);
  } else {
    int64_t going = n_sequences;
    int32_t id = 0;
    for (int32_t b = 0; b < n_levels; ++b) {
      int64_t kept = 0;
      for (int64_t k = 0; k < going; ++k, ++id) {
        int32_t node = next[2 * k], end = next[2 * k + 1];
        order[id] = node;
        id_of[node] = id;
        token[id] = g.token[node];
        if (b) child[id - n_sequences] = id_of[node - 1];
        next[2 * kept] = node + 1;
        next[2 * kept + 1] = end;
        kept += node < end;
      }
      level_ptr[b + 1] = id;
      going = kept;
    }
  }
  for (int64_t r = 0; r < g.n_roots; ++r) roots[r] = id_of[g.roots[r]];
  return bytes;
}

/* ---- parent arrays -------------------------------------------------------------------------- */

/* child_ptr, child_idx and roots of trees given by each node's parent, which counts from the first
   node of its tree; -1 at the root. */
bool link_parents(Scratch& s, const Integers& parent, const Integers* tree_ptr) {
  const int64_t n = parent.size, n_trees = tree_ptr ? tree_ptr->size - 1 : 1;
  if (n < 1 || n > kMaxNodes || n_trees < 1) return false;
  int32_t* ptr = s.child_ptr.resize(n + 2);
  int32_t* above = s.key.resize(n);
  std::memset(ptr, 0, sizeof(int32_t) * (n + 2));
  int64_t begin = 0;
  if (tree_ptr && (*tree_ptr)[0] != 0) return false;
  for (int64_t t = 0; t < n_trees; ++t) {
    const int64_t end = tree_ptr ? (*tree_ptr)[t + 1] : n, size = end - begin;
    if (size < 1 || end > n) return false;
    int64_t root = -1;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t p = parent[i];
      if (p == -1) {
        if (root >= 0) return false;
        root = i;
        above[i] = kNone;
        continue;
      }
      if (static_cast<uint64_t>(p) >= static_cast<uint64_t>(size) || p + begin == i) return false;
      above[i] = static_cast<int32_t>(p + begin);
      ++ptr[p + begin + 2];
    }
    if (root < 0) return false;
    s.roots.push(static_cast<int32_t>(root));
    begin = end;
  }
  if (begin != n) return false;
  for (int64_t i = 0; i < n; ++i) ptr[i + 2] += ptr[i + 1];
  int32_t* idx = s.child_idx.resize(n - n_trees);
  for (int64_t i = 0; i < n; ++i)
    if (above[i] >= 0) idx[ptr[above[i] + 1]++] = static_cast<int32_t>(i);
  s.child_ptr.size = n + 1;
  return true;
}

}  // namespace

#endif
