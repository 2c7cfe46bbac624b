"""Ways for a job to sum its gradients: every scheme that can be simulated, and its parameters."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from common.spelling import did_you_mean


@attrs.frozen
class Scheme:
    """How jobs communicate. Derive others by attrs.evolve, under another name.

    collective: messages between hosts (collectives.py), or "" for sums in the network
    order:      of the workers in a collective: as drawn, or rack by rack
    chunks:     of the gradients, which a collective carries out one behind another
    trees, n_trees: which of the possible trees (trees.select); n_trees of k_least_loaded
    law:        how a worker's window answers marks (plan.LAWS)
    ecn_mode:   what mark a sum gets (plan.ECN_MODES)
    per_tree:   a window for each tree, or one over all
    adaptive:   trees by weights from marks, or packet i on tree i mod T; not with per_tree
    slots:      of an aggregator, for each job and tree
    window_bdp: windows are capped at so many products of bandwidth and base delay
    window_cap: packets, a further cap; 0: none
    window_floor: windows are at least this share of a product of bandwidth and base delay
    weight:     share of a link relative to a DCTCP flow
    """

    name: str
    collective: str = ""
    order: Literal["random", "racks"] = "random"
    chunks: int = 1
    trees: str = "all"
    n_trees: int = 1
    law: str = "dctcp"
    ecn_mode: str = "or"
    per_tree: bool = False
    adaptive: bool = False
    slots: int = 256
    window_bdp: float = 4.0
    window_cap: int = 0
    window_floor: float = 0.0
    weight: float = 1.0


#: ATP's senders have at most so many packets out (Lao et al., NSDI 2021).
ATP_PACKETS = 100

#: All schemes, by name. PANAMA's follows its two abstracts; what `panama_plus` adds is ours.
SCHEMES = {
    scheme.name: scheme
    for scheme in (
        Scheme("none"),
        Scheme("ring", collective="ring"),
        Scheme("ring_sorted", collective="ring", order="racks"),
        Scheme("hier_ring", collective="hierarchical_ring", order="racks"),
        # What libraries do: the racks' sums of one chunk travel while the next is being summed.
        Scheme("hier_pipelined", collective="hierarchical_ring", order="racks", chunks=8),
        Scheme("halving_doubling", collective="halving_doubling", order="racks"),
        Scheme("ps", collective="parameter_server"),
        Scheme("ina_single", trees="single_random"),
        # SwitchML (Sapio et al., NSDI 2021) keeps a bandwidth-delay product out, whatever happens.
        Scheme("ina_fixed", trees="single_random", law="fixed", window_bdp=1.0),
        Scheme("ina_atp", trees="single_random", law="aimd_halve", window_cap=ATP_PACKETS),
        Scheme("panama"),
        # Trees by weights need one window over all of them: packets go to trees in one order.
        Scheme("panama_plus", ecn_mode="worst", adaptive=True, window_floor=1.5),
    )
}


def scheme(name: str | Scheme, **changes: Any) -> Scheme:
    """A scheme by its name, with parameters changed; ValueError for a name or parameter unknown."""
    found = scheme_of(name)
    known = [field.name for field in attrs.fields(Scheme)]
    for key in changes:
        if key not in known:
            raise ValueError(
                f"unknown parameter {key!r} of a scheme{did_you_mean(key, known)}; "
                f"there are {', '.join(known)}"
            )
    return attrs.evolve(found, **changes)


def scheme_of(scheme: str | Scheme) -> Scheme:
    """A scheme by its name; ValueError listing the names for one unknown."""
    if isinstance(scheme, Scheme):
        return scheme
    if scheme not in SCHEMES:
        raise ValueError(
            f"unknown scheme {scheme!r}{did_you_mean(scheme, SCHEMES)}; "
            f"there are {', '.join(SCHEMES)}"
        )
    return SCHEMES[scheme]
