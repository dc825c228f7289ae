"""Faults of other kinds than those of test_op_errors: in one direction, dtype, layout, size or option only. Each is found by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from anymamba.backends import REGISTRY
from anymamba.numerics import op_errors
from anymamba.numerics.cases import CASES

Arguments = dict[str, Any]
Function = Callable[..., Any]
Mutant = Callable[[Function], Function]
BF16 = torch.bfloat16


def given(change: Callable[[Arguments], Arguments]) -> Mutant:
    """The op on other arguments."""
    return lambda sound: lambda **arguments: sound(**{**arguments, **change(arguments)})


def outputs(change: Callable[[list[Any], Arguments], list[Any]]) -> Mutant:
    """The op with other outputs."""

    def mutate(sound: Function) -> Function:
        def mutant(**arguments: Any) -> Any:
            result = sound(**arguments)
            changed = change(list(result) if isinstance(result, tuple) else [result], arguments)
            return tuple(changed) if isinstance(result, tuple) else changed[0]

        return mutant

    return mutate


def gradient(x: Tensor, factor: float) -> Tensor:
    """The same values; their gradient is off by a factor."""
    return x * factor - x.detach() * (factor - 1)


def before_rounding(argument: str, factor: float) -> Mutant:
    """A bfloat16 op whose arithmetic, in float32, has a wrong factor in the result or (argument) in one gradient."""

    def mutate(sound: Function) -> Function:
        def mutant(**arguments: Any) -> Any:
            wide = {name: x.float() if isinstance(x, Tensor) and x.dtype == BF16 else x for name, x in arguments.items()}
            if argument:
                wide[argument] = gradient(wide[argument], factor)
            out, *rest = result if isinstance(result := sound(**wide), tuple) else (result,)
            out = (out if argument else out * factor).to(BF16)
            return (out, *rest) if rest else out

        return mutant

    return mutate


def stale_bias_at_the_end(sound: Function) -> Function:
    """dt_bias counts only in whole chunks of 64."""

    def mutant(**arguments: Any) -> Any:
        dt = arguments["dt"]
        whole = dt.shape[1] // 64 * 64
        bias = arguments.get("dt_bias")
        if bias is None or not whole or whole == dt.shape[1]:
            return sound(**arguments)
        return sound(**{**arguments, "dt": torch.cat([dt[:, :whole], dt[:, whole:] - bias.to(dt)], 1)})

    return mutant


def state_of_the_first_row_only(sound: Function) -> Function:
    def mutant(**arguments: Any) -> Any:
        before = arguments["state"].clone()
        result = sound(**arguments)
        arguments["state"][1:] = before[1:]
        return result

    return mutant


def forgets_the_newest_input(sound: Function) -> Function:
    def mutant(**arguments: Any) -> Any:
        result = sound(**arguments)
        arguments["conv_state"][..., -1] = 0
        return result

    return mutant


def as_if_contiguous(x: Tensor) -> Tensor:
    """What a kernel reads that takes no notice of strides."""
    strides = torch.empty(x.shape, device="meta").stride()
    reach = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, strides))
    return x if reach > x.untyped_storage().size() // x.element_size() - x.storage_offset() else x.as_strided(x.shape, strides)


def without_last(x: Tensor, dim: int) -> Tensor:
    """The last element of an odd number is lost."""
    return x if x.shape[dim] % 2 == 0 else torch.cat([x.narrow(dim, 0, x.shape[dim] - 1), torch.zeros_like(x.narrow(dim, 0, 1))], dim)


def only(condition: Callable[[Arguments], bool], change: Callable[[Arguments], Arguments]) -> Mutant:
    return given(lambda a: change(a) if condition(a) else {})


def halves_turn_as_neighbours(sound: Function) -> Function:
    """MIMO's pairs, half of d_state apart, taken for SISO's: the numbers of a key and a query in another order."""

    def mutant(**arguments: Any) -> Any:
        half = arguments["Q"].shape[-1] // 2
        order = torch.arange(2 * half).view(2, half).mT.flatten()
        return sound(**{**arguments, **{name: arguments[name][..., order] for name in ("Q", "K", "Q_bias", "K_bias")}})

    return mutant


SCAN, SSD, CONV, STEP, CONV_STEP = (
    "selective_scan_fn", "mamba_chunk_scan_combined", "causal_conv1d_fn", "selective_state_update", "causal_conv1d_update",
)  # fmt: skip
SISO, MIMO, STEP3 = "mamba3_siso", "mamba3_mimo", "mamba3_state_update"

MUTANTS: dict[str, tuple[str, Mutant]] = {
    "gradient of B times 1.001": (SCAN, given(lambda a: {"B": gradient(a["B"], 1.001)})),
    "gradient of dt times 1.001, bfloat16 only": (SSD, before_rounding("dt", 1.001)),
    "output times 1.001, bfloat16 only": (SCAN, before_rounding("", 1.001)),
    "second row of a batch has the B of the first": (
        SCAN, only(lambda a: len(a["u"]) > 1 and a["B"].dim() > 2, lambda a: {"B": a["B"][:1].expand_as(a["B"])}),
    ),
    "third row of a batch has the gate of the first": (
        SSD, only(lambda a: len(a["x"]) > 2 and "z" in a, lambda a: {"z": torch.cat([a["z"][:2], a["z"][:1]])}),
    ),
    "every group has the C of the first": (SSD, given(lambda a: {"C": a["C"][:, :, :1].expand_as(a["C"])})),
    "groups of the scan in another order": (SCAN, only(lambda a: a["C"].dim() == 4, lambda a: {"C": a["C"].flip(1)})),
    "newest input forgotten": (CONV_STEP, forgets_the_newest_input),
    "states by index ignored": (
        CONV_STEP, only(lambda a: a.get("conv_state_indices") is not None, lambda a: {"conv_state_indices": a["conv_state_indices"] * 0}),
    ),
    "earlier inputs of the convolution ignored": (
        CONV, only(lambda a: "initial_states" in a, lambda a: {"initial_states": torch.zeros_like(a["initial_states"])}),
    ),
    "earlier states pass no gradient": (
        SSD, only(lambda a: "initial_states" in a, lambda a: {"initial_states": gradient(a["initial_states"], 0.99)}),
    ),
    "strides ignored": (SCAN, given(lambda a: {"z": as_if_contiguous(a["z"])} if "z" in a else {})),
    "strides of views ignored": (SSD, given(lambda a: {"B": as_if_contiguous(a["B"])})),
    "stride 0 ignored": (STEP, only(lambda a: a["A"].stride()[-1] == 0, lambda a: {"A": a["A"] * 1.01})),
    "D skipped": (SCAN, given(lambda a: {"D": None})),
    "D by channel taken as one a head": (
        SSD, only(lambda a: "D" in a and a["D"].dim() == 2, lambda a: {"D": a["D"][:, :1].expand_as(a["D"])}),
    ),
    "gate and input swapped": (SCAN, only(lambda a: "z" in a, lambda a: {"z": a["u"], "u": a["z"]})),
    "state crosses from one document to the next": (SSD, only(lambda a: "seq_idx" in a, lambda a: {"seq_idx": a["seq_idx"] * 0})),
    "documents of the second row ignored": (
        SSD, only(lambda a: "seq_idx" in a and len(a["x"]) > 1, lambda a: {"seq_idx": torch.cat([a["seq_idx"][:1], a["seq_idx"][1:] * 0])}),
    ),
    "convolution crosses documents": (CONV, only(lambda a: "seq_idx" in a, lambda a: {"seq_idx": None})),
    "dt_bias ignored in the last chunk": (SSD, stale_bias_at_the_end),
    "dt_limit ignored": (SSD, given(lambda a: {"dt_limit": (0.0, float("inf"))})),
    "last odd channel lost": (CONV, given(lambda a: {"x": without_last(a["x"], 1)})),
    "last odd token lost": (SCAN, given(lambda a: {"u": without_last(a["u"], 2)})),
    "last odd state lost": (STEP, given(lambda a: {"C": without_last(a["C"], -1)})),
    "width 3 treated as 4 taps of which one is zero": (
        CONV, only(lambda a: a["weight"].shape[1] == 3, lambda a: {"weight": a["weight"].roll(1, 1)}),
    ),
    "only the last state is wrong": (SCAN, outputs(lambda o, a: [o[0], *(last * 1.0001 for last in o[1:])])),
    "only the final states are wrong, with documents": (
        SSD, outputs(lambda o, a: [o[0], *(state * 1.001 for state in o[1:])] if "seq_idx" in a else o),
    ),
    "final states pass no gradient": (SSD, outputs(lambda o, a: [o[0], *(gradient(state, 0.9) for state in o[1:])])),
    "state written for the first row only": (STEP, state_of_the_first_row_only),
    "form of Mamba-1: D skipped": (STEP, only(lambda a: a["x"].dim() == 2, lambda a: {"D": None})),
    "groups of the norm ignored": ("rmsnorm_fn", given(lambda a: {"group_size": None})),
    "gate always before the norm": ("layernorm_fn", given(lambda a: {"norm_before_gate": False})),
    "bias ignored": ("layer_norm_fn", given(lambda a: {"bias": None})),
    "residual passes too little gradient": (
        "rms_norm_fn", only(lambda a: "residual" in a, lambda a: {"residual": gradient(a["residual"], 0.999)}),
    ),
    "angles turn the other way": (SISO, given(lambda a: {"Angles": -a["Angles"]})),
    "angles of the last pair ignored": (
        SISO, given(lambda a: {"Angles": torch.cat([a["Angles"][..., :-1], 0 * a["Angles"][..., -1:]], -1)}),
    ),
    "trapezoid rule with the trap of the token before": (SISO, given(lambda a: {"Trap": a["Trap"].roll(1, 2)})),
    "biases of keys and queries swapped": (SISO, given(lambda a: {"Q_bias": a["K_bias"], "K_bias": a["Q_bias"]})),
    "last key of the text before forgotten": (
        SISO, only(lambda a: a.get("k_state") is not None, lambda a: {"k_state": 0 * a["k_state"]}),
    ),
    "angle of the text before forgotten": (
        SISO, only(lambda a: a.get("angle_state") is not None, lambda a: {"angle_state": 0 * a["angle_state"]}),
    ),
    "Mamba-3 crosses from one packed sequence to the next": (
        SISO, only(lambda a: a.get("cu_seqlens") is not None and a.get("ssm_state") is None and not a["return_final_states"],
                   lambda a: {"cu_seqlens": a["cu_seqlens"][[0, -1]]}),
    ),
    "gradient of Trap times 1.001": (SISO, given(lambda a: {"Trap": gradient(a["Trap"], 1.001)})),
    "gradient of Angles times 1.001": (SISO, given(lambda a: {"Angles": gradient(a["Angles"], 1.001)})),
    "last value alone is wrong": (SISO, outputs(lambda o, a: [*o[:4], o[4] * 1.001] if len(o) == 5 else o)),
    "output of Mamba-3 times 1.001, bfloat16 only": (SISO, before_rounding("", 1.001)),
    "pairs of MIMO taken as neighbours": (MIMO, halves_turn_as_neighbours),
    "ranks of the values in another order": (MIMO, given(lambda a: {"MIMO_V": a["MIMO_V"].flip(1)})),
    "every rank has the gate of the first": (
        MIMO, only(lambda a: a.get("MIMO_Z") is not None, lambda a: {"MIMO_Z": a["MIMO_Z"][:, :1].expand_as(a["MIMO_Z"])}),
    ),
    "last rank left out of the sum": (
        MIMO, only(lambda a: a.get("MIMO_Out") is not None and a["MIMO_Out"].shape[1] == 8,
                   lambda a: {"MIMO_Out": torch.cat([a["MIMO_Out"][:, :-1], 0 * a["MIMO_Out"][:, -1:]], 1)}),
    ),
    "gradient of MIMO_V times 1.001": (MIMO, given(lambda a: {"MIMO_V": gradient(a["MIMO_V"], 1.001)})),
    "Mamba-3's step takes trap for its logit": (STEP3, given(lambda a: {"trap": a["trap"].sigmoid()})),
    "Mamba-3's step forgets the last token's value": (STEP3, given(lambda a: {"Xstate": 0 * a["Xstate"]})),
    "Mamba-3's state written for the first row only": (STEP3, state_of_the_first_row_only),
    "D of Mamba-3 is not projected": (
        STEP3, only(lambda a: a.get("D") is not None and a["xproj"].shape[0] == 4, lambda a: {"D": a["D"] * a["xproj"].mean()}),
    ),
    "activation always on": (CONV, given(lambda a: {"activation": "silu"})),
    "float16 in between, bfloat16 only": (
        SCAN, outputs(lambda o, a: [o[0].half().to(BF16), *o[1:]] if o[0].dtype == BF16 else o),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_fault_is_found_and_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, mutate = MUTANTS[name]
    backend = "cpu" if op in importlib.import_module(REGISTRY["cpu"].module).OPS else "torch"
    module = importlib.import_module(importlib.import_module(REGISTRY[backend].module).OPS[op])
    monkeypatch.setattr(module, op, mutate(getattr(module, op)))
    dtypes = (BF16,) if "bfloat16 only" in name else (torch.float32,)
    rows = op_errors.measure(torch.device("cpu"), dtypes, only=op)
    found = next((row for row in rows if row.backend == backend and row.op == op and not row.ok), None)
    assert found is not None, "the fault passed"
    assert found.reason and not found.reason.startswith(("TypeError", "KeyError", "AttributeError")), found.reason


def test_no_case_has_the_name_of_another() -> None:
    names = [(case.op, case.name) for case in CASES]
    assert len(names) == len(set(names)) and len(names) > 80
