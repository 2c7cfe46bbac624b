"""Packets of a message: how many, how much they carry and how long they keep a wire busy."""

import attrs

#: The datapath takes 64 bytes a cycle: headers and payloads are whole beats of so many.
BEAT_BYTES = 64
ETHERNET_BYTES = 14
#: IPv4, UDP and the PANAMA header.
SUM_HEADER_BYTES = 50
#: IPv4 and TCP.
TCP_HEADER_BYTES = 40
#: What a frame takes on the wire beside itself: preamble 8, checksum 4, gap 12.
GAP_BYTES = 24
#: The shortest Ethernet frame with its gap.
LEAST_WIRE_BYTES = 84


@attrs.frozen
class Sizes:
    """Sizes of one kind of packet.

    payload: bytes a full packet carries
    header:  bytes on the wire beside the payload, preamble and gap included
    unit:    payloads are padded to multiples of it
    """

    payload: int
    header: int
    unit: int

    def packets(self, n_bytes: int) -> int:
        """Packets of a message. Raises ValueError if it is empty."""
        if n_bytes < 1:
            raise ValueError(f"a message has at least 1 byte, got {n_bytes}")
        return -(-n_bytes // self.payload)

    def packet_wire_bytes(self, payload_bytes: int) -> int:
        """Bytes one packet takes on the wire."""
        padded = -(-payload_bytes // self.unit) * self.unit
        return max(padded + self.header, LEAST_WIRE_BYTES)

    def packet_payload(self, n_bytes: int, i: int) -> int:
        """Bytes packet i of a message carries: all carry `payload` but the last."""
        return min(self.payload, n_bytes - i * self.payload)

    def message_wire_bytes(self, n_bytes: int) -> int:
        """Bytes a message takes on the wire."""
        full = self.packets(n_bytes) - 1
        last = self.packet_wire_bytes(n_bytes - full * self.payload)
        return full * self.packet_wire_bytes(self.payload) + last

    def frame_bytes(self, payload_bytes: int) -> int:
        """Bytes of one frame as a switch sees it: no preamble, checksum or gap."""
        return self.packet_wire_bytes(payload_bytes) - GAP_BYTES


def aggregation_sizes(mtu: int) -> Sizes:
    """Packets of sums: 22 beats at an MTU of 1500 bytes, 139 at 9000.

    Raises ValueError if not one beat fits.
    """
    beats = (mtu - SUM_HEADER_BYTES) // BEAT_BYTES
    if beats < 1:
        raise ValueError(f"mtu must be at least {SUM_HEADER_BYTES + BEAT_BYTES} bytes, got {mtu}")
    header = ETHERNET_BYTES + SUM_HEADER_BYTES + GAP_BYTES
    return Sizes(beats * BEAT_BYTES, header, BEAT_BYTES)


def dctcp_sizes(mtu: int) -> Sizes:
    """Packets of ordinary flows. Raises ValueError if nothing fits beside the headers."""
    if mtu <= TCP_HEADER_BYTES:
        raise ValueError(f"mtu must be above {TCP_HEADER_BYTES} bytes, got {mtu}")
    header = ETHERNET_BYTES + TCP_HEADER_BYTES + GAP_BYTES
    return Sizes(mtu - TCP_HEADER_BYTES, header, 1)
