/* Flows and connections: receiving, acknowledging, fast retransmit. RULES.md, section 5. */
#pragma once
#include "jobs.h"

inline bool is_over(const Sender& s, int32_t ident) {
    return s.ident != ident || (s.role == FLOW && s.una == s.n_packets);
}

inline void messages_arrived(Core& c, int32_t k, int32_t expected) {
    Conn& conn = c.conns[k];
    Job& job = c.jobs[c.plan.conn_job[k]];
    while (conn.arrived < conn.n &&
           expected >= conn.base + c.message_end[conn.first + conn.arrived]) {
        int32_t m = conn.first + conn.arrived++;
        for (int64_t i = c.plan.next_ptr[m]; i < c.plan.next_ptr[m + 1]; i++) {
            int32_t other = c.plan.next[i];
            if (--c.waits[other] == 0) advance(c, c.plan.message_conn[other]);
        }
        if (--job.remaining == 0) all_there(c, c.plan.conn_job[k]);
    }
}

// The packet becomes its own acknowledgement.
inline void on_data(Core& c, uint32_t index) {
    Packet& p = c.pool[index];
    Sender& s = c.senders[p.owner];
    if (is_over(s, p.local)) return c.free_packets.push_back(index);
    const uint32_t which = uint32_t(p.owner);
    const int32_t before = s.expected;
    if (p.psn == s.expected) {
        s.expected++;
        while (s.bit(s.expected)) s.clear(s.expected++);
    } else if (p.psn > s.expected) {
        s.set(p.psn);
    }
    const int32_t expected = s.expected;
    p.kind = ACK;
    p.psn = expected;
    p.size = int32_t(c.wire.ack);
    p.left = uint16_t(s.hops - 1);
    p.step = -1;
    join_link(c, index);
    if (expected == before) return;
    if (s.role == CONN) return messages_arrived(c, s.aux, expected);
    if (expected == s.n_packets) {
        c.flow_end[s.ident] = c.now;
        c.pending--;
    }
    (void)which;
}

inline void on_ack(Core& c, uint32_t index) {
    const Packet& p = c.pool[index];
    const uint32_t which = uint32_t(p.owner);
    const int32_t a = p.psn;
    const bool e = p.mark;
    Sender& s = c.senders[which];
    c.free_packets.push_back(index);
    if (is_over(s, p.local)) return;
    if (a > s.una) {
        acknowledged(c, s, a - s.una, e, a);
        s.dup = 0;
        s.want_resend = s.una < s.recover;
    } else if (a == s.una && s.una < s.next) {
        if (++s.dup == 3 && s.una >= s.recover) {
            s.recover = s.next;
            s.frozen = true;
            s.cwnd = std::max(int64_t(1) << SHIFT, s.cwnd >> 1);
            s.ssthresh = s.cwnd;
            s.want_resend = true;
        }
    }
    offer(c, which);
    release_if_over(c, which);
}

inline void start_flow(Core& c, int64_t i) {
    const int32_t* path = c.plan.flow_path + c.plan.flow_path_ptr[i];
    const int32_t hops = int32_t(c.plan.flow_path_ptr[i + 1] - c.plan.flow_path_ptr[i]);
    if (c.plan.flow_raw[i]) {
        uint32_t index = c.new_packet();
        Packet& p = c.pool[index];
        p.kind = RAW, p.mark = 0, p.step = 1;
        p.owner = p.local = int32_t(i);
        p.size = int32_t(c.plan.flow_bytes[i]);
        p.at = path;
        p.left = uint16_t(hops - 1);
        join_link(c, index);
        return;
    }
    uint32_t which;
    if (c.free_senders.empty()) {
        which = uint32_t(c.senders.size());
        c.senders.emplace_back();
    } else {
        which = uint32_t(c.free_senders.back());
        c.free_senders.pop_back();
    }
    Sender& s = c.senders[which];
    const int64_t packets = (c.plan.flow_bytes[i] + c.wire.payload - 1) / c.wire.payload;
    s = Sender{};
    s.role = FLOW;
    s.law = DCTCP;
    s.ident = int32_t(i);
    s.max_window = c.plan.flow_max_window[i];
    s.min_window = 1;
    s.weight = 256;
    s.path = path;
    s.hops = hops;
    s.n_packets = s.limit = int32_t(packets);
    s.last_size = int32_t(c.plan.flow_bytes[i] - (packets - 1) * c.wire.payload + c.wire.header);
    s.nic = c.links[path[0]].nic;
    s.mask = 63;
    while (s.mask + 1 < uint32_t(s.max_window)) s.mask = 2 * s.mask + 1;
    s.cwnd = std::min<int64_t>(c.wire.first_window, s.max_window) << SHIFT;
    s.ssthresh = INT64_MAX;
    s.alpha = 1 << SHIFT;
    offer(c, which);
}
