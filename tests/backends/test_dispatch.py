"""Who serves a call: explicit choices succeed or raise, automatic ones fall back and say so once."""

from __future__ import annotations

import dataclasses
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.backends import fake

import anymamba
from anymamba import errors, ops
from anymamba.backends import REGISTRY, cpu, dispatch, observers, selfcheck
from anymamba.backends.call import Call
from anymamba.backends.refusal import NotCompiled
from anymamba.errors import AnymambaWarning, BackendError
from anymamba.numerics import op_errors

CALL = Call("rms_norm_fn", torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def fresh_choices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(errors, "_said", set())
    monkeypatch.setattr(dispatch, "_override", None)
    dispatch.forget()
    yield
    dispatch.forget()


def marked(*_: Any) -> Any:
    return "ours"


def norm(**options: Any) -> Any:
    return ops.rms_norm_fn(torch.randn(3, 4), torch.ones(4), None, **options)


def test_the_preferred_backend_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    fake.install(monkeypatch, "ours", {"rms_norm_fn": marked})
    choice = dispatch.choose(CALL)
    assert (choice.backend, choice.why, choice.rejected) == ("ours", "can", ())
    assert norm() == "ours"


def test_explicit_choice_by_argument_block_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    fake.install(monkeypatch, "ours", {"rms_norm_fn": marked})
    assert isinstance(norm(backend="torch"), torch.Tensor)
    with anymamba.use_backend("torch"):
        assert isinstance(norm(), torch.Tensor)
        assert norm(backend="ours") == "ours"
        with anymamba.use_backend("ours"):
            assert norm() == "ours"
        with anymamba.use_backend(None):
            assert norm() == "ours"
        assert isinstance(norm(), torch.Tensor)
    assert norm() == "ours"
    monkeypatch.setenv("ANYMAMBA_BACKEND", "torch")
    assert isinstance(norm(), torch.Tensor)
    with anymamba.use_backend("ours"):
        assert norm() == "ours"


def test_set_backend_holds_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    fake.install(monkeypatch, "ours", {"rms_norm_fn": marked})
    assert anymamba.set_backend("torch") is None
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(norm()))
    thread.start()
    thread.join()
    assert isinstance(found[0], torch.Tensor)
    assert anymamba.set_backend(None) == "torch"
    assert norm() == "ours"


def test_use_backend_acts_from_its_entry_to_its_end() -> None:
    torch_, reference = anymamba.use_backend("torch"), anymamba.use_backend("reference")
    assert dispatch.requested_backend() is None  # made, not entered
    with reference, torch_:
        assert dispatch.requested_backend() == "torch"
        with torch_, reference:
            assert dispatch.requested_backend() == "reference"
        assert dispatch.requested_backend() == "torch"
    assert dispatch.requested_backend() is None


def test_use_backend_without_a_block_says_that_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_said", set())
    with pytest.warns(errors.AnymambaWarning, match=r"set_backend\('torch'\)"):
        anymamba.use_backend("torch")
    assert dispatch.requested_backend() is None


def test_a_block_ends_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="mine"), anymamba.use_backend("torch"):
        raise RuntimeError("mine")
    assert dispatch.requested_backend() is None


@pytest.mark.parametrize("how", ["argument", "use_backend", "set_backend", "environment"])
def test_an_unknown_name_raises_with_the_names_there_are(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="'fpga'") as caught:
        if how == "argument":
            norm(backend="fpga")
        elif how == "use_backend":
            anymamba.use_backend("fpga")
        elif how == "set_backend":
            anymamba.set_backend("fpga")
        else:
            monkeypatch.setenv("ANYMAMBA_BACKEND", "fpga")
            norm()
    assert "torch" in str(caught.value) and "triton" in str(caught.value)
    assert dispatch._override is None


@pytest.mark.parametrize("cause", ["not available", "op missing", "unsupported", "import fails"])
def test_an_explicit_choice_that_cannot_serve_raises_with_reason_and_alternatives(
    cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = fake.install(
        monkeypatch,
        "ours",
        {} if cause == "op missing" else {"rms_norm_fn": marked},
        available=(cause != "not available", "no such chip in this machine"),
        supports=lambda call: (cause != "unsupported", "width 4 only"),
    )
    if cause == "import fails":
        package.available = broken_library  # type: ignore[attr-defined]
    with pytest.raises(BackendError) as caught:
        norm(backend="ours")
    wanted = {
        "not available": "no such chip in this machine",
        "op missing": "does not implement it",
        "unsupported": "width 4 only",
        "import fails": "OSError: libkernels.so: undefined symbol",
    }[cause]
    assert wanted in caught.value.why
    assert "torch" in caught.value.fix and "reference" in caught.value.fix and "ours" not in caught.value.fix
    with pytest.raises(BackendError):  # the kept answer raises again
        norm(backend="ours")


def broken_library() -> tuple[bool, str]:
    raise OSError("libkernels.so: undefined symbol")


@pytest.mark.parametrize("cause", ["not available", "unsupported", "import fails"])
def test_an_automatic_choice_falls_back_and_says_so_once(cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package = fake.install(
        monkeypatch,
        "ours",
        {"rms_norm_fn": marked},
        available=(cause != "not available", "no such chip in this machine"),
        supports=lambda call: (cause != "unsupported", "width 4 only"),
    )
    if cause == "import fails":
        package.available = broken_library  # type: ignore[attr-defined]
    with pytest.warns(AnymambaWarning) as caught:
        assert isinstance(norm(), torch.Tensor)
    ours = [str(warning.message) for warning in caught if "'ours'" in str(warning.message)]
    assert len(ours) == 1 and "\n" not in ours[0]
    reason = {
        "not available": "no such chip in this machine",
        "unsupported": "width 4 only",
        "import fails": "OSError: libkernels.so: undefined symbol",
    }[cause]
    assert reason in ours[0] and "anymamba doctor" in ours[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dispatch.forget()
        assert isinstance(norm(), torch.Tensor)
    assert ("ours", reason) in dispatch.choose(CALL).rejected


def test_a_backend_for_other_devices_is_passed_over_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    fake.install(monkeypatch, "ours", {"rms_norm_fn": marked}, devices=("cuda",))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*'ours'.*")
        assert isinstance(norm(), torch.Tensor)
    assert ("ours", "not for cpu tensors") in dispatch.choose(CALL).rejected


@pytest.mark.parametrize("op", cpu.OPS)
def test_kernels_of_the_processor_are_not_even_tried_on_other_memory(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would read a GPU's addresses, and end the process."""
    monkeypatch.setattr(selfcheck, "run", lambda *_: pytest.fail("a self-check ran"))
    call = Call(op, torch.device("cuda"), torch.float32, False)
    with pytest.raises(BackendError, match="not for cuda tensors"):
        dispatch.choose(call, "cpu")
    with pytest.raises(BackendError) as raised:
        dispatch.choose(call, "official")
    assert "cpu" not in str(raised.value).rsplit("would work", 1)[-1]


def test_the_reference_runs_only_when_named() -> None:
    assert dispatch.choose(CALL).backend != "reference"
    assert dispatch.choose(CALL, "reference").backend == "reference"


def test_choices_are_kept_per_call(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Call] = []

    def supports(call: Call) -> tuple[bool, str]:
        asked.append(call)
        return call.dtype == torch.float32, "float32 only"

    fake.install(monkeypatch, "ours", {"rms_norm_fn": marked}, supports=supports)
    for _ in range(3):
        assert norm() == "ours"
    assert len(asked) == 1
    with pytest.warns(AnymambaWarning, match="float32 only"):
        assert isinstance(ops.rms_norm_fn(torch.randn(3, 4).bfloat16(), torch.ones(4), None), torch.Tensor)
    assert len(asked) == 2


def test_what_the_op_layer_tells_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Call] = []

    def supports(call: Call) -> tuple[bool, str]:
        told.append(call)
        return True, ""

    fake.install(monkeypatch, "ours", {"selective_scan_fn": marked, "selective_state_update": marked}, supports=supports)
    u, B = torch.randn(2, 6, 5), torch.randn(2, 3, 4, 5)
    A = -torch.rand(6, 4)
    ops.selective_scan_fn(u, u, A, B, A, A[:, 0].clone().requires_grad_(), u.bfloat16(), delta_softplus=True, return_last_state=None)
    assert told[-1] == Call(
        "selective_scan_fn", torch.device("cpu"), torch.float32, True,
        frozenset({"D", "z", "delta_softplus", "constant_C", "groups", "mixed_dtype", "bfloat16_z", "length_contiguous"}),
        (("batch", 2), ("d_state", 4), ("dim", 6), ("length", 5), ("ngroups", 3)),
    )  # fmt: skip
    with torch.no_grad():
        ops.selective_scan_fn(u, u, A, B[:, 0], B[:, 0], A[:, 0].clone().requires_grad_())
    assert told[-1].grad is False and told[-1].features == {"D", "length_contiguous"}
    x, dt = torch.randn(2, 6, 5), torch.rand(2, 6, 1).expand(2, 6, 5)
    state = torch.zeros(2, 6, 5, 4)
    ops.selective_state_update(state, x, dt, A[:, :1, None].expand(6, 5, 4), B[:, 0, :, 0], B[:, 0, :, 0])
    assert told[-1].features == {"heads", "tied"} and told[-1].sizes == (("d_state", 4), ("headdim", 5))


def test_a_fused_op_is_composed_where_nobody_has_it_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    call = Call("mamba_inner_fn", torch.device("cpu"), torch.float32)
    fake.install(monkeypatch, "ours", {"mamba_inner_fn": marked})
    choice = dispatch.choose_fused(call)
    assert choice is not None and choice.backend == "ours"
    with monkeypatch.context() as patch:  # the answer is kept, as that of choose
        patch.setattr(dispatch, "verdict", lambda *_: pytest.fail("asked again"))
        assert dispatch.choose_fused(call) == choice
    assert dispatch.choose_fused(call, "torch") is None
    fake.install(monkeypatch, "ours", {"mamba_inner_fn": marked}, supports=lambda call: (False, "no"))
    assert dispatch.choose_fused(call, "torch") is None
    with pytest.raises(BackendError, match="'fpga'"):
        dispatch.choose_fused(call, "fpga")


def test_no_backend_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    fake.install(monkeypatch, "ours", {"rms_norm_fn": marked}, available=(False, "switched off"))
    monkeypatch.setattr(dispatch, "REGISTRY", {"ours": dispatch.REGISTRY["ours"]})
    with pytest.raises(BackendError, match="no backend can run rms_norm_fn") as caught:
        norm()
    assert caught.value.why == "ours: switched off"


def test_a_checked_backend_is_checked_before_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "_verdicts", {})
    fake.install(monkeypatch, "ours", {"rms_norm_fn": lambda x, *_, **__: x}, checked=True)
    with pytest.warns(AnymambaWarning, match="'ours': self-check"):
        assert isinstance(norm(), torch.Tensor)
    assert dispatch.choose(CALL).backend != "ours"


def test_a_kernel_that_is_refused_when_it_is_needed_leaves_its_variant_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow_only(x: Any, *_: Any, **__: Any) -> Any:
        if x.shape[-1] > 64:
            raise NotCompiled("error: no such instruction")
        return "ours"

    monkeypatch.setattr(selfcheck, "_verdicts", {})
    monkeypatch.setattr(selfcheck, "run", lambda *_: (True, "passed"))
    fake.install(monkeypatch, "ours", {"rms_norm_fn": narrow_only}, checked=True, variant=lambda call: f"{call.size('dim') > 64}")
    wide = torch.randn(3, 100), torch.ones(100), None
    with pytest.warns(AnymambaWarning, match="rms_norm_fn runs on backend 'cpu', not 'ours': error: no such instruction"):
        assert isinstance(ops.rms_norm_fn(*wide), torch.Tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(ops.rms_norm_fn(*wide), torch.Tensor)
        assert norm() == "ours"
    with pytest.raises(BackendError, match="no such instruction"):
        ops.rms_norm_fn(*wide, backend="ours")


def test_what_a_backend_leaves_to_another_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As cuda leaves all but a few ops to triton: nobody is told, and an explicit choice has them too."""
    fake.install(monkeypatch, "rest", {"rms_norm_fn": marked, "mamba_inner_fn": marked}, devices=("cpu",))
    rest = dispatch.REGISTRY["rest"]
    package = fake.install(monkeypatch, "few", {"selective_scan_fn": marked}, devices=("cpu",))
    few = dataclasses.replace(dispatch.REGISTRY["few"], rest="rest")
    monkeypatch.setattr(dispatch, "REGISTRY", {"few": few, "rest": rest, **REGISTRY})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert norm() == "ours"
        assert norm(backend="few") == "ours"
    assert dispatch.choose(CALL).rejected == (("few", "left to backend 'rest'"),)
    fused = dispatch.choose_fused(dataclasses.replace(CALL, op="mamba_inner_fn"), "few")
    assert fused is not None and fused.backend == "rest"
    assert not dispatch.misses(few, CALL) and dispatch.misses(few, dataclasses.replace(CALL, op="selective_scan_fn"))
    package.available = lambda: (False, "no such card")  # type: ignore[attr-defined]
    dispatch.forget()
    with pytest.raises(BackendError, match="'few' cannot run rms_norm_fn") as caught:
        norm(backend="few")
    assert caught.value.why == "no such card"


def test_cuda_is_named_where_it_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="'cuda' cannot run rms_norm_fn") as caught:
        norm(backend="cuda")
    assert "NVIDIA" in caught.value.why or "NVRTC" in caught.value.why or torch.cuda.is_available()


def test_a_backend_for_nvidias_cards_is_passed_over_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, device = dispatch.REGISTRY["cuda"], torch.device("cuda", 0)
    assert list(dispatch.REGISTRY)[:2] == ["cuda", "triton"]
    monkeypatch.setattr(torch.version, "hip", None)
    assert dispatch.meant_for(cuda, device) and not dispatch.meant_for(cuda, torch.device("cpu"))
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not dispatch.meant_for(cuda, device) and dispatch.meant_for(dispatch.REGISTRY["triton"], device)
    assert "AMD" in dispatch.not_for(cuda, device)


def test_an_observer_sees_calls_only_while_it_is_asked_to() -> None:
    seen: list[str] = []

    def note(call: Call, _: dispatch.Choice) -> None:
        seen.append(call.op)

    with observers.observing(note):
        norm()
    norm()
    assert seen == ["rms_norm_fn"]
    observers.observe(note)
    observers.observe(note)
    norm()
    observers.ignore(note)
    observers.ignore(note)
    norm()
    assert seen == ["rms_norm_fn"] * 2


def test_measuring_errors_leaves_no_observer_behind() -> None:
    before = list(observers.active)
    next(op_errors.measure(torch.device("cpu"), (torch.float32,), "rms_norm_fn"))
    assert observers.active == before
