"""Whole-switch tests: each scenario sends frames, checks every one that comes out, and reports."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import Any

import attrs
import cocotb

from panama.rtl.bench.exchange import bench_arguments, report
from panama.rtl.bench.harness import Harness
from panama.rtl.bench.mixture import judge, mixture
from panama.rtl.bench.traffic import Checker, Job, random_entries
from panama.rtl.registers import JobEntry
from panama.wire import (
    CE,
    DOWN,
    FORMATS,
    RETX,
    UP,
    MalformedFrame,
    ipv4_checksum,
    pack_header,
    unpack_header,
)

Told = dict[str, Any]


@cocotb.test()
async def scenario(dut: Any) -> None:
    """The scenario that the arguments name."""
    told = bench_arguments()
    await SCENARIOS[told["scenario"]](dut, told)


async def mixed(dut: Any, told: Told) -> None:
    """Random jobs, orders and lengths among ordinary, malformed and repeated frames."""
    rng = random.Random(told["seed"])
    ports, slots = told["ports"], 1 << told["log_slots"]
    entries = random_entries(ports, told["jobs"], rng)
    lengths = [[rng.randint(1, told["beats"]) for _ in range(told["packets"])] for _ in entries]
    jobs = [
        Job(entry, ports, lengths[n], told["fmt"], told["words"], told["seed"] * 64 + n)
        for n, entry in enumerate(entries)
    ]
    harness = Harness(dut, ports, told["pauses"], told["order_seed"])
    checker = Checker(jobs, told["log_slots"])
    await harness.start(entries)
    cocotb.start_soon(_collect(harness, checker))
    order = random.Random(told["order_seed"])
    plan = mixture(jobs, ports, slots, told["noise"], order)

    async def member(port: int) -> None:
        for one in plan[port]:
            may = partial(checker.may_send, one.number, one.index)
            await _until(harness, may, told["patience"], checker)
            harness.send(port, one.frame, one.damaged)
        await harness.flush(port)

    tasks = [cocotb.start_soon(member(port)) for port in range(ports)]
    for task in tasks:
        await task
    await _until(harness, lambda: checker.complete, told["patience"], checker)
    await harness.idle(400)
    passed = [[bytes(f.tdata) for f in _all(harness.bypass[port])] for port in range(ports)]
    fates = [await harness.fates(port) for port in range(ports)]
    due = judge(plan, checker, fates, await harness.totals(), passed)
    report({"beats": checker.beats, "frames": sum(harness.sent), "digest": checker.digest(),
            "fates": dict(due)})  # fmt: skip


async def opposite_orders(dut: Any, told: Told) -> None:
    """Port 0 sends all it may of job A first, port 1 of job B: neither may block the other."""
    ports = 2
    entries = [JobEntry(job=n, tree=0, members=(0, 1), workers=(1, 1)) for n in (1, 2)]
    slots = 1 << told["log_slots"]
    jobs = [Job(e, ports, [2] * slots, "fp32", told["words"], n) for n, e in enumerate(entries)]
    harness = Harness(dut, ports, told["pauses"], told["seed"])
    checker = Checker(jobs, told["log_slots"])
    await harness.start(entries)
    cocotb.start_soon(_collect(harness, checker))
    for port in range(ports):
        for number in (0, 1) if port == 0 else (1, 0):
            for index in range(slots):
                harness.send(port, jobs[number].frame(index, port))
    await _until(harness, lambda: checker.complete, told["patience"], checker)
    assert not checker.wrong, checker.wrong
    report({"totals": await harness.totals()})


async def silent_member(dut: Any, told: Told) -> None:
    """A member that never sends stops its own job alone, and is named."""
    ports, slots = 3, 1 << told["log_slots"]
    entries = [JobEntry(job=n, tree=0, members=(0, 1, 2), workers=(1, 1, 1)) for n in (1, 2)]
    jobs = [Job(e, ports, [2] * 3 * slots, "fp32", told["words"], n) for n, e in enumerate(entries)]
    harness = Harness(dut, ports, told["pauses"], told["seed"])
    checker = Checker(jobs, told["log_slots"])
    await harness.start(entries)
    await harness.axil.write_dword(0xC004, 500)
    cocotb.start_soon(_collect(harness, checker))
    for index in range(slots):
        for port in (0, 2):
            harness.send(port, jobs[0].frame(index, port))
    # Beyond the window there is no room: such a frame is dropped, not waited for.
    harness.send(0, jobs[0].frame(slots, 0))
    await harness.flush(0)
    for index in range(3 * slots):
        await _until(harness, lambda i=index: checker.may_send(1, i), told["patience"], checker)
        for port in range(ports):
            harness.send(port, jobs[1].frame(index, port))
    await _until(harness, lambda: len(checker.done[1]) == 3 * slots, told["patience"], checker)
    await harness.idle(1200)
    assert not checker.wrong, checker.wrong
    assert not checker.done[0]
    assert await harness.read(4 * 16) >= 1  # job 0 stood still
    assert await harness.read(4 * 17) == 0b010  # for port 1
    assert await harness.read(0x200 + 4 * 16) == 0
    assert (await harness.fates(0))["AHEAD"] == 1
    # It wakes up: nothing of what waited is lost.
    for index in range(slots):
        harness.send(1, jobs[0].frame(index, 1))
    await _until(harness, lambda: len(checker.done[0]) == slots, told["patience"], checker)
    assert not checker.wrong, checker.wrong
    await harness.idle(50)
    assert await harness.read(4 * 17) == 0
    report({"totals": await harness.totals()})


async def lost_result(dut: Any, told: Told) -> None:
    """Who sends a finished PSN again gets the result, or makes us ask for it with our own sum."""
    ports, slots = 4, 1 << told["log_slots"]
    root = JobEntry(job=1, tree=0, members=(0, 1, 2), workers=(1, 2, 3))
    below = JobEntry(job=2, tree=0, members=(0, 1, 2), workers=(1, 2, 3), parent=3, child=5)
    jobs = [Job(e, ports, [3, 1] * slots, "fp32", told["words"], n)
            for n, e in enumerate((root, below))]  # fmt: skip
    harness = Harness(dut, ports, told["pauses"], told["seed"])
    checker = Checker(jobs, told["log_slots"])
    await harness.start([root, below])
    collecting = cocotb.start_soon(_collect(harness, checker))
    for job in jobs:
        for index in range(slots):
            for port in (0, 1, 2):
                harness.send(port, job.frame(index, port))
    await _until(harness, lambda: all(n == slots for n in checker.next), told["patience"], checker)
    assert not checker.wrong, checker.wrong
    collecting.cancel()

    async def ask(number: int, index: int, port: int) -> None:
        harness.send(port, jobs[number].frame(index, port, UP | RETX))

    def sum_again(number: int, index: int) -> bytes:
        old = checker.frames[number, index]
        return old[:43] + bytes([old[43] | RETX]) + old[44:]

    # The root: the result goes to the one that asked.
    await ask(0, 0, 1)
    assert await _frame(harness.sums) == (sum_again(0, 0), 0b0010)
    await ask(0, slots - 1, 2)
    assert await _frame(harness.sums) == (sum_again(0, slots - 1), 0b0100)
    # Below it, before the result came by: our own sum goes up, marked as sent again.
    await ask(1, 0, 0)
    assert await _frame(harness.sums) == (sum_again(1, 0), 0b1000)
    # The result comes down and goes to all children, and is kept for those that ask for it.
    results = {}
    for index in (0, 1):
        chunk = jobs[1].chunks[index]
        packet = attrs.evolve(
            next(iter(chunk.packets.values())), flags=DOWN, child=0, contributors=60, ecn=CE
        )
        payload = bytes(reversed(chunk.total))
        harness.send(3, pack_header(packet) + payload)
        results[index] = pack_header(attrs.evolve(
            packet, source_mac=below.mac_from, target_mac=below.mac_down, source_ip=below.ip_from,
            target_ip=below.ip_down,
        )) + payload  # fmt: skip
        assert await _frame(harness.down) == (results[index], 0b0111)
    await harness.idle(20)
    for index, port in ((0, 2), (1, 0), (0, 0)):
        again = results[index][:43] + bytes([DOWN | RETX]) + results[index][44:]
        await ask(1, index, port)
        assert await _frame(harness.down) == (again, 1 << port)
    # A slot that has moved on has nothing old to give.
    for port in (0, 1, 2):
        harness.send(port, jobs[1].frame(slots, port))
    await _frame(harness.sums)
    await ask(1, 0, 1)
    await _settled(harness)
    assert harness.sums.empty()
    assert harness.down.empty()
    # And results from elsewhere than the parent, or of what we never summed, go nowhere.
    stray = attrs.evolve(packet, psn=slots + 1)
    harness.send(3, pack_header(stray) + payload)
    harness.send(2, pack_header(packet) + payload)
    await _settled(harness)
    assert harness.sums.empty()
    assert harness.down.empty()
    totals = await harness.totals()
    assert totals["REPAIR_MISSED"] == 1, totals
    assert totals["SUMS_AGAIN"] == 3
    assert totals["SENT_DOWN"] == 2 + 3
    assert (await harness.fates(3)) == {"RELAYED": 2, "AHEAD": 1}
    assert (await harness.fates(2))["NOT_MEMBER"] == 1
    report({"totals": totals})


async def cut_frames(dut: Any, told: Told) -> None:
    """Frames that end early, run on or are damaged leave no trace but a count."""
    ports = 3
    entry = JobEntry(job=7, tree=0, members=(0, 1, 2), workers=(1, 1, 1))
    job = Job(entry, ports, [3] * 4, "fp32", told["words"], 3)
    harness = Harness(dut, ports, told["pauses"], told["seed"])
    checker = Checker([job], told["log_slots"])
    await harness.start([entry])
    cocotb.start_soon(_collect(harness, checker))
    good = job.frame(0, 1)
    for index in range(4):
        harness.send(0, job.frame(index, 0))
        harness.send(2, job.frame(index, 2))
    for length in (64, 128, 192, 65, 200, 255):
        harness.send(1, good[:length])
    harness.send(1, good, damaged=True)
    harness.send(1, good + bytes(64))
    harness.send(1, good + bytes(64 * 40))
    harness.send(1, good[:60])  # too short for a header: not ours to read
    await harness.flush(1)
    await harness.idle(100)
    assert not checker.done[0]
    for index in range(4):
        harness.send(1, job.frame(index, 1))
    await _until(harness, lambda: checker.complete, told["patience"], checker)
    assert not checker.wrong, checker.wrong
    fates = await harness.fates(1)
    assert fates == {"ACCEPTED": 4, "CUT": 7, "OVERLONG": 2, "LENGTH": 1}, fates
    report({"fates": fates})


async def fuzzed_headers(dut: Any, told: Told) -> None:
    """Headers with a byte changed meet the fate that panama.wire and the tables give them."""
    rng = random.Random(told["seed"])
    slots = 1 << told["log_slots"]
    entry = JobEntry(job=7, tree=1, members=(0, 1), workers=(5, 5), parent=None)
    job = Job(entry, 2, [1] * slots, told["fmt"], told["words"], 3)
    harness = Harness(dut, 2, told["pauses"], told["seed"])
    await harness.start([entry])
    filled: set[int] = set()
    wanted = Counter[str]()
    for turn in range(told["turns"]):
        frame = bytearray(job.frame(rng.randrange(slots), 0))
        for _ in range(rng.choice([0, 1, 1, 1, 2])):
            frame[turn % 64] ^= 3 if turn % 128 == 43 else rng.choice([1, 2, 4, 8, 16, 32, 64, 128])
        if rng.random() < 0.7:  # most changes of the IPv4 header with the checksum that they need
            frame[24:26] = b"\0\0"
            frame[24:26] = ipv4_checksum(bytes(frame[14:34])).to_bytes(2, "big")
        fate = _fate(bytes(frame), entry, FORMATS[told["fmt"]].code, filled, slots)
        wanted[fate] += 1
        harness.send(0, bytes(frame))
    await harness.flush(0)
    await harness.idle(50)
    seen = await harness.fates(0)
    assert seen == dict(wanted), (seen, wanted)
    report({"fates": seen})


def _fate(frame: bytes, entry: JobEntry, code: int, filled: set[int], slots: int) -> str:
    """Of a frame on port 0, by the definition of the wire and by section 3.5."""
    length_is_wrong = False
    try:
        header = unpack_header(frame)
    except MalformedFrame as error:
        if error.cause != "length":
            return "BYPASSED" if error.cause == "protocol" else "HEADER"
        length_is_wrong = True
        header = unpack_header(_with_length(frame))
    if header.format_code != code or header.flags not in (UP, DOWN, UP | RETX, DOWN | RETX):
        return "HEADER"
    if (header.job, header.tree) != (entry.job, entry.tree):
        return "UNKNOWN_JOB"
    if header.flags & DOWN:
        return "NOT_MEMBER"
    if length_is_wrong or header.n_elements == 0:
        return "LENGTH"
    if header.child != 0 or header.contributors != entry.workers[0]:
        return "CONTRIBUTORS"
    if header.psn >= slots:
        return "AHEAD"
    if header.psn in filled:
        return "DUPLICATE"
    filled.add(header.psn)
    return "ACCEPTED"


def _with_length(frame: bytes) -> bytes:
    """The frame with one element and the lengths that fit it, so that the rest can be read."""
    whole = bytearray(frame[:128])
    whole[54:56] = (1).to_bytes(2, "big")
    whole[16:18] = (50 + 64).to_bytes(2, "big")
    whole[38:40] = (30 + 64).to_bytes(2, "big")
    whole[24:26] = b"\0\0"
    whole[24:26] = ipv4_checksum(bytes(whole[14:34])).to_bytes(2, "big")
    return bytes(whole)


async def disagreement(dut: Any, told: Told) -> None:
    """Members that do not agree on a packet's length or scale lose that packet, no other one."""
    ports = 2
    entries = [JobEntry(job=n, tree=0, members=(0, 1), workers=(1, 1)) for n in (1, 2)]
    jobs = [Job(e, ports, [4] * 6, "fp32", told["words"], n) for n, e in enumerate(entries)]
    harness = Harness(dut, ports, told["pauses"], told["seed"])
    checker = Checker(jobs, told["log_slots"])
    await harness.start(entries)
    cocotb.start_soon(_collect(harness, checker))
    chunk = jobs[0].chunks[0]
    wrong = (
        pack_header(attrs.evolve(chunk.packets[1], exponent=9)) + chunk.payloads[1],
        pack_header(attrs.evolve(chunk.packets[1], n_elements=20)) + chunk.payloads[1][:128],
        pack_header(attrs.evolve(chunk.packets[1], message=1)) + chunk.payloads[1],
    )
    for frame in wrong:
        harness.send(0, jobs[0].frame(0, 0))
        harness.send(1, frame)
        harness.send(0, jobs[1].frame(len(checker.done[1]), 0))
        harness.send(1, jobs[1].frame(len(checker.done[1]), 1))
        await _settled(harness)
    assert not checker.done[0]
    assert len(checker.done[1]) == 3
    for port in range(ports):
        harness.send(port, jobs[0].frame(0, port))
    await _until(harness, lambda: len(checker.done[0]) == 1, told["patience"], checker)
    assert not checker.wrong, checker.wrong
    totals = await harness.totals()
    assert totals == {"SUMS": 4, "DISCARDED": 3}, totals
    report({"totals": totals})


async def full_buffers(dut: Any, told: Told) -> None:
    """With every way out blocked the inputs still take all that comes, and count what is lost."""
    ports, slots = 2, 1 << told["log_slots"]
    entries = [JobEntry(job=1, tree=0, members=(0, 1), workers=(1, 1))]
    jobs = [Job(entries[0], ports, [2] * 2 * slots, "fp32", told["words"], 5)]
    harness = Harness(dut, ports, 0.0, told["seed"])
    checker = Checker(jobs, told["log_slots"])
    await harness.start(entries)
    cocotb.start_soon(_collect(harness, checker))
    for index in range(slots):
        for port in range(ports):
            harness.send(port, jobs[0].frame(index, port))
    await _settled(harness)
    for sink in (harness.sums, *harness.bypass):
        sink.pause = True
    plain = bytes(range(64)) * 10
    for _ in range(40):
        harness.send(0, plain)
    for _ in range(12):  # repairs that nobody takes: the queue holds some, the rest is dropped
        harness.send(1, jobs[0].frame(0, 1, UP | RETX))
    for port in range(ports):
        await harness.flush(port)
    await harness.idle(100)
    fates = [await harness.fates(port) for port in range(ports)]
    assert fates[0]["BYPASSED"] + fates[0]["BYPASS_FULL"] == 40, fates
    assert fates[0]["BYPASS_FULL"] > 0, fates
    assert fates[1]["REPAIR"] + fates[1]["REPAIR_FULL"] == 12, fates
    assert fates[1]["REPAIR_FULL"] > 0, fates
    for sink in (harness.sums, *harness.bypass):
        sink.pause = False
    harness.sums.clear()
    await _settled(harness)
    passed = [bytes(frame.tdata) for frame in _all(harness.bypass[0])]
    assert passed == [plain] * fates[0]["BYPASSED"]
    report({"fates": fates, "totals": await harness.totals()})


async def switched_off(dut: Any, told: Told) -> None:
    """An entry that is switched off forgets its slots; the next job in it starts from zero."""
    ports = 2
    entry = JobEntry(job=1, tree=0, members=(0, 1), workers=(1, 1))
    later = attrs.evolve(entry, job=2, workers=(3, 4))
    jobs = [Job(e, ports, [2] * 9, "fp32", told["words"], n) for n, e in enumerate((entry, later))]
    harness = Harness(dut, ports, told["pauses"], told["seed"])
    checker = Checker(jobs, told["log_slots"])
    await harness.start([entry])
    cocotb.start_soon(_collect(harness, checker))
    for index in range(4):
        harness.send(0, jobs[0].frame(index, 0))
    for index in range(3):
        harness.send(1, jobs[0].frame(index, 1))
    await _settled(harness)
    assert len(checker.done[0]) == 3
    await harness.set_job(0, later)
    harness.send(1, jobs[0].frame(3, 1))
    for index in range(9):
        await _until(harness, lambda i=index: checker.may_send(1, i), told["patience"], checker)
        for port in range(ports):
            harness.send(port, jobs[1].frame(index, port))
    await _until(harness, lambda: len(checker.done[1]) == 9, told["patience"], checker)
    assert not checker.wrong, checker.wrong
    assert (await harness.fates(1))["UNKNOWN_JOB"] == 1
    report({"totals": await harness.totals()})


SCENARIOS = {
    each.__name__: each
    for each in (
        mixed, opposite_orders, silent_member, lost_result, cut_frames, disagreement,
        full_buffers, switched_off, fuzzed_headers,
    )
}  # fmt: skip


async def _collect(harness: Harness, checker: Checker) -> None:
    while True:
        checker.see(*(await _frame(harness.sums)))


async def _frame(sink: Any) -> tuple[bytes, int]:
    frame = await sink.recv(compact=False)
    user = frame.tuser[0] if isinstance(frame.tuser, list) else frame.tuser
    return bytes(frame.tdata), int(user)


def _all(sink: Any) -> list[Any]:
    frames = []
    while not sink.empty():
        frames.append(sink.recv_nowait())
    return frames


async def _until(harness: Harness, done: Any, patience: int, checker: Checker) -> None:
    """Wait for a condition; patience in cycles. Fails with how far the jobs have come."""
    for _ in range(patience // 5):
        if done():
            return
        await harness.idle(5)
    state = [(len(d), len(job.chunks)) for d, job in zip(checker.done, checker.jobs, strict=True)]
    raise AssertionError(f"stands still: {state} sums of each job, {checker.wrong[:3]}")


async def _settled(harness: Harness) -> None:
    """All that was queued is sent, and time enough has passed for its consequences."""
    for port in range(harness.ports):
        await harness.flush(port)
    await harness.idle(300)
