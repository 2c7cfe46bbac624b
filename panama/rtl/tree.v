// Sum over the ports, lane by lane, in heap order: leaf i is node P-1+i and node k is the sum of
// nodes 2k+1 and 2k+2, for any P. Ports that are no members contribute -0.0 (integers: 0).
// Beside the data go, by the same heap: the OR of the CE marks, the mark of the port with the largest
// weight (of equal ones the lowest) and the sum of the contributors.
// Latency: ceil(log2 P) * FADD_STAGES enabled cycles, one more for bf16. One beat a cycle.
`default_nettype none

module tree #(
    // ports, 2 to 64
    parameter P = 4,
    // 32-bit words added per beat, 1 to 16
    parameter L = 16,
    // 0 fp32, 1 bf16, 2 int32
    parameter FMT = 0,
    // registers of one addition, cycles
    parameter FADD_STAGES = 10
) (
    input wire clk,
    input wire rst,
    input wire en,

    input wire            in_valid,
    input wire            in_first,
    input wire            in_last,
    input wire [32*L*P-1:0] in_data,
    input wire [     P-1:0] in_member,
    input wire [     P-1:0] in_ce,
    input wire [  16*P-1:0] in_weight,
    input wire [  16*P-1:0] in_contributors,

    output wire            out_valid,
    output wire            out_first,
    output wire            out_last,
    output wire [32*L-1:0] out_data,
    output wire            out_ce_or,
    output wire            out_ce_worst,
    output wire [    15:0] out_contributors
);
  localparam DEPTH = $clog2(P);
  localparam ROUND = FMT == 1 ? 1 : 0;
  localparam LATENCY = DEPTH * FADD_STAGES + ROUND;
  localparam LANES = FMT == 1 ? 2 * L : L;
  localparam BITS = 32 * L / LANES;
  localparam [31:0] ABSENT = FMT == 2 ? 32'd0 : 32'h80000000;

  genvar i, k, n;
  generate
    for (n = 0; n < LANES; n = n + 1) begin : g_lane
      wire [31:0] node[0:2*P-2];
      for (i = 0; i < P; i = i + 1) begin : g_leaf
        // A leaf above the lowest level waits for those below.
        localparam LEVEL = $clog2(P + i + 1) - 1;
        wire [BITS-1:0] word = in_data[32*L*i+BITS*n+:BITS];
        wire [31:0] wide;
        if (BITS == 16) begin : g_widen
          assign wide = {word, 16'd0};
        end else begin : g_as_is
          assign wide = word;
        end
        delay #(.W(32), .N((DEPTH - LEVEL) * FADD_STAGES)) wait_for_level (
            .clk(clk), .en(en), .d(in_member[i] ? wide : ABSENT), .q(node[P-1+i])
        );
      end
      for (k = 0; k < P - 1; k = k + 1) begin : g_node
        lane #(.FMT(FMT), .FADD_STAGES(FADD_STAGES)) add (
            .clk(clk), .en(en),
            .a(node[2*k+1]), .b(node[2*k+2]), .sum(node[k])
        );
      end
      if (BITS == 16) begin : g_narrow
        wire [15:0] rounded;
        narrow narrow (.x(node[0]), .y(rounded));
        delay #(.W(16), .N(1)) register (
            .clk(clk), .en(en), .d(rounded), .q(out_data[16*n+:16])
        );
      end else begin : g_result
        assign out_data[32*n+:32] = node[0];
      end
    end
  endgenerate

  // The header's part: {weight, complement of the port, its mark, OR of marks, contributors}.
  localparam SIDE = 16 + 6 + 1 + 1 + 16;
  wire [SIDE-1:0] side[0:2*P-2];
  wire [SIDE-1:0] side_out;
  generate
    for (i = 0; i < P; i = i + 1) begin : g_side_leaf
      localparam LEVEL = $clog2(P + i + 1) - 1;
      localparam [5:0] ORDER = 63 - i;
      wire [SIDE-1:0] own = {
        in_weight[16*i+:16], ORDER, in_ce[i], in_ce[i], in_contributors[16*i+:16]
      };
      delay #(.W(SIDE), .N((DEPTH - LEVEL) * FADD_STAGES)) wait_for_level (
          .clk(clk), .en(en), .d(in_member[i] ? own : {SIDE{1'b0}}), .q(side[P-1+i])
      );
    end
    for (k = 0; k < P - 1; k = k + 1) begin : g_side_node
      wire [SIDE-1:0] left = side[2*k+1];
      wire [SIDE-1:0] right = side[2*k+2];
      wire [22:0] heavier = right[39:18] > left[39:18] ? right[39:17] : left[39:17];
      wire [15:0] contributors = left[15:0] + right[15:0];
      delay #(.W(SIDE), .N(FADD_STAGES)) registers (
          .clk(clk), .en(en), .d({heavier, left[16] | right[16], contributors}),
          .q(side[k])
      );
    end
  endgenerate
  delay #(.W(SIDE), .N(ROUND)) side_round (
      .clk(clk), .en(en), .d(side[0]), .q(side_out)
  );
  assign out_contributors = side_out[15:0];
  assign out_ce_or = side_out[16];
  assign out_ce_worst = side_out[17];

  // What beats are there, and where packets begin and end. Only this part needs a reset.
  reg [LATENCY-1:0] valid, first, last;
  always @(posedge clk) begin
    if (rst) begin
      valid <= {LATENCY{1'b0}};
    end else if (en) begin
      valid <= {valid, in_valid};
    end
    if (en) begin
      first <= {first, in_first};
      last  <= {last, in_last};
    end
  end
  assign out_valid = valid[LATENCY-1];
  assign out_first = first[LATENCY-1];
  assign out_last  = last[LATENCY-1];
endmodule

`default_nettype wire
