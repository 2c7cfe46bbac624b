/* Senders: their line at the NIC, timers, and the window's law. RULES.md, sections 3 and 4. */
#pragma once
#include <algorithm>

#include "link.h"

inline bool is_ready(const Sender& s) {
    return s.want_resend || (s.next < s.limit && s.next < s.una + (s.cwnd >> SHIFT));
}

// Place of the part (message, bucket) that holds a packet, given the parts' ends.
inline int32_t part_of(const int32_t* end, int32_t n, int32_t offset) {
    return int32_t(std::upper_bound(end, end + n, offset) - end);
}

inline const Epoch& epoch_of(Job& job, int32_t k) {
    Epoch& e = job.epochs[k & 3];
    if (e.number == k) return e;
    const int32_t T = job.n_trees, E = job.epoch_size;
    int64_t all = 0;
    for (int64_t w : e.weight) all += w;
    std::vector<int64_t> n(T), credit(T, 0);
    int64_t missing = E;
    for (int32_t t = 0; t < T; t++) missing -= n[t] = 1 + e.weight[t] * (E - T) / all;
    for (int32_t t = 0; missing > 0; t++, missing--) n[t % T]++;
    if (k > 0) e.next_local = job.epochs[(k - 1) & 3].next_local;
    else e.next_local.assign(T, 0);
    e.tree.resize(E), e.local.resize(E), e.last.assign(T, -1);
    for (int32_t i = 0; i < E; i++) {
        int32_t best = 0;
        for (int32_t t = 0; t < T; t++) {
            credit[t] += n[t];
            if (credit[t] > credit[best]) best = t;
        }
        credit[best] -= E;
        e.tree[i] = uint8_t(best);
        e.local[i] = e.next_local[best]++;
        e.last[best] = k * E + i;
    }
    e.number = k;
    return e;
}

inline int32_t packet_size(const Core& c, const Sender& s, int32_t psn) {
    if (s.role == FLOW) return psn == s.n_packets - 1 ? s.last_size : c.full_size;
    if (s.role == CONN) {
        const Conn& conn = c.conns[s.aux];
        int32_t offset = psn % conn.per_iteration;
        const int32_t* end = c.message_end.data() + conn.first;
        int32_t part = part_of(end, conn.n, offset);
        return offset == end[part] - 1 ? c.message_last[conn.first + part] : c.full_size;
    }
    const Window& w = c.windows[s.aux];
    const Job& job = c.jobs[w.job];
    int32_t offset = (w.tree < 0 ? psn : psn * job.n_trees + w.tree) % job.per_iteration;
    int32_t part = part_of(job.bucket_end.data(), int32_t(job.bucket_end.size()), offset);
    return offset == job.bucket_end[part] - 1 ? job.last_size[part] : c.sum_size;
}

inline void note_full(Core& c, Sender& s) {
    if (s.role != WINDOW) return;
    Window& w = c.windows[s.aux];
    bool full = s.next < s.limit && s.next >= s.una + (s.cwnd >> SHIFT);
    if (full && w.full_since < 0) w.full_since = c.now;
    if (!full && w.full_since >= 0) {
        w.full_ps += c.now - w.full_since;
        w.full_since = -1;
    }
}

inline void send_one(Core& c, uint32_t which, int32_t size) {
    Sender& s = c.senders[which];
    const bool repeat = s.want_resend;
    const int32_t x = repeat ? s.una : s.next;
    s.want_resend = false;
    if (!repeat) {
        if (s.una == s.next) s.deadline = c.now + c.wire.rto;
        s.next++;
    }
    const uint32_t index = c.new_packet();
    Packet& p = c.pool[index];
    p.psn = x;
    p.size = size;
    p.mark = 0;
    p.step = 1;
    if (s.role == WINDOW) {
        Window& w = c.windows[s.aux];
        Job& job = c.jobs[w.job];
        int32_t tree = w.tree, local = x;
        if (tree >= 0) {
            p.psn = x * job.n_trees + tree;
        } else if (job.n_trees == 1) {
            tree = 0;
        } else if (c.plan.adaptive[w.job]) {
            const Epoch& e = epoch_of(job, x / job.epoch_size);
            tree = e.tree[x % job.epoch_size];
            local = e.local[x % job.epoch_size];
        } else {
            tree = x % job.n_trees;
            local = x / job.n_trees;
        }
        int64_t join = job.first_join + int64_t(tree) * job.n_workers + w.worker -
                       c.plan.worker_ptr[w.job];
        p.kind = UP;
        p.owner = c.plan.join_node[join];
        p.child = uint8_t(c.plan.join_child[join]);
        p.local = local;
        p.contributors = 1;
        p.at = c.plan.join + c.plan.join_ptr[join];
        p.left = uint16_t(c.plan.join_ptr[join + 1] - c.plan.join_ptr[join] - 1);
        (repeat ? w.resent : w.sent)++;
    } else {
        p.kind = DATA;
        p.owner = int32_t(which);
        p.local = s.ident;
        p.at = s.path;
        p.left = uint16_t(s.hops - 1);
        if (repeat) (s.role == FLOW ? c.flow_resent[s.ident] : c.conn_resent[s.aux])++;
    }
    join_link(c, index);
    if (!repeat && !s.has_timer) {
        s.has_timer = true;
        c.schedule(s.deadline, TIMER, which);
    }
    note_full(c, s);
}

inline void release_if_over(Core& c, uint32_t which) {
    Sender& s = c.senders[which];
    if (s.role != FLOW || s.ended || s.una < s.n_packets || s.has_timer || s.in_line) return;
    s.ended = true;
    s.ident = -1;
    free(s.bits);
    s.bits = nullptr;
    c.free_senders.push_back(int32_t(which));
}

inline void leave_line(Nic& nic, Sender& s) {
    nic.first = s.line_next;
    if (nic.first < 0) nic.last = -1;
    s.in_line = false;
}

inline void enter_line(Core& c, Nic& nic, uint32_t which) {
    Sender& s = c.senders[which];
    s.in_line = true;
    s.line_next = -1;
    if (nic.last >= 0) c.senders[nic.last].line_next = int32_t(which);
    else nic.first = int32_t(which);
    nic.last = int32_t(which);
}

inline void serve(Core& c, int32_t number) {
    Nic& nic = c.nics[number];
    while (nic.first >= 0) {
        const uint32_t which = uint32_t(nic.first);
        Sender& s = c.senders[which];
        if (!is_ready(s)) {
            leave_line(nic, s);
            release_if_over(c, which);
            continue;
        }
        const int32_t size = packet_size(c, s, s.want_resend ? s.una : s.next);
        const Link& link = c.links[c.nic_link[number]];
        const int64_t takes = int64_t(size) * link.ppb;
        if (link.busy - c.now > (c.wire.nic_packets - 1) * takes) {
            nic.wakes = true;
            c.schedule(link.busy - std::min<int64_t>(2, c.wire.nic_packets - 1) * takes, NIC,
                       uint32_t(number));
            return;
        }
        leave_line(nic, s);
        send_one(c, which, size);
        if (is_ready(s)) enter_line(c, nic, which);
    }
}

inline void offer(Core& c, uint32_t which) {
    Sender& s = c.senders[which];
    if (s.in_line || !is_ready(s)) return;
    Nic& nic = c.nics[s.nic];
    enter_line(c, nic, which);
    if (!nic.wakes) serve(c, s.nic);
}

// n newly acknowledged packets with the mark bit e; `una` becomes what is given.
inline void acknowledged(Core& c, Sender& s, int32_t n, bool e, int32_t una) {
    const bool moved = una > s.una;
    if (s.law == FIXED) {
        s.una = una;
    } else {
        s.acked += n;
        if (e) {
            s.marked += n;
            s.ssthresh = std::min(s.ssthresh, s.cwnd);
        }
        if (!s.frozen) {
            if (s.cwnd < s.ssthresh) s.cwnd += int64_t(n) << SHIFT;
            else s.cwnd += n * ((int64_t(s.weight) << 32) / s.cwnd);
        }
        s.una = una;
        if (moved && una >= s.wend) {
            const int g = int(c.wire.gain_shift);
            if (s.law == DCTCP)
                s.alpha += int32_t((((int64_t(s.marked) << SHIFT) / s.acked) >> g) - (s.alpha >> g));
            if (s.marked) {
                int64_t cut = (s.cwnd * s.alpha >> (SHIFT + 1)) * 256 / s.weight;
                cut = std::min(cut, s.cwnd >> 1);
                s.cwnd = std::max(int64_t(s.min_window) << SHIFT, s.cwnd - cut);
                s.ssthresh = s.cwnd;
            }
            s.acked = s.marked = 0;
            s.wend = s.next;
        }
        s.cwnd = std::min(s.cwnd, int64_t(s.max_window) << SHIFT);
    }
    if (!moved) return;
    s.retries = 0;
    s.deadline = c.now + c.wire.rto;
    if (s.una >= s.recover) s.frozen = false;
}

inline void on_timer(Core& c, uint32_t which) {
    Sender& s = c.senders[which];
    s.has_timer = false;
    if (s.una == s.next) return release_if_over(c, which);
    if (c.now >= s.deadline) {
        c.counters[TIMEOUTS]++;
        if (s.retries < 255) s.retries++;
        s.recover = s.next;
        s.want_resend = true;
        s.frozen = false;
        s.dup = 0;
        if (s.role != WINDOW) {
            s.ssthresh = std::max(int64_t(2) << SHIFT, s.cwnd >> 1);
            s.cwnd = int64_t(1) << SHIFT;
        } else if (s.retries >= MOST_TIMEOUTS && c.stalled_window < 0) {
            c.stalled_window = s.aux;
        }
        s.deadline = c.now + (c.wire.rto << std::min<int>(s.retries, 6));
    }
    s.has_timer = true;
    c.schedule(s.deadline, TIMER, which);
    offer(c, which);
}
