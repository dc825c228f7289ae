"""Facts about this machine, for the rules and for the boxed lines of the report.

Everything that could crash or hang (torch, the extensions, nvcc, nvidia-smi) is asked in other processes, at the same time, and
all of them together have so many seconds. What has not answered by then is not known: no rule may conclude anything from that.
"""

from __future__ import annotations

import copy
import threading
from typing import Any, Callable, Dict, List, Optional

from anymamba.doctor.machine import (
    compiler,
    distributions,
    gpu,
    installed_torch,
    interpreter,
    libraries,
    packages,
    probe,
    system,
    toolkits,
    transformers,
    wheel,
)
from anymamba.doctor.machine.command import Budget, age
from anymamba.doctor.machine.sections import area_of, sections

# for all questions together; `--wait` has more
SECONDS = 2.0
# how old this process is by then on a machine that has nothing else to do
USUAL_AGE = 0.4
# what a thread may need to end after its question was cut off
_GRACE = 0.2


def gather(
    online: bool = False,
    imports: bool = True,
    seconds: Optional[float] = None,
    meanwhile: Callable[[], object] = lambda: None,
) -> Dict[str, Any]:
    """All facts as one JSON-able dictionary, within so many seconds; None for those that a user waits gladly.

    imports=False leaves out what needs torch to be imported. "late" names the areas that were not looked at for want of time.
    meanwhile: done here while the other processes are waited for.
    """
    if seconds is None:
        # on a busy machine the start of this program has taken its share already
        seconds = round(max(SECONDS / 2, SECONDS - max(0.0, age() - USUAL_AGE)), 1)
    budget = Budget(seconds)
    torch = installed_torch.gather()
    found = packages.gather()
    facts: Dict[str, Any] = {"seconds": seconds, "system": system.gather(), "torch": torch, "packages": found}
    facts["backends"] = {"error": "not asked" if torch["installed"] else "torch is not installed"}
    # what a thread that does not end in time leaves behind
    late: Dict[str, Dict[str, Any]] = {
        "gpu": dict(gpu.nothing(), late=True),
        "cuda": dict(toolkits.nothing(), late=True),
        "compiler": dict(compiler.nothing(), late=True),
    }
    probed: Dict[str, Any] = {}
    tasks: List[Callable[[], None]] = [
        lambda: late.update(gpu=gpu.gather(budget)),
        lambda: late.update(_toolkit_and_compiler(budget)),
    ]
    if imports and torch["installed"]:
        # copies: a thread that is late must not change facts under the hands of the rules
        tasks.append(lambda: probed.update(_probe(budget, torch, found)))
    threads = [threading.Thread(target=task, daemon=True) for task in tasks]
    for thread in threads:
        thread.start()
    facts.update(python=interpreter.gather(budget), libraries=libraries.gather(), transformers=transformers.gather())
    meanwhile()
    facts["triton"], facts["torchvision"] = _triton(), distributions.version("torchvision")
    for thread in threads:
        thread.join(budget.left + _GRACE)
    areas = [area for area in late if late[area]["late"]]
    facts.update({area: dict(late[area]) for area in late})
    if imports and torch["installed"]:
        facts.update({area: probed[area] for area in ("torch", "packages", "backends") if area in probed})
        areas += probed.get("late", ["torch", "packages", "backends"])
    facts["late"] = areas
    facts["wheel"] = wheel.gather(facts, online)
    return facts


def rests_on_late(cause: str, facts: Dict[str, Any]) -> bool:
    """Whether a finding of this cause would rest on an area that was not looked at for want of time."""
    return area_of(cause) in set(facts.get("late", ())) & {"gpu", "cuda", "compiler"}


def _toolkit_and_compiler(budget: Budget) -> Dict[str, Dict[str, Any]]:
    cuda = toolkits.gather(budget)
    used = cuda["used"]
    return {"cuda": cuda, "compiler": compiler.gather(used["version"] if used else None, budget)}


def _probe(budget: Budget, torch: Dict[str, Any], found: Dict[str, Any]) -> Dict[str, Any]:
    torch, found = copy.deepcopy(torch), copy.deepcopy(found)
    return dict(probe.run(budget, torch, found), torch=torch, packages=found)


def _triton() -> Dict[str, Any]:
    for name in ("triton", "triton-windows", "pytorch-triton-rocm", "pytorch-triton"):
        version = distributions.version(name)
        if version:
            return {"installed": True, "name": name, "version": version}
    return {"installed": False}


__all__ = ["gather", "rests_on_late", "sections"]
