// Takes sums out of the tree: writes their header anew, sends them, and keeps them for repairs.
// Below the root a sum goes UP to the parent; at the root it is the result and goes DOWN to all
// members, or to the one that asked. Latency: one enabled cycle, one beat a cycle.
`default_nettype none

module egress #(
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
    parameter ID = GEN + LOG_KEYS,
    // {repair, generation and slot, port that asked, packet fields}
    parameter META = 1 + ID + LOG_PORTS + 13 + 32 + 16 + 32 + 16 + 6
) (
    input wire clk,
    input wire rst,
    input wire en,

    input  wire            in_valid,
    input  wire            in_first,
    input  wire            in_last,
    input  wire [   511:0] in_data,
    input  wire            in_ce_or,
    input  wire            in_ce_worst,
    input  wire [    15:0] in_contributors,
    // of the packet that begins, while in_valid and in_first
    input  wire [META-1:0] in_meta,

    input wire [    JOBS-1:0] job_root,
    input wire [    JOBS-1:0] job_worst,
    input wire [  2*JOBS-1:0] job_ect,
    input wire [ 24*JOBS-1:0] job_key,
    input wire [  P*JOBS-1:0] job_members,
    input wire [LOG_PORTS*JOBS-1:0] job_parent,
    input wire [256*JOBS-1:0] job_header,

    // the store of sums, read one cycle later
    input  wire                          read,
    input  wire [LOG_KEYS+LOG_BEATS-1:0] read_address,
    output reg  [                 511:0] read_data,
    output wire                          stored_set,
    output wire [                ID-1:0] stored_id,

    output reg  [511:0] m_axis_tdata,
    // ports it goes to
    output reg  [P-1:0] m_axis_tuser,
    output reg          m_axis_tvalid,
    output reg          m_axis_tlast
);
  wire repair;
  wire [ID-1:0] id;
  wire [LOG_PORTS-1:0] port;
  wire [12:0] beats;
  wire [31:0] psn, msg;
  wire [15:0] nelem, pad;
  wire [5:0] dscp;
  assign {repair, id, port, beats, psn, nelem, msg, pad, dscp} = in_meta;
  wire [LOG_JOBS-1:0] job = id[LOG_KEYS-1:LOG_SLOTS];
  wire root = job_root[job];
  wire ce = job_worst[job] ? in_ce_worst : in_ce_or;
  wire [P-1:0] one = {{(P - 1) {1'b0}}, 1'b1};
  wire [P-1:0] to = ~root ? one << job_parent[LOG_PORTS*job+:LOG_PORTS] :
                    repair ? one << port : job_members[P*job+:P];
  wire [15:0] child;
  wire [31:0] ip_down, ip_up, ip_from;
  wire [47:0] mac_down, mac_up, mac_from;
  assign {child, ip_down, ip_up, ip_from, mac_down, mac_up, mac_from} = job_header[256*job+:256];
  wire [511:0] header;
  compose #(.FMT(FMT), .VERSION(VERSION), .UDP_PORT(UDP_PORT), .TTL(TTL)) compose (
      .mac_to(root ? mac_down : mac_up), .mac_from(mac_from),
      .ip_to(root ? ip_down : ip_up), .ip_from(ip_from),
      .tos({dscp, ce ? 2'd3 : job_ect[2*job+:2]}), .up(~root), .down(root), .retx(repair),
      .job(job_key[24*job+8+:16]), .tree(job_key[24*job+:8]), .psn(psn),
      .child(root ? 16'd0 : child), .nelem(nelem), .msg(msg),
      .contributors(in_contributors), .pad(pad), .beats(beats), .beat(header)
  );

  reg repair_kept;
  reg [ID-1:0] id_kept;
  reg [P-1:0] to_kept;
  reg [LOG_BEATS-1:0] beat;
  wire repair_now = in_first ? repair : repair_kept;
  wire [ID-1:0] id_now = in_first ? id : id_kept;
  wire [511:0] sent = in_first ? header : in_data;
  wire [LOG_BEATS-1:0] beat_now = in_first ? {LOG_BEATS{1'b0}} : beat;

  reg [511:0] store[0:(1<<(LOG_KEYS+LOG_BEATS))-1];
  wire keep = en & in_valid & ~repair_now;
  assign stored_set = keep & in_last;
  assign stored_id = id_now;
  always @(posedge clk) begin
    if (keep) store[{id_now[LOG_KEYS-1:0], beat_now}] <= sent;
    if (read) read_data <= store[read_address];
    if (rst) m_axis_tvalid <= 1'b0;
    else if (en) m_axis_tvalid <= in_valid;
    if (en) begin
      m_axis_tdata <= sent;
      m_axis_tuser <= in_first ? to : to_kept;
      m_axis_tlast <= in_last;
      if (in_valid) begin
        repair_kept <= repair_now;
        id_kept <= id_now;
        to_kept <= in_first ? to : to_kept;
        beat <= beat_now + 1'b1;
      end
    end
  end
endmodule

`default_nettype wire
