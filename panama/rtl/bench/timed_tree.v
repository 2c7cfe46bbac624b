// A tree between registers, so that place and route times every path from register to register.
// Words come in one by one and go out one by one, since no part has a pin for each.
`default_nettype none

module timed_tree #(
    parameter P = 2,
    parameter L = 1,
    parameter FADD_STAGES = 10
) (
    input  wire        clk,
    input  wire        en,
    input  wire        load,
    input  wire [31:0] word,
    output wire [31:0] sum
);
  reg [32*L*P-1:0] leaves;
  reg en_in;
  wire [32*L-1:0] total;
  tree #(.P(P), .L(L), .FMT(0), .FADD_STAGES(FADD_STAGES)) tree (
      .clk(clk), .rst(1'b0), .en(en_in), .in_valid(1'b0), .in_first(1'b0), .in_last(1'b0),
      .in_data(leaves), .in_member({P{1'b1}}), .in_ce({P{1'b0}}), .in_weight({16 * P{1'b0}}),
      .in_contributors({16 * P{1'b0}}), .out_valid(), .out_first(), .out_last(),
      .out_data(total), .out_ce_or(), .out_ce_worst(), .out_contributors()
  );
  reg [32*L-1:0] out;
  always @(posedge clk) begin
    en_in <= en;
    leaves <= {leaves, word};
    out <= load ? total : out >> 32;
  end
  assign sum = out[31:0];
endmodule

`default_nettype wire
