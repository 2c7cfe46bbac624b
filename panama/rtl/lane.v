// Sum of two numbers of one lane in the format FMT; latency FADD_STAGES enabled cycles.
// bf16 arrives here already widened to fp32, so it is added as fp32.
`default_nettype none

module lane #(
    // 0 fp32, 1 bf16 widened to fp32, 2 int32 with saturation
    parameter FMT = 0,
    // registers from input to output, cycles
    parameter FADD_STAGES = 10
) (
    input  wire        clk,
    input  wire        en,
    input  wire [31:0] a,
    input  wire [31:0] b,
    output wire [31:0] sum
);
  generate
    if (FMT == 2) begin : g_int
      wire [32:0] wide = {a[31], a} + {b[31], b};
      // The two top bits differ when the sum does not fit: then the sign is in the upper one.
      wire [31:0] kept = wide[32] == wide[31] ? wide[31:0] : {wide[32], {31{~wide[32]}}};
      delay #(.W(32), .N(FADD_STAGES)) registers (.clk(clk), .en(en), .d(kept), .q(sum));
    end else begin : g_float
      fadd #(.FADD_STAGES(FADD_STAGES)) add (.clk(clk), .en(en), .a(a), .b(b), .sum(sum));
    end
  endgenerate
endmodule

`default_nettype wire
