/* Matrix products for Python: c = activation(old + a b + bias), see gemm.h for the layouts.

   a (m, k), b (k, n) with any strides in elements; c (m, n) row-major, c_pitch elements from row to
   row; old is c's earlier value if `adds`, else 0. bias (n) or null. packed: gemm_packed_size
   floats. workspace: gemm_workspace_size floats for each thread. bf16 are passed as uint16_t.

   Threads take panels of b, or rows of a where those are more; every split gives the same bits. */
#include "gemm.h"

namespace {

using gemm::bf16;
using simd::vec;

enum Activation : int64_t { none, relu, sigmoid, tanh, gelu };

/* bias, then an activation that is one instruction. */
struct Affine {
  const float *bias;
  bool is_relu;
  SIMD_INLINE vec operator()(vec sum, int64_t, int64_t column, int lanes) const {
    if (bias) sum += simd::load_first(bias + column, lanes);
    /* Written so that NaN stays. */
    return is_relu ? simd::select(sum < vec{}, vec{}, sum) : sum;
  }
};

struct Curved {
  static constexpr bool is_large = true;
  const float *bias;
  Activation activation;
  /* Kept out of the many kernels that call it. */
  __attribute__((noinline)) vec operator()(vec sum, int64_t, int64_t column, int lanes) const {
    if (bias) sum += simd::load_first(bias + column, lanes);
    switch (activation) {
    case sigmoid: return simd::sigmoid(sum);
    case tanh: return simd::tanh(sum);
    default: return simd::gelu(sum);
    }
  }
};

/* Floats of one thread's share of the workspace. */
int64_t share(int64_t n) {
  const int64_t size = gemm::unpacked_workspace_size() + gemm::partial_size(n);
  return (size + 31) / 32 * 32;
}

/* call(first row, rows, first panel, last panel, workspace) for every thread. */
template <class Call>
void on_threads(int64_t threads, int64_t m, int64_t n, float *workspace, const Call &call) {
  const int64_t panels = gemm::panels(n), blocks = (m + gemm::kernel_rows - 1) / gemm::kernel_rows;
  const bool by_rows = blocks > panels;
#pragma omp parallel for num_threads(threads) schedule(static, 1) if (threads > 1)
  for (int64_t t = 0; t < threads; t++) {
    float *const own = workspace + t * share(n);
    const int64_t all = by_rows ? blocks : panels;
    const int64_t from = all * t / threads, to = all * (t + 1) / threads;
    if (from == to) continue;
    if (by_rows)
      call(from * gemm::kernel_rows, std::min(m, to * gemm::kernel_rows) - from * gemm::kernel_rows,
           0, panels, own);
    else
      call(0, m, from, to, own);
  }
}

template <class E, class Out>
void multiply(const E *a, int64_t a_row, int64_t a_column, const E *b, int64_t b_row,
              int64_t b_column, const float *packed, Out *c, int64_t c_pitch, const float *bias,
              int64_t how, int64_t m, int64_t k, int64_t n, float *workspace) {
  const int64_t activation = how % 16, threads = how / 32;
  const bool adds = how / 16 % 2;
  const auto with = [&](const auto &f) {
    on_threads(threads, m, n, workspace,
               [&](int64_t row, int64_t rows, int64_t first, int64_t last, float *own) {
                 const gemm::Strided<E> left{a + row * a_row, a_row, a_column};
                 float *partial = own + gemm::unpacked_workspace_size();
                 if (packed)
                   gemm::run(left, packed, c + row * c_pitch, c_pitch, rows, n, k, first, last,
                             adds, f, own, partial);
                 else
                   gemm::run_unpacked(left, gemm::Strided<E>{b, b_row, b_column},
                                      c + row * c_pitch, c_pitch, rows, n, k, first, last,
                                      adds, f, own, partial);
               });
  };
  if (activation == none || activation == relu)
    with(Affine{bias, activation == relu});
  else
    with(Curved{bias, static_cast<Activation>(activation)});
}

} // namespace

EXPORT int64_t gemm_packed_size(int64_t k, int64_t n, int64_t is_bf16) {
  return is_bf16 ? gemm::packed_size<bf16>(k, n) : gemm::packed_size<float>(k, n);
}

EXPORT int64_t gemm_workspace_size(int64_t n) { return share(n); }

/* Lanes of the vectors this was built for, and the terms one lane of a bf16 product holds. */
EXPORT int64_t gemm_width(void) { return simd::width; }
EXPORT int64_t gemm_bf16_terms(void) { return gemm::Lane<bf16>::terms; }

EXPORT void gemm_pack_fp32(const float *b, float *packed, int64_t b_row, int64_t b_column,
                           int64_t k, int64_t n) {
  gemm::pack_b<float>({b, b_row, b_column}, k, n, packed);
}

EXPORT void gemm_pack_bf16(const uint16_t *b, float *packed, int64_t b_row, int64_t b_column,
                           int64_t k, int64_t n) {
  gemm::pack_b<bf16>({reinterpret_cast<const bf16 *>(b), b_row, b_column}, k, n, packed);
}

namespace {

/* how = activation + 16 * adds + 32 * threads */
struct Arguments {
  int64_t a, b, packed, bias, c, workspace, a_row, a_column, b_row, b_column, c_pitch, m, k, n, how;
};

template <class E> void multiply(const Arguments &x) {
  multiply(reinterpret_cast<const E *>(x.a), x.a_row, x.a_column,
           reinterpret_cast<const E *>(x.b), x.b_row, x.b_column,
           reinterpret_cast<const float *>(x.packed), reinterpret_cast<E *>(x.c), x.c_pitch,
           reinterpret_cast<const float *>(x.bias), x.how, x.m, x.k, x.n,
           reinterpret_cast<float *>(x.workspace));
}

/* The smallest products take two microseconds, and passing fifteen numbers through a foreign
   function interface half of one. So this one entry is a Python function itself: the names below
   are of Python's stable ABI, which the process that loads this has. */
extern "C" {
struct Object;
struct MethodDef {
  const char *name;
  Object *(*function)(Object *, Object *const *, int64_t);
  int flags;
  const char *doc;
};
long long PyLong_AsLongLong(Object *);
Object *PyLong_FromLong(long);
Object *PyErr_Occurred(void);
void *PyEval_SaveThread(void);
void PyEval_RestoreThread(void *);
Object *PyCFunction_NewEx(MethodDef *, Object *, Object *);
extern Object *PyExc_TypeError;
void PyErr_SetString(Object *, const char *);
}
constexpr int takes_vector = 0x80; /* METH_FASTCALL */

template <class E> Object *call(Object *, Object *const *values, int64_t n_values) {
  constexpr int64_t wanted = sizeof(Arguments) / sizeof(int64_t);
  int64_t numbers[wanted];
  if (n_values != wanted) {
    PyErr_SetString(PyExc_TypeError, "a product takes the 15 numbers of struct Arguments");
    return nullptr;
  }
  for (int64_t i = 0; i < wanted; i++) numbers[i] = PyLong_AsLongLong(values[i]);
  if (PyErr_Occurred()) return nullptr;
  Arguments x;
  std::memcpy(&x, numbers, sizeof x);
  void *state = PyEval_SaveThread();
  multiply<E>(x);
  PyEval_RestoreThread(state);
  return PyLong_FromLong(0);
}

MethodDef methods[] = {{"gemm_fp32", call<float>, takes_vector, "A product of float32."},
                       {"gemm_bf16", call<bf16>, takes_vector, "A product of bfloat16."}};

} // namespace

/* The Python function of a type, a new reference. */
EXPORT Object *gemm_function(int64_t is_bf16) {
  return PyCFunction_NewEx(&methods[is_bf16 != 0], nullptr, nullptr);
}
