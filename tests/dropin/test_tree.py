"""The tree of the packages against upstream's, module by module and name by name (scripts/record_upstream_signatures.py --names)."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

ABSENT = re.compile(r"_bwd(_|$)|mha:_update|test_correctness|custom_amp_decorator|determinism:_")
"""Backward kernels, and what only upstream itself calls; docs/en/dropin.md says so."""

NAMES_RECORDED = json.loads(Path(__file__).with_name("upstream_names.json").read_text("utf-8"))
NOT_OF_THE_PACKAGE = {
    "Any", "Callable", "Dict", "List", "Optional", "Tuple", "Union", "annotations", "copy", "gc", "math", "namedtuple", "os",
    "partial", "sys", "time", "version", "warnings", "tl", "triton", "tilelang", "T", "TRITON_22", "TRITON3", "TRITON_HAS_CACHE_RESULTS",
    "TRITON_VERSION", "TRITON_CACHE_RESULTS", "LIBRARY_NAME", "causal_conv1d_cuda", "deprecated",
}  # fmt: skip
"""The standard library, Triton, and constants about versions: nobody takes them from there."""
KERNELS = re.compile(r"_kernel|_cpp$|_MIN_BLOCK_N$|configs_autotune|config_prune|init_to_zero|ensure_stride|_wip$|_autotune_|_config")


MAMBA3_KERNELS = {
    f"mamba_ssm.ops.{name}"
    for name in (
        "tilelang.mamba3.mamba3_mimo_bwd", "tilelang.mamba3.mamba3_mimo_bwd_varlen", "tilelang.mamba3.mamba3_mimo_fwd",
        "tilelang.mamba3.mamba3_mimo_fwd_varlen", "triton.mamba3.mamba3_mimo_utils", "triton.mamba3.mamba3_siso_bwd",
        "triton.mamba3.mamba3_siso_fwd", "triton.mamba3.utils",
    )
}  # fmt: skip
"""Modules of kernels and parts of kernels alone, behind mamba3_siso_combined and mamba3_mimo."""


def test_every_module_of_the_tree_can_be_imported(dropin: None) -> None:
    missing = {module for module in NAMES_RECORDED if importlib.util.find_spec(module) is None}
    assert missing == MAMBA3_KERNELS
    for module in NAMES_RECORDED.keys() - missing:
        assert importlib.import_module(module).__name__ == module


@pytest.mark.parametrize("module", [module for module in NAMES_RECORDED if "mamba3" not in module])
def test_every_name_of_a_module_is_there(module: str, dropin: None) -> None:
    """Also those that a module only imported: mamba-clip takes einops' rearrange from mamba_ssm.ops.selective_scan_interface."""
    if module.startswith(("mamba_ssm.ops.cute", "mamba_ssm.ops.tilelang")):
        pytest.skip("Mamba-3")
    found = importlib.import_module(module)
    wanted = [name for name in NAMES_RECORDED[module] if name not in NOT_OF_THE_PACKAGE and not KERNELS.search(name)]
    missing = [name for name in wanted if not ABSENT.search(f"{module}:{name}") and not hasattr(found, name)]
    allowed = {"mamba_ssm.modules.mha": ["flash_attn_with_kvcache"]}  # flash_attn's, and upstream works without it
    assert missing == allowed.get(module, [])


def test_what_is_not_installed_is_named(dropin: None) -> None:
    with pytest.raises(ImportError, match="flash_attn"):
        from mamba_ssm.modules.mha import flash_attn_with_kvcache  # noqa: F401
    from mamba_ssm.modules import mha

    with pytest.raises(AttributeError, match="flash_attn: No module named"):
        mha.flash_attn_with_kvcache  # noqa: B018 - the access is the test
