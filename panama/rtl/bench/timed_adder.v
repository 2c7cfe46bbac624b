// One adder between registers, so that place and route times every path from register to register.
`default_nettype none

module timed_adder #(
    parameter FADD_STAGES = 10
) (
    input  wire        clk,
    input  wire        en,
    input  wire [31:0] a,
    input  wire [31:0] b,
    output wire [31:0] sum
);
  reg [31:0] a_in, b_in;
  reg en_in;
  always @(posedge clk) begin
    a_in  <= a;
    b_in  <= b;
    en_in <= en;
  end
  fadd #(.FADD_STAGES(FADD_STAGES)) add (.clk(clk), .en(en_in), .a(a_in), .b(b_in), .sum(sum));
endmodule

`default_nettype wire
