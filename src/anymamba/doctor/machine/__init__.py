"""Facts about this machine, for the rules and for the boxed lines of the report.

Everything that could crash or hang (torch, the extensions, nvcc, nvidia-smi) is asked in another process with a time limit,
and the slow ones at the same time.
"""

from __future__ import annotations

import threading
from typing import Any, Callable, Dict, List

from anymamba.doctor.machine import (
    backends,
    compiler,
    distributions,
    gpu,
    installed_torch,
    interpreter,
    libraries,
    packages,
    system,
    toolkits,
    transformers,
    wheel,
)
from anymamba.doctor.machine.sections import sections

# seconds that an import of torch may take before the doctor goes on without it
IMPORT_LIMIT = 12.0


def gather(online: bool = False, imports: bool = True) -> Dict[str, Any]:
    """All facts as one JSON-able dictionary. imports=False leaves out what needs torch to be imported."""
    facts: Dict[str, Any] = {"system": system.gather(), "python": interpreter.gather(), "libraries": libraries.gather()}
    torch = installed_torch.gather()
    found = packages.gather()
    facts["torch"], facts["packages"] = torch, found
    facts["transformers"] = transformers.gather()
    facts["triton"] = _triton()
    slow: List[Callable[[], None]] = [_store(facts, "gpu", gpu.gather), _store(facts, "cuda", toolkits.gather)]
    if imports:
        slow.append(_store(facts, "backends", lambda: backends.gather(IMPORT_LIMIT)))
        if torch["installed"]:
            slow.append(lambda: torch.update(installed_torch.probe(IMPORT_LIMIT)))
            slow.append(lambda: packages.probe(found, IMPORT_LIMIT))
    else:
        facts["backends"] = {"error": "not asked"}
    threads = [threading.Thread(target=task) for task in slow]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    used = facts["cuda"]["used"]
    facts["compiler"] = compiler.gather(used["version"] if used else None)
    facts["wheel"] = wheel.gather(torch, online)
    return facts


def _store(facts: Dict[str, Any], key: str, task: Callable[[], Dict[str, Any]]) -> Callable[[], None]:
    def run() -> None:
        facts[key] = task()

    return run


def _triton() -> Dict[str, Any]:
    for name in ("triton", "triton-windows", "pytorch-triton-rocm", "pytorch-triton"):
        version = distributions.version(name)
        if version:
            return {"installed": True, "name": name, "version": version}
    return {"installed": False}


__all__ = ["gather", "sections"]
