"""Every name and signature of the packages against those recorded from upstream's sources (scripts/record_upstream_signatures.py)."""

from __future__ import annotations

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

RECORDED = json.loads(Path(__file__).with_name("upstream_signatures.json").read_text("utf-8"))
KINDS = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.KEYWORD_ONLY: "keyword", inspect.Parameter.VAR_KEYWORD: "**"}

ABSENT = re.compile(
    r"(Fn|LinearFunc|SwiGLU)\.(forward|backward)$"  # autograd nodes: only apply is kept
    r"|_bwd(_|$)|_wip$|init_to_zero$|ensure_stride$|config_prune$|_cpp$"  # parts of CUDA and Triton kernels
    r"|_Mamba3Function\.|mamba3\.\w+:_(triton_)?alloc_fn|mamba3_step_fn:(transpose_view|select$|get_gmem|Mamba3Step|_bytes_of)"
    r"|Mamba3\._(pre|post)process|MHA\._|mha:_update|test_correctness|_check_selective_scan_cuda"
    r"|determinism:_|custom_amp_decorator"
)
"""What the drop-in leaves out on purpose; docs/en/dropin.md says so."""
DIFFERENT = {"causal_conv1d_ref": "seq_idx came with causal_conv1d 1.7.0, the recorded sources are 1.6.1"}

NAMES = [(module, name) for module, functions in RECORDED.items() for name in functions]


@pytest.mark.parametrize("module, name", NAMES, ids=[f"{module}:{name}" for module, name in NAMES])
def test_signature_equals_upstreams(module: str, name: str, dropin: None) -> None:
    if ABSENT.search(f"{module}:{name}"):
        pytest.skip("left out on purpose")
    found: Any = importlib.import_module(module)
    owner: Any = None
    for part in name.split("."):
        owner, found = found, getattr(found, part)
    parameters = list(inspect.signature(found).parameters.values())
    recorded = RECORDED[module][name]
    if inspect.ismethod(found) and inspect.isclass(owner):
        recorded = recorded[1:]  # cls is bound
    if name in DIFFERENT:
        parameters = parameters[: len(recorded)]
    assert [[KINDS.get(p.kind, ""), p.name] for p in parameters] == [[kind, parameter] for kind, parameter, _ in recorded]
    for parameter, (_, _, default) in zip(parameters, recorded):
        if default is None:
            assert parameter.default is inspect.Parameter.empty
        else:
            expected = eval(default, {"torch": torch, "nn": torch.nn, "F": torch.nn.functional})
            assert parameter.default == expected, f"{parameter.name}: {parameter.default!r}, upstream has {expected!r}"


def test_the_packages_say_what_they_are(dropin: None) -> None:
    import causal_conv1d
    import mamba_ssm

    for package, version in ((mamba_ssm, "2.3.2.post1+anymamba"), (causal_conv1d, "1.7.0+anymamba")):
        assert package.__version__ == version
        assert package.__anymamba__ is True
        assert package.__spec__.name == package.__name__
    for compiled in ("selective_scan_cuda", "causal_conv1d_cuda"):
        assert importlib.import_module(compiled).__anymamba__ is True
