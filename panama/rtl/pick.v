// The next request after the last one served, in turns: a tree search above `last`, then from 0.
// Combinational.
`default_nettype none

module pick #(
    // log2 of the requests, at least 1
    parameter LOG = 4,
    // requests; follows from LOG
    parameter N = 1 << LOG
) (
    input  wire [  N-1:0] request,
    input  wire [LOG-1:0] last,
    output wire           any,
    output wire [LOG-1:0] index
);
  wire [N-1:0] here = {{(N - 1) {1'b0}}, 1'b1} << last;
  wire [N-1:0] later = request & ~(here | (here - 1'b1));
  wire [N-1:0] request_up, later_up;  // lowest on top, where lzc begins
  genvar i;
  generate
    for (i = 0; i < N; i = i + 1) begin : g_turn
      assign request_up[N-1-i] = request[i];
      assign later_up[N-1-i] = later[i];
    end
  endgenerate
  wire [LOG-1:0] first_index, later_index;
  wire none, none_later;
  lzc #(.LOG(LOG)) first (.x(request_up), .count(first_index), .zero(none));
  lzc #(.LOG(LOG)) next (.x(later_up), .count(later_index), .zero(none_later));
  assign any = ~none;
  assign index = none_later ? first_index : later_index;
endmodule

`default_nettype wire
