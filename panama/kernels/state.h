/* The state of a run: packets, links, senders, aggregators, jobs. Rules: panama/RULES.md. */
#pragma once
#include <cstdlib>
#include <cstring>
#include <vector>

#include "heap.h"
#include "plan.h"

enum Kind : uint8_t { DATA, ACK, UP, DOWN, RAW };
enum What : uint32_t { LANE, ACK_LANE, TIMER, NIC, FLOW_START, JOB_START, BUCKET, ITERATION_END };
constexpr uint32_t NONE = 0xffffffffu;
constexpr int SHIFT = 20;  // of cwnd and alpha
constexpr int MOST_TIMEOUTS = 24;
enum Law { DCTCP, AIMD_HALVE, FIXED };

struct alignas(64) Packet {
    // When the packet behind arrives: here, so that it need not be looked at before.
    int64_t next_arrival;
    uint64_t next_seq;
    const int32_t* at;  // the link it is on
    uint32_t next;      // behind it on that link
    int32_t owner;      // sender (DATA, ACK), flow (RAW), tree node or join (UP, DOWN)
    int32_t psn;        // of an ACK: the number expected
    int32_t size;
    int32_t local;      // number on its tree; of DATA and ACK: which flow, against late packets
    uint16_t left;      // links after this one
    uint16_t contributors;
    uint8_t kind, mark, child;
    int8_t step;        // 1: along the links `at`, -1: back over them
};
static_assert(sizeof(Packet) == 64, "a packet is one cache line");

struct alignas(64) Link {
    int64_t busy, prop;
    int32_t ppb, back;
    int32_t mark, cap;
    uint32_t head, tail;
    int32_t nic;  // place of the host's NIC, -1: leaves a switch
    int32_t unused;
    // counted
    int64_t n_bytes, packets, sum_queue, max_queue;  // queues in picoseconds
    int64_t marks, drops, offered;
};

struct Nic {
    int64_t ack_busy = 0;
    uint32_t head = NONE, tail = NONE;  // the ACKs' lane
    int32_t first = -1, last = -1;      // senders in line
    bool wakes = false;
};

enum Role : uint8_t { FLOW, CONN, WINDOW };

struct alignas(64) Sender {
    int64_t cwnd, ssthresh, deadline;
    int32_t una, next, limit, wend, recover, acked, marked, alpha;
    int32_t ident, nic, line_next, hops;
    int32_t max_window, min_window, weight, dup;
    const int32_t* path;
    // receiver's end, of DCTCP; a worker's window has its results in bits
    uint64_t* bits;
    uint32_t mask;  // bits - 1
    int32_t expected;
    int32_t n_packets, last_size;  // of a flow
    int32_t top;                   // highest result
    int32_t aux;                   // connection, or window
    uint8_t role, law, retries;
    bool in_line, has_timer, want_resend, frozen, ended;

    bool bit(int32_t i) const { return bits && (bits[(i & mask) >> 6] >> (i & 63) & 1); }
    void set(int32_t i) {
        if (!bits) bits = static_cast<uint64_t*>(calloc((mask + 1) / 64, 8));
        bits[(i & mask) >> 6] |= uint64_t(1) << (i & 63);
    }
    void clear(int32_t i) { bits[(i & mask) >> 6] &= ~(uint64_t(1) << (i & 63)); }
};

struct Window {  // of a worker: what its sender need not have at hand
    int32_t job, worker, tree;  // worker: over all jobs; tree: in the job, -1: all
    bool is_through;
    int64_t sent, resent, marked, results, full_ps, full_since, window_sum;
};

struct Entry {
    int32_t number = -1;
    uint8_t state = 0;  // open, done, result
    uint8_t out = 0, down = 0;
    int32_t psn = 0, size = 0;
    uint32_t total = 0;
    uint64_t have = 0, marks = 0;
    int64_t first = 0;
};
enum State : uint8_t { OPEN, DONE, RESULT };

struct Child {
    int32_t target;  // tree node, or join
    bool is_worker;
    uint16_t workers, hops;
    int32_t m;
    const int32_t* last;  // the last link of its way up: the first of the way down, reversed
};

struct TreeNode {
    int32_t job, tree, base, slots, open, workers;
    uint64_t full;
    int64_t first_child;
    std::vector<Entry> ring;
    int64_t sums, duplicates, out_of_window, stale, repairs, max_open, skew, wrong;
};

struct Epoch {
    int32_t number = -1;
    std::vector<uint8_t> tree;
    std::vector<int32_t> local;   // (E,)
    std::vector<int32_t> next_local;  // (T,) at its end
    std::vector<int64_t> weight;  // (T,) for this epoch, set two before
    std::vector<int32_t> last;    // (T,) last packet on the tree
};

struct Job {
    int32_t n_trees, n_workers, first_tree, iteration, epoch_size;
    int32_t first_window, n_windows, through;
    int32_t first_conn, n_conns;
    int64_t first_join, first_iteration, remaining, n_messages;
    int32_t n_released;           // buckets, of this iteration
    int32_t per_iteration;        // packets
    std::vector<int32_t> bucket_end;  // packets of an iteration up to each bucket
    std::vector<int32_t> last_size;
    std::vector<int32_t> m;       // (T,) marks at the roots
    Epoch epochs[4];
};

struct Conn {
    int32_t first, n;       // messages
    int32_t ready, arrived; // of this iteration
    int32_t per_iteration, base;  // packets; base: of this iteration's first
};

struct Core {
    Plan plan;
    Counts count;
    Wire wire;
    Heap heap;
    std::vector<Packet> pool;
    std::vector<uint32_t> free_packets;
    std::vector<Link> links;
    std::vector<Nic> nics;
    std::vector<int32_t> nic_link;
    std::vector<Sender> senders;
    std::vector<int32_t> free_senders;
    std::vector<Window> windows;
    std::vector<TreeNode> tree_nodes;
    std::vector<Child> children;
    std::vector<int32_t> join_window;
    std::vector<Job> jobs;
    std::vector<Conn> conns;
    std::vector<int32_t> message_end, message_last, waits, indegree;
    std::vector<int64_t> flow_end, begin, comm, sum, end, job_marks;
    std::vector<int32_t> flow_resent, conn_resent;
    std::vector<char> raw_over;  // a raw flow's packet, or a copy of it, has come or is lost
    int64_t counters[COUNTERS] = {};
    int64_t now = 0, events = 0, hops = 0, delivered = 0, pending = 0, most_packets = 0;
    int64_t next_flow = 0;
    uint64_t seq = 0;
    int32_t stalled_window = -1;
    int32_t full_size = 0, sum_size = 0;

    void schedule(int64_t time, What kind, uint32_t number) {
        heap.push(time, seq++, uint32_t(kind) << 28 | number);
    }
    uint32_t new_packet() {
        if (free_packets.empty()) {
            pool.emplace_back();
            return uint32_t(pool.size() - 1);
        }
        uint32_t i = free_packets.back();
        free_packets.pop_back();
        return i;
    }
};
