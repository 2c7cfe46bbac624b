// Sum of two fp32 numbers: round to nearest even, subnormals flushed to signed zero at input and
// output, every NaN becomes 7fc00000. Latency: FADD_STAGES enabled cycles, one sum a cycle.
//
// Ten steps in a row. The registers are spread over the ten places between them as evenly as
// FADD_STAGES allows: any number from 1 on works, and from 10 on each step has its own.
// A sum below the smallest normal is always exact, so flushing before or after rounding is one.
`default_nettype none

module fadd #(
    // registers from input to output, cycles
    parameter FADD_STAGES = 10
) (
    input  wire        clk,
    input  wire        en,
    input  wire [31:0] a,
    input  wire [31:0] b,
    output wire [31:0] sum
);
  localparam S = FADD_STAGES;

  // 1. Which is larger in magnitude; what is special. (Two subnormals: either will do.)
  wire nan_a = &a[30:23] & |a[22:0];
  wire nan_b = &b[30:23] & |b[22:0];
  wire inf_a = &a[30:23] & ~|a[22:0];
  wire inf_b = &b[30:23] & ~|b[22:0];
  wire less = a[30:0] < b[30:0];
  wire not_a = ~|a[30:23];
  wire not_b = ~|b[30:23];

  wire [31:0] a1, b1;
  wire nan_a1, nan_b1, inf_a1, inf_b1, less1, not_a1, not_b1;
  delay #(.W(71), .N(S / 10)) cut1 (
      .clk(clk), .en(en),
      .d({a, b, nan_a, nan_b, inf_a, inf_b, less, not_a, not_b}),
      .q({a1, b1, nan_a1, nan_b1, inf_a1, inf_b1, less1, not_a1, not_b1})
  );

  // 2. Larger and smaller significand with the hidden bit, and the distance of their exponents.
  wire sign_greater = less1 ? b1[31] : a1[31];
  wire [7:0] exp_greater = less1 ? b1[30:23] : a1[30:23];
  wire [7:0] exp_lesser = less1 ? a1[30:23] : b1[30:23];
  wire [22:0] frac_greater = less1 ? b1[22:0] : a1[22:0];
  wire [22:0] frac_lesser = less1 ? a1[22:0] : b1[22:0];
  wire none_greater = less1 ? not_b1 : not_a1;
  wire none_lesser = less1 ? not_a1 : not_b1;
  wire [23:0] greater = none_greater ? 24'd0 : {1'b1, frac_greater};
  wire [23:0] lesser = none_lesser ? 24'd0 : {1'b1, frac_lesser};
  wire [7:0] distance = exp_greater - exp_lesser;
  wire subtract = a1[31] ^ b1[31];
  wire nan = nan_a1 | nan_b1 | (inf_a1 & inf_b1 & subtract);
  wire inf = inf_a1 | inf_b1;
  // Sign of an exact zero: minus only for (-0) + (-0).
  wire sign_zero = a1[31] & b1[31];
  // An infinity is the larger one, so its sign is sign_greater.
  wire [3:0] kind = {nan, inf, sign_zero, sign_greater};

  wire [3:0] kind2;
  wire sub2;
  wire [7:0] exp2, distance2;
  wire [23:0] greater2, lesser2;
  delay #(.W(69), .N(2 * S / 10 - S / 10)) cut2 (
      .clk(clk), .en(en),
      .d({kind, subtract, exp_greater, distance, greater, lesser}),
      .q({kind2, sub2, exp2, distance2, greater2, lesser2})
  );

  // 3. Align, coarse: whole bytes out, with guard, round and sticky below. Sticky is kept apart.
  wire [26:0] wide = {lesser2, 3'd0};
  wire far = |distance2[7:5];
  wire [26:0] by16 = distance2[4] ? {16'd0, wide[26:16]} : wide;
  wire lost16 = distance2[4] & |wide[15:0];
  wire [26:0] by8 = distance2[3] ? {8'd0, by16[26:8]} : by16;
  wire lost8 = distance2[3] & |by16[7:0];
  wire [26:0] coarse = far ? 27'd0 : by8;
  wire lost = far ? |lesser2 : (lost16 | lost8);

  wire [3:0] kind3;
  wire sub3, lost3;
  wire [7:0] exp3;
  wire [2:0] fine3;
  wire [23:0] greater3;
  wire [26:0] coarse3;
  delay #(.W(68), .N(3 * S / 10 - 2 * S / 10)) cut3 (
      .clk(clk), .en(en),
      .d({kind2, sub2, exp2, distance2[2:0], lost, greater2, coarse}),
      .q({kind3, sub3, exp3, fine3, lost3, greater3, coarse3})
  );

  // 4. Align, fine.
  wire [26:0] by4 = fine3[2] ? {4'd0, coarse3[26:4]} : coarse3;
  wire [26:0] by2 = fine3[1] ? {2'd0, by4[26:2]} : by4;
  wire [26:0] by1 = fine3[0] ? {1'd0, by2[26:1]} : by2;
  wire lost_fine = (fine3[2] & |coarse3[3:0]) | (fine3[1] & |by4[1:0]) | (fine3[0] & by2[0]);
  wire [26:0] aligned = {by1[26:1], by1[0] | lost3 | lost_fine};

  wire [3:0] kind4;
  wire sub4;
  wire [7:0] exp4;
  wire [23:0] greater4;
  wire [26:0] aligned4;
  delay #(.W(64), .N(4 * S / 10 - 3 * S / 10)) cut4 (
      .clk(clk), .en(en),
      .d({kind3, sub3, exp3, greater3, aligned}),
      .q({kind4, sub4, exp4, greater4, aligned4})
  );

  // 5. Add or subtract; never negative, since the larger one comes first.
  wire [27:0] total = {1'b0, greater4, 3'd0} + ({1'b0, aligned4} ^ {28{sub4}}) + {27'd0, sub4};

  wire [3:0] kind5;
  wire [7:0] exp5;
  wire [27:0] total5;
  delay #(.W(40), .N(5 * S / 10 - 4 * S / 10)) cut5 (
      .clk(clk), .en(en), .d({kind4, exp4, total}), .q({kind5, exp5, total5})
  );

  // 6. Leading zeros. A carry out has none, so one left shift serves for both directions.
  wire [4:0] lead;
  wire zero;
  lzc #(.LOG(5)) leading (.x({total5, 4'd0}), .count(lead), .zero(zero));

  wire [3:0] kind6;
  wire [7:0] exp6;
  wire [27:0] total6;
  wire [4:0] lead6;
  wire zero6;
  delay #(.W(46), .N(6 * S / 10 - 5 * S / 10)) cut6 (
      .clk(clk), .en(en), .d({kind5, exp5, total5, lead, zero}),
      .q({kind6, exp6, total6, lead6, zero6})
  );

  // 7. Normalise, coarse; the exponent with it (two's complement, 10 bits).
  wire [27:0] left16 = lead6[4] ? {total6[11:0], 16'd0} : total6;
  wire [27:0] left8 = lead6[3] ? {left16[19:0], 8'd0} : left16;
  wire [9:0] exp_norm = {2'd0, exp6} + 10'd1 - {5'd0, lead6};

  wire [3:0] kind7;
  wire [9:0] exp7;
  wire [27:0] left7;
  wire [2:0] lead7;
  wire zero7;
  delay #(.W(46), .N(7 * S / 10 - 6 * S / 10)) cut7 (
      .clk(clk), .en(en), .d({kind6, exp_norm, left8, lead6[2:0], zero6}),
      .q({kind7, exp7, left7, lead7, zero7})
  );

  // 8. Normalise, fine; what the exponent says without and with a carry out of rounding.
  wire [27:0] left4 = lead7[2] ? {left7[23:0], 4'd0} : left7;
  wire [27:0] left2 = lead7[1] ? {left4[25:0], 2'd0} : left4;
  wire [27:0] left1 = lead7[0] ? {left2[26:0], 1'd0} : left2;
  wire [9:0] exp_carry = exp7 + 10'd1;
  wire under = exp7[9] | ~|exp7;
  wire over = ~exp7[9] & (exp7[8] | &exp7[7:0]);
  wire over_carry = ~exp7[9] & (exp7[8] | &exp7[7:1]);

  wire [3:0] kind8;
  wire [7:0] exp8, exp_carry8;
  wire under8, over8, over_carry8, zero8;
  wire [27:0] norm8;
  delay #(.W(52), .N(8 * S / 10 - 7 * S / 10)) cut8 (
      .clk(clk), .en(en),
      .d({kind7, exp7[7:0], exp_carry[7:0], under | zero7, over, over_carry, zero7, left1}),
      .q({kind8, exp8, exp_carry8, under8, over8, over_carry8, zero8, norm8})
  );

  // 9. Round to nearest, ties to even.
  wire up = norm8[3] & (norm8[4] | |norm8[2:0]);
  wire [24:0] rounded = {1'b0, norm8[27:4]} + {24'd0, up};

  wire [3:0] kind9;
  wire [7:0] exp9, exp_carry9;
  wire under9, over9, over_carry9, zero9;
  wire [24:0] rounded9;
  delay #(.W(49), .N(9 * S / 10 - 8 * S / 10)) cut9 (
      .clk(clk), .en(en),
      .d({kind8, exp8, exp_carry8, under8, over8, over_carry8, zero8, rounded}),
      .q({kind9, exp9, exp_carry9, under9, over9, over_carry9, zero9, rounded9})
  );

  // 10. Choose. kind = {nan, inf, sign of zero, sign}. After a carry the fraction is zero.
  wire carry = rounded9[24];
  wire huge = carry ? over_carry9 : over9;
  wire [7:0] exponent = carry ? exp_carry9 : exp9;
  wire [31:0] chosen = kind9[3] ? 32'h7fc00000 :
                       kind9[2] ? {kind9[0], 8'hff, 23'd0} :
                       under9 ? {zero9 ? kind9[1] : kind9[0], 31'd0} :
                       huge ? {kind9[0], 8'hff, 23'd0} :
                       {kind9[0], exponent, rounded9[22:0]};
  delay #(.W(32), .N(S - 9 * S / 10)) cut10 (.clk(clk), .en(en), .d(chosen), .q(sum));
endmodule

`default_nettype wire
