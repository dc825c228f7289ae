"""nvcc and torch are of different CUDA major versions."""

from __future__ import annotations

from typing import Any, Dict, Optional

from anymamba.doctor import versions
from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, Match, Rule, Signature, match_signatures

_MISMATCH = r"The detected CUDA version \((?:%s|[\d.]+)\) mismatches the version that was used to compile ?PyTorch"


def _log(log: Log) -> Optional[Match]:
    match = match_signatures(
        log, (Signature(r"The detected CUDA version \((?:%s|[\d.]+)\) mismatches the version", bare=True),)
    )
    if not match:
        return None
    values = {}
    numbers = log.search(
        _MISMATCH + r" ?\((?:%s)\)(?:.|\n){0,400}?['\"](\d+\.\d+)['\"], ['\"](\d+\.\d+)['\"]"
    ) or log.search(
        r"The detected CUDA version \(([\d.]+)\) mismatches the version that was used to compile PyTorch \(([\d.]+)\)"
    )
    if numbers:
        values = _values(numbers.group(1), numbers.group(2), log.facts.get("torch_installed") or log.facts.get("torch_of_build"))
    return match._replace(values=values)


def _values(nvcc: str, torch_cuda: str, torch: Optional[str]) -> Dict[str, str]:
    """The toolkit of torch's CUDA, and a torch of nvcc's CUDA."""
    known = torch.split("+")[0] if torch else None
    version, index = versions.torch_with_cuda(known, nvcc)
    if index[2:4] != nvcc.split(".")[0]:
        version, index = versions.torch_with_cuda(None, nvcc)
    return {"toolkit": torch_cuda, "toolkit_dashed": torch_cuda.replace(".", "-"), "nvcc_torch": version, "nvcc_cuda": index}


def _machine(facts: Dict[str, Any]) -> Optional[Match]:
    nvcc, torch = facts["cuda"]["used"], facts["torch"].get("cuda")
    if not nvcc or not torch or facts["packages"]["working"] or not facts["gpu"]["nvidia"]:
        return None
    if nvcc["version"].split(".")[0] == torch.split(".")[0]:
        return None
    lines = ("{} {}".format(nvcc["path"], nvcc["version"]), "torch.version.cuda {}".format(torch))
    return Match((), CERTAIN, _values(nvcc["version"], torch, facts["torch"].get("version")), lines)


RULE = Rule(code="AM023", cause="cuda-major-mismatch", order=310, log=_log, machine=_machine)
