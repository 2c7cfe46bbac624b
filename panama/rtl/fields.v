// The fields of a header beat by name: Ethernet 14, IPv4 20, UDP 8 and PANAMA 22 bytes. Only wires.
// Byte i of the frame is beat[8*i +: 8]; fields of several bytes are big-endian.
`default_nettype none

module fields (
    input  wire [511:0] beat,
    output wire [ 15:0] ethertype,
    output wire [159:0] ipv4,
    output wire [ 15:0] udp_port,
    output wire [ 15:0] udp_length,
    output wire [  7:0] version,
    output wire [  7:0] flags,
    output wire [ 15:0] job,
    output wire [  7:0] tree,
    output wire [  7:0] fmt,
    output wire [ 31:0] psn,
    output wire [ 15:0] child,
    output wire [ 15:0] nelem,
    output wire [ 31:0] msg,
    output wire [ 15:0] contributors,
    output wire [ 15:0] pad,
    // type of service, the ECN codepoint in its low two bits
    output wire [  7:0] tos
);
  // Bytes in opposite order. In one function, since simulators pass on each part of a net by itself.
  function [511:0] reversed(input [511:0] bytes);
    integer i;
    for (i = 0; i < 64; i = i + 1) reversed[511-8*i-:8] = bytes[8*i+:8];
  endfunction

  // The first byte on top, so that a field reads in the order of the frame.
  wire [511:0] h = reversed(beat);
  assign ethertype = h[511-8*12-:16];
  assign ipv4 = h[511-8*14-:160];
  assign udp_port = h[511-8*36-:16];
  assign udp_length = h[511-8*38-:16];
  assign version = h[511-8*42-:8];
  assign flags = h[511-8*43-:8];
  assign job = h[511-8*44-:16];
  assign tree = h[511-8*46-:8];
  assign fmt = h[511-8*47-:8];
  assign psn = h[511-8*48-:32];
  assign child = h[511-8*52-:16];
  assign nelem = h[511-8*54-:16];
  assign msg = h[511-8*56-:32];
  assign contributors = h[511-8*60-:16];
  assign pad = h[511-8*62-:16];
  assign tos = ipv4[151:144];
endmodule

`default_nettype wire
