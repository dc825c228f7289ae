"""Who computes an op. One folder a backend; each may implement any subset of the ops, under the ops' own names.

A backend is a package that has

    OPS: dict[str, str]                        op -> the module of this backend that has a function of that name
    available() -> (bool, str)                 can this backend run here at all (libraries, device), and why
    versions() -> str                          what its results depend on; a new value makes the self-checks run again

and in each op's module, beside the function named like the op,

    supports(call: Call) -> (bool, str)        can it do this call; cheap, deterministic, nothing is launched

and where calls of an op are served by kernels, or plans of a kernel, that a compiler can get right one by one and wrong one by one,

    variant(call: Call) -> str                 the name of the one that this call takes; each is checked apart (OpSpec.probe)
    probe(call: Call) -> list[dict[str, Any]]  sizes for OpSpec.build of small inputs that together take every kernel of the call's
                                               variant, in place of OpSpec.probe where only the backend knows them

A function may raise refusal.NotCompiled before it computes anything: its variant is rejected, and the next backend serves the call.

It may also have

    LEFT_TO_TORCH: frozenset[str]              ops that it lacks on purpose, as plain PyTorch is no slower: nobody is told

and an op's module

    LEFT_TO_REST: frozenset[str]               options (features of a call) that it leaves to the registry entry's ``rest``: nobody is told

The first column, ``torch``, implements every op on every device; all others are optional. To add one: a folder and a line below.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A line of the registry. devices: torch device types it is meant for (empty: all); an automatic choice on another
    device passes it over without a word. nowhere_else: not even an explicit choice runs it there, for its kernels take addresses of
    this kind of memory. checked: compiled or JIT code, trusted only after a self-check. nvidia: meant for the device type "cuda" where
    that is NVIDIA's, not ROCm. rest: the backend that computes the ops that this one lacks, also where this one is asked for."""

    name: str
    module: str
    devices: tuple[str, ...] = ()
    nowhere_else: bool = False
    checked: bool = True
    automatic: bool = True
    nvidia: bool = False
    rest: str = ""


REGISTRY: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("cuda", "anymamba.backends.cuda", devices=("cuda",), nowhere_else=True, nvidia=True, rest="triton"),
        Entry("triton", "anymamba.backends.triton", devices=("cuda", "xpu")),
        Entry("official", "anymamba.backends.official", devices=("cuda",), nowhere_else=True),
        Entry("cpu", "anymamba.backends.cpu", devices=("cpu",), nowhere_else=True),
        Entry("torch", "anymamba.backends.torch", checked=False),
        Entry("reference", "anymamba.reference", checked=False, automatic=False),
    )
}
"""In order of preference. The reference is exact and slow: only an explicit choice runs it."""
