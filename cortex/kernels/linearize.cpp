/* From linked Python objects, or from flat arrays, to nodes numbered by height.

   Everything is called with the interpreter lock held and returns a bytes object of
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
#include "arrays.h"
#include "walk.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

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

/* Bits of the flags: 1 tree, 2 kinds, 4 dedup, 8 forest instead of linear, 16 list of nodes beside
   the result. */

/* ---- what Python calls; arguments stand in the order of `Args` ---------------------------------- */

using Args = PyObject* const*;

/* The small numbers that end an argument list. */
struct Numbers {
  int64_t arity, flags, tokens, vocab, depth;

  explicit Numbers(Args at)
      : arity(PyLong_AsLong(at[0])), flags(PyLong_AsLong(at[1])), tokens(PyLong_AsLong(at[2])),
        vocab(PyLong_AsLong(at[3])), depth(PyLong_AsLong(at[4])) {}

  Options options() const {
    Options o{};
    o.arity = static_cast<int32_t>(arity);
    o.is_tree = flags & 1, o.kinds = flags & 2, o.dedup = flags & 4;
    o.depth = static_cast<int32_t>(depth);
    o.tokens = static_cast<int32_t>(tokens);
    o.vocab = static_cast<int32_t>(vocab);
    return o;
  }
};

bool has(Py_ssize_t given, Py_ssize_t wanted) {
  if (given == wanted) return true;
  PyErr_Format(PyExc_TypeError, "%zd arguments must be given, got %zd", wanted, given);
  return false;
}

Graph graph_of(const Scratch& s) {
  return {s.child_ptr.at, s.child_idx.at,   s.roots.at,  s.token.at,
          s.token.size,   s.child_idx.size, s.roots.size};
}

/* walk(roots, children name, token name or None, numbers): bytes of the Linear (or Forest), or a
   pair with the nodes; for a graph the options do not allow (None, forest bytes); for an object
   that cannot be read (what, node, position, detail, forest bytes so far). */
PyObject* walk(PyObject*, Args args, Py_ssize_t n_args) {
  if (!has(n_args, 8)) return nullptr;
  const Numbers numbers(args + 3);
  if (PyErr_Occurred()) return nullptr;
  try {
    Borrowed lent;
    Scratch& s = *lent.s;
    Options o = numbers.options();
    Walk walk{s,       args[1], args[2] == Py_None ? nullptr : args[2],
              o.arity, o.tokens, o.vocab};
    if (!walk.run(args[0])) {
      if (!walk.wrong) return nullptr;
      PyObject* found = forest_bytes(s);
      if (!found) return nullptr;
      return Py_BuildValue("iLLON", walk.wrong, static_cast<long long>(s.token.size),
                           static_cast<long long>(walk.position), walk.detail, found);
    }
    PyObject* result;
    if (numbers.flags & 8) {
      result = forest_bytes(s);
    } else {
      o.is_walked = true;
      o.is_forest = !walk.met_again;
      result = walk.fit ? number(s, graph_of(s), o) : Py_NewRef(Py_None);
      if (result == Py_None) {
        PyObject* found = forest_bytes(s);
        return found ? Py_BuildValue("NN", result, found) : nullptr;
      }
    }
    if (!result || !(numbers.flags & 16)) return result;
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

/* number(child_ptr, child_idx, roots, token, features or None, numbers): bytes of the Linear of a
   forest's arrays, or None if it is not what the options allow. */
PyObject* number_arrays(PyObject*, Args args, Py_ssize_t n_args) {
  if (!has(n_args, 10)) return nullptr;
  const Numbers numbers(args + 5);
  if (PyErr_Occurred()) return nullptr;
  try {
    View ptr, idx, first, words, rows;
    Graph g{ptr.of(args[0]), idx.of(args[1]), first.of(args[2]), words.of(args[3]), 0, 0, 0};
    Options o = numbers.options();
    o.features = reinterpret_cast<const uint8_t*>(rows.of(args[4]));
    if (PyErr_Occurred()) return nullptr;
    g.n = words.words();
    g.n_edges = idx.words();
    g.n_roots = first.words();
    o.feature_bytes = g.n ? rows.buffer.len / g.n : 0;
    Borrowed lent;
    Scratch& s = *lent.s;
    if (o.arity == 1 && !o.kinds && !o.dedup && o.depth == 1 && are_sequences(s, g) &&
        are_tokens_fit(g, o))
      return number_sequences(s, g, s.inner.at, s.inner.size - 1);
    return number(s, g, o);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

/* sequences(data, numbers): bytes of the Linear of lists or arrays of tokens, or None if they are
   something else or their tokens are unfit. */
PyObject* number_elements(PyObject*, Args args, Py_ssize_t n_args) {
  if (!has(n_args, 6)) return nullptr;
  const Numbers numbers(args + 1);
  if (PyErr_Occurred()) return nullptr;
  try {
    Borrowed lent;
    Scratch& s = *lent.s;
    const Options o = numbers.options();
    if (!read_sequences(s, args[0])) Py_RETURN_NONE;
    link_sequences(s, s.roots.at, s.roots.size, s.token.size);
    const Graph g = graph_of(s);
    if (o.kinds || o.dedup || o.depth > 1) return number(s, g, o);
    if (!are_tokens_fit(g, o)) Py_RETURN_NONE;
    return number_sequences(s, g, s.roots.at, s.roots.size);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

/* Tokens of s.child_ptr.size - 1 nodes; -1 each for None. */
bool read_tokens(Scratch& s, PyObject* token) {
  const int64_t n = s.child_ptr.size - 1;
  int32_t* out = s.token.resize(n);
  if (token == Py_None) {
    std::memset(out, 0xff, sizeof(int32_t) * n);
    return true;
  }
  Integers given;
  return given.read(token) && given.size == n && given.copy(out);
}

/* parents(parent, tree_ptr or None, token or None): bytes of the Forest, or None if something is
   wrong or not in arrays of integers. */
PyObject* forest_of_parents(PyObject*, Args args, Py_ssize_t n_args) {
  if (!has(n_args, 3)) return nullptr;
  try {
    Integers parent, tree_ptr;
    if (!parent.read(args[0])) Py_RETURN_NONE;
    const bool has_trees = args[1] != Py_None;
    if (has_trees && !tree_ptr.read(args[1])) Py_RETURN_NONE;
    Borrowed lent;
    if (!link_parents(*lent.s, parent, has_trees ? &tree_ptr : nullptr)) Py_RETURN_NONE;
    if (!read_tokens(*lent.s, args[2])) Py_RETURN_NONE;
    return forest_bytes(*lent.s);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

/* chains(lengths, token or None): bytes of the Forest of sequences, or None as above. */
PyObject* forest_of_chains(PyObject*, Args args, Py_ssize_t n_args) {
  if (!has(n_args, 2)) return nullptr;
  try {
    Integers lengths;
    if (!lengths.read(args[0])) Py_RETURN_NONE;
    Borrowed lent;
    Scratch& s = *lent.s;
    int64_t n = 0;
    for (int64_t k = 0; k < lengths.size; ++k) {
      if (lengths[k] < 1 || lengths[k] > kMaxNodes - n) Py_RETURN_NONE;
      n += lengths[k];
      s.roots.push(static_cast<int32_t>(n - 1));
    }
    link_sequences(s, s.roots.at, s.roots.size, n);
    if (!read_tokens(s, args[1])) Py_RETURN_NONE;
    return forest_bytes(s);
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  }
}

PyMethodDef method(const char* name, PyObject* (*function)(PyObject*, Args, Py_ssize_t)) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), METH_FASTCALL,
          nullptr};
}

PyMethodDef methods[] = {method("walk", walk), method("number", number_arrays),
                         method("sequences", number_elements),
                         method("parents", forest_of_parents), method("chains", forest_of_chains)};

}  // namespace

/* The functions above, in their order; calls of them cost a tenth of what ctypes costs. */
EXPORT PyObject* cortex_functions() {
  constexpr Py_ssize_t n = sizeof(methods) / sizeof(methods[0]);
  PyObject* found = PyTuple_New(n);
  for (Py_ssize_t i = 0; found && i < n; ++i) {
    PyObject* function = PyCFunction_New(&methods[i], nullptr);
    if (!function) {
      Py_DECREF(found);
      return nullptr;
    }
    PyTuple_SET_ITEM(found, i, function);
  }
  return found;
}
