// First in, first out; the oldest entry shows at `front` while `empty` is low.
// push when full and pop when empty are ignored.
`default_nettype none

module fifo #(
    // bits of an entry
    parameter W = 8,
    // log2 of the entries
    parameter LOG = 4
) (
    input  wire         clk,
    input  wire         rst,
    input  wire         push,
    input  wire [W-1:0] data,
    output wire         full,
    input  wire         pop,
    output wire [W-1:0] front,
    output wire         empty
);
  reg [W-1:0] entry[0:(1<<LOG)-1];
  reg [LOG:0] head, tail;  // one bit more than an index: equal is empty, differing there is full
  assign empty = head == tail;
  assign full  = head == {~tail[LOG], tail[LOG-1:0]};
  assign front = entry[head[LOG-1:0]];
  always @(posedge clk) begin
    if (push & ~full) entry[tail[LOG-1:0]] <= data;
    if (rst) begin
      head <= 0;
      tail <= 0;
    end else begin
      if (push & ~full) tail <= tail + 1'b1;
      if (pop & ~empty) head <= head + 1'b1;
    end
  end
endmodule

`default_nettype wire
