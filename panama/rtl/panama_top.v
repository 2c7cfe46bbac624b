// The accelerator of one switch: P ports in, sums out at one beat a cycle.
//   s_axis[i]       frames from port i; never waits
//   m_axis          sums: UP to the parent, or at the root DOWN to the members
//   m_down_axis     results from the parent, to the members; and cached ones that were asked for
//   m_bypass_axis[i] frames of port i that are not ours, unchanged
// tuser of the first two names the ports a frame goes to. Streams of all ports stand side by side.
// A frame: one header beat, then whole payload beats of 64 bytes.
// From the last beat of the last member to the header of the sum: 6 cycles and the tree's latency.
`default_nettype none

module panama_top #(
    // ports, 2 to 64
    parameter P = 4,
    // 32-bit words of a beat that are added, 1 to 16; the others come out zero (to simulate faster)
    parameter L = 16,
    // 0 fp32, 1 bf16, 2 int32
    parameter FMT = 0,
    // registers of one addition, cycles
    parameter FADD_STAGES = 10,
    // log2 of the jobs, 1 to 6
    parameter LOG_JOBS = 2,
    // log2 of the slots of a job, 1 to 10
    parameter LOG_SLOTS = 4,
    // payload beats that a frame may have
    parameter BEATS = 22,
    // log2 of the beats that each port's bypass and relay buffer holds
    parameter LOG_BUFFER = 7,
    // log2 of the repair requests that wait at each port
    parameter LOG_REPAIRS = 2,
    // cycles without progress after which a job counts as standing still
    parameter STALL_LIMIT = 1000000,
    parameter VERSION = 1,
    parameter UDP_PORT = 20545,
    // time to live of our packets, hops
    parameter TTL = 64
) (
    input wire clk,
    input wire rst,

    input  wire [512*P-1:0] s_axis_tdata,
    input  wire [ 64*P-1:0] s_axis_tkeep,
    input  wire [    P-1:0] s_axis_tvalid,
    output wire [    P-1:0] s_axis_tready,
    input  wire [    P-1:0] s_axis_tlast,
    input  wire [    P-1:0] s_axis_tuser,

    output wire [511:0] m_axis_tdata,
    output wire [ 63:0] m_axis_tkeep,
    output wire [P-1:0] m_axis_tuser,
    output wire         m_axis_tvalid,
    input  wire         m_axis_tready,
    output wire         m_axis_tlast,

    output wire [511:0] m_down_axis_tdata,
    output wire [ 63:0] m_down_axis_tkeep,
    output wire [P-1:0] m_down_axis_tuser,
    output wire         m_down_axis_tvalid,
    input  wire         m_down_axis_tready,
    output wire         m_down_axis_tlast,

    output wire [512*P-1:0] m_bypass_axis_tdata,
    output wire [ 64*P-1:0] m_bypass_axis_tkeep,
    output wire [    P-1:0] m_bypass_axis_tvalid,
    input  wire [    P-1:0] m_bypass_axis_tready,
    output wire [    P-1:0] m_bypass_axis_tlast,

    input  wire [15:0] s_axil_awaddr,
    input  wire [ 2:0] s_axil_awprot,
    input  wire        s_axil_awvalid,
    output wire        s_axil_awready,
    input  wire [31:0] s_axil_wdata,
    input  wire [ 3:0] s_axil_wstrb,
    input  wire        s_axil_wvalid,
    output wire        s_axil_wready,
    output wire [ 1:0] s_axil_bresp,
    output wire        s_axil_bvalid,
    input  wire        s_axil_bready,
    input  wire [15:0] s_axil_araddr,
    input  wire [ 2:0] s_axil_arprot,
    input  wire        s_axil_arvalid,
    output wire        s_axil_arready,
    output wire [31:0] s_axil_rdata,
    output wire [ 1:0] s_axil_rresp,
    output wire        s_axil_rvalid,
    input  wire        s_axil_rready
);
  localparam JOBS = 1 << LOG_JOBS;
  localparam SLOTS = 1 << LOG_SLOTS;
  localparam LOG_PORTS = $clog2(P);
  localparam LOG_BEATS = $clog2(BEATS + 1);
  localparam LOG_KEYS = LOG_JOBS + LOG_SLOTS;
  localparam KEYS = 1 << LOG_KEYS;
  localparam GEN = 32 - LOG_SLOTS;
  localparam ID = GEN + LOG_KEYS;
  localparam META = 1 + ID + LOG_PORTS + 13 + 32 + 16 + 32 + 16 + 6;

  wire [JOBS-1:0] job_on, job_root, job_worst, stalled;
  wire [3*JOBS-1:0] job_log_trees;
  wire [2*JOBS-1:0] job_ect;
  wire [LOG_PORTS*JOBS-1:0] job_parent;
  wire [24*JOBS-1:0] job_key;
  wire [P*JOBS-1:0] job_members, missing;
  wire [256*JOBS-1:0] job_header;
  wire [16*P*JOBS-1:0] job_workers;
  wire [31:0] stall_limit;
  wire [6:0] count_port;
  wire [4:0] count_cause;
  reg [31:0] count_value;

  tables #(
      .P(P), .LOG_PORTS(LOG_PORTS), .FMT(FMT), .LOG_JOBS(LOG_JOBS), .LOG_SLOTS(LOG_SLOTS),
      .STALL_LIMIT(STALL_LIMIT)
  ) tables (
      .clk(clk), .rst(rst),
      .s_axil_awaddr(s_axil_awaddr), .s_axil_awprot(s_axil_awprot),
      .s_axil_awvalid(s_axil_awvalid), .s_axil_awready(s_axil_awready),
      .s_axil_wdata(s_axil_wdata), .s_axil_wstrb(s_axil_wstrb), .s_axil_wvalid(s_axil_wvalid),
      .s_axil_wready(s_axil_wready), .s_axil_bresp(s_axil_bresp), .s_axil_bvalid(s_axil_bvalid),
      .s_axil_bready(s_axil_bready), .s_axil_araddr(s_axil_araddr), .s_axil_arprot(s_axil_arprot),
      .s_axil_arvalid(s_axil_arvalid), .s_axil_arready(s_axil_arready),
      .s_axil_rdata(s_axil_rdata), .s_axil_rresp(s_axil_rresp), .s_axil_rvalid(s_axil_rvalid),
      .s_axil_rready(s_axil_rready),
      .job_on(job_on), .job_root(job_root), .job_worst(job_worst), .job_log_trees(job_log_trees),
      .job_ect(job_ect), .job_parent(job_parent), .job_key(job_key), .job_members(job_members),
      .job_header(job_header), .job_workers(job_workers), .stall_limit(stall_limit),
      .stalled(stalled), .missing(missing), .count_port(count_port), .count_cause(count_cause),
      .count_value(count_value)
  );

  // --- ports ---------------------------------------------------------------------------------------
  wire free, free_done;
  wire [LOG_KEYS-1:0] free_key;
  wire [GEN-1:0] free_gen;
  wire read;
  wire [LOG_KEYS+LOG_BEATS-1:0] read_address;
  wire [P*KEYS-1:0] filled;
  wire [512*P-1:0] slot_data, relay_data;
  wire [LOG_JOBS*P-1:0] relay_job;
  wire [P-1:0] relay_valid, relay_ready, relay_last, repair_valid, repair_ready;
  wire [ID*P-1:0] repair;
  wire [31:0] port_count[0:P-1];

  genvar i, j, k;
  generate
    for (i = 0; i < P; i = i + 1) begin : g_port
      wire [JOBS-1:0] member, parent;
      wire [16*JOBS-1:0] workers;
      for (j = 0; j < JOBS; j = j + 1) begin : g_job
        assign member[j] = job_members[P*j+i];
        assign parent[j] = ~job_root[j] & job_parent[LOG_PORTS*j+:LOG_PORTS] == i;
        assign workers[16*j+:16] = job_workers[16*(P*j+i)+:16];
      end
      wire [15:0] fate;
      port #(
          .PORT(i), .FMT(FMT), .LOG_JOBS(LOG_JOBS), .LOG_SLOTS(LOG_SLOTS), .BEATS(BEATS),
          .LOG_BUFFER(LOG_BUFFER), .LOG_REPAIRS(LOG_REPAIRS), .VERSION(VERSION),
          .UDP_PORT(UDP_PORT)
      ) port (
          .clk(clk), .rst(rst),
          .s_axis_tdata(s_axis_tdata[512*i+:512]), .s_axis_tkeep(s_axis_tkeep[64*i+:64]),
          .s_axis_tvalid(s_axis_tvalid[i]), .s_axis_tready(s_axis_tready[i]),
          .s_axis_tlast(s_axis_tlast[i]), .s_axis_tuser(s_axis_tuser[i]),
          .bypass_tdata(m_bypass_axis_tdata[512*i+:512]),
          .bypass_tkeep(m_bypass_axis_tkeep[64*i+:64]), .bypass_tvalid(m_bypass_axis_tvalid[i]),
          .bypass_tready(m_bypass_axis_tready[i]), .bypass_tlast(m_bypass_axis_tlast[i]),
          .relay_data(relay_data[512*i+:512]), .relay_job(relay_job[LOG_JOBS*i+:LOG_JOBS]),
          .relay_last(relay_last[i]), .relay_valid(relay_valid[i]), .relay_ready(relay_ready[i]),
          .repair(repair[ID*i+:ID]), .repair_valid(repair_valid[i]),
          .repair_ready(repair_ready[i]),
          .job_on(job_on), .job_key(job_key), .job_member(member), .job_parent(parent),
          .job_log_trees(job_log_trees), .job_workers(workers),
          .free(free), .free_key(free_key), .free_done(free_done), .free_gen(free_gen),
          .filled(filled[KEYS*i+:KEYS]), .read(read), .read_address(read_address),
          .read_data(slot_data[512*i+:512]), .event_out(fate)
      );
      counters #(.N(16), .LOG(4)) counters (
          .clk(clk), .rst(rst), .pulse(fate), .select(count_cause[3:0]), .value(port_count[i])
      );
    end
  endgenerate

  // --- choosing and reading ------------------------------------------------------------------------
  wire en = ~m_axis_tvalid | m_axis_tready;
  wire sum_valid, sum_stored, sum_taken, sum_missed;
  wire [ID-1:0] sum_id;
  wire [LOG_PORTS-1:0] sum_port, got_port;
  wire got_valid, got_first, got_last, got_repair, got_dead;
  wire [LOG_KEYS-1:0] got_key;
  wire [12:0] head_beats;
  wire [31:0] psn, msg;
  wire [15:0] nelem, pad;
  wire [5:0] dscp;
  wire mismatch;
  wire [LOG_JOBS-1:0] got_job = got_key[LOG_KEYS-1:LOG_SLOTS];
  wire [31:0] index = psn >> job_log_trees[3*got_job+:3];
  ctrl #(
      .P(P), .LOG_PORTS(LOG_PORTS), .LOG_JOBS(LOG_JOBS), .LOG_SLOTS(LOG_SLOTS),
      .LOG_BEATS(LOG_BEATS)
  ) ctrl (
      .clk(clk), .rst(rst), .en(en), .filled(filled), .job_on(job_on), .job_members(job_members),
      .sum_valid(sum_valid), .sum_id(sum_id), .sum_port(sum_port), .sum_stored(sum_stored),
      .sum_taken(sum_taken), .sum_missed(sum_missed), .read(read), .read_address(read_address),
      .got_valid(got_valid), .got_first(got_first), .got_last(got_last), .got_repair(got_repair),
      .got_key(got_key), .got_port(got_port), .got_dead(got_dead), .head_beats(head_beats),
      .head_mismatch(mismatch), .head_gen(index[31:LOG_SLOTS]),
      .free(free), .free_key(free_key), .free_done(free_done), .free_gen(free_gen)
  );

  // A repair goes through the tree alone: adding -0.0 changes no bit of a sum that came out of it.
  wire [511:0] store_data;
  wire [512*P-1:0] leaves = {slot_data[512*P-1:512], got_repair ? store_data : slot_data[511:0]};
  wire [P-1:0] members = got_repair ? {{(P - 1) {1'b0}}, 1'b1} : job_members[P*got_job+:P];
  wire [P-1:0] ce;
  wire [16*P-1:0] contributors, weight;
  head #(.P(P), .FMT(FMT)) head (
      .beats_in(leaves), .member(members), .ce(ce), .contributors(contributors),
      .mismatch(mismatch), .psn(psn), .nelem(nelem), .msg(msg), .pad(pad), .dscp(dscp),
      .beats(head_beats)
  );
  wire goes_on = got_valid & ~got_dead;
  wire begins = en & goes_on & got_first;
  marks #(.P(P), .LOG_JOBS(LOG_JOBS)) marks (
      .clk(clk), .rst(rst), .update(begins & ~got_repair), .job(got_job), .member(members),
      .ce(ce), .weight(weight)
  );

  // --- adding --------------------------------------------------------------------------------------
  wire [32*L*P-1:0] tree_data;
  generate
    for (k = 0; k < P; k = k + 1) begin : g_words
      assign tree_data[32*L*k+:32*L] = leaves[512*k+:32*L];
    end
  endgenerate
  wire sum_out, sum_first, sum_last, ce_or, ce_worst;
  wire [15:0] sum_contributors;
  wire [32*L-1:0] sum_words;
  wire [511:0] sum_data = sum_words;
  tree #(.P(P), .L(L), .FMT(FMT), .FADD_STAGES(FADD_STAGES)) tree (
      .clk(clk), .rst(rst), .en(en), .in_valid(goes_on), .in_first(got_first), .in_last(got_last),
      .in_data(tree_data), .in_member(members), .in_ce(ce), .in_weight(weight),
      .in_contributors(contributors), .out_valid(sum_out), .out_first(sum_first),
      .out_last(sum_last), .out_data(sum_words), .out_ce_or(ce_or), .out_ce_worst(ce_worst),
      .out_contributors(sum_contributors)
  );
  // Headers on their way through the tree: at most every other beat is one.
  localparam LOG_WAY = $clog2(LOG_PORTS * FADD_STAGES / 2 + 4);
  wire [META-1:0] meta;
  wire [ID-1:0] got_id = {index[31:LOG_SLOTS], got_key};
  fifo #(.W(META), .LOG(LOG_WAY)) on_the_way (
      .clk(clk), .rst(rst), .push(begins),
      .data({got_repair, got_id, got_port, head_beats, psn, nelem, msg, pad, dscp}),
      .full(), .pop(en & sum_out & sum_first), .front(meta), .empty()
  );

  // --- out -----------------------------------------------------------------------------------------
  wire stored_set, cached_set, passing_latest;
  wire [ID-1:0] stored_id, cached_id, passing;
  egress #(
      .P(P), .LOG_PORTS(LOG_PORTS), .FMT(FMT), .LOG_JOBS(LOG_JOBS), .LOG_SLOTS(LOG_SLOTS),
      .LOG_BEATS(LOG_BEATS), .VERSION(VERSION), .UDP_PORT(UDP_PORT), .TTL(TTL)
  ) egress (
      .clk(clk), .rst(rst), .en(en), .in_valid(sum_out), .in_first(sum_first),
      .in_last(sum_last), .in_data(sum_data), .in_ce_or(ce_or), .in_ce_worst(ce_worst),
      .in_contributors(sum_contributors), .in_meta(meta), .job_root(job_root),
      .job_worst(job_worst), .job_ect(job_ect), .job_key(job_key), .job_members(job_members),
      .job_parent(job_parent), .job_header(job_header), .read(read),
      .read_address(read_address), .read_data(store_data), .stored_set(stored_set),
      .stored_id(stored_id), .m_axis_tdata(m_axis_tdata), .m_axis_tuser(m_axis_tuser),
      .m_axis_tvalid(m_axis_tvalid), .m_axis_tlast(m_axis_tlast)
  );
  assign m_axis_tkeep = {64{1'b1}};

  wire result_valid, result_cached, result_taken, result_missed, repair_missed;
  wire [ID-1:0] result_id, asked;
  wire [LOG_PORTS-1:0] result_port;
  wire [3:0] latest, is_stored, is_cached;
  relay #(
      .P(P), .LOG_PORTS(LOG_PORTS), .FMT(FMT), .LOG_JOBS(LOG_JOBS), .LOG_SLOTS(LOG_SLOTS),
      .LOG_BEATS(LOG_BEATS), .VERSION(VERSION), .UDP_PORT(UDP_PORT), .TTL(TTL)
  ) relay (
      .clk(clk), .rst(rst), .in_data(relay_data), .in_job(relay_job), .in_last(relay_last),
      .in_valid(relay_valid), .in_ready(relay_ready), .job_members(job_members),
      .job_log_trees(job_log_trees), .job_header(job_header), .result_valid(result_valid),
      .result_id(result_id), .result_port(result_port), .result_cached(result_cached),
      .result_taken(result_taken), .result_missed(result_missed), .passing(passing),
      .passing_latest(passing_latest), .cached_set(cached_set), .cached_id(cached_id),
      .m_axis_tdata(m_down_axis_tdata), .m_axis_tuser(m_down_axis_tuser),
      .m_axis_tvalid(m_down_axis_tvalid), .m_axis_tready(m_down_axis_tready),
      .m_axis_tlast(m_down_axis_tlast)
  );
  assign m_down_axis_tkeep = {64{1'b1}};

  // --- what is finished, and what is asked for again -----------------------------------------------
  // Readers of the ledger: 0 the request that waits, 1 and 3 those about to be served from the store
  // and from the cache, 2 the result that comes by.
  ledger #(.LOG_JOBS(LOG_JOBS), .LOG_SLOTS(LOG_SLOTS)) ledger (
      .clk(clk), .rst(rst), .job_on(job_on), .free_done(free_done), .free_key(free_key),
      .free_gen(free_gen), .stored_set(stored_set), .stored_id(stored_id),
      .cached_set(cached_set), .cached_id(cached_id), .ask({result_id, passing, sum_id, asked}),
      .latest(latest), .is_stored(is_stored), .is_cached(is_cached)
  );
  assign passing_latest = latest[2];
  assign sum_stored = is_stored[1];
  assign result_cached = is_cached[3];
  repairs #(
      .P(P), .LOG_PORTS(LOG_PORTS), .LOG_JOBS(LOG_JOBS), .LOG_SLOTS(LOG_SLOTS)
  ) repairs (
      .clk(clk), .rst(rst), .job_root(job_root), .request(repair), .request_valid(repair_valid),
      .request_ready(repair_ready), .ask(asked), .is_stored(is_stored[0]),
      .is_cached(is_cached[0]), .sum_valid(sum_valid), .sum_id(sum_id), .sum_port(sum_port),
      .sum_taken(sum_taken), .result_valid(result_valid), .result_id(result_id),
      .result_port(result_port), .result_taken(result_taken), .missed(repair_missed)
  );

  // --- standing still, and the counters of the whole -----------------------------------------------
  generate
    for (j = 0; j < JOBS; j = j + 1) begin : g_watch
      wire [P*SLOTS-1:0] of_job;
      for (k = 0; k < P; k = k + 1) begin : g_ports
        assign of_job[SLOTS*k+:SLOTS] = filled[KEYS*k+SLOTS*j+:SLOTS];
      end
      watch #(.P(P), .SLOTS(SLOTS)) watch (
          .clk(clk), .rst(rst), .on(job_on[j]), .member(job_members[P*j+:P]), .filled(of_job),
          .progress(free_done & free_key[LOG_KEYS-1:LOG_SLOTS] == j), .limit(stall_limit),
          .stalled(stalled[j]), .missing(missing[P*j+:P])
      );
    end
  endgenerate

  wire sum_ends = en & goes_on & got_last;
  wire relay_ends = m_down_axis_tvalid & m_down_axis_tready & m_down_axis_tlast;
  wire [31:0] whole_count;
  counters #(.N(8), .LOG(3)) counters (
      .clk(clk), .rst(rst),
      .pulse({|stalled, result_missed, sum_missed, repair_missed, relay_ends,
              free & ~free_done, sum_ends & got_repair, sum_ends & ~got_repair}),
      .select(count_cause[2:0]), .value(whole_count)
  );
  reg [6:0] count_port_kept;
  always @(posedge clk) count_port_kept <= count_port;
  always @* count_value = count_port_kept[6] ? whole_count :
                          count_port_kept < P ? port_count[count_port_kept[LOG_PORTS-1:0]] : 32'd0;
endmodule

`default_nettype wire
