// N registers in a row under one enable; a plain wire for N = 0. Latency: N enabled cycles.
`default_nettype none

module delay #(
    // width, bits
    parameter W = 1,
    // registers, cycles
    parameter N = 1
) (
    input  wire         clk,
    input  wire         en,
    input  wire [W-1:0] d,
    output wire [W-1:0] q
);
  generate
    if (N == 0) begin : g_wire
      assign q = d;
    end else if (N == 1) begin : g_one
      reg [W-1:0] r;
      always @(posedge clk) if (en) r <= d;
      assign q = r;
    end else begin : g_many
      // Oldest value in the highest place.
      reg [N*W-1:0] r;
      always @(posedge clk) if (en) r <= {r[(N-1)*W-1:0], d};
      assign q = r[(N-1)*W+:W];
    end
  endgenerate
endmodule

`default_nettype wire
