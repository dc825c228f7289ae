"""Runs cases: gate first, then the contenders in turn. A red gate ends a case without a time."""

from __future__ import annotations

import datetime
import gc
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from anymamba.backends import dispatch, machine
from anymamba.bench import official, peers
from anymamba.bench.cases.case import Case, Contender, Contest, Setting
from anymamba.bench.gate import crashed
from anymamba.bench.timing import Effort, Spread, measure
from anymamba.language import _
from anymamba.version import __version__

OURS = "anymamba"


def run(cases: Iterable[Case], setting: Setting, effort: Effort) -> Iterator[dict[str, Any]]:
    """The result of each case as it ends; see ``document`` for what is in it."""
    for case in cases:
        yield run_case(case, setting, effort)
        gc.collect()
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()


def document(results: list[dict[str, Any]], setting: Setting, quick: bool) -> dict[str, Any]:
    """The one JSON document. An entry of results: case; quantity ("time", seconds, or "memory", bytes); gate; backends: op -> who
    computed it; stepper (decode): what read the tokens; ours and each of peers: median, low, high, runs, units (tokens a call).

    For a peer also ratio (ours over it, per unit; below 1 we are better), ratio_fastest (of the fastest runs, which a busy
    machine disturbs least), at_most (the target for ratio, or null) and met; or only missing: the reason."""
    return {
        "anymamba": __version__,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine.facts(),
        "peers": peers.versions(),
        "official": official.SOURCE,
        "device": str(setting.device),
        "backend": setting.backend or "automatic",
        "quick": quick,
        "results": results,
    }


def run_case(case: Case, setting: Setting, effort: Effort) -> dict[str, Any]:
    dispatch.forget()
    result: dict[str, Any] = {"case": case.name, "quantity": case.quantity}
    try:
        contest = case.build(setting)
        verdict = contest.gate()
        dispatch.forget()  # the gate ran the reference and plain PyTorch as well
        if verdict.ok:
            # a backend that gives up on the timed shape is as red as a wrong one; from here on only peers may fail
            contest.ours.run()
    except Exception as error:  # noqa: BLE001 - whatever our side raises is this case's verdict; the other cases still run
        verdict = crashed(error)
    result["gate"] = {"ok": verdict.ok, "why": verdict.why, "error": _number(verdict.error), "plain": _number(verdict.plain)}
    if not verdict.ok:
        return result
    contenders, missing = _contenders(contest, setting)
    if case.quantity == "memory":
        spreads = _memory(contenders, missing)
    else:
        functions = {name: contender.run for name, contender in contenders.items()}
        spreads = measure(functions, setting.device, effort, missing)
    result["backends"] = dispatch.decided()
    if contest.stepper is not None:
        result["stepper"] = contest.stepper()
    ours = spreads.pop(OURS)
    result["ours"] = {**_numbers(ours), "units": contest.ours.units}
    result["peers"] = {name: {"missing": reason} for name, reason in missing.items()}
    for name, spread in spreads.items():
        result["peers"][name] = _beside(case, contest.ours, ours, name, contenders[name].units, spread)
    if case.official_ms is not None:
        constant = Spread(case.official_ms / 1e3, case.official_ms / 1e3, case.official_ms / 1e3, 0)
        beside = _beside(case, contest.ours, ours, peers.OFFICIAL_H100, contest.ours.units, constant)
        result["peers"][peers.OFFICIAL_H100] = beside
    if contest.bytes_read:
        result["bytes_per_second"] = contest.bytes_read / ours.median
        result["of_copy_bandwidth"] = result["bytes_per_second"] / copy_bandwidth(setting.device, effort)
    return result


def _contenders(contest: Contest, setting: Setting) -> tuple[dict[str, Contender], dict[str, str]]:
    """Ours and the peers that can run here, and why the others cannot."""
    contenders, missing = {OURS: contest.ours}, {}
    for name, make in contest.peers.items():
        if isinstance(make, str):
            missing[name] = make
            continue
        if name in contest.slow and not setting.slow:
            missing[name] = _("takes minutes; add --slow")
            continue
        if name in contest.long and setting.quick:
            missing[name] = _("takes long; leave --quick out")
            continue
        try:
            contenders[name] = make()
        except Exception as error:  # noqa: BLE001 - a peer that does not work here is named, and no failure of ours
            missing[name] = f"{type(error).__name__}: {error}"
    return contenders, missing


def _memory(contenders: dict[str, Contender], missing: dict[str, str]) -> dict[str, Spread]:
    spreads = {}
    for name, contender in contenders.items():
        try:
            spreads[name] = Spread.of([float(contender.run())])
        except Exception as error:  # out of memory is an answer here
            if name == OURS:
                raise
            missing[name] = str(error).replace("\n", "; ")
    return spreads


def _beside(case: Case, mine: Contender, ours: Spread, name: str, units: float, theirs: Spread) -> dict[str, Any]:
    ratio = (ours.median / mine.units) / (theirs.median / units)
    fastest = (ours.low / mine.units) / (theirs.low / units)
    at_most = next((target.at_most for target in case.targets if target.peer == name), None)
    met = None if at_most is None else ratio <= at_most
    return {**_numbers(theirs), "units": units, "ratio": ratio, "ratio_fastest": fastest, "at_most": at_most, "met": met}


def copy_bandwidth(device: torch.device, effort: Effort) -> float:
    """Bytes a second read and written by a large copy on the device."""
    size = 2**30 if device.type == "cuda" else 2**28
    source, destination = (torch.zeros(size, dtype=torch.int8, device=device) for _ in range(2))
    spread = measure({"copy": lambda: destination.copy_(source)}, device, effort)["copy"]
    return 2 * size / spread.median


def _numbers(spread: Spread) -> dict[str, float]:
    return {"median": spread.median, "low": spread.low, "high": spread.high, "runs": spread.runs}


def _number(value: float) -> float | None:
    # JSON has no NaN and no infinity
    return value if value == value and abs(value) != float("inf") else None
