// fp32 to bf16, round to nearest even; NaN becomes 7fc0, a finite value may round to infinity.
// Combinational. The input has no subnormals (fadd flushes them), so none can come out.
`default_nettype none

module narrow (
    input  wire [31:0] x,
    output wire [15:0] y
);
  wire nan = &x[30:23] & |x[22:0];
  wire up = x[15] & (x[16] | |x[14:0]);
  assign y = nan ? 16'h7fc0 : x[31:16] + {15'd0, up};
endmodule

`default_nettype wire
