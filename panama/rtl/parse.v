// Checks a header beat. Combinational.
`default_nettype none

module parse #(
    // 0 fp32, 1 bf16, 2 int32
    parameter FMT = 0,
    // payload beats that a frame may have
    parameter BEATS = 22,
    parameter VERSION = 1,
    parameter UDP_PORT = 20545
) (
    input  wire [511:0] beat,
    // IPv4, UDP to our port: a packet of aggregation, sound or not
    output wire         aggregation,
    // checksum, version, format and direction are right
    output wire         sound,
    // the element count fits the lengths and the buffers
    output wire         fits,
    output wire         up,
    output wire [ 15:0] job,
    output wire [  7:0] tree,
    output wire [ 31:0] psn,
    output wire [ 15:0] child,
    output wire [ 15:0] contributors,
    // payload beats
    output wire [ 12:0] beats
);
  wire [15:0] ethertype, udp_port, udp_length, nelem;
  wire [7:0] version, flags, fmt;
  wire [159:0] ipv4;
  fields fields (
      .beat(beat), .ethertype(ethertype), .ipv4(ipv4), .udp_port(udp_port),
      .udp_length(udp_length), .version(version), .flags(flags), .job(job), .tree(tree), .fmt(fmt),
      .psn(psn), .child(child), .nelem(nelem), .msg(), .contributors(contributors), .pad(), .tos()
  );
  beats_of #(.FMT(FMT)) count (.nelem(nelem), .beats(beats));
  wire [15:0] sum;
  ipv4_sum check (.words(ipv4), .sum(sum));

  wire [7:0] version_ihl = ipv4[159-:8];
  wire [15:0] total_length = ipv4[143-:16];
  wire [15:0] fragment = ipv4[111-:16];
  wire [7:0] protocol = ipv4[87-:8];
  wire down = flags[1];
  assign up = flags[0];

  // Only a whole, unfragmented datagram without options shows its port where we look for it.
  assign aggregation = ethertype == 16'h0800 & version_ihl == 8'h45 & protocol == 8'd17 &
                       (fragment & 16'hbfff) == 16'd0 & udp_port == UDP_PORT;
  assign sound = sum == 16'hffff & version == VERSION & fmt == FMT & (up ^ down) & flags[7:3] == 0;
  assign fits = nelem != 16'd0 & beats <= BEATS & total_length == 16'd50 + {beats[9:0], 6'd0} &
                udp_length == 16'd30 + {beats[9:0], 6'd0};
endmodule

`default_nettype wire
