"""Random aggregation jobs through one switch: what is sent, and what must come out."""

from __future__ import annotations

import hashlib
import random

import attrs
import numpy as np

from panama.rtl.expected import tree_sums
from panama.rtl.registers import JobEntry
from panama.rtl.soak import random_bits
from panama.wire import CE, DOWN, FORMATS, RETX, UP, Header, pack_header


@attrs.define
class Chunk:
    """One PSN of one job: each member's packet and payload, and the sum they must give."""

    packets: dict[int, Header]
    payloads: dict[int, bytes]
    total: bytes
    beats: int


class Job:
    """A job's packets and the state of its marks, as section 3.5 defines them."""

    def __init__(
        self, entry: JobEntry, ports: int, lengths: list[int], fmt: str, words: int, seed: int
    ) -> None:
        self.entry = entry
        self.ports = ports
        self.marks = [0] * ports
        rng = random.Random(seed)
        self.chunks: list[Chunk] = []
        per_beat = 32 if fmt == "bf16" else 16
        member = np.zeros((1, ports), bool)
        member[:, list(entry.members)] = True
        for index, beats in enumerate(lengths):
            psn = index << entry.log_trees | (entry.tree & ((1 << entry.log_trees) - 1))
            nelem = per_beat * beats - rng.choice([0, rng.randrange(per_beat)])
            bits = random_bits(beats, ports, 16, seed=seed * 100_003 + index)
            total = tree_sums(bits, np.repeat(member, beats, axis=0), fmt)
            total[:, words:] = 0  # a narrow build adds only the first words of a beat
            message = rng.getrandbits(32)
            packets = {
                port: Header(
                    job=entry.job, psn=psn, n_elements=nelem, tree=entry.tree,
                    format_code=FORMATS[fmt].code,
                    child=port, message=message, contributors=workers,
                    ecn=CE if rng.random() < 0.2 else rng.choice([1, 2]), dscp=10,
                    exponent=index % 7 - 3,
                )
                for port, workers in zip(entry.members, entry.workers, strict=True)
            }  # fmt: skip
            payloads = {port: bits[:, port].tobytes() for port in entry.members}
            self.chunks.append(Chunk(packets, payloads, total.tobytes(), beats))

    def frame(self, index: int, port: int, flags: int = UP) -> bytes:
        """What a member sends."""
        chunk = self.chunks[index]
        return pack_header(attrs.evolve(chunk.packets[port], flags=flags)) + chunk.payloads[port]

    def expected(self, index: int, ce: bool, again: bool = False) -> bytes:
        """What the switch sends on: to its parent, or as the root to the members."""
        entry, chunk = self.entry, self.chunks[index]
        root = entry.parent is None
        any_packet = next(iter(chunk.packets.values()))
        packet = attrs.evolve(
            any_packet,
            flags=(DOWN if root else UP) | (RETX if again else 0),
            child=0 if root else entry.child,
            contributors=sum(entry.workers),
            ecn=CE if ce else entry.ect,
            source_mac=entry.mac_from,
            target_mac=entry.mac_down if root else entry.mac_up,
            source_ip=entry.ip_from,
            target_ip=entry.ip_down if root else entry.ip_up,
        )
        return pack_header(packet) + chunk.total

    def mark(self, index: int) -> bool:
        """The mark of a fresh sum; call it in the order in which sums leave the switch."""
        entry, chunk = self.entry, self.chunks[index]
        ce = {port: packet.ecn == CE for port, packet in chunk.packets.items()}
        for port in entry.members:
            # As int() rounds towards zero, so does the hardware.
            self.marks[port] += int(((ce[port] << 16) - self.marks[port]) / 50)
        if not entry.worst:
            return any(ce.values())
        return ce[max(entry.members, key=lambda port: (self.marks[port], -port))]

    def to_ports(self) -> int:
        """Bitmap of the ports that a sum goes to."""
        if self.entry.parent is None:
            return sum(1 << port for port in self.entry.members)
        return 1 << self.entry.parent


class Checker:
    """Compares sums as they come with what they must be; knows how far each job is."""

    def __init__(self, jobs: list[Job], log_slots: int) -> None:
        self.jobs = jobs
        self.key = {(job.entry.job, job.entry.tree): n for n, job in enumerate(jobs)}
        self.done: list[set[int]] = [set() for _ in jobs]
        self.next = [0] * len(jobs)
        self.slots = 1 << log_slots
        self.beats = 0
        self.again = 0
        self.wrong: list[str] = []
        self.frames: dict[tuple[int, int], bytes] = {}

    def index_of(self, frame: bytes) -> tuple[int, int]:
        """(job number, index) of a frame."""
        job = self.key[int.from_bytes(frame[44:46], "big"), frame[46]]
        psn = int.from_bytes(frame[48:52], "big")
        return job, psn >> self.jobs[job].entry.log_trees

    def see(self, frame: bytes, user: int) -> None:
        """A fresh sum came out."""
        number, index = self.index_of(frame)
        job = self.jobs[number]
        where = f"job {number} index {index}"
        if index in self.done[number]:
            self._see_again(number, index, frame, user)
            return
        wanted = job.expected(index, job.mark(index))
        if frame != wanted:
            at = next(
                (i for i, (a, b) in enumerate(zip(frame, wanted, strict=False)) if a != b), -1
            )
            self.wrong.append(
                f"{where}: byte {at} of {len(frame)} (wanted {len(wanted)}): "
                f"{frame[at : at + 4].hex()} not {wanted[at : at + 4].hex()}"
            )
        if user != job.to_ports():
            self.wrong.append(f"{where}: sent to {user:b}, not {job.to_ports():b}")
        self.beats += len(frame) // 64
        self.frames[number, index] = frame
        self.done[number].add(index)
        while self.next[number] in self.done[number]:
            self.next[number] += 1

    def _see_again(self, number: int, index: int, frame: bytes, user: int) -> None:
        """A sum that had come before: only as a repair, else with the same bits."""
        entry, old = self.jobs[number].entry, self.frames[number, index]
        where = f"job {number} index {index} again"
        self.again += 1
        if frame != old[:43] + bytes([old[43] | RETX]) + old[44:]:
            self.wrong.append(f"{where}: differs from the first time")
        if entry.parent is None:
            if user not in [1 << port for port in entry.members]:
                self.wrong.append(f"{where}: sent to {user:b}, wanted one member")
        elif user != 1 << entry.parent:
            self.wrong.append(f"{where}: sent to {user:b}, wanted the parent")

    def may_send(self, number: int, index: int) -> bool:
        """Whether the window of a job allows this index."""
        return index < self.next[number] + self.slots

    @property
    def complete(self) -> bool:
        return all(len(d) == len(job.chunks) for d, job in zip(self.done, self.jobs, strict=True))

    def digest(self) -> str:
        """Over the payloads of all sums, whatever the order they came in."""
        total = hashlib.sha256()
        for key in sorted(self.frames):
            total.update(self.frames[key][64:])
        return total.hexdigest()


def random_entries(ports: int, count: int, rng: random.Random) -> list[JobEntry]:
    """Jobs with members, roles and marks at random; the first has every port and is the root."""
    entries = []
    for number in range(count):
        members = sorted(rng.sample(range(ports), rng.randint(2, ports)))
        others = [port for port in range(ports) if port not in members]
        parent = rng.choice(others) if others and rng.random() < 0.6 else None
        if number == 0:
            members, parent = list(range(ports)), None
        log_trees = rng.choice([0, 0, 1, 2])
        entries.append(
            JobEntry(
                job=rng.randrange(2**16 - 8) + number,
                tree=rng.randrange(1 << log_trees),
                members=tuple(members),
                workers=tuple(rng.randint(1, 200) for _ in members),
                parent=parent,
                worst=rng.random() < 0.5,
                log_trees=log_trees,
                ect=rng.choice([1, 2]),
                child=rng.randrange(64),
                ip_from=rng.getrandbits(32),
                ip_up=rng.getrandbits(32),
                ip_down=rng.getrandbits(32),
                mac_up=rng.getrandbits(48),
            )
        )
    return entries
