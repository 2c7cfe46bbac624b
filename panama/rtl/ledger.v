// For every slot: which generation was finished last, and whether its sum is stored here and its
// result cached. Answers `latest` for a generation that is the one finished last.
// Four readers, each with {generation, slot}; answers in the same cycle.
`default_nettype none

module ledger #(
    parameter LOG_JOBS = 2,
    parameter LOG_SLOTS = 4,
    // follow from the above
    parameter JOBS = 1 << LOG_JOBS,
    parameter LOG_KEYS = LOG_JOBS + LOG_SLOTS,
    parameter KEYS = 1 << LOG_KEYS,
    parameter GEN = 32 - LOG_SLOTS,
    parameter ID = GEN + LOG_KEYS
) (
    input wire clk,
    input wire rst,
    input wire [JOBS-1:0] job_on,
    // a slot was summed; free_gen is the generation that it waits for now
    input wire free_done,
    input wire [LOG_KEYS-1:0] free_key,
    input wire [GEN-1:0] free_gen,
    // the last beat of a sum went out and into the store
    input wire stored_set,
    input wire [ID-1:0] stored_id,
    // the last beat of a result from the parent went into the cache
    input wire cached_set,
    input wire [ID-1:0] cached_id,

    input wire [4*ID-1:0] ask,
    output wire [3:0] latest,
    output wire [3:0] is_stored,
    output wire [3:0] is_cached
);
  reg [GEN-1:0] gen[0:KEYS-1];
  reg [KEYS-1:0] touched, stored, cached;

  genvar i;
  generate
    for (i = 0; i < 4; i = i + 1) begin : g_reader
      wire [LOG_KEYS-1:0] key = ask[ID*i+:LOG_KEYS];
      wire [GEN-1:0] asked = ask[ID*i+LOG_KEYS+:GEN];
      assign latest[i] = touched[key] & gen[key] == asked + 1'b1;
      assign is_stored[i] = latest[i] & stored[key];
      assign is_cached[i] = latest[i] & cached[key];
    end
  endgenerate

  wire [LOG_KEYS-1:0] stored_key = stored_id[LOG_KEYS-1:0];
  wire [LOG_KEYS-1:0] cached_key = cached_id[LOG_KEYS-1:0];
  // What comes late belongs to a generation that is no longer the last one: it must not count.
  wire stored_fits = touched[stored_key] & gen[stored_key] == stored_id[ID-1:LOG_KEYS] + 1'b1;
  wire cached_fits = touched[cached_key] & gen[cached_key] == cached_id[ID-1:LOG_KEYS] + 1'b1;
  integer k;
  always @(posedge clk) begin
    if (free_done) gen[free_key] <= free_gen;
    if (rst) begin
      touched <= {KEYS{1'b0}};
      stored  <= {KEYS{1'b0}};
      cached  <= {KEYS{1'b0}};
    end else begin
      if (stored_set & stored_fits) stored[stored_key] <= 1'b1;
      if (cached_set & cached_fits) cached[cached_key] <= 1'b1;
      if (free_done) begin
        touched[free_key] <= 1'b1;
        stored[free_key]  <= 1'b0;
        cached[free_key]  <= 1'b0;
      end
      for (k = 0; k < JOBS; k = k + 1)
        if (~job_on[k]) touched[k<<LOG_SLOTS+:1<<LOG_SLOTS] <= {(1 << LOG_SLOTS) {1'b0}};
    end
  end
endmodule

`default_nettype wire
