// Ingress of one port: checks the header of each frame and sends it one of four ways.
//   UP to a member slot       -> slot buffer; the slot's bit is set by the last beat of a sound frame
//   UP to a finished slot     -> a repair request, if the queue has room
//   DOWN from the parent      -> relay buffer
//   anything not of ours      -> bypass buffer
// All else is dropped. Each frame ends in exactly one of the events below.
// The input never waits: tready is high from reset on.
// A beat is seen one cycle after it arrived and written in the next; a slot's bit shows one cycle later.
`default_nettype none

module port #(
    // index of this port
    parameter PORT = 0,
    parameter FMT = 0,
    // log2 of the jobs, at least 1
    parameter LOG_JOBS = 2,
    // log2 of the slots of a job, at least 1
    parameter LOG_SLOTS = 4,
    // payload beats that a frame may have
    parameter BEATS = 22,
    // log2 of beats kept for a slot, header included; follows from BEATS
    parameter LOG_BEATS = $clog2(BEATS + 1),
    // log2 of the beats of the bypass and relay buffers
    parameter LOG_BUFFER = 7,
    // log2 of the repair requests that wait
    parameter LOG_REPAIRS = 2,
    parameter VERSION = 1,
    parameter UDP_PORT = 20545,
    // follow from the above
    parameter JOBS = 1 << LOG_JOBS,
    parameter LOG_KEYS = LOG_JOBS + LOG_SLOTS,
    parameter KEYS = 1 << LOG_KEYS,
    parameter GEN = 32 - LOG_SLOTS
) (
    input wire clk,
    input wire rst,

    // frames from the wire; tuser with tlast: the frame is damaged
    input  wire [511:0] s_axis_tdata,
    input  wire [ 63:0] s_axis_tkeep,
    input  wire         s_axis_tvalid,
    output wire         s_axis_tready,
    input  wire         s_axis_tlast,
    input  wire         s_axis_tuser,

    // ordinary frames, on to the switch
    output wire [511:0] bypass_tdata,
    output wire [ 63:0] bypass_tkeep,
    output wire         bypass_tvalid,
    input  wire         bypass_tready,
    output wire         bypass_tlast,

    // results from the parent, with the local number of their job
    output wire [     511:0] relay_data,
    output wire [LOG_JOBS-1:0] relay_job,
    output wire              relay_last,
    output wire              relay_valid,
    input  wire              relay_ready,

    // requests for a repair: {finished generation, job, slot}
    output wire [GEN+LOG_KEYS-1:0] repair,
    output wire                    repair_valid,
    input  wire                    repair_ready,

    // the tables, job by job
    input wire [   JOBS-1:0] job_on,
    input wire [24*JOBS-1:0] job_key,
    input wire [   JOBS-1:0] job_member,
    input wire [   JOBS-1:0] job_parent,
    input wire [ 3*JOBS-1:0] job_log_trees,
    input wire [16*JOBS-1:0] job_workers,

    // a slot has been read: its bit goes; if done, it waits for the next generation
    input wire                free,
    input wire [LOG_KEYS-1:0] free_key,
    input wire                free_done,
    input wire [     GEN-1:0] free_gen,
    // a job was switched off: all that is kept for it goes

    // slots that hold a whole frame
    output reg  [            KEYS-1:0] filled,
    // reading the slots, one cycle later
    input  wire                        read,
    input  wire [LOG_KEYS+LOG_BEATS-1:0] read_address,
    output reg  [               511:0] read_data,

    // one pulse a frame: what became of it
    output reg [15:0] event_out
);
  localparam ACCEPTED = 0, BYPASSED = 1, BYPASS_FULL = 2, HEADER = 3, UNKNOWN_JOB = 4, NOT_MEMBER = 5,
             CONTRIBUTORS = 6, LENGTH = 7, AHEAD = 8, DUPLICATE = 9, CUT = 10, OVERLONG = 11,
             REPAIR = 12, REPAIR_FULL = 13, RELAYED = 14, RELAY_FULL = 15;

  // --- first cycle: the beat as it came, and what its header says -------------------------------
  reg a_valid, a_first, a_last, a_bad;
  reg [511:0] a_data;
  reg [ 63:0] a_keep;
  reg open;  // within a frame
  reg awake;
  assign s_axis_tready = awake;
  wire arrives = s_axis_tvalid & s_axis_tready;
  always @(posedge clk) begin
    awake <= ~rst;
    if (rst) begin
      a_valid <= 1'b0;
      open <= 1'b0;
    end else begin
      a_valid <= arrives;
      if (arrives) open <= ~s_axis_tlast;
    end
    a_first <= ~open;
    a_last <= s_axis_tlast;
    a_bad <= s_axis_tlast & s_axis_tuser;
    a_data <= s_axis_tdata;
    a_keep <= s_axis_tkeep;
  end

  wire aggregation, sound, fits, up;
  wire [7:0] tree;
  wire [15:0] job, child, contributors;
  wire [12:0] beats;
  wire [31:0] psn;
  parse #(.FMT(FMT), .BEATS(BEATS), .VERSION(VERSION), .UDP_PORT(UDP_PORT)) parse (
      .beat(a_data), .aggregation(aggregation), .sound(sound), .fits(fits), .up(up), .job(job),
      .tree(tree), .psn(psn), .child(child), .contributors(contributors), .beats(beats)
  );

  wire [JOBS-1:0] match;
  genvar j;
  generate
    for (j = 0; j < JOBS; j = j + 1) begin : g_match
      assign match[j] = job_on[j] & job_key[24*j+:24] == {job, tree};
    end
  endgenerate
  // At most one entry has the key, so the OR of the matching ones is that one.
  reg [LOG_JOBS-1:0] local_job;
  reg [2:0] log_trees;
  reg [15:0] workers;
  integer n;
  always @* begin
    local_job = 0;
    log_trees = 0;
    workers = 0;
    for (n = 0; n < JOBS; n = n + 1)
      if (match[n]) begin
        local_job = local_job | n[LOG_JOBS-1:0];
        log_trees = log_trees | job_log_trees[3*n+:3];
        workers = workers | job_workers[16*n+:16];
      end
  end
  wire [31:0] index = psn >> log_trees;  // within this tree: round robin over a power of two of them

  // --- second cycle: where the frame goes --------------------------------------------------------
  reg b_valid, b_first, b_last, b_bad;
  reg [511:0] b_data;
  reg [ 63:0] b_keep;
  reg h_aggregation, h_sound, h_fits, h_up, h_known, h_member, h_parent, h_workers;
  reg [LOG_KEYS-1:0] h_key;
  reg [GEN-1:0] h_gen;
  reg [LOG_BEATS-1:0] h_beats;
  always @(posedge clk) begin
    b_valid <= a_valid & ~rst;
    b_first <= a_first;
    b_last <= a_last;
    b_bad <= a_bad;
    b_data <= a_data;
    b_keep <= a_keep;
    if (a_valid & a_first) begin
      h_aggregation <= aggregation;
      h_sound <= sound;
      h_fits <= fits & &a_keep;
      h_up <= up;
      h_known <= |match;
      h_member <= |(match & job_member);
      h_parent <= |(match & job_parent);
      h_workers <= contributors == workers & child == PORT;
      h_key <= {local_job, index[LOG_SLOTS-1:0]};
      h_gen <= index[31:LOG_SLOTS];
      h_beats <= beats[LOG_BEATS-1:0];
    end
  end

  // The generation that each slot waits for; zero until it was first done.
  reg [GEN-1:0] gen[0:KEYS-1];
  reg [KEYS-1:0] touched;
  wire [GEN-1:0] gen_now = touched[h_key] ? gen[h_key] : {GEN{1'b0}};

  localparam STORE = 3'd0, ASK = 3'd1, RELAY = 3'd2, BYPASS = 3'd3, DROP = 3'd4;
  reg [2:0] way, way_kept;
  reg [3:0] cause, cause_kept;
  always @* begin
    way = DROP;
    cause = HEADER;
    if (!h_aggregation) way = BYPASS;
    else if (!h_sound) cause = HEADER;
    else if (!h_known) cause = UNKNOWN_JOB;
    else if (h_up ? !h_member : !h_parent) cause = NOT_MEMBER;
    else if (!h_fits) cause = LENGTH;
    else if (h_up & !h_workers) cause = CONTRIBUTORS;
    else if (h_up ? h_gen > gen_now : h_gen >= gen_now) cause = AHEAD;
    else if (!h_up) way = RELAY;
    else if (h_gen < gen_now) way = ASK;
    else if (filled[h_key]) cause = DUPLICATE;
    else way = STORE;
  end

  wire [2:0] way_now = b_first ? way : way_kept;
  wire [3:0] cause_now = b_first ? cause : cause_kept;
  reg [LOG_BEATS:0] beat_kept;
  reg over_kept;  // more beats came than the header promised
  wire [LOG_BEATS:0] beat = b_first ? {(LOG_BEATS + 1) {1'b0}} : beat_kept;
  wire over = ~b_first & (over_kept | beat_kept > h_beats);
  // A beat that is not full can only belong to a frame that was cut.
  reg thin_kept;
  wire thin = ~&b_keep | (~b_first & thin_kept);
  wire whole = b_last & ~b_bad & ~thin & ~over & beat == h_beats;
  reg gone_kept;  // the job was switched off while the frame came in
  wire job_gone = ~job_on[h_key[LOG_KEYS-1:LOG_SLOTS]] | (~b_first & gone_kept);

  always @(posedge clk)
    if (b_valid) begin
      way_kept <= way_now;
      cause_kept <= cause_now;
      beat_kept <= beat + 1'b1;
      over_kept <= over;
      thin_kept <= thin;
      gone_kept <= job_gone;
    end else begin
      gone_kept <= gone_kept | ~job_on[h_key[LOG_KEYS-1:LOG_SLOTS]];
    end

  // --- slot buffer -------------------------------------------------------------------------------
  reg [511:0] slot[0:(1<<(LOG_KEYS+LOG_BEATS))-1];
  wire store = b_valid & way_now == STORE;
  always @(posedge clk) begin
    if (store & ~over) slot[{h_key, beat[LOG_BEATS-1:0]}] <= b_data;
    if (read) read_data <= slot[read_address];
  end

  wire fill = store & whole & ~job_gone;
  integer k;
  always @(posedge clk) begin
    if (free & free_done) gen[free_key] <= free_gen;
    if (rst) begin
      filled  <= {KEYS{1'b0}};
      touched <= {KEYS{1'b0}};
    end else begin
      if (fill) filled[h_key] <= 1'b1;
      if (free) filled[free_key] <= 1'b0;
      if (free & free_done) touched[free_key] <= 1'b1;
      for (k = 0; k < JOBS; k = k + 1)
        if (~job_on[k]) begin
          filled[k<<LOG_SLOTS+:1<<LOG_SLOTS]  <= {(1 << LOG_SLOTS) {1'b0}};
          touched[k<<LOG_SLOTS+:1<<LOG_SLOTS] <= {(1 << LOG_SLOTS) {1'b0}};
        end
    end
  end

  // --- bypass, relay, repairs ---------------------------------------------------------------------
  wire bypass_lost, relay_lost, repair_full, repair_empty;
  frame_fifo #(.W(512 + 64), .LOG(LOG_BUFFER)) bypass (
      .clk(clk), .rst(rst),
      .in_valid(b_valid & way_now == BYPASS), .in_data({b_keep, b_data}), .in_last(b_last),
      .in_abort(b_bad), .lost(bypass_lost),
      .out_valid(bypass_tvalid), .out_ready(bypass_tready),
      .out_data({bypass_tkeep, bypass_tdata}), .out_last(bypass_tlast)
  );
  frame_fifo #(.W(512 + LOG_JOBS), .LOG(LOG_BUFFER)) relay (
      .clk(clk), .rst(rst),
      .in_valid(b_valid & way_now == RELAY),
      .in_data({h_key[LOG_KEYS-1:LOG_SLOTS], b_data}), .in_last(b_last),
      .in_abort(~whole | job_gone), .lost(relay_lost),
      .out_valid(relay_valid), .out_ready(relay_ready),
      .out_data({relay_job, relay_data}), .out_last(relay_last)
  );
  wire ask = b_valid & way_now == ASK & whole & ~job_gone;
  fifo #(.W(GEN + LOG_KEYS), .LOG(LOG_REPAIRS)) repairs (
      .clk(clk), .rst(rst), .push(ask), .data({h_gen, h_key}), .full(repair_full),
      .pop(repair_ready), .front(repair), .empty(repair_empty)
  );
  assign repair_valid = ~repair_empty;

  // --- what became of it ---------------------------------------------------------------------------
  reg [3:0] fate;
  always @* begin
    fate = cause_now;
    if (way_now == BYPASS) fate = b_bad ? CUT : bypass_lost ? BYPASS_FULL : BYPASSED;
    else if (way_now != DROP) begin
      if (job_gone) fate = UNKNOWN_JOB;
      else if (over) fate = OVERLONG;
      else if (~whole) fate = CUT;
      else if (way_now == STORE) fate = ACCEPTED;
      else if (way_now == ASK) fate = repair_full ? REPAIR_FULL : REPAIR;
      else fate = relay_lost ? RELAY_FULL : RELAYED;
    end
  end
  always @(posedge clk) event_out <= b_valid & b_last & ~rst ? 16'd1 << fate : 16'd0;
endmodule

`default_nettype wire
