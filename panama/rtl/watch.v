// Notices a job that stands still: some members' frames are here, others' are not, and for `limit`
// cycles no slot was finished. Then `stalled` pulses, and `missing` names the ports waited for.
`default_nettype none

module watch #(
    parameter P = 4,
    parameter SLOTS = 16
) (
    input  wire             clk,
    input  wire             rst,
    input  wire             on,
    input  wire [    P-1:0] member,
    // of this job, port by port
    input  wire [P*SLOTS-1:0] filled,
    // a slot of this job was finished
    input  wire             progress,
    input  wire [     31:0] limit,
    output reg              stalled,
    output reg  [    P-1:0] missing
);
  reg [SLOTS-1:0] begun;
  reg [P-1:0] absent;
  integer i;
  always @* begin
    begun = {SLOTS{1'b0}};
    for (i = 0; i < P; i = i + 1) if (member[i]) begun = begun | filled[SLOTS*i+:SLOTS];
    for (i = 0; i < P; i = i + 1) absent[i] = member[i] & |(begun & ~filled[SLOTS*i+:SLOTS]);
  end
  reg [31:0] age;
  wire due = age >= limit;
  always @(posedge clk) begin
    stalled <= 1'b0;
    if (rst | ~on) begin
      age <= 32'd0;
      missing <= {P{1'b0}};
    end else if (progress | ~|absent) begin
      age <= 32'd0;
      if (progress) missing <= {P{1'b0}};
    end else if (due) begin
      age <= 32'd0;
      stalled <= 1'b1;
      missing <= absent;
    end else begin
      age <= age + 1'b1;
    end
  end
endmodule

`default_nettype wire
