// Chooses the next packet to sum and reads it from all ports at once, a beat a cycle.
// A slot is ready when every member port holds its frame. Jobs take turns, and within a job its
// slots: no job waits for another one, whatever the order of arrival. A repair from the store of
// sums takes turns with fresh sums. No idle cycle between packets as long as one is ready.
// Everything from the choice on moves only while `en` is high.
`default_nettype none

module ctrl #(
    parameter P = 4,
    parameter LOG_PORTS = 2,
    parameter LOG_JOBS = 2,
    parameter LOG_SLOTS = 4,
    parameter LOG_BEATS = 5,
    // follow from the above
    parameter JOBS = 1 << LOG_JOBS,
    parameter SLOTS = 1 << LOG_SLOTS,
    parameter LOG_KEYS = LOG_JOBS + LOG_SLOTS,
    parameter KEYS = 1 << LOG_KEYS,
    parameter GEN = 32 - LOG_SLOTS,
    parameter ID = GEN + LOG_KEYS
) (
    input wire clk,
    input wire rst,
    input wire en,

    input wire [  P*KEYS-1:0] filled,
    input wire [    JOBS-1:0] job_on,
    input wire [  P*JOBS-1:0] job_members,

    // a repair from the store of sums; the ledger tells whether it still can be done
    input  wire                 sum_valid,
    input  wire [       ID-1:0] sum_id,
    input  wire [LOG_PORTS-1:0] sum_port,
    input  wire                 sum_stored,
    output wire                 sum_taken,
    output wire                 sum_missed,

    output wire                          read,
    output wire [LOG_KEYS+LOG_BEATS-1:0] read_address,

    // one cycle later, with the data: what has been read
    output reg                  got_valid,
    output reg                  got_first,
    output wire                 got_last,
    output reg                  got_repair,
    output reg  [ LOG_KEYS-1:0] got_key,
    output reg  [LOG_PORTS-1:0] got_port,
    // the beat is to be dropped: the packet's headers do not agree
    output wire                 got_dead,
    // what the header says, while got_first
    input  wire [         12:0] head_beats,
    input  wire                 head_mismatch,
    input  wire [      GEN-1:0] head_gen,

    // with the last beat of a fresh sum
    output wire                free,
    output wire [LOG_KEYS-1:0] free_key,
    output wire                free_done,
    output wire [     GEN-1:0] free_gen
);
  // --- which slot is next --------------------------------------------------------------------------
  reg [KEYS-1:0] taken;  // chosen already, not yet free again
  reg [KEYS-1:0] ready;
  reg [JOBS-1:0] job_ready;
  integer j, p;
  always @* begin
    for (j = 0; j < JOBS; j = j + 1) begin
      ready[j*SLOTS+:SLOTS] = ~taken[j*SLOTS+:SLOTS] & {SLOTS{job_on[j] & |job_members[P*j+:P]}};
      for (p = 0; p < P; p = p + 1)
        if (job_members[P*j+p])
          ready[j*SLOTS+:SLOTS] = ready[j*SLOTS+:SLOTS] & filled[p*KEYS+j*SLOTS+:SLOTS];
      job_ready[j] = |ready[j*SLOTS+:SLOTS];
    end
  end

  reg [LOG_JOBS-1:0] last_job;
  reg [LOG_SLOTS*JOBS-1:0] last_slot;
  wire any_ready, any_slot;
  wire [LOG_JOBS-1:0] job;
  wire [LOG_SLOTS-1:0] slot;
  pick #(.LOG(LOG_JOBS)) pick_job (
      .request(job_ready), .last(last_job), .any(any_ready), .index(job)
  );
  pick #(.LOG(LOG_SLOTS)) pick_slot (
      .request(ready[job*SLOTS+:SLOTS]), .last(last_slot[job*LOG_SLOTS+:LOG_SLOTS]),
      .any(any_slot), .index(slot)
  );

  reg next_valid;
  reg [LOG_KEYS-1:0] next_key;
  wire next_taken;
  wire choose = any_ready & (~next_valid | next_taken);
  integer k;
  always @(posedge clk) begin
    if (choose) begin
      next_key <= {job, slot};
      last_job <= job;
      last_slot[job*LOG_SLOTS+:LOG_SLOTS] <= slot;
    end
    if (rst) begin
      next_valid <= 1'b0;
      last_job <= {LOG_JOBS{1'b1}};
      last_slot <= {LOG_SLOTS * JOBS{1'b1}};
      taken <= {KEYS{1'b0}};
    end else begin
      if (next_taken) next_valid <= 1'b0;
      if (choose) next_valid <= 1'b1;
      if (free) taken[free_key] <= 1'b0;
      if (choose) taken[{job, slot}] <= 1'b1;
      for (k = 0; k < JOBS; k = k + 1)
        if (~job_on[k]) begin
          taken[k*SLOTS+:SLOTS] <= {SLOTS{1'b0}};
          last_slot[k*LOG_SLOTS+:LOG_SLOTS] <= {LOG_SLOTS{1'b1}};
        end
      if (~choose & ~job_on[next_key[LOG_KEYS-1:LOG_SLOTS]]) next_valid <= 1'b0;
    end
  end

  // --- reading it ------------------------------------------------------------------------------------
  reg busy, repair, turn;
  reg [LOG_KEYS-1:0] key;
  reg [LOG_PORTS-1:0] port;
  reg [LOG_BEATS:0] beat;    // the next one to read
  reg [LOG_BEATS:0] length;  // payload beats; known once the header was there, two cycles on
  wire finished = ~busy | (|beat[LOG_BEATS:1] & beat > length);

  // A slot that was chosen again has had its repair: nobody can need the old one.
  wire sum_fits = sum_stored & ~taken[sum_id[LOG_KEYS-1:0]];
  wire start_repair = sum_valid & sum_fits & (turn | ~next_valid);
  wire start = finished & (start_repair | next_valid);
  assign sum_missed = sum_valid & ~sum_fits;
  assign sum_taken  = sum_missed | (en & start & start_repair);
  assign next_taken = en & start & ~start_repair;
  wire [LOG_KEYS-1:0] start_key = start_repair ? sum_id[LOG_KEYS-1:0] : next_key;

  assign read = en & (start | ~finished);
  assign read_address = start ? {start_key, {LOG_BEATS{1'b0}}} : {key, beat[LOG_BEATS-1:0]};
  reg [LOG_BEATS:0] got_beat;
  always @(posedge clk) begin
    if (rst) begin
      busy <= 1'b0;
      turn <= 1'b0;
      got_valid <= 1'b0;
    end else if (en) begin
      busy <= start | ~finished;
      got_valid <= read;
      if (start) turn <= ~start_repair;
    end
    if (en) begin
      if (start) begin
        key <= start_key;
        port <= sum_port;
        repair <= start_repair;
        beat <= {{LOG_BEATS{1'b0}}, 1'b1};
      end else begin
        beat <= beat + 1'b1;
      end
      got_first <= start;
      got_key <= start ? start_key : key;
      got_port <= start ? sum_port : port;
      got_repair <= start ? start_repair : repair;
      got_beat <= beat;
    end
  end

  // --- what has been read ----------------------------------------------------------------------------
  reg dead;
  reg [GEN-1:0] gen;
  always @(posedge clk) begin
    if (got_valid & got_first & en) begin
      // Of a packet that does not agree one payload beat is on its way: it ends there.
      length <= head_mismatch ? {{LOG_BEATS{1'b0}}, 1'b1} : head_beats[LOG_BEATS:0];
      dead <= head_mismatch;
      gen <= head_gen;
    end
  end
  assign got_last = ~got_first & got_beat == length;
  assign got_dead = got_first ? head_mismatch : dead;
  assign free = en & got_valid & got_last & ~got_repair;
  assign free_key = got_key;
  assign free_done = free & ~dead & job_on[got_key[LOG_KEYS-1:LOG_SLOTS]];
  assign free_gen = gen + 1'b1;
endmodule

`default_nettype wire
