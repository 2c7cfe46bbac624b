// Counts pulses, one counter a cause; the one asked for shows one cycle later. They wrap.
`default_nettype none

module counters #(
    // causes
    parameter N = 16,
    // log2 of the causes, rounded up
    parameter LOG = 4,
    // bits of a counter
    parameter W = 32
) (
    input  wire           clk,
    input  wire           rst,
    input  wire [  N-1:0] pulse,
    input  wire [LOG-1:0] select,
    output reg  [  W-1:0] value
);
  wire [N*W-1:0] count;
  genvar i;
  generate
    for (i = 0; i < N; i = i + 1) begin : g_cause
      reg [W-1:0] kept;
      always @(posedge clk) begin
        if (rst) kept <= {W{1'b0}};
        else if (pulse[i]) kept <= kept + 1'b1;
      end
      assign count[W*i+:W] = kept;
    end
  endgenerate
  always @(posedge clk) value <= count[W*select+:W];
endmodule

`default_nettype wire
