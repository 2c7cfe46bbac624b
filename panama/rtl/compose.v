// Puts a header beat together, IPv4 checksum included: the inverse of parse.v. Combinational.
`default_nettype none

module compose #(
    parameter FMT = 0,
    parameter VERSION = 1,
    parameter UDP_PORT = 20545,
    // time to live, hops
    parameter TTL = 64
) (
    input  wire [ 47:0] mac_to,
    input  wire [ 47:0] mac_from,
    input  wire [ 31:0] ip_to,
    input  wire [ 31:0] ip_from,
    input  wire [  7:0] tos,
    input  wire         up,
    input  wire         down,
    input  wire         retx,
    input  wire [ 15:0] job,
    input  wire [  7:0] tree,
    input  wire [ 31:0] psn,
    input  wire [ 15:0] child,
    input  wire [ 15:0] nelem,
    input  wire [ 31:0] msg,
    input  wire [ 15:0] contributors,
    input  wire [ 15:0] pad,
    // payload beats
    input  wire [ 12:0] beats,
    output wire [511:0] beat
);
  wire [15:0] total_length = 16'd50 + {beats[9:0], 6'd0};
  wire [15:0] udp_length = 16'd30 + {beats[9:0], 6'd0};
  wire [7:0] ttl = TTL;
  wire [15:0] port = UDP_PORT;
  wire [7:0] version = VERSION;
  wire [7:0] fmt = FMT;

  // Identification 0 and "do not fragment", as for any datagram that is never fragmented.
  wire [79:0] ip_head = {8'h45, tos, total_length, 16'd0, 16'h4000, ttl, 8'd17};
  wire [15:0] sum;
  ipv4_sum check (.words({ip_head, 16'd0, ip_from, ip_to}), .sum(sum));

  // The UDP checksum is 0, which means that there is none.
  wire [511:0] h = {
    mac_to, mac_from, 16'h0800,
    ip_head, ~sum, ip_from, ip_to,
    port, port, udp_length, 16'd0,
    version, 5'd0, retx, down, up, job, tree, fmt, psn, child, nelem, msg, contributors, pad
  };

  // Bytes in opposite order. In one function, since simulators pass on each part of a net by itself.
  function [511:0] reversed(input [511:0] bytes);
    integer i;
    for (i = 0; i < 64; i = i + 1) reversed[511-8*i-:8] = bytes[8*i+:8];
  endfunction
  assign beat = reversed(h);
endmodule

`default_nettype wire
