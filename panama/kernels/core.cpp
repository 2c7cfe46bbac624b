/* The event core: panama/RULES.md says what it does, panama/core.py calls it. */
#include "build.h"

namespace {

enum Reason { FINISHED, HORIZON, BUDGET, STALLED };

void receive(Core& c, uint32_t index) {
    Packet& p = c.pool[index];
    c.counters[ARRIVED_BYTES] += p.size;
    if (p.left) {
        p.left--;
        p.at += p.step;
        return join_link(c, index);
    }
    switch (p.kind) {
        case DATA: c.delivered++; return on_data(c, index);
        case ACK: return on_ack(c, index);
        case UP: c.delivered++; return on_up(c, index);
        case DOWN: c.delivered++; return on_down(c, index);
        case RAW:
            c.delivered++;
            // A copy of it may have come before.
            if (c.flow_end[p.owner] < 0) c.flow_end[p.owner] = c.now;
            end_raw(c, p.owner);
            c.free_packets.push_back(index);
    }
}

// The first packet of a lane arrives; the one behind it takes its place in the heap.
inline void arrive(Core& c, uint32_t& head, uint32_t what) {
    const uint32_t index = head;
    const Packet& p = c.pool[index];
    __builtin_prefetch(p.at + p.step);
    head = p.next;
    c.heap.take();
    if (head != NONE) c.heap.push(p.next_arrival, p.next_seq, what, head);
    // One of these is the next event.
    c.heap.soon([&](uint32_t packet) { __builtin_prefetch(c.pool.data() + packet); });
    c.hops++;
    receive(c, index);
}

void happen(Core& c, uint32_t what) {
    const uint32_t number = what & 0x0fffffff;
    switch (what >> 28) {
        case LANE: return arrive(c, c.links[number].head, what);
        case ACK_LANE: return arrive(c, c.nics[number].head, what);
        case TIMER: c.heap.take(); return on_timer(c, number);
        case NIC:
            c.heap.take();
            c.nics[number].wakes = false;
            return serve(c, int32_t(number));
        case FLOW_START: {
            c.heap.take();
            const int64_t i = c.next_flow++;
            if (c.next_flow < c.count.flows)
                c.heap.push(c.plan.flow_start[c.next_flow], uint64_t(c.next_flow), what);
            return start_flow(c, i);
        }
        case JOB_START: c.heap.take(); return begin_iteration(c, int32_t(number));
        case BUCKET: c.heap.take(); return on_bucket(c, number);
        case ITERATION_END: c.heap.take(); return on_iteration_end(c, int32_t(number));
    }
}

// Where a sum that never came is waited for: the lowest switch that lacks children.
void find_missing(Core& c, int32_t root, int32_t local, int64_t* out) {
    int32_t n = root;
    for (;;) {
        const TreeNode& node = c.tree_nodes[n];
        const Entry& e = node.ring[local % (2 * node.slots)];
        const uint64_t missing = e.number == local ? node.full & ~e.have : e.number > local ? 0 : node.full;
        out[2] = n;
        out[3] = int64_t(missing);
        int32_t below = -1;
        for (int i = 0; i < 64 && below < 0; i++) {
            if (!(missing >> i & 1)) continue;
            const Child& child = c.children[node.first_child + i];
            if (child.is_worker) continue;
            const TreeNode& under = c.tree_nodes[child.target];
            const Entry& its = under.ring[local % (2 * under.slots)];
            if (its.number < local || (its.number == local && its.state == OPEN)) below = child.target;
        }
        if (below < 0) return;
        n = below;
    }
}

void find_stall(Core& c, int64_t* out) {
    out[0] = out[1] = out[2] = -1;
    out[3] = 0;
    for (int32_t j = 0; j < c.count.jobs; j++) {
        Job& job = c.jobs[j];
        if (job.iteration >= c.plan.iterations[j]) continue;
        if (c.stalled_window >= 0 && c.windows[c.stalled_window].job != j) continue;
        out[0] = j;
        if (!c.plan.aggregates[j]) {
            for (int32_t k = job.first_conn; k < job.first_conn + job.n_conns; k++)
                if (c.conns[k].arrived < c.conns[k].n) {
                    out[1] = c.conns[k].first + c.conns[k].arrived;
                    return;
                }
            return;
        }
        for (int32_t w = 0; w < job.n_windows; w++) {
            const Window& window = c.windows[job.first_window + w];
            const Sender& s = c.senders[c.count.conns + job.first_window + w];
            if (s.una == s.limit) continue;
            int32_t psn = window.tree < 0 ? s.una : s.una * job.n_trees + window.tree;
            if (out[1] >= 0 && psn >= out[1]) continue;
            out[1] = psn;
            int32_t tree = psn % job.n_trees, local = psn / job.n_trees;
            if (c.plan.adaptive[j]) {
                const Epoch& e = epoch_of(job, psn / job.epoch_size);
                tree = e.tree[psn % job.epoch_size];
                local = e.local[psn % job.epoch_size];
            }
            int32_t root = c.plan.join_node[job.first_join + int64_t(tree) * job.n_workers];
            while (c.plan.parent[root] >= 0) root = c.plan.parent[root];
            find_missing(c, root, local, out);
        }
        return;
    }
}

// Of all that grows with flows, packets and slots, besides the plan.
int64_t held_bytes(const Core& c) {
    auto of = [](const auto& items) { return int64_t(items.capacity() * sizeof(items[0])); };
    int64_t held = of(c.pool) + of(c.free_packets) + of(c.senders) + of(c.free_senders) + of(c.windows) +
                   of(c.conns) + of(c.waits) + of(c.indegree) + of(c.message_end) + of(c.message_last) +
                   of(c.flow_end) + of(c.flow_resent) + of(c.conn_resent) + of(c.raw_over) +
                   of(c.tree_nodes) + of(c.children) + of(c.join_window) + of(c.links) + of(c.nics) +
                   c.heap.bytes();
    for (const Sender& s : c.senders)
        if (s.bits) held += (int64_t(s.mask) + 1) / 8;
    for (const TreeNode& node : c.tree_nodes) held += of(node.ring);
    return held;
}

}  // namespace

EXPORT int64_t core_new(const int64_t* plan, const int64_t* counts, const int64_t* wire) {
    static_assert(sizeof(void*) == sizeof(int64_t), "addresses are passed as int64");
    Core* c = new Core;
    memcpy(static_cast<void*>(&c->plan), plan, sizeof(Plan));
    memcpy(static_cast<void*>(&c->count), counts, sizeof(Counts));
    memcpy(static_cast<void*>(&c->wire), wire, sizeof(Wire));
    build(*c);
    return reinterpret_cast<int64_t>(c);
}

/* Go on until a reason to stop: 0 done, 1 the next event is later than until_ps, 2 so many events in all
   have happened, 3 stalled. */
EXPORT int64_t core_run(int64_t handle, int64_t until_ps, int64_t max_events) {
    Core& c = *reinterpret_cast<Core*>(handle);
    while (c.pending > 0) {
        if (c.heap.empty() || c.stalled_window >= 0) return STALLED;
        const Event event = c.heap.top();
        if (event.time > until_ps) {
            c.now = until_ps;
            return HORIZON;
        }
        if (c.events >= max_events) return BUDGET;
        c.now = event.time;
        c.events++;
        happen(c, event.what);
    }
    return FINISHED;
}

/* now, events, packet hops, data packets delivered, flows and jobs not at their end. */
EXPORT void core_progress(int64_t handle, int64_t* out) {
    const Core& c = *reinterpret_cast<Core*>(handle);
    const int64_t values[] = {c.now, c.events, c.hops, c.delivered, c.pending};
    memcpy(out, values, sizeof(values));
}

EXPORT void core_read(int64_t handle, const int64_t* addresses) {
    Core& c = *reinterpret_cast<Core*>(handle);
    Found f;
    memcpy(static_cast<void*>(&f), addresses, sizeof(Found));
    std::copy(c.flow_end.begin(), c.flow_end.end(), f.flow_end);
    std::copy(c.flow_resent.begin(), c.flow_resent.end(), f.flow_resent);
    std::copy(c.conn_resent.begin(), c.conn_resent.end(), f.conn_resent);
    std::copy(c.begin.begin(), c.begin.end(), f.begin);
    std::copy(c.comm.begin(), c.comm.end(), f.comm);
    std::copy(c.sum.begin(), c.sum.end(), f.sum);
    std::copy(c.end.begin(), c.end.end(), f.end);
    std::copy(c.job_marks.begin(), c.job_marks.end(), f.job_marks);
    int64_t in_flight = 0, packets = 0;
    auto add_lane = [&](uint32_t head) {
        for (uint32_t i = head; i != NONE; i = c.pool[i].next) in_flight += c.pool[i].size, packets++;
    };
    for (size_t i = 0; i < c.links.size(); i++) {
        const Link& link = c.links[i];
        f.link_bytes[i] = link.n_bytes;
        f.link_packets[i] = link.packets;
        f.link_max_queue[i] = link.max_queue / link.ppb;
        f.link_sum_queue[i] = link.sum_queue / link.ppb;
        f.link_marks[i] = link.marks;
        f.link_drops[i] = link.drops;
        add_lane(link.head);
    }
    for (const Nic& nic : c.nics) add_lane(nic.head);
    for (size_t i = 0; i < c.windows.size(); i++) {
        const Window& w = c.windows[i];
        f.sent[w.worker] += w.sent;
        f.resent[w.worker] += w.resent;
        f.marked[w.worker] += w.marked;
        f.results[w.worker] += w.results;
        f.window_ps[w.worker] += w.full_ps + (w.full_since < 0 ? 0 : c.now - w.full_since);
        f.mean_window[w.worker] += double(w.window_sum) / 1024;  // a sum still
    }
    int64_t open_contributions = 0;
    for (size_t n = 0; n < c.tree_nodes.size(); n++) {
        const TreeNode& node = c.tree_nodes[n];
        f.sums[n] = node.sums;
        f.duplicates[n] = node.duplicates;
        f.out_of_window[n] = node.out_of_window;
        f.stale[n] = node.stale;
        f.repairs[n] = node.repairs;
        f.max_open[n] = node.max_open;
        f.skew_ps[n] = node.skew;
        for (const Entry& e : node.ring)
            if (e.number >= 0 && e.state == OPEN) open_contributions += __builtin_popcountll(e.have);
    }
    c.counters[IN_FLIGHT_BYTES] = in_flight;
    c.counters[OPEN_CONTRIBUTIONS] = open_contributions;
    c.counters[PACKETS_HELD] = packets;
    c.counters[PACKETS_MOST] = int64_t(c.pool.size());
    c.counters[HELD_BYTES] = held_bytes(c);
    memcpy(f.counters, c.counters, sizeof(c.counters));
    find_stall(c, f.stalled);
}

/* Queues' maxima count from now on. */
EXPORT void core_forget_queues(int64_t handle) {
    for (Link& link : reinterpret_cast<Core*>(handle)->links) link.max_queue = 0;
}

EXPORT void core_free(int64_t handle) {
    Core* c = reinterpret_cast<Core*>(handle);
    for (Sender& s : c->senders) free(s.bits);
    delete c;
}
