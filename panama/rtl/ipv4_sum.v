// One's complement sum of the ten 16-bit words of an IPv4 header without options. Combinational.
// Over a header whose checksum field is zero, ~sum is the checksum; over a sound one sum is ffff.
`default_nettype none

module ipv4_sum (
    // first byte of the header on top
    input  wire [159:0] words,
    output wire [ 15:0] sum
);
  wire [17:0] a = words[159:144] + words[143:128] + words[127:112] + {2'd0, words[111:96]};
  wire [17:0] b = words[95:80] + words[79:64] + words[63:48] + {2'd0, words[47:32]};
  wire [16:0] c = words[31:16] + {1'b0, words[15:0]};
  wire [19:0] total = {2'd0, a} + {2'd0, b} + {3'd0, c};
  // Folding the carries in may carry once more.
  wire [16:0] folded = {1'b0, total[15:0]} + {13'd0, total[19:16]};
  assign sum = folded[15:0] + {15'd0, folded[16]};
endmodule

`default_nettype wire
