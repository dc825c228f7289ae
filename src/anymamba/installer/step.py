"""What a plan consists of. {work} and {python} stand for the work folder and the Python of the environment."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class InstallStep:
    """kind: constraints, tools, narrow, sources, build, download, local, dependencies, install or verify.

    commands: each a list of words. environment: set for these commands; PATH is put before the present one.
    files: sources that a build compiles; minutes: (least, most) that it takes, an estimate. beside: it runs at the same time as the step
    before it.
    """

    kind: str
    title: str
    commands: tuple[tuple[str, ...], ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    package: str | None = None
    address: str | None = None
    files: int = 0
    minutes: tuple[float, float] = (0, 0)
    beside: bool = False


@dataclass(frozen=True)
class Choice:
    """route: wheel, source or local."""

    package: str
    version: str
    route: str
    reason: str
    installed: str | None = None


@dataclass(frozen=True)
class Refusal:
    """Why nothing is done, and what to do about it."""

    code: str
    reason: str
    fix: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """route: wheel, source, local, mixed or blocked. first: what to know before anything else.

    minutes: (least, most), an estimate. changes: what will be different afterwards.
    """

    system: str
    route: str
    found: tuple[str, ...]
    first: tuple[str, ...] = ()
    packages: tuple[Choice, ...] = ()
    steps: tuple[InstallStep, ...] = ()
    minutes: tuple[float, float] = (0, 0)
    memory_gb: float = 0
    disk_gb: float = 0
    architecture: str | None = None
    reasons: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    blocked: Refusal | None = None

    def document(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)
