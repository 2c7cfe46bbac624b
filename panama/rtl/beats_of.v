// Payload beats of 64 bytes that hold a number of elements. Combinational.
`default_nettype none

module beats_of #(
    // 0 fp32, 1 bf16, 2 int32: 16 words or 32 numbers of bf16 a beat
    parameter FMT = 0
) (
    input  wire [15:0] nelem,
    output wire [12:0] beats
);
  localparam LOG_LANES = FMT == 1 ? 5 : 4;
  localparam [16:0] ROUND_UP = (1 << LOG_LANES) - 1;
  wire [16:0] rounded = {1'b0, nelem} + ROUND_UP;
  assign beats = rounded >> LOG_LANES;
endmodule

`default_nettype wire
