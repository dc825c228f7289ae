"""Adapters, hooks, wrappers, weight norm and frozen parts: loss, logits, text and every gradient are those of the modules themselves.

The grid is generated from the families; a part of it runs by default, every pair of its axes' values behind ``slow``, all of it behind
``grid``.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.models import attached
from tests.models.slow_path import SlowText
from tests.pairwise import Row, covering
from torch import Tensor

from anymamba.generation.engine import Reader, generate
from anymamba.models.lm import LanguageModel

LENGTH = 12
IDS = torch.randint(0, 61, (2, LENGTH), generator=torch.Generator().manual_seed(0))
PADDINGS = {"none": slice(0, 0), "left": slice(0, 5), "right": slice(8, 12), "between": slice(3, 6)}
"""Columns of the first row."""
READINGS = {"whole": [LENGTH], "pieces": [4, 1, 6, 1], "steps": [1] * LENGTH}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mask_of(padding: str) -> Tensor:
    mask = torch.ones_like(IDS)
    mask[0, PADDINGS[padding]] = 0
    return mask


def targets_of(mask: Tensor) -> Tensor:
    """The next real token of each real token."""
    targets = torch.full_like(IDS, -100)
    targets[:, :-1] = torch.where((mask[:, :-1] & mask[:, 1:]) == 1, IDS[:, 1:], -100)
    return targets


def fast(model: LanguageModel, padding: str, pieces: list[int], **autocast: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Loss, logits of the real tokens, gradients."""
    mask = mask_of(padding)
    targets = targets_of(mask)
    counted = float((targets != -100).sum())
    cache = model.make_cache(2) if len(pieces) > 1 else None
    total, logits, start = torch.zeros(()), [], 0
    for length in pieces:
        part = slice(start, start + length)
        given = None if padding == "none" else mask[:, part]
        output = model(IDS[:, part], targets=targets[:, part], attention_mask=given, cache=cache, normalizer=counted, return_logits=True)
        other = None if cache is not None else model(IDS[:, part], targets=targets[:, part], attention_mask=given, normalizer=counted)
        loss = output.loss if other is None else other.loss
        loss.backward()
        total, start = total + loss.detach(), start + length
        logits.append(output.logits.detach())
    return total, torch.cat(logits, 1)[mask == 1], gradients(model)


def slow(model: LanguageModel, padding: str, pieces: list[int]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    mask = mask_of(padding)
    targets = targets_of(mask)
    counted = float((targets != -100).sum())
    total, logits = torch.zeros(()), []
    for row, real in enumerate(mask == 1):
        text, start = SlowText(model), 0
        for length in pieces:
            part = slice(start, start + length)
            start += length
            ids = IDS[row, part][real[part]]
            if not len(ids):
                continue
            out = text.read(ids)
            loss = F.cross_entropy(out, targets[row, part][real[part]], ignore_index=-100, reduction="sum") / counted
            loss.backward()
            total = total + loss.detach()
            logits.append(out.detach())
    return total, torch.cat(logits), gradients(model)


def gradients(model: LanguageModel) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def compare(got: Any, wanted: Any, most: float) -> None:
    for name, one, other in (("loss", got[0], wanted[0]), ("logits", got[1], wanted[1])):
        assert relative(one, other) <= most, name
    whole = max(gradient.norm() for gradient in wanted[2].values())
    nothing = [name for name, gradient in wanted[2].items() if gradient.norm() <= 1e-12 * whole]
    assert {*got[2], *nothing} == {*wanted[2], *nothing}
    for name, gradient in got[2].items():
        if name in wanted[2]:
            # beside the size of the gradient, the rounding of the terms that cancel in it
            cancelled = 1e-3 if most < 1e-3 else 3e-2
            assert (gradient - wanted[2][name]).norm() <= most * (wanted[2][name].norm() + cancelled * whole), name


def relative(one: Tensor, other: Tensor) -> float:
    return ((one - other).norm() / other.norm()).item()


def check(family: str, case: str, padding: str, reading: str, way: str = "eager", training: bool = True) -> None:
    model = attached.build(family, case, training)
    wanted = slow(attached.build(family, case, training).double(), padding, READINGS[reading])
    called = model
    if way == "checkpointing":
        model.backbone.gradient_checkpointing = True
    elif way == "compile":
        torch._dynamo.reset()
        called = torch.compile(model, backend="aot_eager", fullgraph=True)
    if way == "bfloat16":
        with torch.autocast("cpu", torch.bfloat16):
            got = fast(model, padding, READINGS[reading])
        compare(got, wanted, 0.1)
    else:
        compare(fast(called, padding, READINGS[reading]) if way != "compile" else compiled(called, model, padding), wanted, 1e-5)


def compiled(called: Any, model: LanguageModel, padding: str) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    mask = mask_of(padding)
    given = None if padding == "none" else mask
    output = called(IDS, targets=targets_of(mask), attention_mask=given, return_logits=True)
    output.loss.backward()
    return output.loss.detach(), output.logits.detach()[mask == 1], gradients(model)


def check_text(family: str, case: str, padding: str) -> None:
    """Greedy text of a batch, and of one row through the fastest stepper, whose logits are compared too."""
    model, reference = attached.build(family, case), attached.build(family, case).double()
    mask = mask_of(padding)
    new = generate(model, IDS, 6, attention_mask=mask, eos=[])[:, LENGTH:]
    for row in range(2):
        real = IDS[row][mask[row] == 1]
        text, reader = SlowText(reference), Reader(model)
        with torch.no_grad():
            wanted = text.read(real)[-1:]
            got = reader.read(real[None])
            for index in range(6):
                assert relative(got, wanted) <= 1e-5, (row, index, reader.timing.stepper)
                token = wanted.argmax(-1)
                assert new[row, index] == token
                wanted, got = text.read(token), reader.step(token)


EVERYTHING = [(family, case) for family in attached.FAMILIES for case in attached.cases(family)]
QUICK = [
    ("mamba", "plain"), ("mamba", "lora: x_proj"), ("mamba", "wrapper: out_proj"), ("mamba biased", "plain"),
    ("falcon_mamba", "hook: conv1d"), ("mamba2", "hook: norm"), ("mamba2 biased", "lora: in_proj"), ("mamba2", "weight norm: conv1d"),
    ("mamba3", "hook: lm_head"),
    ("mamba", "other bias: lm_head"), ("mamba3 mimo", "plain"), ("mamba", "older weight norm: x_proj"), ("mamba2", "lora: lm_head"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "case"), QUICK, ids=str)
def test_some_attachments(family: str, case: str) -> None:
    for index, reading in enumerate(READINGS):
        check(family, case, list(PADDINGS)[(index + 1) % 4], reading)
    check(family, case, "between", "whole")
    check(family, case, "left", "pieces", "checkpointing")
    check_text(family, case, "left")


def possible(row: Row) -> bool:
    if row["way"] == "compile":  # one graph reads the whole text, and torch traces no backward hook of a module inside it
        # and nothing in PEFT's DoRA, which asks for the names of types
        untraced = row["case"].startswith(("backward hook", "DoRA"))
        return row["case"] in attached.cases(row["family"]) and row["reading"] == "whole" and not untraced
    if row["reading"] == "text" and (row["way"], row["training"]) != ("eager", ""):
        return False
    return row["case"] in attached.cases(row["family"])


@functools.cache
def every_pair() -> list[Row]:
    axes = {
        "family": [*attached.FAMILIES], "case": [*dict.fromkeys(case for family in attached.FAMILIES for case in attached.cases(family))],
        "padding": [*PADDINGS], "reading": [*READINGS, "text"], "way": ["eager", "checkpointing", "bfloat16", "compile"],
        "training": ["", "training"],
    }  # fmt: skip
    return covering(axes, possible)


@pytest.mark.slow
@pytest.mark.parametrize("family", attached.FAMILIES)
def test_every_pair_of_axes(family: str) -> None:
    wrong = {}
    for row in every_pair():
        if row["family"] == family:
            try:
                if row["reading"] == "text":
                    check_text(family, row["case"], row["padding"])
                else:
                    check(family, row["case"], row["padding"], row["reading"], row["way"], bool(row["training"]))
            except Exception as error:  # a graph that cannot be captured is a result too
                wrong[" / ".join(row.values())] = f"{type(error).__name__}: {error}"[:300]
    assert not wrong


@pytest.mark.grid
@pytest.mark.parametrize(("family", "case"), EVERYTHING, ids=str)
def test_every_attachment(family: str, case: str) -> None:
    for padding, reading, way in itertools.product(PADDINGS, READINGS, ("eager", "checkpointing", "bfloat16")):
        check(family, case, padding, reading, way)
    for padding in PADDINGS:
        check(family, case, padding, "pieces", training=False)
        check_text(family, case, padding)


@pytest.mark.grid
@pytest.mark.parametrize(("family", "case"), EVERYTHING, ids=str)
def test_every_attachment_compiled(family: str, case: str) -> None:
    if case.startswith(("backward hook", "DoRA")):
        pytest.skip("torch.compile traces neither backward hooks of modules inside a graph nor PEFT's DoRA")
    for padding in PADDINGS:
        check(family, case, padding, "whole", "compile")
