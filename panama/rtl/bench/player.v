// Plays frames from memory into a switch and writes down all that comes out. No Python takes part
// in a beat: that is what makes 100,000 of them cheap. What came out is judged afterwards.
//
// given.hex: at most LINES lines of each port, those of port i from number i * LINES on:
//   {gated, need, key, valid, user, last, keep, data}
//   A frame whose first beat is gated waits until `need` sums have come out for slot `key` (job,
//   slot), as a host waits for its window. A line that is not valid ends the port's frames.
// table.hex: lines {address, value}, written over AXI-Lite before the first frame
// asked.hex: an address a line, read when all is quiet
// numbers.hex: how many lines table.hex has, and asked.hex; cycles for which m_axis is held back at
//   the start; sixteenths of the time in which each stream pauses; what seeds the pauses
// out.txt:   a line for each beat that came out: cycle, stream, last, user, keep, data; stream P is
//            m_axis, P + 1 is m_down_axis, the others are the bypass of that port
// read.txt:  what was read, a line each
`default_nettype none

module player #(
    parameter P = 4,
    parameter L = 16,
    parameter FMT = 0,
    parameter FADD_STAGES = 10,
    parameter LOG_JOBS = 2,
    parameter LOG_SLOTS = 5,
    parameter BEATS = 22,
    parameter LOG_BUFFER = 7,
    // lines of a port
    parameter LINES = 1024,
    // cycles without a beat after which all is over
    parameter QUIET = 1000
) (
    input  wire clk,
    input  wire rst,
    output reg  done
);
  localparam LOG_KEYS = LOG_JOBS + LOG_SLOTS;
  localparam WIDTH = 1 + 32 + 16 + 3 + 64 + 512;

  reg [WIDTH-1:0] given[0:P*LINES-1];
  reg [47:0] to_write[0:8191];  // 64 jobs of 78 words would fit
  reg [15:0] asked[0:2047];
  reg [31:0] numbers[0:4];
  integer out, answers;
  initial begin
    $readmemh("given.hex", given);
    $readmemh("table.hex", to_write);
    $readmemh("asked.hex", asked);
    $readmemh("numbers.hex", numbers);
    out = $fopen("out.txt", "w");
    answers = $fopen("read.txt", "w");
  end

  wire [31:0] writes = numbers[0], reads = numbers[1], hold = numbers[2], seed = numbers[4];
  wire [3:0] share = numbers[3][3:0];
  reg [31:0] cycle, quiet;
  reg playing, reading;
  reg [31:0] sums[0:(1<<LOG_KEYS)-1];  // that came out, of each slot

  wire [512*P-1:0] s_data, b_data;
  wire [64*P-1:0] s_keep, b_keep;
  wire [P-1:0] s_valid, s_ready, s_last, s_user, b_valid, b_ready, b_last;
  wire [511:0] m_data, d_data;
  wire [63:0] m_keep, d_keep;
  wire [P-1:0] m_user, d_user;
  wire m_valid, m_last, d_valid, d_last;
  wire m_pause, d_pause;
  wire m_ready = ~m_pause & cycle >= hold;
  wire d_ready = ~d_pause;
  reg m_in_frame;
  wire m_first = m_valid & m_ready & ~m_in_frame;
  wire m_ends = m_valid & m_ready & m_last;

  // --- frames in, ordinary frames out --------------------------------------------------------------
  genvar i;
  generate
    for (i = 0; i < P; i = i + 1) begin : g_port
      reg [31:0] at;
      reg in_frame;  // a frame has begun
      reg held;  // a beat was offered and not taken: it must stay
      wire s_pause, b_pause;
      wire [WIDTH-1:0] line = given[i*LINES+(at<LINES?at : 0)];
      wire open = ~line[WIDTH-1] | sums[line[579+:LOG_KEYS]] >= line[595+:32];
      wire offer = at < LINES & line[578] & playing & (held | ((in_frame | open) & ~s_pause));
      assign s_data[512*i+:512] = line[511:0];
      assign s_keep[64*i+:64] = line[512+:64];
      assign s_last[i] = line[576];
      assign s_user[i] = line[577];
      assign s_valid[i] = offer;
      assign b_ready[i] = ~b_pause;
      pauses #(.STREAM(2 * i)) of_input (
          .clk(clk), .rst(rst), .share(share), .seed(seed), .pause(s_pause)
      );
      pauses #(.STREAM(2 * i + 1)) of_bypass (
          .clk(clk), .rst(rst), .share(share), .seed(seed), .pause(b_pause)
      );
      always @(posedge clk) begin
        if (rst) begin
          at <= 0;
          in_frame <= 0;
          held <= 0;
        end else begin
          held <= offer & ~s_ready[i];
          if (offer & s_ready[i]) begin
            at <= at + 1;
            in_frame <= ~line[576];
          end
          if (b_valid[i] & b_ready[i])
            $fwrite(out, "%0d %0d %b 0 %h %h\n", cycle, i, b_last[i], b_keep[64*i+:64],
                    b_data[512*i+:512]);
        end
      end
    end
  endgenerate

  // --- sums and results out ------------------------------------------------------------------------
  pauses #(.STREAM(2 * P)) of_sums (
      .clk(clk), .rst(rst), .share(share), .seed(seed), .pause(m_pause)
  );
  pauses #(.STREAM(2 * P + 1)) of_results (
      .clk(clk), .rst(rst), .share(share), .seed(seed), .pause(d_pause)
  );
  // Bytes 44, 45 of a frame are the job and 48 to 51 the packet's number; byte 0 lies lowest. What
  // is played here numbers its jobs from 0 and has one tree each.
  wire [15:0] job = {m_data[352+:8], m_data[360+:8]};
  wire [31:0] psn = {m_data[384+:8], m_data[392+:8], m_data[400+:8], m_data[408+:8]};
  wire again = m_data[346];
  wire [LOG_KEYS-1:0] key = {job[LOG_JOBS-1:0], psn[LOG_SLOTS-1:0]};
  reg [LOG_KEYS-1:0] key_kept;
  reg again_kept;
  integer k;
  always @(posedge clk) begin
    if (rst) begin
      m_in_frame <= 0;
      for (k = 0; k < (1 << LOG_KEYS); k = k + 1) sums[k] <= 0;
    end else begin
      if (m_first) begin
        key_kept <= key;
        again_kept <= again;
      end
      if (m_valid & m_ready) begin
        m_in_frame <= ~m_last;
        $fwrite(out, "%0d %0d %b %h %h %h\n", cycle, P, m_last, m_user, m_keep, m_data);
      end
      if (m_ends & ~m_first & ~again_kept) sums[key_kept] <= sums[key_kept] + 1;
      if (d_valid & d_ready)
        $fwrite(out, "%0d %0d %b %h %h %h\n", cycle, P + 1, d_last, d_user, d_keep, d_data);
    end
  end

  // --- tables before, counters after ---------------------------------------------------------------
  reg [31:0] line_at;
  reg aw_valid, w_valid, ar_valid, waits;
  wire aw_ready, w_ready, b_ok, ar_ready, r_valid;
  wire [31:0] r_data;
  wire writing = ~playing & ~reading;
  wire moved = |(s_valid & s_ready) | |(b_valid & b_ready) | (m_valid & m_ready) |
               (d_valid & d_ready);
  always @(posedge clk) begin
    if (rst) begin
      cycle <= 0;
      quiet <= 0;
      playing <= 0;
      reading <= 0;
      line_at <= 0;
      aw_valid <= 0;
      w_valid <= 0;
      ar_valid <= 0;
      waits <= 0;
      done <= 0;
    end else begin
      if (aw_valid & aw_ready) aw_valid <= 0;
      if (w_valid & w_ready) w_valid <= 0;
      if (ar_valid & ar_ready) ar_valid <= 0;
      if (writing) begin
        if (~waits) begin
          if (line_at == writes) playing <= 1;
          else begin
            aw_valid <= 1;
            w_valid <= 1;
            waits <= 1;
          end
        end else if (b_ok) begin
          waits <= 0;
          line_at <= line_at + 1;
        end
      end else if (playing) begin
        cycle <= cycle + 1;
        quiet <= moved ? 0 : quiet + 1;
        if (quiet == QUIET) begin
          playing <= 0;
          reading <= 1;
          line_at <= 0;
        end
      end else if (~done) begin
        if (~waits) begin
          if (line_at == reads) begin
            $fclose(out);
            $fclose(answers);
            done <= 1;
          end else begin
            ar_valid <= 1;
            waits <= 1;
          end
        end else if (r_valid) begin
          $fwrite(answers, "%h\n", r_data);
          waits <= 0;
          line_at <= line_at + 1;
        end
      end
    end
  end
  wire [47:0] table_line = to_write[line_at[12:0]];
  wire [15:0] asked_line = asked[line_at[10:0]];

  panama_top #(
      .P(P), .L(L), .FMT(FMT), .FADD_STAGES(FADD_STAGES), .LOG_JOBS(LOG_JOBS),
      .LOG_SLOTS(LOG_SLOTS), .BEATS(BEATS), .LOG_BUFFER(LOG_BUFFER)
  ) dut (
      .clk(clk), .rst(rst), .s_axis_tdata(s_data), .s_axis_tkeep(s_keep), .s_axis_tvalid(s_valid),
      .s_axis_tready(s_ready), .s_axis_tlast(s_last), .s_axis_tuser(s_user),
      .m_axis_tdata(m_data), .m_axis_tkeep(m_keep), .m_axis_tuser(m_user), .m_axis_tvalid(m_valid),
      .m_axis_tready(m_ready), .m_axis_tlast(m_last), .m_down_axis_tdata(d_data),
      .m_down_axis_tkeep(d_keep), .m_down_axis_tuser(d_user), .m_down_axis_tvalid(d_valid),
      .m_down_axis_tready(d_ready), .m_down_axis_tlast(d_last), .m_bypass_axis_tdata(b_data),
      .m_bypass_axis_tkeep(b_keep), .m_bypass_axis_tvalid(b_valid),
      .m_bypass_axis_tready(b_ready), .m_bypass_axis_tlast(b_last),
      .s_axil_awaddr(table_line[47:32]), .s_axil_awprot(3'd0), .s_axil_awvalid(aw_valid),
      .s_axil_awready(aw_ready), .s_axil_wdata(table_line[31:0]), .s_axil_wstrb(4'hf),
      .s_axil_wvalid(w_valid), .s_axil_wready(w_ready), .s_axil_bresp(), .s_axil_bvalid(b_ok),
      .s_axil_bready(1'b1), .s_axil_araddr(asked_line), .s_axil_arprot(3'd0),
      .s_axil_arvalid(ar_valid), .s_axil_arready(ar_ready), .s_axil_rdata(r_data),
      .s_axil_rresp(), .s_axil_rvalid(r_valid), .s_axil_rready(1'b1)
  );
endmodule

`default_nettype wire
