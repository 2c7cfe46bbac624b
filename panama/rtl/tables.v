// What software sets and reads, over AXI-Lite with 32-bit words (byte addresses):
//   0x0000 + 0x200 * job, by word
//     0  bit 0 on, 1 root, 2 mark by the worst port (else OR), 6:4 log2 of the job's trees,
//        9:8 ECN codepoint of unmarked packets, 21:16 port of the parent
//     1  31:16 job number, 7:0 tree number, as in the packets
//     2, 3    member ports
//     4, 5    own MAC address, low word first;  6, 7 the parent's;  8, 9 the children's (a group)
//     10, 11, 12  own IPv4 address, the parent's, the children's (a group)
//     13      our number among the parent's children
//     16      times that the job stood still;  17, 18 ports it then waited for       (read only)
//     64 + p  workers below port p
//   0x8000 + 0x80 * port + 4 * cause   frames of a port by what became of them        (read only)
//   0xc000  {JOBS, SLOTS, P, FMT}, a byte each                                        (read only)
//   0xc004  cycles without progress after which a job counts as standing still
//   0xc080 + 4 * cause   counters of the whole                                        (read only)
// Switching a job off forgets all its slots. Leave it off until its last packets are out.
// The other words of a job may change only while it is off.
`default_nettype none

module tables #(
    parameter P = 4,
    parameter LOG_PORTS = 2,
    parameter FMT = 0,
    parameter LOG_JOBS = 2,
    parameter LOG_SLOTS = 4,
    // cycles; the value of 0xc004 after reset
    parameter STALL_LIMIT = 1000000,
    // follows from LOG_JOBS
    parameter JOBS = 1 << LOG_JOBS
) (
    input wire clk,
    input wire rst,

    input  wire [15:0] s_axil_awaddr,
    input  wire [ 2:0] s_axil_awprot,
    input  wire        s_axil_awvalid,
    output wire        s_axil_awready,
    input  wire [31:0] s_axil_wdata,
    input  wire [ 3:0] s_axil_wstrb,
    input  wire        s_axil_wvalid,
    output wire        s_axil_wready,
    output wire [ 1:0] s_axil_bresp,
    output reg         s_axil_bvalid,
    input  wire        s_axil_bready,
    input  wire [15:0] s_axil_araddr,
    input  wire [ 2:0] s_axil_arprot,
    input  wire        s_axil_arvalid,
    output wire        s_axil_arready,
    output reg  [31:0] s_axil_rdata,
    output wire [ 1:0] s_axil_rresp,
    output reg         s_axil_rvalid,
    input  wire        s_axil_rready,

    output wire [         JOBS-1:0] job_on,
    output wire [         JOBS-1:0] job_root,
    output wire [         JOBS-1:0] job_worst,
    output wire [       3*JOBS-1:0] job_log_trees,
    output wire [       2*JOBS-1:0] job_ect,
    output wire [LOG_PORTS*JOBS-1:0] job_parent,
    output wire [      24*JOBS-1:0] job_key,
    output wire [       P*JOBS-1:0] job_members,
    // what headers are written with: {child, ip_down, ip_up, ip_from, mac_down, mac_up, mac_from}
    output wire [     256*JOBS-1:0] job_header,
    // port by port within a job
    output wire [    16*P*JOBS-1:0] job_workers,
    output reg  [             31:0] stall_limit,

    input wire [  JOBS-1:0] stalled,
    input wire [P*JOBS-1:0] missing,
    // counters: {port or the whole's 64, cause}, the value one cycle later
    output wire [      6:0] count_port,
    output wire [      4:0] count_cause,
    input  wire [     31:0] count_value
);
  // --- writing -------------------------------------------------------------------------------------
  wire write = s_axil_awvalid & s_axil_wvalid & ~(s_axil_bvalid & ~s_axil_bready);
  assign s_axil_awready = write;
  assign s_axil_wready = write;
  assign s_axil_bresp = 2'b00;
  wire [31:0] mask = {{8{s_axil_wstrb[3]}}, {8{s_axil_wstrb[2]}}, {8{s_axil_wstrb[1]}}, {8{s_axil_wstrb[0]}}};
  wire write_job = write & ~s_axil_awaddr[15];
  wire [5:0] write_number = s_axil_awaddr[14:9];
  wire [6:0] write_word = s_axil_awaddr[8:2];

  always @(posedge clk) begin
    if (rst) begin
      s_axil_bvalid <= 1'b0;
      stall_limit   <= STALL_LIMIT;
    end else begin
      if (s_axil_bready) s_axil_bvalid <= 1'b0;
      if (write) s_axil_bvalid <= 1'b1;
      if (write & s_axil_awaddr[15:2] == 14'h3001)
        stall_limit <= (stall_limit & ~mask) | (s_axil_wdata & mask);
    end
  end

  // --- reading -------------------------------------------------------------------------------------
  reg read_pending;
  reg [15:0] read_address;
  assign s_axil_arready = ~read_pending & ~s_axil_rvalid;
  assign s_axil_rresp = 2'b00;
  assign count_port = s_axil_araddr[14] ? 7'd64 : {1'b0, s_axil_araddr[12:7]};
  assign count_cause = s_axil_araddr[6:2];
  wire [31:0] of_job[0:JOBS-1];
  wire [5:0] read_number = read_address[14:9];
  wire [7:0] jobs = JOBS, slots = 1 << LOG_SLOTS, ports = P, format = FMT;
  reg [31:0] value;
  always @* begin
    value = 32'd0;
    if (~read_address[15]) value = read_number < JOBS ? of_job[read_number[LOG_JOBS-1:0]] : 32'd0;
    else if (read_address[14:7] == 8'h80)
      value = read_address[6:2] == 5'd0 ? {jobs, slots, ports, format} :
              read_address[6:2] == 5'd1 ? stall_limit : 32'd0;
    else value = count_value;
  end
  always @(posedge clk) begin
    if (rst) begin
      read_pending  <= 1'b0;
      s_axil_rvalid <= 1'b0;
    end else begin
      read_pending <= s_axil_arvalid & s_axil_arready;
      if (s_axil_rready) s_axil_rvalid <= 1'b0;
      if (read_pending) s_axil_rvalid <= 1'b1;
    end
    if (s_axil_arvalid & s_axil_arready) read_address <= s_axil_araddr;
    if (read_pending) s_axil_rdata <= value;
  end

  // --- the words of each job -----------------------------------------------------------------------
  genvar j, p, w;
  generate
    for (j = 0; j < JOBS; j = j + 1) begin : g_job
      wire here = write_job & write_number == j;
      wire [32*14-1:0] words;
      for (w = 0; w < 14; w = w + 1) begin : g_word
        reg [31:0] word;
        always @(posedge clk)
          if (rst) word <= 32'd0;
          else if (here & write_word == w) word <= (word & ~mask) | (s_axil_wdata & mask);
        assign words[32*w+:32] = word;
      end
      wire [16*P-1:0] workers;
      for (p = 0; p < P; p = p + 1) begin : g_workers
        reg [15:0] count;
        always @(posedge clk)
          if (rst) count <= 16'd0;
          else if (here & write_word == 64 + p)
            count <= (count & ~mask[15:0]) | (s_axil_wdata[15:0] & mask[15:0]);
        assign workers[16*p+:16] = count;
      end
      reg [31:0] stalls;
      always @(posedge clk)
        if (rst) stalls <= 32'd0;
        else if (stalled[j]) stalls <= stalls + 1'b1;

      wire [63:0] waits = missing[P*j+:P];
      wire [5:0] other = read_address[7:2];
      assign of_job[j] = read_address[8] ? (other < P ? {16'd0, workers[16*other+:16]} : 32'd0) :
                         read_address[7:2] < 14 ? words[32*read_address[5:2]+:32] :
                         read_address[7:2] == 16 ? stalls :
                         read_address[7:2] == 17 ? waits[31:0] :
                         read_address[7:2] == 18 ? waits[63:32] : 32'd0;

      wire [63:0] members = words[64+:64];
      assign job_on[j] = words[0];
      assign job_root[j] = words[1];
      assign job_worst[j] = words[2];
      assign job_log_trees[3*j+:3] = words[6:4];
      assign job_ect[2*j+:2] = words[9:8];
      assign job_parent[LOG_PORTS*j+:LOG_PORTS] = words[16+:LOG_PORTS];
      assign job_key[24*j+:24] = {words[63:48], words[39:32]};
      assign job_members[P*j+:P] = members[P-1:0];
      assign job_header[256*j+:256] = {
        words[32*13+:16], words[32*12+:32], words[32*11+:32], words[32*10+:32], words[32*8+:48],
        words[32*6+:48], words[32*4+:48]
      };
      assign job_workers[16*P*j+:16*P] = workers;
    end
  endgenerate
endmodule

`default_nettype wire
