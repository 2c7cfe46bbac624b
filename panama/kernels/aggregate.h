/* Aggregators and the results' way down: RULES.md, section 6.

   -DPANAMA_LITERAL leaves out the two safeguards (a done sum is known before base has passed it, and a
   switch repeats its own sum), so that a test can show what they are for. */
#pragma once
#include "jobs.h"

// A copy of the result to one child.
inline void send_down(Core& c, const TreeNode& node, int child, const Entry& e, bool mark) {
    const Child& to = c.children[size_t(node.first_child) + child];
    uint32_t index = c.new_packet();
    Packet& p = c.pool[index];
    p.kind = DOWN;
    p.psn = e.psn;
    p.local = e.number;
    p.owner = to.target;
    p.child = to.is_worker;
    p.mark = mark;
    p.size = e.size;
    p.step = -1;
    p.at = to.last;
    p.left = uint16_t(to.hops - 1);
    join_link(c, index);
}

inline void send_all_down(Core& c, const TreeNode& node, const Entry& e, bool mark) {
    for (int child = 0, n = __builtin_popcountll(node.full); child < n; child++)
        send_down(c, node, child, e, mark);
}

inline void send_up(Core& c, int32_t number, const Entry& e, uint32_t total) {
    uint32_t index = c.new_packet();
    Packet& p = c.pool[index];
    p.kind = UP;
    p.psn = e.psn;
    p.local = e.number;
    p.owner = c.plan.parent[number];
    p.child = uint8_t(c.plan.child_of_parent[number]);
    p.mark = e.out;
    p.size = e.size;
    p.contributors = uint16_t(total);
    p.step = 1;
    p.at = c.plan.up + c.plan.up_ptr[number];
    p.left = uint16_t(c.plan.up_ptr[number + 1] - c.plan.up_ptr[number] - 1);
    join_link(c, index);
}

inline bool sum_mark(Core& c, const TreeNode& node, const Entry& e) {
    if (c.plan.ecn_mode[node.job] == 0) return e.marks != 0;
    int worst = 0;
    for (int i = 1, n = __builtin_popcountll(node.full); i < n; i++)
        if (c.children[node.first_child + i].m > c.children[node.first_child + worst].m) worst = i;
    return e.marks >> worst & 1;
}

// What a root tells about its tree for the epoch after next.
inline void weigh(Core& c, const TreeNode& node, const Entry& e) {
    Job& job = c.jobs[node.job];
    int32_t& m = job.m[node.tree];
    m += ((int32_t(e.out) << 16) - m) / 64;
    const int32_t k = e.psn / job.epoch_size;
    if (epoch_of(job, k).last[node.tree] == e.psn)
        job.epochs[(k + 2) & 3].weight[node.tree] = std::max(65536 - m, 1024);
}

inline void complete(Core& c, int32_t number, Entry& e) {
    TreeNode& node = c.tree_nodes[number];
    const bool is_root = c.plan.parent[number] < 0;
    e.out = sum_mark(c, node, e);
    e.state = DONE;
    node.sums++;
    node.open--;
    node.skew += c.now - e.first;
    c.counters[SUMS_FAN_IN] += __builtin_popcountll(node.full);
    const int32_t slots = 2 * node.slots;
    for (;;) {
        const Entry& base = node.ring[node.base % slots];
        if (base.number != node.base || base.state == OPEN) break;
        node.base++;
    }
    if (is_root) {
        if (int32_t(e.total) != node.workers) c.counters[WRONG_SUMS]++;
        if (c.plan.adaptive[node.job]) weigh(c, node, e);
        e.state = RESULT;
        e.down = e.out;
        send_all_down(c, node, e, e.down);
    } else {
        send_up(c, number, e, e.total);
    }
}

inline void on_up(Core& c, uint32_t index) {
    const Packet p = c.pool[index];
    c.free_packets.push_back(index);
    TreeNode& node = c.tree_nodes[p.owner];
    const int32_t i = p.local;
    if (i >= node.base + node.slots) {
        node.out_of_window++;
        return;
    }
    Entry& e = node.ring[i % (2 * node.slots)];
    if (e.number > i) {
        node.stale++;
        return;
    }
    if (e.number < i) {
        e = Entry{};
        e.number = i;
        e.psn = p.psn;
        e.size = p.size;
        e.first = c.now;
        if (++node.open > node.max_open) node.max_open = node.open;
    }
#ifdef PANAMA_LITERAL
    const bool is_done = i < node.base;
    const uint32_t own = p.contributors;
#else
    const bool is_done = e.state != OPEN;
    const uint32_t own = e.total;
#endif
    Child& child = c.children[node.first_child + p.child];
    if (is_done) {
        node.repairs++;
        if (e.state == RESULT) send_down(c, node, p.child, e, e.down);
        else send_up(c, p.owner, e, own);
        return;
    }
    if (e.have >> p.child & 1) {
        node.duplicates++;
        return;
    }
#ifndef PANAMA_LITERAL
    if (p.contributors != child.workers) {
        c.counters[WRONG_CONTRIBUTIONS]++;
        return;
    }
#endif
    e.have |= uint64_t(1) << p.child;
    e.marks |= uint64_t(p.mark) << p.child;
    e.total += p.contributors;
    c.counters[CONTRIBUTIONS]++;
    child.m += ((int32_t(p.mark) << 16) - child.m) / 50;
    if (e.have == node.full) complete(c, p.owner, e);
}

inline void on_result(Core& c, int32_t join, int32_t psn, int32_t local, bool mark) {
    Window& w = c.windows[c.join_window[join]];
    const uint32_t which = uint32_t(c.count.conns + c.join_window[join]);
    Sender& s = c.senders[which];
    const int32_t x = w.tree < 0 ? psn : local;
    if (x < s.una || s.bit(x)) {
        c.counters[REPEATED_RESULTS]++;
        return;
    }
    c.counters[RESULTS]++;
    w.results++;
    w.marked += mark;
    s.set(x);
    if (x > s.top) s.top = x;
    int32_t una = s.una;
    while (s.bit(una)) s.clear(una++);
    const bool moved = una > s.una;
    acknowledged(c, s, 1, mark, una);
    w.window_sum += s.cwnd >> 10;
    if (moved) {
        s.want_resend = s.una < s.recover && s.top > s.una;
        check_through(c, w, s);
    }
    offer(c, which);
    note_full(c, s);
}

inline void on_down(Core& c, uint32_t index) {
    const Packet p = c.pool[index];
    c.free_packets.push_back(index);
    if (p.child) return on_result(c, p.owner, p.psn, p.local, p.mark);
    TreeNode& node = c.tree_nodes[p.owner];
    Entry& e = node.ring[p.local % (2 * node.slots)];
#ifdef PANAMA_LITERAL
    const bool is_new = e.number == p.local && e.state != OPEN;
#else
    const bool is_new = e.number == p.local && e.state == DONE;
#endif
    if (!is_new) {
        node.stale++;
        return;
    }
    e.state = RESULT;
    e.down = p.mark;
    send_all_down(c, node, e, e.down);
}
