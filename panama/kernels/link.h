/* Links and NIC lanes: RULES.md, section 2. */
#pragma once
#include "state.h"

inline uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

inline int32_t job_of(const Core& c, const Packet& p) {
    switch (p.kind) {
        case DATA: return p.local < c.count.flows ? -1 : c.plan.conn_job[p.local - c.count.flows];
        case UP: return c.tree_nodes[p.owner].job;
        case DOWN: return p.child ? c.windows[c.join_window[p.owner]].job : c.tree_nodes[p.owner].job;
        default: return -1;
    }
}

inline void append(Core& c, uint32_t& head, uint32_t& tail, uint32_t index, uint32_t what) {
    Packet& p = c.pool[index];
    p.next = NONE;
    if (head == NONE) {
        head = tail = index;
        c.heap.push(p.arrival, p.seq, what);
    } else {
        c.pool[tail].next = index;
        tail = index;
    }
}

// Steps 2 to 5; frees the packet if it is dropped.
inline void queue(Core& c, int32_t number, uint32_t index) {
    Link& link = c.links[number];
    Packet& p = c.pool[index];
    c.counters[SENT_BYTES] += p.size;
    int64_t ahead = link.busy - c.now;
    if (ahead < 0) ahead = 0;
    // ahead // ppb + size > cap, without the division.
    if (link.cap >= 0 && ahead >= (int64_t(link.cap) - p.size + 1) * link.ppb) {
        link.drops++;
        c.counters[DROPPED_BYTES] += p.size;
        c.free_packets.push_back(index);
        return;
    }
    if (link.mark >= 0 && ahead >= int64_t(link.mark) * link.ppb && p.kind != ACK) {
        p.mark = 1;
        link.marks++;
        if (!c.job_marks.empty()) {
            int32_t job = job_of(c, p);
            if (job >= 0) c.job_marks[size_t(job) * c.links.size() + number]++;
        }
    }
    link.n_bytes += p.size;
    link.packets++;
    link.sum_queue += ahead;
    if (ahead > link.max_queue) link.max_queue = ahead;
    link.busy = c.now + ahead + int64_t(p.size) * link.ppb;
    p.arrival = link.busy + link.prop;
    p.seq = c.seq++;
    append(c, link.head, link.tail, index, uint32_t(LANE) << 28 | uint32_t(number));
}

inline void queue_ack(Core& c, int32_t number, uint32_t index) {
    Link& link = c.links[number];
    Nic& nic = c.nics[link.nic];
    Packet& p = c.pool[index];
    int64_t takes = int64_t(p.size) * link.ppb;
    int64_t start = nic.ack_busy > c.now ? nic.ack_busy : c.now;
    c.counters[SENT_BYTES] += p.size;
    link.n_bytes += p.size;
    link.packets++;
    link.sum_queue += start - c.now;
    if (start - c.now > link.max_queue) link.max_queue = start - c.now;
    nic.ack_busy = start + takes;
    link.busy = (link.busy > c.now ? link.busy : c.now) + takes;
    p.arrival = nic.ack_busy + link.prop;
    p.seq = c.seq++;
    append(c, nic.head, nic.tail, index, uint32_t(ACK_LANE) << 28 | uint32_t(link.nic));
}

// Rare: step 1.
inline void queue_at_risk(Core& c, int32_t number, uint32_t index) {
    Link& link = c.links[number];
    uint64_t h = mix(mix(mix(uint64_t(c.wire.seed)) ^ uint64_t(number)) ^ uint64_t(link.offered++));
    if (int64_t(h & 0xffffffffu) < c.wire.drop) {
        link.drops++;
        c.counters[LOST]++;
        c.counters[SENT_BYTES] += c.pool[index].size;
        c.counters[DROPPED_BYTES] += c.pool[index].size;
        c.free_packets.push_back(index);
        return;
    }
    if (int64_t(h >> 32) >= c.wire.duplicate) return queue(c, number, index);
    c.counters[COPIES]++;
    uint32_t copy = c.new_packet();
    c.pool[copy] = c.pool[index];
    queue(c, number, index);
    queue(c, number, copy);
}

// A packet joins the link it is at.
inline void join_link(Core& c, uint32_t index) {
    const Packet& p = c.pool[index];
    int32_t number = p.step > 0 ? *p.at : c.plan.back[*p.at];
    const Link& link = c.links[number];
    if (link.nic >= 0 && p.kind == ACK) return queue_ack(c, number, index);
    if (link.nic < 0 && (c.wire.drop | c.wire.duplicate)) return queue_at_risk(c, number, index);
    queue(c, number, index);
}
