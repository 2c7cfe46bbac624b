/* The plan as it comes from Python, checked there, and what is given back; see panama/plan.py.
   Both are lists of addresses in the order of these fields, and of panama/core.py's tables. */
#pragma once
#include <cstdint>

struct Plan {
    // network
    const int32_t *is_host, *src, *dst, *back;
    const int64_t *ps_per_byte, *prop_ps, *mark_bytes, *cap_bytes;
    // flows
    const int64_t *flow_start, *flow_bytes;
    const int32_t* flow_raw;
    const int64_t* flow_path_ptr;
    const int32_t *flow_path, *flow_max_window;
    // messages
    const int32_t* conn_job;
    const int64_t* conn_path_ptr;
    const int32_t *conn_path, *conn_max_window, *message_conn;
    const int64_t* message_bytes;
    const int32_t* message_bucket;
    const int64_t* next_ptr;
    const int32_t* next;
    // trees
    const int32_t *tree_job, *node_tree, *node_at, *parent, *child_of_parent, *fan_in;
    const int64_t* up_ptr;
    const int32_t *up, *join_node, *join_child;
    const int64_t* join_ptr;
    const int32_t* join;
    // jobs
    const int32_t* aggregates;
    const int64_t* job_start;
    const int32_t* iterations;
    const int64_t *compute, *worker_ptr;
    const int32_t* worker;
    const int64_t *bucket_ptr, *bucket_ps, *bucket_bytes;
    const int32_t *law, *ecn_mode, *per_tree, *adaptive, *slots, *max_window, *min_window;
    const int32_t *fixed_window, *weight;
};

struct Counts {
    int64_t nodes, links, flows, conns, messages, trees, tree_nodes, joins, jobs;
};

struct Wire {
    int64_t payload, header, sum_payload, sum_header, ack, first_window, rto, nic_packets, gain_shift;
    int64_t drop, duplicate, seed;  // probabilities in 1/2**32
    int64_t job_marks;              // 1: count marks by job and link
};

struct Found {
    int64_t* flow_end;
    int32_t *flow_resent, *conn_resent;
    int64_t *begin, *comm, *sum, *end;  // by iteration of jobs
    int64_t *link_bytes, *link_packets, *link_max_queue, *link_sum_queue, *link_marks, *link_drops;
    int64_t* job_marks;
    int64_t *sent, *resent, *marked, *results, *window_ps;
    double* mean_window;
    int64_t *sums, *duplicates, *out_of_window, *stale, *repairs, *max_open, *skew_ps;
    int64_t* counters;  // COUNTERS
    int64_t* stalled;   // job, packet, tree node, missing children
};

enum Counter {
    SENT_BYTES, ARRIVED_BYTES, DROPPED_BYTES, IN_FLIGHT_BYTES,
    SUMS_FAN_IN, CONTRIBUTIONS, OPEN_CONTRIBUTIONS, WRONG_SUMS, WRONG_CONTRIBUTIONS,
    RESULTS, REPEATED_RESULTS, LOST, COPIES, TIMEOUTS, PACKETS_HELD, PACKETS_MOST, HELD_BYTES, COUNTERS
};
