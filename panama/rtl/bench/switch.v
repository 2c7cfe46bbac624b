// panama_top with each port's streams under names of their own: g_port[i].s_axis_tdata and so on.
`default_nettype none

module switch #(
    parameter P = 4,
    parameter L = 16,
    parameter FMT = 0,
    parameter FADD_STAGES = 10,
    parameter LOG_JOBS = 2,
    parameter LOG_SLOTS = 4,
    parameter BEATS = 22,
    parameter LOG_BUFFER = 7,
    parameter STALL_LIMIT = 2000
) (
    input wire clk,
    input wire rst,

    output wire [511:0] m_axis_tdata,
    output wire [ 63:0] m_axis_tkeep,
    output wire [P-1:0] m_axis_tuser,
    output wire         m_axis_tvalid,
    input  wire         m_axis_tready,
    output wire         m_axis_tlast,

    output wire [511:0] m_down_axis_tdata,
    output wire [ 63:0] m_down_axis_tkeep,
    output wire [P-1:0] m_down_axis_tuser,
    output wire         m_down_axis_tvalid,
    input  wire         m_down_axis_tready,
    output wire         m_down_axis_tlast,

    input  wire [15:0] s_axil_awaddr,
    input  wire [ 2:0] s_axil_awprot,
    input  wire        s_axil_awvalid,
    output wire        s_axil_awready,
    input  wire [31:0] s_axil_wdata,
    input  wire [ 3:0] s_axil_wstrb,
    input  wire        s_axil_wvalid,
    output wire        s_axil_wready,
    output wire [ 1:0] s_axil_bresp,
    output wire        s_axil_bvalid,
    input  wire        s_axil_bready,
    input  wire [15:0] s_axil_araddr,
    input  wire [ 2:0] s_axil_arprot,
    input  wire        s_axil_arvalid,
    output wire        s_axil_arready,
    output wire [31:0] s_axil_rdata,
    output wire [ 1:0] s_axil_rresp,
    output wire        s_axil_rvalid,
    input  wire        s_axil_rready
);
  wire [512*P-1:0] s_data, b_data;
  wire [64*P-1:0] s_keep, b_keep;
  wire [P-1:0] s_valid, s_ready, s_last, s_user, b_valid, b_ready, b_last;
  genvar i;
  generate
    for (i = 0; i < P; i = i + 1) begin : g_port
      reg [511:0] s_axis_tdata;
      reg [63:0] s_axis_tkeep;
      reg s_axis_tvalid, s_axis_tlast, s_axis_tuser, bypass_axis_tready;
      wire s_axis_tready = s_ready[i];
      wire [511:0] bypass_axis_tdata = b_data[512*i+:512];
      wire [63:0] bypass_axis_tkeep = b_keep[64*i+:64];
      wire bypass_axis_tvalid = b_valid[i];
      wire bypass_axis_tlast = b_last[i];
      assign s_data[512*i+:512] = s_axis_tdata;
      assign s_keep[64*i+:64] = s_axis_tkeep;
      assign s_valid[i] = s_axis_tvalid;
      assign s_last[i] = s_axis_tlast;
      assign s_user[i] = s_axis_tuser;
      assign b_ready[i] = bypass_axis_tready;
    end
  endgenerate

  panama_top #(
      .P(P), .L(L), .FMT(FMT), .FADD_STAGES(FADD_STAGES), .LOG_JOBS(LOG_JOBS),
      .LOG_SLOTS(LOG_SLOTS), .BEATS(BEATS), .LOG_BUFFER(LOG_BUFFER), .STALL_LIMIT(STALL_LIMIT)
  ) dut (
      .clk(clk), .rst(rst), .s_axis_tdata(s_data), .s_axis_tkeep(s_keep), .s_axis_tvalid(s_valid),
      .s_axis_tready(s_ready), .s_axis_tlast(s_last), .s_axis_tuser(s_user),
      .m_axis_tdata(m_axis_tdata), .m_axis_tkeep(m_axis_tkeep), .m_axis_tuser(m_axis_tuser),
      .m_axis_tvalid(m_axis_tvalid), .m_axis_tready(m_axis_tready), .m_axis_tlast(m_axis_tlast),
      .m_down_axis_tdata(m_down_axis_tdata), .m_down_axis_tkeep(m_down_axis_tkeep),
      .m_down_axis_tuser(m_down_axis_tuser), .m_down_axis_tvalid(m_down_axis_tvalid),
      .m_down_axis_tready(m_down_axis_tready), .m_down_axis_tlast(m_down_axis_tlast),
      .m_bypass_axis_tdata(b_data), .m_bypass_axis_tkeep(b_keep), .m_bypass_axis_tvalid(b_valid),
      .m_bypass_axis_tready(b_ready), .m_bypass_axis_tlast(b_last),
      .s_axil_awaddr(s_axil_awaddr), .s_axil_awprot(s_axil_awprot),
      .s_axil_awvalid(s_axil_awvalid), .s_axil_awready(s_axil_awready),
      .s_axil_wdata(s_axil_wdata), .s_axil_wstrb(s_axil_wstrb), .s_axil_wvalid(s_axil_wvalid),
      .s_axil_wready(s_axil_wready), .s_axil_bresp(s_axil_bresp), .s_axil_bvalid(s_axil_bvalid),
      .s_axil_bready(s_axil_bready), .s_axil_araddr(s_axil_araddr), .s_axil_arprot(s_axil_arprot),
      .s_axil_arvalid(s_axil_arvalid), .s_axil_arready(s_axil_arready),
      .s_axil_rdata(s_axil_rdata), .s_axil_rresp(s_axil_rresp), .s_axil_rvalid(s_axil_rvalid),
      .s_axil_rready(s_axil_rready)
  );
endmodule

`default_nettype wire
