/* From the plan's arrays to the state before the first event. */
#pragma once
#include "aggregate.h"
#include "dctcp.h"

inline void build_links(Core& c) {
    const Plan& plan = c.plan;
    c.links.resize(c.count.links);
    for (int64_t i = 0; i < c.count.links; i++) {
        Link& link = c.links[i];
        link = Link{};
        link.ppb = int32_t(plan.ps_per_byte[i]);
        link.prop = plan.prop_ps[i];
        link.mark = int32_t(std::min<int64_t>(plan.mark_bytes[i], INT32_MAX));
        link.cap = int32_t(std::min<int64_t>(plan.cap_bytes[i], INT32_MAX));
        link.head = link.tail = NONE;
        link.nic = -1;
        if (plan.is_host[plan.src[i]]) {
            link.nic = int32_t(c.nics.size());
            c.nics.emplace_back();
            c.nic_link.push_back(int32_t(i));
        }
    }
}

inline void first_window(const Core& c, Sender& s) {
    int64_t first = std::max<int64_t>(c.wire.first_window, s.min_window);
    s.cwnd = std::min<int64_t>(first, s.max_window) << SHIFT;
    s.ssthresh = INT64_MAX;
    s.alpha = 1 << SHIFT;
    s.top = -1;
    s.mask = 63;
    while (s.mask + 1 < uint32_t(s.max_window)) s.mask = 2 * s.mask + 1;
}

inline void build_conns(Core& c) {
    const Plan& plan = c.plan;
    c.conns.assign(c.count.conns, Conn{});
    c.message_end.resize(c.count.messages);
    c.message_last.resize(c.count.messages);
    c.waits.assign(c.count.messages, 0);
    c.indegree.assign(c.count.messages, 0);
    for (int64_t i = 0; i < plan.next_ptr[c.count.messages]; i++) c.indegree[plan.next[i]]++;
    int64_t m = 0;
    for (int32_t k = 0; k < c.count.conns; k++) {
        Conn& conn = c.conns[k];
        conn.first = int32_t(m);
        for (; m < c.count.messages && plan.message_conn[m] == k; m++) {
            int64_t packets = (plan.message_bytes[m] + c.wire.payload - 1) / c.wire.payload;
            conn.per_iteration += int32_t(packets);
            c.message_end[m] = conn.per_iteration;
            c.message_last[m] =
                int32_t(plan.message_bytes[m] - (packets - 1) * c.wire.payload + c.wire.header);
        }
        conn.n = int32_t(m - conn.first);
        Sender s{};
        s.role = CONN;
        s.law = DCTCP;
        s.aux = k;
        s.ident = int32_t(c.count.flows) + k;
        s.max_window = plan.conn_max_window[k];
        s.min_window = 1;
        s.weight = 256;
        s.path = plan.conn_path + plan.conn_path_ptr[k];
        s.hops = int32_t(plan.conn_path_ptr[k + 1] - plan.conn_path_ptr[k]);
        s.nic = c.links[s.path[0]].nic;
        first_window(c, s);
        c.senders.push_back(s);
        Job& job = c.jobs[plan.conn_job[k]];
        if (job.n_conns++ == 0) job.first_conn = k;
        job.n_messages += conn.n;
    }
}

inline void build_jobs(Core& c) {
    const Plan& plan = c.plan;
    c.jobs = std::vector<Job>(c.count.jobs);
    int64_t iterations = 0;
    for (int32_t j = 0; j < c.count.jobs; j++) {
        Job& job = c.jobs[j];
        job = Job{};
        job.first_iteration = iterations;
        iterations += plan.iterations[j];
        job.n_workers = int32_t(plan.worker_ptr[j + 1] - plan.worker_ptr[j]);
        for (int64_t b = plan.bucket_ptr[j]; b < plan.bucket_ptr[j + 1]; b++) {
            int64_t n = plan.bucket_bytes[b];
            int64_t packets = (n + c.wire.sum_payload - 1) / c.wire.sum_payload;
            job.per_iteration += int32_t(packets);
            job.bucket_end.push_back(job.per_iteration);
            job.last_size.push_back(
                int32_t(n - (packets - 1) * c.wire.sum_payload + c.wire.sum_header));
        }
    }
    c.begin.assign(iterations, -1);
    c.comm = c.sum = c.end = c.begin;
    int64_t join = 0;
    for (int32_t t = 0; t < c.count.trees; t++) {
        Job& job = c.jobs[plan.tree_job[t]];
        if (job.n_trees++ == 0) job.first_tree = t, job.first_join = join;
        join += job.n_workers;
    }
}

inline void build_windows(Core& c) {
    const Plan& plan = c.plan;
    c.join_window.assign(c.count.joins, 0);
    for (int32_t j = 0; j < c.count.jobs; j++) {
        Job& job = c.jobs[j];
        if (!plan.aggregates[j]) continue;
        const int32_t per_worker = plan.per_tree[j] ? job.n_trees : 1;
        job.first_window = int32_t(c.windows.size());
        job.n_windows = per_worker * job.n_workers;
        for (int32_t w = 0; w < job.n_workers; w++)
            for (int32_t v = 0; v < per_worker; v++) {
                const int32_t number = int32_t(c.windows.size());
                Window window{};
                window.job = j;
                window.worker = int32_t(plan.worker_ptr[j]) + w;
                window.tree = plan.per_tree[j] ? v : -1;
                window.full_since = -1;
                c.windows.push_back(window);
                Sender s{};
                s.role = WINDOW;
                s.law = uint8_t(plan.law[j]);
                s.aux = number;
                s.ident = -1;
                s.max_window = plan.max_window[j];
                s.min_window = plan.min_window[j];
                s.weight = plan.weight[j];
                int64_t at = job.first_join + int64_t(v) * job.n_workers + w;
                s.nic = c.links[plan.join[plan.join_ptr[at]]].nic;
                first_window(c, s);
                if (s.law == FIXED)
                    s.cwnd = int64_t(std::min(plan.fixed_window[j], s.max_window)) << SHIFT;
                c.senders.push_back(s);
                for (int32_t t = 0; t < job.n_trees; t++)
                    if (window.tree < 0 || window.tree == t)
                        c.join_window[job.first_join + int64_t(t) * job.n_workers + w] = number;
            }
        job.m.assign(job.n_trees, 0);
        job.epoch_size = (std::max(plan.max_window[j], 2 * job.n_trees) + 63) / 64 * 64;
        for (Epoch& e : job.epochs) e.weight.assign(job.n_trees, 65536);
    }
}

inline void build_trees(Core& c) {
    const Plan& plan = c.plan;
    int64_t children = 0;
    for (int32_t n = 0; n < c.count.tree_nodes; n++) {
        TreeNode node{};
        node.job = plan.tree_job[plan.node_tree[n]];
        node.tree = plan.node_tree[n] - c.jobs[node.job].first_tree;
        node.slots = plan.slots[node.job];
        node.full = plan.fan_in[n] == 64 ? ~uint64_t(0) : (uint64_t(1) << plan.fan_in[n]) - 1;
        node.first_child = children;
        node.ring.resize(2 * size_t(node.slots));
        children += plan.fan_in[n];
        c.tree_nodes.push_back(std::move(node));
    }
    c.children.assign(children, Child{});
    for (int64_t i = 0; i < c.count.joins; i++) {
        Child& child = c.children[c.tree_nodes[plan.join_node[i]].first_child + plan.join_child[i]];
        child.target = int32_t(i);
        child.is_worker = true;
        child.workers = 1;
        child.hops = uint16_t(plan.join_ptr[i + 1] - plan.join_ptr[i]);
        child.last = plan.join + plan.join_ptr[i + 1] - 1;
        for (int32_t n = plan.join_node[i]; n >= 0; n = plan.parent[n]) c.tree_nodes[n].workers++;
    }
    for (int32_t n = 0; n < c.count.tree_nodes; n++) {
        if (plan.parent[n] < 0) continue;
        Child& child = c.children[c.tree_nodes[plan.parent[n]].first_child + plan.child_of_parent[n]];
        child.target = n;
        child.workers = uint16_t(c.tree_nodes[n].workers);
        child.hops = uint16_t(plan.up_ptr[n + 1] - plan.up_ptr[n]);
        child.last = plan.up + plan.up_ptr[n + 1] - 1;
    }
}

inline void build(Core& c) {
    build_links(c);
    build_jobs(c);
    build_conns(c);
    build_windows(c);
    build_trees(c);
    c.flow_end.assign(c.count.flows, -1);
    c.raw_over.assign(c.count.flows, 0);
    c.flow_resent.assign(c.count.flows, 0);
    c.conn_resent.assign(c.count.conns, 0);
    if (c.wire.job_marks) c.job_marks.assign(size_t(c.count.jobs * c.count.links), 0);
    c.full_size = int32_t(c.wire.payload + c.wire.header);
    c.sum_size = int32_t(c.wire.sum_payload + c.wire.sum_header);
    c.pending = c.count.flows + c.count.jobs;
    if (c.count.flows) c.heap.push(c.plan.flow_start[0], 0, uint32_t(FLOW_START) << 28);
    for (int64_t j = 0; j < c.count.jobs; j++)
        c.heap.push(c.plan.job_start[j], uint64_t(c.count.flows + j),
                    uint32_t(JOB_START) << 28 | uint32_t(j));
    c.seq = uint64_t(c.count.flows + c.count.jobs);
}
