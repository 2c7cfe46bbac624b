// Sends what goes down from here but was not summed here: results from the parent, which go to every
// child and into the cache, and cached results that a child asks for again.
// One beat a cycle from the relay buffers, every other cycle from the cache.
`default_nettype none

module relay #(
    parameter P = 4,
    parameter LOG_PORTS = 2,
    parameter FMT = 0,
    parameter LOG_JOBS = 2,
    parameter LOG_SLOTS = 4,
    parameter LOG_BEATS = 5,
    parameter VERSION = 1,
    parameter UDP_PORT = 20545,
    parameter TTL = 64,
    // follow from the above
    parameter JOBS = 1 << LOG_JOBS,
    parameter LOG_KEYS = LOG_JOBS + LOG_SLOTS,
    parameter GEN = 32 - LOG_SLOTS,
    parameter ID = GEN + LOG_KEYS
) (
    input wire clk,
    input wire rst,

    input  wire [     512*P-1:0] in_data,
    input  wire [LOG_JOBS*P-1:0] in_job,
    input  wire [         P-1:0] in_last,
    input  wire [         P-1:0] in_valid,
    output wire [         P-1:0] in_ready,

    input wire [P*JOBS-1:0] job_members,
    input wire [3*JOBS-1:0] job_log_trees,
    input wire [256*JOBS-1:0] job_header,

    // a cached result to be sent again; the ledger tells whether it is still there
    input  wire                 result_valid,
    input  wire [       ID-1:0] result_id,
    input  wire [LOG_PORTS-1:0] result_port,
    input  wire                 result_cached,
    output wire                 result_taken,
    output wire                 result_missed,

    // is the result that comes by the latest one? then it is cached
    output wire [ID-1:0] passing,
    input  wire          passing_latest,
    output wire          cached_set,
    output wire [ID-1:0] cached_id,

    output reg  [511:0] m_axis_tdata,
    // ports it goes to
    output reg  [P-1:0] m_axis_tuser,
    output reg          m_axis_tvalid,
    input  wire         m_axis_tready,
    output reg          m_axis_tlast
);
  wire room = ~m_axis_tvalid | m_axis_tready;
  reg reading;  // a cached result

  // --- results from the parent ---------------------------------------------------------------------
  reg midway;
  reg [LOG_PORTS-1:0] chosen;
  wire any;
  wire [LOG_PORTS-1:0] turn;
  wire [(1<<LOG_PORTS)-1:0] waiting = in_valid;
  pick #(.LOG(LOG_PORTS)) pick (.request(waiting), .last(chosen), .any(any), .index(turn));
  wire [LOG_PORTS-1:0] port = midway ? chosen : turn;
  // A waiting repair goes first, so that a steady stream cannot hold it up; the next is not ready
  // at once, so the stream cannot be held up either.
  wire repair_first = ~midway & result_valid & result_cached & ~reading & repair_turn;
  reg repair_turn;
  wire passes = room & ~reading & ~repair_first & (midway ? in_valid[chosen] : any);
  assign in_ready = passes ? {{(P - 1) {1'b0}}, 1'b1} << port : {P{1'b0}};

  wire [511:0] data = in_data[512*port+:512];
  wire [LOG_JOBS-1:0] job = in_job[LOG_JOBS*port+:LOG_JOBS];
  wire last = in_last[port];
  wire [7:0] tos, tree, flags;
  wire [15:0] wire_job, child, nelem, contributors, pad;
  wire [31:0] psn, msg;
  fields fields (
      .beat(data), .ethertype(), .ipv4(), .udp_port(), .udp_length(), .version(), .flags(flags),
      .job(wire_job), .tree(tree), .fmt(), .psn(psn), .child(child), .nelem(nelem), .msg(msg),
      .contributors(contributors), .pad(pad), .tos(tos)
  );
  wire [12:0] beats;
  beats_of #(.FMT(FMT)) count (.nelem(nelem), .beats(beats));
  wire [31:0] ip_down, ip_from;
  wire [47:0] mac_down, mac_from;
  assign {ip_down, ip_from} = {job_header[256*job+208+:32], job_header[256*job+144+:32]};
  assign {mac_down, mac_from} = {job_header[256*job+96+:48], job_header[256*job+:48]};
  wire [511:0] header;
  compose #(.FMT(FMT), .VERSION(VERSION), .UDP_PORT(UDP_PORT), .TTL(TTL)) compose (
      .mac_to(mac_down), .mac_from(mac_from), .ip_to(ip_down), .ip_from(ip_from),
      .tos(tos), .up(1'b0), .down(1'b1), .retx(flags[2]), .job(wire_job), .tree(tree), .psn(psn),
      .child(child), .nelem(nelem), .msg(msg), .contributors(contributors), .pad(pad),
      .beats(beats), .beat(header)
  );
  wire [31:0] index = psn >> job_log_trees[3*job+:3];
  wire [ID-1:0] id = {index[31:LOG_SLOTS], job, index[LOG_SLOTS-1:0]};
  assign passing = id;

  reg [ID-1:0] id_kept;
  reg latest_kept;
  reg [LOG_BEATS-1:0] beat;
  wire [ID-1:0] id_now = midway ? id_kept : id;
  wire latest_now = midway ? latest_kept : passing_latest;
  wire [LOG_BEATS-1:0] beat_now = midway ? beat : {LOG_BEATS{1'b0}};
  wire [511:0] sent = midway ? data : header;
  assign cached_set = passes & last & latest_now;
  assign cached_id = id_now;

  // --- the cache -----------------------------------------------------------------------------------
  reg [511:0] cache[0:(1<<(LOG_KEYS+LOG_BEATS))-1];
  reg [511:0] cache_data;
  reg [LOG_BEATS-1:0] read_beat;
  reg [LOG_BEATS:0] read_length;
  reg fetched;  // cache_data holds beat `read_beat`
  reg [LOG_PORTS-1:0] read_port;
  reg [LOG_KEYS-1:0] read_key;
  wire [15:0] read_nelem;
  fields read_fields (
      .beat(cache_data), .ethertype(), .ipv4(), .udp_port(), .udp_length(), .version(), .flags(),
      .job(), .tree(), .fmt(), .psn(), .child(), .nelem(read_nelem), .msg(), .contributors(),
      .pad(), .tos()
  );
  wire [12:0] read_beats;
  beats_of #(.FMT(FMT)) read_count (.nelem(read_nelem), .beats(read_beats));
  wire read_first = read_beat == 0;
  wire read_last = ~read_first & read_beat == read_length;
  // Byte 43 holds the flags; bit 2 says that the packet is sent again.
  wire [511:0] again = read_first ? cache_data | (512'd4 << 8 * 43) : cache_data;
  wire begin_read = ~midway & ~reading & result_valid & result_cached & (repair_turn | ~any);
  assign result_missed = result_valid & ~result_cached & ~reading;
  assign result_taken = result_missed | begin_read;
  wire read_sends = reading & fetched & room;

  always @(posedge clk) begin
    if (passes & latest_now) cache[{id_now[LOG_KEYS-1:0], beat_now}] <= sent;
    if (reading & ~fetched) cache_data <= cache[{read_key, read_beat}];
    if (rst) begin
      reading <= 1'b0;
      fetched <= 1'b0;
      repair_turn <= 1'b0;
    end else if (begin_read) begin
      reading <= 1'b1;
      fetched <= 1'b0;
      repair_turn <= 1'b0;
    end else if (reading) begin
      fetched <= ~fetched | ~room;
      if (read_sends & read_last) reading <= 1'b0;
    end else if (passes & last) begin
      repair_turn <= 1'b1;
    end
    if (begin_read) begin
      {read_key, read_port} <= {result_id[LOG_KEYS-1:0], result_port};
      read_beat <= {LOG_BEATS{1'b0}};
    end else if (read_sends) begin
      read_beat <= read_beat + 1'b1;
      if (read_first) read_length <= read_beats[LOG_BEATS:0];
    end
  end

  // --- out -----------------------------------------------------------------------------------------
  always @(posedge clk) begin
    if (rst) begin
      midway <= 1'b0;
      chosen <= {LOG_PORTS{1'b1}};
      m_axis_tvalid <= 1'b0;
    end else begin
      if (room) m_axis_tvalid <= passes | read_sends;
      if (passes) begin
        midway <= ~last;
        chosen <= port;
      end
    end
    if (passes) begin
      id_kept <= id_now;
      latest_kept <= latest_now;
      beat <= beat_now + 1'b1;
    end
    if (room) begin
      m_axis_tdata <= reading ? again : sent;
      m_axis_tlast <= reading ? read_last : last;
      m_axis_tuser <= reading ? {{(P - 1) {1'b0}}, 1'b1} << read_port
                              : job_members[P*id_now[LOG_KEYS-1:LOG_SLOTS]+:P];
    end
  end
endmodule

`default_nettype wire
