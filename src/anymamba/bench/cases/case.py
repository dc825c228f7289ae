"""What a case of the bench is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from anymamba.bench.gate import Gate

FLOOR = "matrix products alone"
"""The name of the contender that no implementation can beat."""


@dataclass(frozen=True)
class Setting:
    """device; backend: what ``--backend`` asked for, None for the automatic choice; slow: also run the peers that take minutes;
    quick: leave out those that take a quarter of a minute, too."""

    device: torch.device
    backend: str | None = None
    slow: bool = False
    quick: bool = False


@dataclass
class Contender:
    """run: what is timed. units: tokens that a call handles; times are compared per unit."""

    run: Callable[[], Any]
    units: float = 1.0


@dataclass
class Contest:
    """One case, ready to run. peers: made when their turn comes (their memory is large); a str is the reason why one is missing.

    bytes_read: what a call of ours must read from memory at least, when that bounds it (decode: the weights).
    stepper: after a run, what read the tokens one by one (decode). slow: names of the peers that take minutes; long: of those that
    --quick has no time for."""

    ours: Contender
    gate: Callable[[], Gate]
    peers: dict[str, Callable[[], Contender] | str] = field(default_factory=dict)
    bytes_read: float = 0
    stepper: Callable[[], str] | None = None
    slow: frozenset[str] = frozenset()
    long: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Target:
    """What a case must reach: our time at most ``at_most`` times the peer's, so 1/60 is "60 times faster"."""

    peer: str
    at_most: float


@dataclass(frozen=True)
class Case:
    """name: kind/what/shape, matched by --only. quick: part of --quick. seconds: about how long that takes there on two cores.

    quantity: "time", "memory". official_ms: mamba-ssm on an H100, bf16, see official.py; comparable on that card only, shown as a
    ratio on every CUDA device."""

    name: str
    device_type: str
    build: Callable[[Setting], Contest]
    quick: bool = False
    quantity: str = "time"
    targets: tuple[Target, ...] = ()
    official_ms: float | None = None
    seconds: float = 3.0
