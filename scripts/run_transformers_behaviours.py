"""What transformers promises of every model, tried on its Mamba families without the drop-in and with it: no new failure.

    python scripts/run_transformers_behaviours.py [--families mamba,jamba] [--json]

The behaviours are those that transformers documents for its models and its ``generate``, written down here as small checks: its own test
files come with a source checkout only. Each family runs in a process of its own, on tiny random models, on the CPU. Exit code 1 where a
check fails with the drop-in that passes without it.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CHECKS: dict[str, Callable[[Any], None]] = {}


def check(function: Callable[[Any], None]) -> Callable[[Any], None]:
    CHECKS[function.__name__] = function
    return function


class Subject:
    """A family: ``model()`` is a fresh copy of one random model in eval mode, ids (2, 11)."""

    def __init__(self, family: str) -> None:
        import torch
        from tests.dropin import tiny_transformers

        self.family, self._model = family, tiny_transformers.build(family).eval()
        with torch.no_grad():  # random experts tie within rounding, and then a text may go either way
            for name, parameter in self._model.named_parameters():
                if "router" in name:
                    parameter.mul_(50)
        self.ids = torch.randint(3, 64, (2, 11), generator=torch.Generator().manual_seed(1))
        self.cache_name = "cache_params" if family in ("mamba", "mamba2", "falcon_mamba") else "past_key_values"

    def model(self) -> Any:
        return copy.deepcopy(self._model)

    def generate(self, model: Any, **options: Any) -> Any:
        import torch

        torch.manual_seed(0)
        inputs = {} if "inputs_embeds" in options else {"input_ids": self.ids}
        return model.generate(**{**inputs, "max_new_tokens": 5, "do_sample": False, "eos_token_id": None, **options})


def close(one: Any, other: Any, most: float = 2e-5) -> None:
    error = float((one.float() - other.float()).abs().max() / other.float().abs().max().clamp(min=1e-9))
    assert error <= most, f"differs by {error:.2g}"


def gradients(model: Any, subject: Subject) -> dict[str, Any]:
    model.train()
    model.zero_grad(set_to_none=True)
    model(input_ids=subject.ids, labels=subject.ids, use_cache=False).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def same_gradients(got: dict[str, Any], want: dict[str, Any]) -> None:
    assert got.keys() == want.keys(), sorted(got.keys() ^ want.keys())
    largest = max(float(value.abs().max()) for value in want.values())
    for name, value in want.items():
        error = float((got[name] - value).abs().max()) / max(float(value.abs().max()), 1e-3 * largest)
        assert error <= 1e-4, f"{name} differs by {error:.2g}"


@check
def forward_twice_is_the_same(s: Subject) -> None:
    model = s.model()
    close(model(input_ids=s.ids).logits, model(input_ids=s.ids).logits, 0)


@check
def saved_and_loaded(s: Subject) -> None:
    model = s.model()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        close(type(model).from_pretrained(folder).eval()(input_ids=s.ids).logits, model(input_ids=s.ids).logits, 1e-6)


@check
def loaded_in_bfloat16(s: Subject) -> None:
    import torch

    model = s.model()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        narrow = type(model).from_pretrained(folder, dtype=torch.bfloat16).eval()
    close(narrow(input_ids=s.ids).logits, model(input_ids=s.ids).logits, 0.15)


@check
def fp16_forward_is_finite(s: Subject) -> None:
    assert s.model().half()(input_ids=s.ids).logits.isfinite().all()


@check
def embeddings_are_resized(s: Subject) -> None:
    for size in (80, 64):
        model = s.model()
        model.resize_token_embeddings(size)
        out = model(input_ids=s.ids, labels=s.ids)
        assert out.logits.shape[-1] == size and out.loss.isfinite()
        out.loss.backward()


@check
def tied_weights_stay_tied(s: Subject) -> None:
    model = s.model()
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if not model.config.tie_word_embeddings:
        return
    assert head.weight is table.weight
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = type(model).from_pretrained(folder)
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


@check
def hidden_states_are_returned(s: Subject) -> None:
    model = s.model()
    states = model(input_ids=s.ids, output_hidden_states=True).hidden_states
    assert len(states) >= model.config.num_hidden_layers and all(state.shape == (2, 11, 32) for state in states)


@check
def hidden_states_keep_gradients(s: Subject) -> None:
    out = s.model().train()(input_ids=s.ids, output_hidden_states=True, use_cache=False)
    first = out.hidden_states[0]
    first.retain_grad()
    out.logits.flatten()[0].backward(retain_graph=True)
    assert first.grad is not None


@check
def attentions_are_returned(s: Subject) -> None:
    model = s.model()
    if s.family in ("mamba", "mamba2", "falcon_mamba"):
        return
    model.set_attn_implementation("eager")
    found = model(input_ids=s.ids, output_attentions=True).attentions
    assert any(weights is not None and weights.shape[-2:] == (11, 11) for weights in found)


@check
def eager_attention_equals_sdpa(s: Subject) -> None:
    model, other = s.model(), s.model()
    if s.family in ("mamba", "mamba2", "falcon_mamba"):
        return
    model.set_attn_implementation("eager")
    other.set_attn_implementation("sdpa")
    close(model(input_ids=s.ids).logits, other(input_ids=s.ids).logits)


@check
def tuples_equal_dicts(s: Subject) -> None:
    model = s.model()
    close(model(input_ids=s.ids, return_dict=False)[0], model(input_ids=s.ids).logits, 0)


@check
def last_logits_alone(s: Subject) -> None:
    model = s.model()
    close(model(input_ids=s.ids, logits_to_keep=1).logits, model(input_ids=s.ids).logits[:, -1:])


@check
def embeddings_equal_ids(s: Subject) -> None:
    model = s.model()
    close(model(inputs_embeds=model.get_input_embeddings()(s.ids)).logits, model(input_ids=s.ids).logits)


@check
def a_batch_equals_its_rows(s: Subject) -> None:
    model = s.model()
    both = model(input_ids=s.ids).logits
    for row in range(2):
        close(both[row], model(input_ids=s.ids[row : row + 1]).logits[0])


@check
def left_padding_changes_nothing(s: Subject) -> None:
    import torch

    model = s.model()
    padded = torch.cat([torch.zeros(2, 4, dtype=torch.long), s.ids], 1)
    mask = (torch.arange(15) >= 4).long().expand(2, -1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    more = {} if s.cache_name == "cache_params" else {"position_ids": positions}
    close(model(input_ids=padded, attention_mask=mask, **more).logits[:, 4:], model(input_ids=s.ids).logits, 1e-4)


@check
def the_cache_equals_the_whole(s: Subject) -> None:
    for pieces in ([7, 1, 1, 1, 1], [7, 4]):
        import torch
        from transformers import DynamicCache

        model = s.model()
        cache, parts, at = DynamicCache(config=model.config), [], 0
        for length in pieces:
            more: dict[str, Any] = {s.cache_name: cache, "use_cache": True}
            if s.cache_name != "cache_params":
                more["position_ids"] = torch.arange(at, at + length).expand(2, -1)
            parts.append(model(input_ids=s.ids[:, at : at + length], **more).logits)
            at += length
        close(torch.cat(parts, 1), model(input_ids=s.ids).logits, 1e-4)


def _with_and_without_cache(s: Subject, **options: Any) -> None:
    import torch

    model = s.model()
    assert torch.equal(s.generate(model, use_cache=True, **options), s.generate(model, use_cache=False, **options))


@check
def greedy_with_and_without_cache(s: Subject) -> None:
    _with_and_without_cache(s)


@check
def sampling_with_and_without_cache(s: Subject) -> None:
    _with_and_without_cache(s, do_sample=True, top_k=20, temperature=0.8)


@check
def beams_with_and_without_cache(s: Subject) -> None:
    _with_and_without_cache(s, num_beams=3)


@check
def beam_sampling_runs(s: Subject) -> None:
    assert s.generate(s.model(), num_beams=2, do_sample=True).shape == (2, 16)


@check
def several_sequences_of_a_prompt(s: Subject) -> None:
    assert s.generate(s.model(), num_beams=3, num_return_sequences=3).shape == (6, 16)


@check
def penalties_and_bans(s: Subject) -> None:
    _with_and_without_cache(s, repetition_penalty=1.7, no_repeat_ngram_size=2, bad_words_ids=[[5], [7, 8]])


@check
def generation_from_embeddings(s: Subject) -> None:
    import torch

    model = s.model()
    made = s.generate(model, inputs_embeds=model.get_input_embeddings()(s.ids))
    assert torch.equal(made, s.generate(model)[:, -made.shape[1] :])


@check
def generation_returns_scores_and_states(s: Subject) -> None:
    import torch

    out = s.generate(s.model(), return_dict_in_generate=True, output_scores=True, output_logits=True, output_hidden_states=True)
    assert len(out.scores) == len(out.logits) == len(out.hidden_states) == 5
    assert torch.equal(torch.stack(out.logits, 1).argmax(-1), out.sequences[:, -5:])


@check
def a_padded_batch_generates_as_alone(s: Subject) -> None:
    import torch

    model = s.model()
    ids, mask = s.ids.clone(), torch.ones_like(s.ids)
    ids[0, :4], mask[0, :4] = 0, 0
    both = s.generate(model, input_ids=ids, attention_mask=mask)[0, -5:]
    assert torch.equal(both, s.generate(model, input_ids=ids[:1, 4:], attention_mask=mask[:1, 4:])[0, -5:])


@check
def training_lowers_the_loss(s: Subject) -> None:
    import torch

    model = s.model().train()
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for _ in range(10):
        loss = model(input_ids=s.ids, labels=s.ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0], losses


@check
def every_parameter_gets_a_gradient(s: Subject) -> None:
    model = s.model()
    found = gradients(model, s)
    missing = [name for name, p in model.named_parameters() if p.requires_grad and name not in found]
    assert not [name for name in missing if "expert" not in name], missing  # a token reaches some experts only


@check
def gradient_checkpointing(s: Subject) -> None:
    want = gradients(s.model(), s)
    model = s.model()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    same_gradients(gradients(model, s), want)


@check
def reentrant_gradient_checkpointing(s: Subject) -> None:
    want = gradients(s.model(), s)
    model = s.model()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    same_gradients(gradients(model, s), want)


@check
def training_with_padding(s: Subject) -> None:
    """The loss of a padded text is that of the text alone."""
    import torch

    model = s.model().train()
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), s.ids[:1]], 1)
    mask = (torch.arange(15) >= 4).long()[None]
    more = {} if s.cache_name == "cache_params" else {"position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    labels = padded.masked_fill(torch.arange(15) < 5, -100)  # alone, the first token is predicted from nothing
    torch.manual_seed(0)
    got = model(input_ids=padded, attention_mask=mask, labels=labels, use_cache=False, **more).loss
    torch.manual_seed(0)
    close(got, model(input_ids=s.ids[:1], labels=s.ids[:1], use_cache=False).loss, 1e-4)


@check
def autocast_in_bfloat16(s: Subject) -> None:
    import torch

    model = s.model().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=s.ids, labels=s.ids, use_cache=False).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@check
def compiled(s: Subject) -> None:
    import torch

    model = s.model()
    torch._dynamo.reset()
    with torch.no_grad():
        want = model(input_ids=s.ids, use_cache=False).logits
        close(torch.compile(model, backend="aot_eager")(input_ids=s.ids, use_cache=False).logits, want)


@check
def the_trainer_trains(s: Subject) -> None:
    import torch
    from transformers import Trainer, TrainingArguments

    model, rows = s.model(), [{"input_ids": row, "labels": row} for row in s.ids]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=3, per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
            logging_steps=1, gradient_accumulation_steps=2, max_grad_norm=1.0,
        )  # fmt: skip
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 3 and all(torch.isfinite(torch.tensor(losses)))


def run(family: str, dropin: bool) -> dict[str, str]:
    """Check -> "" where it passes, else the error's first line."""
    if dropin:
        import anymamba

        anymamba.dropin()
    import torch
    import transformers

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    subject, found = Subject(family), {}
    for name, function in CHECKS.items():
        try:
            function(subject)
            found[name] = ""
        except Exception as error:  # noqa: BLE001 - whatever a model raises is the result of the check
            found[name] = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
    return found


def main() -> int:
    from tests.dropin.tiny_transformers import CONFIGS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", default=",".join(CONFIGS))
    parser.add_argument("--json", action="store_true", help="every check's result, as one document")
    parser.add_argument("--one", choices=("with", "without"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.families, options.one == "with")))
        return 0
    results: dict[str, dict[str, dict[str, str]]] = {}
    for family in options.families.split(","):
        results[family] = {}
        for mode in ("without", "with"):
            command = [sys.executable, __file__, "--families", family, "--one", mode]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr[-2000:])
            results[family][mode] = json.loads(done.stdout.splitlines()[-1])
        without, with_it = results[family]["without"], results[family]["with"]
        new = {name: reason for name, reason in with_it.items() if reason and not without[name]}
        passed = [sum(not reason for reason in result.values()) for result in (without, with_it)]
        figures = f"{passed[0]} of {len(CHECKS)} pass without the drop-in, {passed[1]} with it, {len(new)} new failures"
        print(f"{family}: {figures}", file=sys.stderr)
        for name, reason in {**{name: reason for name, reason in without.items() if reason}, **new}.items():
            print(f"  {'NEW ' if name in new else 'both' if with_it[name] else 'mended'} {name}: {reason}", file=sys.stderr)
    if options.json:
        print(json.dumps(results, indent=1))
    return int(any(reason and not r["without"][name] for r in results.values() for name, reason in r["with"].items()))


if __name__ == "__main__":
    sys.exit(main())
