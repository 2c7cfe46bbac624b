// Feeds a tree with beats from one file and counts the bits that differ from another file.
// Everything happens here, not in the simulator's Python: that is what makes 100,000 beats cheap.
// A linear feedback register holds the pipeline back and leaves gaps at random when STALLS is set.
`default_nettype none

module soak #(
    parameter P = 4,
    parameter L = 16,
    parameter FMT = 0,
    parameter FADD_STAGES = 10,
    // beats in the files
    parameter BEATS = 1024,
    // 0: a beat each cycle; 1: gaps and stalls at random
    parameter STALLS = 0
) (
    input  wire        clk,
    input  wire        rst,
    output reg         done,
    // beats that differ, beats out of place, first one that differs
    output reg  [31:0] wrong,
    output reg  [31:0] misplaced,
    output reg  [31:0] first_wrong,
    // cycles from the first beat in to the first beat out, and from the first to the last beat out
    output reg  [31:0] latency,
    output reg  [31:0] span
);
  localparam BUS = 32 * L;
  // One line: {last, member, ce, weight, contributors, data}
  localparam IN = 1 + P + P + 16 * P + 16 * P + BUS * P;
  // One line: {last, or, worst, contributors, data}
  localparam OUT = 1 + 1 + 1 + 16 + BUS;

  reg [ IN-1:0] given[0:BEATS-1];
  reg [OUT-1:0] wanted[0:BEATS-1];
  initial begin
    $readmemh("given.hex", given);
    $readmemh("wanted.hex", wanted);
  end

  reg [31:0] random;
  wire en = STALLS == 0 | random[0] | random[3];
  wire offer = STALLS == 0 | random[7] | random[9];
  reg [31:0] sent, received, clock_count, first_in, first_out;
  wire in_valid = ~rst & offer & sent < BEATS;
  wire [IN-1:0] line = given[sent < BEATS ? sent : 0];

  wire out_valid, out_first, out_last, out_or, out_worst;
  wire [15:0] out_contributors;
  wire [BUS-1:0] out_data;
  tree #(.P(P), .L(L), .FMT(FMT), .FADD_STAGES(FADD_STAGES)) dut (
      .clk(clk), .rst(rst), .en(en),
      .in_valid(in_valid), .in_first(sent == 0), .in_last(line[IN-1]),
      .in_data(line[BUS*P-1:0]),
      .in_contributors(line[BUS*P+:16*P]),
      .in_weight(line[(BUS+16)*P+:16*P]),
      .in_ce(line[(BUS+32)*P+:P]),
      .in_member(line[(BUS+33)*P+:P]),
      .out_valid(out_valid), .out_first(out_first), .out_last(out_last),
      .out_data(out_data), .out_ce_or(out_or), .out_ce_worst(out_worst),
      .out_contributors(out_contributors)
  );

  wire [OUT-1:0] got = {out_last, out_or, out_worst, out_contributors, out_data};
  always @(posedge clk) begin
    random <= {random[30:0], random[31] ^ random[21] ^ random[1] ^ random[0]};
    clock_count <= clock_count + 1;
    if (rst) begin
      random <= 32'h1234abcd;
      done <= 0;
      wrong <= 0;
      misplaced <= 0;
      first_wrong <= 32'hffffffff;
      sent <= 0;
      received <= 0;
      clock_count <= 0;
      latency <= 0;
      span <= 0;
    end else if (en) begin
      if (in_valid) begin
        sent <= sent + 1;
        if (sent == 0) first_in <= clock_count;
      end
      if (out_valid) begin
        received <= received + 1;
        if (got !== wanted[received]) begin
          wrong <= wrong + 1;
          if (wrong == 0) first_wrong <= received;
        end
        if (out_first !== (received == 0)) misplaced <= misplaced + 1;
        if (received == 0) begin
          first_out <= clock_count;
          latency <= clock_count - first_in;
        end
        if (received == BEATS - 1) begin
          span <= clock_count - first_out + 1;
          done <= 1;
        end
      end
    end
  end
endmodule

`default_nettype wire
