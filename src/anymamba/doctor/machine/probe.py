"""What only an import of torch can tell: does it import, what does it see, do the official packages work, who computes anymamba's ops.

All of it is asked of one process, stage after stage, because importing torch is most of the work.
"""

from __future__ import annotations

import importlib.util
from typing import Any, Dict, List

from anymamba.doctor.machine import backends, installed_torch, packages
from anymamba.doctor.machine.command import MARK, Budget

_SAY = """
import json
def tell(stage, facts):
    print({mark!r} + json.dumps({{stage: facts}}), flush=True)
"""


def run(budget: Budget, torch: Dict[str, Any], found: Dict[str, Any]) -> Dict[str, Any]:
    """Adds to the facts of torch and of the packages; returns what there is to know of the backends, and "late": stages without answer."""
    wanted = packages.modules(found)
    # the doctor alone, without the rest of anymamba, has no ops
    ours = importlib.util.find_spec("anymamba.backends") is not None
    stages = ["torch"] + ["packages"] * bool(wanted) + ["backends"] * ours
    code = {"torch": installed_torch.PROBE, "packages": packages.probe_code(wanted), "backends": backends.PROBE}
    results, answer = budget.ask_python(_SAY.format(mark=MARK) + "\n".join(code[stage] for stage in stages))
    missing: List[str] = [stage for stage in stages if stage not in results]
    late = missing if answer.late else []
    torch.update(results.get("torch", {}))
    if "packages" in results:
        packages.take(found, results["packages"])
    if missing and not late:
        # the first stage without result is where the process ended
        if missing[0] == "torch":
            torch.update(error=answer.error or "no answer", output=answer.output[-2000:])
        elif missing[0] == "packages":
            packages.take(found, {"errors": {"import": answer.error or answer.first_line or "no answer"}, "imported": []})
    seen = results.get("backends")
    if seen is None:
        why = (answer.error or "no answer") if ours else "anymamba is not installed here"
        seen = {"error": why}
    return {"backends": seen, "late": late}
