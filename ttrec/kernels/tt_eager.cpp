/* A bag in eager mode, without Python: one call checks and plans the batch, pools it and leaves an autograd node whose
   backward steps the cores or returns their gradients.

   It computes nothing itself: the kernels of tt_three.cpp and tt_trie.cpp are called through their addresses. A batch
   that is wrong, or not as is_plain wants it, it leaves to the operator ttrec::bag_forward and what Python does before,
   which know every case and word the errors. Everything here runs without the interpreter's lock. */
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <ATen/EmptyTensor.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/library.h>

namespace {

using at::Tensor;
using torch::autograd::variable_list;

constexpr int most_cores = 5;
/* Bytes of products all waiting nodes may hold, and bytes of such memory kept for the next forward. */
constexpr int64_t most_waiting = int64_t{256} << 20, most_spare = int64_t{32} << 20;
enum Mode : int64_t { mode_sum, mode_mean, mode_max };
enum Store : int64_t { store_auto, store_keep, store_recompute };

/* What is fixed about a table, as ttrec.kernels.tt_eager fills it; entry points as in tt_three.cpp. */
struct Table {
    int64_t (*plan)(const int64_t *sizes, const void *indices, const void *offsets, int64_t n, int64_t batch,
                    int64_t has_last_or_length, int64_t origin, int64_t is_wide, int64_t rows, int64_t padding,
                    int64_t sharing, const double *control, int64_t number, int32_t *plan, float *work, float *scale,
                    int64_t *found);
    void (*forward)(const int64_t *sizes, const int64_t *cores, int32_t *plan, const float *weights, const float *scale,
                    float *kept, int64_t n_kept, float *rows, float *work, float *out, int32_t *winners, int64_t n,
                    int64_t batch, int64_t threads);
    int64_t (*backward)(const int64_t *sizes, const int64_t *cores, int32_t *plan, const float *weights,
                        const float *scale, const int32_t *winners, float *kept, int64_t n_kept, const float *d_out,
                        float *d_weights, float *work, int64_t n, int64_t by_frequency, int64_t rule, double *control,
                        int64_t allows_stale, int64_t threads);
    int64_t (*work_floats)(const int64_t *sizes, int64_t n, int64_t threads);
    int64_t (*plan_words)(const int64_t *sizes, int64_t n);
    int64_t d, dim, pair_floats;
    int64_t has_last, mode, n_rows, padding, by_frequency, rule, allows_stale, store, sharing;
    int64_t sizes[3 * most_cores - 1];  // p, q, inner ranks; the rest is not used

    int64_t rank(int64_t k) const { return k == 0 || k == d ? 1 : sizes[2 * d + k - 1]; }
    bool fit(const Tensor &core, int64_t k) const {
        const auto s = core.sizes();
        return s.size() == 4 && s[0] == sizes[k] && s[1] == rank(k) && s[2] == sizes[d + k] && s[3] == rank(k + 1);
    }
};
static_assert(sizeof(Table) == (17 + 3 * most_cores - 1) * sizeof(int64_t), "all words of eight bytes");

float *allocate(int64_t floats) {
    void *memory = std::aligned_alloc(64, static_cast<size_t>((floats * 4 + 127) / 64 * 64));
    if (!memory) throw std::bad_alloc();
    return static_cast<float *>(memory);
}

struct Free {
    void operator()(void *memory) const { std::free(memory); }
};
template <class T>
using Memory = std::unique_ptr<T[], Free>;

template <class T>
Memory<T> new_memory(int64_t n) {
    static_assert(sizeof(T) == 4);
    return Memory<T>(reinterpret_cast<T *>(allocate(n)));
}

/* Memory a thread uses from call to call; its content is nobody's. */
class Scratch {
    Memory<float> memory;
    int64_t held = 0;

  public:
    float *floats(int64_t n) {
        if (held < n) {
            // A half more than asked, so that slowly growing batches do not each allocate anew.
            held = n + n / 2 + 16;
            memory.reset();
            memory = new_memory<float>(held);
        }
        return memory.get();
    }
};
thread_local Scratch work_of_thread, rows_of_thread;

/* Memory for the products forward leaves for backward, used before if possible: fresh pages cost more than computing
   the products again. */
class Products {
    struct Block {
        Memory<float> memory;
        int64_t bytes = 0;
    };
    struct Pool {
        std::mutex mutex;
        std::vector<Block> spare;
        int64_t spare_bytes = 0, waiting_bytes = 0;
    };
    static Pool &pool() {
        static Pool &one = *new Pool;  // never destroyed: nodes may outlive every static
        return one;
    }
    Block block;

  public:
    Products() = default;
    Products(Products &&) = default;
    Products &operator=(Products &&other) {
        std::swap(block, other.block);
        return *this;
    }
    ~Products() { give_back(); }

    /* Room for n floats; none if too much is waiting for a backward already. */
    static Products borrow(int64_t n) {
        Pool &p = pool();
        Products found;
        const int64_t wanted = 4 * n;
        const std::lock_guard<std::mutex> lock(p.mutex);
        if (p.waiting_bytes > 0 && p.waiting_bytes + wanted > most_waiting) return found;
        for (auto it = p.spare.begin(); it != p.spare.end(); ++it)
            if (wanted <= it->bytes && it->bytes <= 4 * wanted) {
                found.block = std::move(*it);
                p.spare.erase(it);
                p.spare_bytes -= found.block.bytes;
                break;
            }
        if (!found) found.block = {new_memory<float>(n), wanted};
        p.waiting_bytes += found.block.bytes;
        return found;
    }
    void give_back() {
        if (!block.memory) return;
        Pool &p = pool();
        const std::lock_guard<std::mutex> lock(p.mutex);
        p.waiting_bytes -= block.bytes;
        p.spare_bytes += block.bytes;
        p.spare.push_back(std::move(block));
        while (p.spare_bytes > most_spare) {
            p.spare_bytes -= p.spare.front().bytes;
            p.spare.erase(p.spare.begin());
        }
    }
    float *floats() const { return block.memory.get(); }
    explicit operator bool() const { return block.memory != nullptr; }
};

int64_t threads_for(int64_t n) {
    return std::max<int64_t>(1, std::min<int64_t>(at::get_num_threads(), n / TT_POSITIONS_PER_THREAD));
}

Tensor new_floats(at::IntArrayRef sizes) { return at::detail::empty_cpu(sizes, at::TensorOptions(at::kFloat)); }

Tensor new_zeros(at::IntArrayRef sizes) {
    Tensor zeros = new_floats(sizes);
    std::memset(zeros.data_ptr(), 0, zeros.nbytes());
    return zeros;
}

double *control_of(const Tensor &control) { return control.defined() ? control.data_ptr<double>() : nullptr; }

/* What backward has to know of its forward. */
struct BagBackward : torch::autograd::Node {
    const Table table;
    const int64_t n;
    Memory<int32_t> plan, winners;
    Memory<float> scale;
    Products products;
    int64_t n_kept = 0;
    /* Where the cores were when the products were made, and their versions. */
    std::pair<void *, int64_t> made_from[most_cores];
    /* With a rule cores are not saved the usual way: autograd would refuse stepped cores before we can say why. */
    std::vector<Tensor> cores, states;
    Tensor control;
    std::vector<torch::autograd::SavedVariable> saved_cores;
    torch::autograd::SavedVariable saved_weights;
    bool has_weights = false, is_released = false;

    BagBackward(const Table &table, int64_t n) : table(table), n(n) {}

    std::string name() const override { return "TTBagBackward"; }

    void release_variables() override {
        const std::lock_guard<std::mutex> lock(mutex_);
        is_released = true;
        products.give_back();
        cores.clear();
        states.clear();
        control.reset();
        for (auto &core : saved_cores) core.reset_data();
        saved_weights.reset_data();
    }

    /* Edges: the anchor or nothing, the weights or nothing, the cores unless a rule steps them. */
    variable_list apply(variable_list &&d_outs) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        TORCH_CHECK(!is_released, torch::autograd::ERR_BACKWARD_TWICE);
        variable_list gradients(num_outputs());
        std::vector<Tensor> values = cores, targets = states;
        for (auto &core : saved_cores) values.push_back(core.unpack());
        const Tensor weights = has_weights ? saved_weights.unpack() : Tensor();
        if (!d_outs[0].defined()) return gradients;
        const Tensor d_out = d_outs[0].contiguous();
        if (!table.rule)
            for (const auto &core : values) targets.push_back(new_zeros(core.sizes()));
        Tensor d_weights;
        if (has_weights && task_should_compute_output(1)) d_weights = new_zeros(weights.sizes());

        int64_t addresses[2 * most_cores];
        bool is_same = true;
        for (int64_t k = 0; k < table.d; ++k) {
            void *core = values[k].data_ptr();
            is_same = is_same && made_from[k] == std::pair(core, values[k]._version());
            addresses[k] = reinterpret_cast<int64_t>(core);
            addresses[table.d + k] = reinterpret_cast<int64_t>(targets.empty() ? core : targets[k].data_ptr());
        }
        // Once only: backward writes over them.
        const int64_t threads = threads_for(n), usable = products && is_same ? n_kept : 0;
        n_kept = 0;
        const int64_t turn = table.backward(
            table.sizes, addresses, plan.get(), has_weights ? weights.data_ptr<float>() : nullptr, scale.get(),
            winners.get(), usable ? products.floats() : nullptr, usable, d_out.data_ptr<float>(),
            d_weights.defined() ? d_weights.data_ptr<float>() : nullptr,
            work_of_thread.floats(table.work_floats(table.sizes, n, threads)), n, table.by_frequency, table.rule,
            control_of(control), table.allows_stale, threads);
        products.give_back();
        if (turn) refuse(turn);
        if (table.rule) {
            // Autograd must notice the change.
            for (const auto *tensors : {&values, &targets})
                for (const auto &tensor : *tensors) tensor.unsafeGetTensorImpl()->bump_version();
            control.unsafeGetTensorImpl()->bump_version();
        } else {
            for (int64_t k = 0; k < table.d; ++k) gradients[2 + k] = std::move(targets[k]);
        }
        gradients[1] = std::move(d_weights);
        return gradients;
    }

    /* As turn_error of ttrec.kernels.tt_bag words it. */
    [[noreturn]] void refuse(int64_t turn) const {
        TORCH_CHECK(turn != 1,
                    "backward ran a second time through a fused TT bag, but the step was already applied; call forward "
                    "again");
        TORCH_CHECK(false, "the backward of forward ", static_cast<int64_t>(control_of(control)[1]),
                    " has stepped the cores since forward ", plan[9],
                    "; run forward and backward in turn, look both batches up in one forward, or make the bag with "
                    "stale=\"allow\" to use the cores as they are now");
    }
};

const c10::DispatchKeySet plain_keys({c10::DispatchKey::CPU, c10::DispatchKey::ADInplaceOrView,
                                      c10::DispatchKey::AutogradCPU, c10::DispatchKey::AutocastCPU});

/* A contiguous tensor on the CPU whose memory holds its values: no subclass, no transform of torch.func, not sparse, no
   forward-mode gradient. */
bool is_plain(const Tensor &tensor, at::ScalarType dtype) {
    return plain_keys.has_all(tensor.key_set()) && tensor.scalar_type() == dtype && tensor.is_contiguous() &&
           !tensor._fw_grad(0).defined();
}

const Tensor &tensor_or(const c10::IValue &value, const Tensor &none) {
    return value.isNone() ? none : value.toTensor();
}

/* The bags, or an undefined tensor if the batch is wrong or anything is not plain. */
Tensor pool(at::ArrayRef<c10::IValue> arguments) {
    const Table &table = *reinterpret_cast<const Table *>(arguments[0].toInt());
    const Tensor none;
    const at::ArrayRef<c10::IValue> cores_and_states = arguments[1].toListRef();
    const Tensor &input = arguments[2].toTensor(), &offsets = tensor_or(arguments[3], none),
                 &weights = tensor_or(arguments[4], none), &anchor = tensor_or(arguments[5], none),
                 &control = tensor_or(arguments[6], none);
    const int64_t number = arguments[7].toInt();

    const auto index_type = input.scalar_type();
    if (index_type != at::kLong && index_type != at::kInt) return none;
    if (!is_plain(input, index_type)) return none;
    for (const auto &tensor : cores_and_states)
        if (!is_plain(tensor.toTensor(), at::kFloat)) return none;
    const auto cores = cores_and_states.slice(0, static_cast<size_t>(table.d)),
               states = cores_and_states.slice(cores.size());
    for (int64_t k = 0; k < table.d; ++k)
        if (!table.fit(cores[k].toTensor(), k)) return none;
    if (control.defined() && !is_plain(control, at::kDouble)) return none;
    int64_t batch = 0, length = 0;
    if (offsets.defined()) {
        if (input.dim() != 1 || offsets.dim() != 1 || !is_plain(offsets, index_type)) return none;
        length = table.has_last;
        batch = offsets.numel() - length;
        if (batch < 0) return none;
    } else {
        if (input.dim() != 2) return none;
        batch = input.size(0);
        length = input.size(1);
    }
    if (weights.defined() &&
        (table.mode != mode_sum || !is_plain(weights, at::kFloat) || weights.sizes() != input.sizes()))
        return none;

    bool needs_grad = false;
    if (c10::GradMode::is_enabled()) {
        needs_grad = anchor.defined() || (weights.defined() && weights.requires_grad());
        if (!table.rule)
            for (const auto &core : cores) needs_grad = needs_grad || core.toTensor().requires_grad();
    }
    const int64_t n = input.numel(), threads = threads_for(n);
    auto plan = new_memory<int32_t>(table.plan_words(table.sizes, n));
    auto scale = table.mode == mode_mean ? new_memory<float>(batch) : nullptr;
    float *work = work_of_thread.floats(table.work_floats(table.sizes, n, threads));
    int64_t found[4] = {};
    if (table.plan(table.sizes, input.data_ptr(), offsets.defined() ? offsets.data_ptr() : nullptr, n, batch, length, 0,
                   index_type == at::kLong, table.n_rows, table.padding, table.sharing, control_of(control), number,
                   plan.get(), work, scale.get(), found))
        return none;

    auto winners = table.mode == mode_max ? new_memory<int32_t>(batch * table.dim) : nullptr;
    Products products;
    int64_t n_kept = 0, addresses[most_cores];
    if (needs_grad && table.store != store_recompute && table.pair_floats) {
        n_kept = table.store == store_keep ? n : std::min<int64_t>(n, TT_KEPT_FLOATS / table.pair_floats);
        if (n_kept) products = Products::borrow(n_kept * table.pair_floats);
        if (!products) n_kept = 0;
    }
    for (int64_t k = 0; k < table.d; ++k) addresses[k] = reinterpret_cast<int64_t>(cores[k].toTensor().data_ptr());
    const bool is_direct = found[1] && !weights.defined() && !winners;
    const Tensor out = new_floats({batch, table.dim});
    table.forward(table.sizes, addresses, plan.get(), weights.defined() ? weights.data_ptr<float>() : nullptr,
                  scale.get(), products.floats(), n_kept,
                  is_direct ? nullptr : rows_of_thread.floats(found[0] * table.dim), work, out.data_ptr<float>(),
                  winners.get(), n, batch, threads);
    if (!needs_grad) return out;

    const auto node = c10::make_intrusive<BagBackward>(table, n);
    node->plan = std::move(plan);
    node->winners = std::move(winners);
    node->scale = std::move(scale);
    node->products = std::move(products);
    node->n_kept = n_kept;
    node->control = control;
    torch::autograd::edge_list edges;
    edges.reserve(static_cast<size_t>(2 + (table.rule ? 0 : table.d)));
    for (const Tensor *tensor : {&anchor, &weights})
        edges.push_back(tensor->defined() ? torch::autograd::impl::gradient_edge(*tensor) : torch::autograd::Edge());
    for (int64_t k = 0; k < table.d; ++k) {
        const Tensor &core = cores[k].toTensor();
        node->made_from[k] = {core.data_ptr(), core._version()};
        if (table.rule) {
            node->cores.push_back(core);
        } else {
            edges.push_back(torch::autograd::impl::gradient_edge(core));
            node->saved_cores.emplace_back(core, false);
        }
    }
    for (const auto &state : states) node->states.push_back(state.toTensor());
    if (weights.defined()) {
        node->saved_weights = torch::autograd::SavedVariable(weights, false);
        node->has_weights = true;
    }
    node->set_next_edges(std::move(edges));
    torch::autograd::set_history(out, node);
    return out;
}

void pool_boxed(const c10::OperatorHandle &, torch::jit::Stack *stack) {
    constexpr size_t n_arguments = 8;
    Tensor out = pool(at::ArrayRef<c10::IValue>(stack->data() + stack->size() - n_arguments, n_arguments));
    torch::jit::drop(*stack, n_arguments);
    torch::jit::push(*stack, std::move(out));
}

} // namespace

/* Defines the operator ttrec::eager_bag; only the first call does anything. */
EXPORT void tt_eager_define() {
    static const torch::Library library = [] {
        torch::Library ours(torch::Library::FRAGMENT, "ttrec", std::nullopt, __FILE__, __LINE__);
        ours.def("eager_bag(int table, Tensor[] cores_and_states, Tensor input, Tensor? offsets, Tensor? weights, "
                 "Tensor? anchor, Tensor? control, int number) -> Tensor?");
        ours.impl("eager_bag", torch::CppFunction::makeFromBoxedFunction<&pool_boxed>());
        return ours;
    }();
}
