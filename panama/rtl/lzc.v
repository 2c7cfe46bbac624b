// Leading zeros of a word by a tree: two words of half the width and a choice, LOG levels deep.
// Combinational. `zero` says that no bit is set; `count` is then W - 1.
`default_nettype none

module lzc #(
    // log2 of the width, at least 1
    parameter LOG = 5,
    // width of the word, bits; follows from LOG
    parameter W = 1 << LOG
) (
    input  wire [  W-1:0] x,
    output wire [LOG-1:0] count,
    output wire           zero
);
  generate
    if (LOG == 1) begin : g_pair
      assign zero  = ~(x[1] | x[0]);
      assign count = ~x[1];
    end else begin : g_halves
      wire [LOG-2:0] count_high, count_low;
      wire zero_high, zero_low;
      lzc #(.LOG(LOG - 1)) high (.x(x[W-1:W/2]), .count(count_high), .zero(zero_high));
      lzc #(.LOG(LOG - 1)) low (.x(x[W/2-1:0]), .count(count_low), .zero(zero_low));
      assign zero  = zero_high & zero_low;
      assign count = {zero_high, zero_high ? count_low : count_high};
    end
  endgenerate
endmodule

`default_nettype wire
