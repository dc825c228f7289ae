"""A plain Python package that mamba-ssm imports is missing."""

from __future__ import annotations

from typing import Optional

from anymamba.doctor.log import Log
from anymamba.doctor.rule import CERTAIN, Match, Rule, Signature
from anymamba.doctor.tracebacks import frame_before


def _log(log: Log) -> Optional[Match]:
    missing = Signature(
        r"No module named '?(?:einops|transformers|huggingface_hub|packaging|ninja|regex|tokenizers|safetensors)'?(?![\w.])"
    )
    for found in log.finditer(missing):
        frame = frame_before(log, found.start()) or ""
        if ("mamba_ssm" in frame or "causal_conv1d" in frame) and "setup.py" not in frame:
            return Match((found.start(),), CERTAIN)
    listed = log.search(r"(?:mamba[-_]ssm|causal[-_]conv1d) [\w.]+ requires (?!torch|triton)[\w-]+, which is not installed")
    return Match((listed.start(),), CERTAIN) if listed else None


RULE = Rule(code="AM121", cause="runtime-dependency-missing", order=442, log=_log)
