// Reads the headers of one packet on all ports at once: what the packet of their sum will say.
// Combinational. The first member speaks for all; `mismatch` when another one says otherwise.
`default_nettype none

module head #(
    parameter P = 4,
    parameter FMT = 0
) (
    input  wire [512*P-1:0] beats_in,
    input  wire [    P-1:0] member,
    output wire [    P-1:0] ce,
    output wire [ 16*P-1:0] contributors,
    output wire             mismatch,
    output reg  [     31:0] psn,
    output reg  [     15:0] nelem,
    output reg  [     31:0] msg,
    output reg  [     15:0] pad,
    output reg  [      5:0] dscp,
    output wire [     12:0] beats
);
  localparam SAID = 32 + 16 + 32 + 16;
  wire [SAID*P-1:0] said;
  wire [6*P-1:0] grade;
  wire [P-1:0] differs;
  genvar i;
  generate
    for (i = 0; i < P; i = i + 1) begin : g_port
      wire [7:0] tos;
      fields fields (
          .beat(beats_in[512*i+:512]), .ethertype(), .ipv4(), .udp_port(), .udp_length(),
          .version(), .flags(), .job(), .tree(), .fmt(), .psn(said[SAID*i+64+:32]), .child(),
          .nelem(said[SAID*i+48+:16]), .msg(said[SAID*i+16+:32]),
          .contributors(contributors[16*i+:16]), .pad(said[SAID*i+:16]), .tos(tos)
      );
      assign grade[6*i+:6] = tos[7:2];
      assign ce[i] = &tos[1:0];
      assign differs[i] = member[i] & said[SAID*i+:SAID] != {psn, nelem, msg, pad};
    end
  endgenerate
  assign mismatch = |differs;

  wire [P-1:0] first = member & ~(member - 1'b1);
  integer n;
  always @* begin
    {psn, nelem, msg, pad} = {SAID{1'b0}};
    dscp = 6'd0;
    for (n = 0; n < P; n = n + 1)
      if (first[n]) begin
        {psn, nelem, msg, pad} = {psn, nelem, msg, pad} | said[SAID*n+:SAID];
        dscp = dscp | grade[6*n+:6];
      end
  end
  beats_of #(.FMT(FMT)) count (.nelem(nelem), .beats(beats));
endmodule

`default_nettype wire
