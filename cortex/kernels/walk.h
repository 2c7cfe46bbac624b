/* From linked Python objects to a graph as flat arrays. */
#ifndef MLSYS21_CORTEX_WALK_H
#define MLSYS21_CORTEX_WALK_H

#include "numbering.h"

namespace {

/* A reference of ours, given back however we leave. */
struct Held {
  PyObject* object;
  explicit Held(PyObject* taken = nullptr) : object(taken) {}
  Held(const Held&) = delete;
  ~Held() { Py_XDECREF(object); }
};

enum Wrong : int { kBadChildren = 1, kNoneChild = 2, kBadToken = 3, kNegativeToken = 4, kNoneRoot = 5 };

struct Walk {
  Scratch& s;
  PyObject *children_name, *token_name;
  int32_t arity, tokens, vocab;  // as in Options

  bool fit = true;  // children and tokens are as the model wants them
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
    __builtin_prefetch(reinterpret_cast<char*>(node) - 32);  // where a node's values are
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

  /* False for what takes longer. */
  static bool read_small(PyObject* value, int32_t& token) {
    token = kNone;
    if (value == Py_None) return true;
    if (!PyLong_CheckExact(value)) return false;
#if PY_VERSION_HEX < 0x030C0000
    const Py_ssize_t digits = Py_SIZE(value);
    if (digits != 0 && digits != 1) return false;
    token = digits ? static_cast<int32_t>(reinterpret_cast<PyLongObject*>(value)->ob_digit[0]) : 0;
    return true;
#else
    const PyLongObject* number = reinterpret_cast<PyLongObject*>(value);
    if (!PyUnstable_Long_IsCompact(number)) return false;
    const Py_ssize_t small = PyUnstable_Long_CompactValue(number);
    token = static_cast<int32_t>(small);
    return small >= 0 && small <= INT32_MAX;
#endif
  }

  bool read_token(PyObject* value, int32_t& token) {
    if (read_small(value, token)) return true;
    if (PyLong_CheckExact(value)) {
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
    const int64_t n_children = s.child_idx.size - before;
    const bool is_leaf = n_children == 0;
    (is_leaf ? s.order : s.inner).push(static_cast<int32_t>(id));
    fit &= is_leaf || arity < 0 || n_children == arity;
    int32_t token = kNone;
    if (token_name && (is_leaf || tokens != 1)) {
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
    if (is_leaf || tokens != 1) {
      const bool is_needed = tokens == 1 || tokens == 2;
      fit &= (token >= 0 || !is_needed) && (tokens == 0 || vocab < 0 || token < vocab);
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

  /* Visits nodes from `id` on, as `visit` does, while they are of the usual kind: of the type met
     first, with children in a list that nobody else holds and a small number or nothing as token.
     Most are, and then nothing but their memory is read. Returns the first that is not. */
  int64_t visit_usual(int64_t id) {
    const Known& usual = s.known[0];
    if (!s.n_known || usual.epoch != s.epoch || s.owns_nodes) return id;
    PyTypeObject* const type = usual.type;
    const Access for_children = usual.children, for_token = usual.token;
    for (; id < s.nodes.size; ++id) {
      if (id + 6 < s.nodes.size) fetch_ahead(s.nodes[id + 6], s.nodes[id + 3]);
      PyObject* node = s.nodes[id];
      if (Py_TYPE(node) != type) break;
      PyObject* list = quick(node, for_children);
      if (!list || !PyList_CheckExact(list) || Py_REFCNT(list) != 1) break;
      const Py_ssize_t n = PyList_GET_SIZE(list);
      int32_t token = kNone;
      if (token_name && (n == 0 || tokens != 1)) {
        PyObject* value = quick(node, for_token);
        if (!value || !read_small(value, token)) break;
      }
      if (n == 0) {
        s.order.push(static_cast<int32_t>(id));
      } else {
        if (!add_alone(list, n)) break;
        s.inner.push(static_cast<int32_t>(id));
        fit &= arity < 0 || n == arity;
      }
      if (n == 0 || tokens != 1) {
        const bool is_needed = tokens == 1 || tokens == 2;
        fit &= (token >= 0 || !is_needed) && (tokens == 0 || vocab < 0 || token < vocab);
      }
      s.token.push(token);
      s.child_ptr.push(static_cast<int32_t>(s.child_idx.size));
    }
    return id;
  }

  /* Adds these children if each is met here alone; else none. */
  bool add_alone(PyObject* list, Py_ssize_t n) {
    if (s.nodes.size + n > kMaxNodes) return false;
    s.child_idx.reserve(s.child_idx.size + n);
    s.nodes.reserve(s.nodes.size + n);
    int32_t next = static_cast<int32_t>(s.nodes.size);
    int32_t* idx = s.child_idx.at + s.child_idx.size;
    PyObject** nodes = s.nodes.at + s.nodes.size;
    for (Py_ssize_t j = 0; j < n; ++j) {
      PyObject* child = PyList_GET_ITEM(list, j);
      if (Py_REFCNT(child) != 1) return false;  // None has many references
      __builtin_prefetch(reinterpret_cast<char*>(child) - 32);
      nodes[j] = child;
      idx[j] = next++;
    }
    s.nodes.size += n;
    s.child_idx.size += n;
    return true;
  }

  bool run(PyObject* roots) {
    s.child_ptr.push(0);
    Py_ssize_t n = PyList_GET_SIZE(roots);
    for (Py_ssize_t r = 0; r < n; ++r) {
      PyObject* root = PyList_GET_ITEM(roots, r);
      if (root == Py_None) return fail(kNoneRoot, r, root);
      int32_t id = add(root, false);
      s.roots.push(id);
      while (s.token.size < s.nodes.size) {
        int64_t i = visit_usual(s.token.size);
        if (i < s.nodes.size && !visit(i)) return false;
      }
    }
    return true;
  }
};

}  // namespace

#endif
