// Serves the ports' requests for packets that were finished before, one port a cycle in turns.
// At the root the stored sum is the result. Below it: the cached result if it has come by, else our
// own stored sum, never a child's. Each way out holds one request; a port whose way is taken waits.
// A request that can be served by neither is `missed`: the sender's timer will ask again.
`default_nettype none

module repairs #(
    parameter P = 4,
    parameter LOG_PORTS = 2,
    parameter LOG_JOBS = 2,
    parameter LOG_SLOTS = 4,
    // follow from the above
    parameter JOBS = 1 << LOG_JOBS,
    parameter LOG_KEYS = LOG_JOBS + LOG_SLOTS,
    parameter GEN = 32 - LOG_SLOTS,
    parameter ID = GEN + LOG_KEYS
) (
    input wire clk,
    input wire rst,
    input wire [JOBS-1:0] job_root,

    input  wire [ID*P-1:0] request,
    input  wire [   P-1:0] request_valid,
    output wire [   P-1:0] request_ready,

    // the ledger's view of the request looked at
    output wire [ID-1:0] ask,
    input  wire          is_stored,
    input  wire          is_cached,

    // from the store of sums, through the tree
    output reg                  sum_valid,
    output reg  [       ID-1:0] sum_id,
    output reg  [LOG_PORTS-1:0] sum_port,
    input  wire                 sum_taken,

    // from the cache of results, by the relay
    output reg                  result_valid,
    output reg  [       ID-1:0] result_id,
    output reg  [LOG_PORTS-1:0] result_port,
    input  wire                 result_taken,

    output wire missed
);
  reg [LOG_PORTS-1:0] turn;
  wire [LOG_PORTS-1:0] port;
  wire any;
  wire [(1<<LOG_PORTS)-1:0] waiting = request_valid;
  pick #(.LOG(LOG_PORTS)) pick (.request(waiting), .last(turn), .any(any), .index(port));

  assign ask = request[ID*port+:ID];
  wire root = job_root[ask[LOG_KEYS-1:LOG_SLOTS]];
  wire by_result = ~root & is_cached;
  wire by_sum = is_stored & ~by_result;
  wire to_result = any & by_result & ~result_valid;
  wire to_sum = any & by_sum & ~sum_valid;
  assign missed = any & ~by_result & ~by_sum;
  assign request_ready = to_result | to_sum | missed ? {{(P - 1) {1'b0}}, 1'b1} << port : {P{1'b0}};

  always @(posedge clk) begin
    if (rst) begin
      turn <= 0;
      sum_valid <= 1'b0;
      result_valid <= 1'b0;
    end else begin
      if (any) turn <= port;
      if (sum_taken) sum_valid <= 1'b0;
      if (result_taken) result_valid <= 1'b0;
      if (to_sum) sum_valid <= 1'b1;
      if (to_result) result_valid <= 1'b1;
    end
    if (to_sum) {sum_id, sum_port} <= {ask, port};
    if (to_result) {result_id, result_port} <= {ask, port};
  end
endmodule

`default_nettype wire
