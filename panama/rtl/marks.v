// Remembers for each job how often each port's packets came marked: m += trunc((mark - m) / 50), as
// a fraction of 65536. All ports of a packet in parallel, when it is summed.
// `weight` is the new value, in the same cycle as the marks.
`default_nettype none

module marks #(
    parameter P = 4,
    parameter LOG_JOBS = 2
) (
    input  wire                clk,
    input  wire                rst,
    input  wire                update,
    input  wire [LOG_JOBS-1:0] job,
    input  wire [       P-1:0] member,
    input  wire [       P-1:0] ce,
    output wire [    16*P-1:0] weight
);
  localparam JOBS = 1 << LOG_JOBS;
  reg [16*P-1:0] kept[0:JOBS-1];
  reg [JOBS-1:0] touched;
  wire [16*P-1:0] old = touched[job] ? kept[job] : {16 * P{1'b0}};
  genvar i;
  generate
    for (i = 0; i < P; i = i + 1) begin : g_port
      wire [15:0] m = old[16*i+:16];
      wire [16:0] gap = ce[i] ? 17'h10000 - m : {1'b0, m};
      // 83887 / 2**22 divides every number up to 65536 by 50, rounded down.
      wire [33:0] product = gap * 34'd83887;
      wire [15:0] step = product >> 22;
      assign weight[16*i+:16] = ~member[i] ? m : ce[i] ? m + step : m - step;
    end
  endgenerate
  always @(posedge clk) begin
    if (update) kept[job] <= weight;
    if (rst) touched <= {JOBS{1'b0}};
    else if (update) touched[job] <= 1'b1;
  end
endmodule

`default_nettype wire
