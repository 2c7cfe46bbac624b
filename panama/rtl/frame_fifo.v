// A store-and-forward buffer for frames: a frame comes out once all of it is in. One that does not
// fit, or is aborted with its last beat, leaves no trace; `lost` says so together with in_last.
// The input never waits. One beat a cycle in and out.
`default_nettype none

module frame_fifo #(
    // bits of a beat
    parameter W = 512,
    // log2 of the beats
    parameter LOG = 7
) (
    input  wire         clk,
    input  wire         rst,
    input  wire         in_valid,
    input  wire [W-1:0] in_data,
    input  wire         in_last,
    input  wire         in_abort,
    output wire         lost,

    output reg          out_valid,
    input  wire         out_ready,
    output wire [W-1:0] out_data,
    output wire         out_last
);
  reg [W:0] entry[0:(1<<LOG)-1];
  reg [W:0] out;
  reg [LOG:0] head, tail, whole;  // beats up to `whole` belong to frames that are all in
  reg overflow;
  wire full = head == {~tail[LOG], tail[LOG-1:0]};
  wire too_much = overflow | full;
  assign lost = too_much & ~in_abort;
  assign {out_last, out_data} = out;

  always @(posedge clk) begin
    if (in_valid & ~too_much) entry[tail[LOG-1:0]] <= {in_last, in_data};
    if (rst) begin
      tail <= 0;
      whole <= 0;
      overflow <= 1'b0;
    end else if (in_valid) begin
      overflow <= too_much & ~in_last;
      if (~in_last) begin
        if (~too_much) tail <= tail + 1'b1;
      end else if (too_much | in_abort) begin
        tail <= whole;
      end else begin
        tail  <= tail + 1'b1;
        whole <= tail + 1'b1;
      end
    end
  end

  wire take = ~out_valid | out_ready;
  always @(posedge clk) begin
    if (take) out <= entry[head[LOG-1:0]];
    if (rst) begin
      head <= 0;
      out_valid <= 1'b0;
    end else if (take) begin
      out_valid <= head != whole;
      if (head != whole) head <= head + 1'b1;
    end
  end
endmodule

`default_nettype wire
