// Pauses of a stream: `share` sixteenths of the time, in bursts of four cycles, so that buffers fill
// and run dry. A 32-bit linear feedback register, moved on four bits at a time.
`default_nettype none

module pauses #(
    // streams of other numbers pause at other times
    parameter STREAM = 0
) (
    input  wire        clk,
    input  wire        rst,
    input  wire [ 3:0] share,
    input  wire [31:0] seed,
    output wire        pause
);
  reg [31:0] state;
  reg [1:0] count;
  wire [31:0] a = {state[30:0], state[31] ^ state[21] ^ state[1] ^ state[0]};
  wire [31:0] b = {a[30:0], a[31] ^ a[21] ^ a[1] ^ a[0]};
  wire [31:0] c = {b[30:0], b[31] ^ b[21] ^ b[1] ^ b[0]};
  wire [31:0] d = {c[30:0], c[31] ^ c[21] ^ c[1] ^ c[0]};
  assign pause = state[3:0] < share;
  always @(posedge clk) begin
    count <= count + 1;
    if (rst) begin
      state <= 32'h9e3779b9 ^ ((seed * 1021 + STREAM) * 32'd2654435761);
      count <= 0;
    end else if (count == 3) state <= d;
  end
endmodule

`default_nettype wire
