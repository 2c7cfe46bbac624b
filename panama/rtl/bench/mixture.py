"""Jobs among ordinary, malformed and repeated frames: what each port sends, and what is due."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from panama.rtl.bench.traffic import Checker, Job
from panama.wire import DOWN, FORMATS, RETX, UP, pack_header

#: What becomes of a frame that comes again: too early it is a duplicate, later a wish for a repair.
_AGAIN = ("DUPLICATE", "REPAIR", "REPAIR_FULL")
_SERVED = ("SUMS_AGAIN", "REPAIR_MISSED", "SUM_GONE", "RESULT_GONE")


@attrs.frozen
class Sending:
    """A frame that may be sent once the window of job `number` is open for `index`.

    damaged: marked so by its port;  fate: name of the counter it must end in, or AGAIN for one of
    several
    """

    number: int
    index: int
    frame: bytes
    damaged: bool = False
    fate: str = "ACCEPTED"


def mixture(
    jobs: list[Job], ports: int, slots: int, noise: float, rng: random.Random
) -> list[list[Sending]]:
    """For each port what it sends, in order;  noise: odd frames for each sound one."""
    plan: list[list[Sending]] = []
    for port, order in enumerate(orders_of_hosts(jobs, ports, slots, rng)):
        plan.append([])
        for number, index in order:
            job = jobs[number]
            if rng.random() < noise:
                plan[port].append(Sending(number, index, *odd_frame(job, index, port, rng)))
            plan[port].append(Sending(number, index, job.frame(index, port)))
            if rng.random() < noise / 3:
                again = job.frame(index, port, UP | RETX)
                plan[port].append(Sending(number, index, again, fate="AGAIN"))
    return plan


def judge(
    plan: Sequence[Sequence[Sending]],
    checker: Checker,
    fates: Sequence[Mapping[str, int]],
    totals: Mapping[str, int],
    passed: Sequence[Sequence[bytes]],
) -> Counter[str]:
    """Hold what the switch counted and passed by against the plan; how many met which fate.

    fates: of each port, and totals, without zeros;  passed: frames that came out of each bypass

    Raises AssertionError with what differs.
    """
    assert checker.complete, [sorted(done)[-1:] for done in checker.done]
    assert not checker.wrong, checker.wrong[:5]
    repairs, all_due = 0, Counter[str]()
    for port, sent in enumerate(plan):
        due = Counter(one.fate for one in sent)
        seen = Counter(fates[port])
        repairs += seen["REPAIR"]
        seen["AGAIN"] = sum(seen.pop(name, 0) for name in _AGAIN)
        assert +seen == due, (port, seen, due)
        plain = [one.frame for one in sent if one.fate == "BYPASSED"]
        assert list(passed[port]) == plain, (port, len(passed[port]), len(plain))
        all_due += due
    assert totals["SUMS"] == sum(len(job.chunks) for job in checker.jobs), totals
    assert sum(totals.get(name, 0) for name in _SERVED) == repairs, (totals, repairs)
    assert totals.get("SUMS_AGAIN", 0) == checker.again
    assert totals.keys() <= {"SUMS", *_SERVED}, totals
    return all_due


def orders_of_hosts(
    jobs: list[Job], ports: int, slots: int, rng: random.Random
) -> list[list[tuple[int, int]]]:
    """For each port the (job, index) of all it sends, in an order in which all can be sent.

    Drawn by letting hosts send at random what the windows of their jobs allow, on a switch that
    takes no time. Each may wait at any frame until its window is open: the first frame in the
    order of drawing that is not sent waits for sums of earlier ones alone, so none waits for ever.
    With an order drawn for each port by itself, two ports soon wait for each other.
    """
    left = [
        [set(range(len(job.chunks))) if port in job.entry.members else set() for job in jobs]
        for port in range(ports)
    ]
    missing = [[len(job.entry.members)] * len(job.chunks) for job in jobs]
    base = [0] * len(jobs)
    orders: list[list[tuple[int, int]]] = [[] for _ in range(ports)]
    while True:
        choices = [
            (port, number)
            for port in range(ports)
            for number in range(len(jobs))
            if any(i in left[port][number] for i in range(base[number], base[number] + slots))
        ]
        if not choices:
            return orders
        port, number = rng.choice(choices)
        window = range(base[number], base[number] + slots)
        index = rng.choice([i for i in window if i in left[port][number]])
        left[port][number].remove(index)
        orders[port].append((number, index))
        missing[number][index] -= 1
        of_job = missing[number]
        while base[number] < len(of_job) and not of_job[base[number]]:
            base[number] += 1


def odd_frame(job: Job, index: int, port: int, rng: random.Random) -> tuple[bytes, bool, str]:
    """A frame that must change nothing: itself, whether it comes damaged, and its fate.

    Sent before the true frame of `index`, which the slot therefore still waits for.
    """
    chunk = job.chunks[index]
    packet, payload = chunk.packets[port], chunk.payloads[port]
    frame = pack_header(packet) + payload
    choice = rng.randrange(14)
    if choice == 0:
        return (
            rng.randbytes(12) + b"\x08\x06" + rng.randbytes(rng.randint(28, 300)),
            False,
            "BYPASSED",
        )
    if choice == 1:
        other = pack_header(attrs.evolve(packet, target_port=53)) + payload
        return other, False, "BYPASSED"
    if choice == 2:
        return pack_header(attrs.evolve(packet, version=9)) + payload, False, "HEADER"
    if choice == 3:  # a wrong checksum
        return frame[:24] + bytes([frame[24] ^ 0x40]) + frame[25:], False, "HEADER"
    if choice == 4:
        return (
            pack_header(attrs.evolve(packet, format_code=(packet.format_code + 1) % len(FORMATS)))
            + payload,
            False,
            "HEADER",
        )
    if choice == 5:
        return pack_header(attrs.evolve(packet, flags=UP | DOWN)) + payload, False, "HEADER"
    if choice == 6:
        return pack_header(attrs.evolve(packet, tree=200)) + payload, False, "UNKNOWN_JOB"
    if choice == 7:  # a result from a child
        return pack_header(attrs.evolve(packet, flags=DOWN)) + payload, False, "NOT_MEMBER"
    if choice == 8:
        return pack_header(attrs.evolve(packet, contributors=999)) + payload, False, "CONTRIBUTORS"
    if choice == 9:
        return pack_header(attrs.evolve(packet, n_elements=0)) + payload, False, "LENGTH"
    if choice == 10:
        ahead = pack_header(attrs.evolve(packet, psn=packet.psn + (1 << 20))) + payload
        return ahead, False, "AHEAD"
    if choice == 11:
        return frame[:-64], False, "CUT"
    if choice == 12:
        return frame, True, "CUT"
    return frame + rng.randbytes(64), False, "OVERLONG"
