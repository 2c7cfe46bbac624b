/* Iterations, buckets and messages of jobs: RULES.md, section 7. */
#pragma once
#include "sender.h"

inline void all_there(Core& c, int32_t j) {
    Job& job = c.jobs[j];
    int64_t at = job.first_iteration + job.iteration;
    c.sum[at] = c.now;
    c.schedule(std::max(c.now, c.begin[at] + c.plan.compute[j]), ITERATION_END, uint32_t(j));
}

inline void advance(Core& c, int32_t k) {
    Conn& conn = c.conns[k];
    const Job& job = c.jobs[c.plan.conn_job[k]];
    const int32_t before = conn.ready;
    while (conn.ready < conn.n) {
        int32_t m = conn.first + conn.ready;
        int32_t bucket = c.plan.message_bucket[m];
        if (c.waits[m] || (bucket >= 0 && !(bucket < job.n_released))) break;
        conn.ready++;
    }
    if (conn.ready == before) return;
    c.senders[k].limit = conn.base + c.message_end[conn.first + conn.ready - 1];
    offer(c, uint32_t(k));
}

inline void begin_iteration(Core& c, int32_t j) {
    Job& job = c.jobs[j];
    int64_t at = job.first_iteration + job.iteration;
    c.begin[at] = c.now;
    job.n_released = 0;
    const int64_t first = c.plan.bucket_ptr[j], end = c.plan.bucket_ptr[j + 1];
    // Buckets are numbered over all jobs, so that an event knows its job by search.
    for (int64_t b = first; b < end; b++)
        c.schedule(c.now + c.plan.bucket_ps[b], BUCKET, uint32_t(b));
    if (c.plan.aggregates[j]) {
        job.through = 0;
        for (int32_t w = 0; w < job.n_windows; w++) c.windows[job.first_window + w].is_through = false;
        return;
    }
    job.remaining = job.n_messages;
    for (int32_t k = job.first_conn; k < job.first_conn + job.n_conns; k++) {
        Conn& conn = c.conns[k];
        conn.ready = conn.arrived = 0;
        conn.base = job.iteration * conn.per_iteration;
        std::copy_n(c.indegree.begin() + conn.first, conn.n, c.waits.begin() + conn.first);
    }
    for (int32_t k = job.first_conn; k < job.first_conn + job.n_conns; k++) advance(c, k);
}

// Of so many packets of a job, those that count in a window.
inline int32_t share(const Job& job, const Window& w, int64_t packets) {
    if (w.tree < 0) return int32_t(packets);
    return int32_t((packets - w.tree + job.n_trees - 1) / job.n_trees);
}

inline int32_t windows_end(const Job& job, const Window& w) {
    return share(job, w, int64_t(job.iteration + 1) * job.per_iteration);
}

inline void check_through(Core& c, Window& w, const Sender& s) {
    Job& job = c.jobs[w.job];
    if (w.is_through || s.una < windows_end(job, w)) return;
    w.is_through = true;
    if (++job.through == job.n_windows) all_there(c, w.job);
}

inline void on_bucket(Core& c, int64_t bucket) {
    const int64_t* ptr = c.plan.bucket_ptr;
    int32_t j = int32_t(std::upper_bound(ptr, ptr + c.count.jobs + 1, bucket) - ptr) - 1;
    Job& job = c.jobs[j];
    int64_t at = job.first_iteration + job.iteration;
    if (job.n_released++ == 0) c.comm[at] = c.now;
    if (!c.plan.aggregates[j]) {
        for (int32_t k = job.first_conn; k < job.first_conn + job.n_conns; k++) advance(c, k);
        return;
    }
    int64_t packets = int64_t(job.iteration) * job.per_iteration + job.bucket_end[job.n_released - 1];
    const uint32_t first = uint32_t(c.count.conns + job.first_window);
    for (int32_t w = 0; w < job.n_windows; w++) {
        Window& window = c.windows[job.first_window + w];
        c.senders[first + w].limit = share(job, window, packets);
    }
    for (int32_t w = 0; w < job.n_windows; w++) {
        offer(c, first + w);
        note_full(c, c.senders[first + w]);
    }
    // A tree may have no packet at all in this iteration.
    if (job.n_released == int32_t(job.bucket_end.size()))
        for (int32_t w = 0; w < job.n_windows; w++)
            check_through(c, c.windows[job.first_window + w], c.senders[first + w]);
}

inline void on_iteration_end(Core& c, int32_t j) {
    Job& job = c.jobs[j];
    c.end[job.first_iteration + job.iteration] = c.now;
    if (++job.iteration < c.plan.iterations[j]) begin_iteration(c, j);
    else c.pending--;
}
