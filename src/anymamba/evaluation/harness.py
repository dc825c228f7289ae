"""The model class for lm-eval (EleutherAI's evaluation harness): ``lm_eval --model anymamba --model_args pretrained=FOLDER``
after ``import anymamba.evaluation.harness``, or ``anymamba eval MODEL --tasks A,B``. Needs the extra ``eval``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from anymamba.errors import AnymambaError, UnsupportedError
from anymamba.language import _
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.tokenizer import Tokenizer, load_tokenizer

try:
    import lm_eval
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise AnymambaError(
        "dependency",
        _("lm-eval cannot be imported"),
        why=str(error),
        fix="pip install 'anymamba[eval]'",
    ) from error


@register_model("anymamba")
class AnymambaLM(TemplateLM):
    """pretrained: a LanguageModel, a folder or a hub name. tokenizer: a Tokenizer or what ``load_tokenizer`` takes. a_activation: see
    ``hub.load``."""

    def __init__(
        self,
        pretrained: LanguageModel | str,
        tokenizer: Tokenizer | str | None = None,
        dtype: str | None = None,
        device: str | None = None,
        batch_size: int | str = 8,
        max_length: int = 2**20,
        a_activation: str | None = None,
        **__: Any,  # lm-eval passes every option of its command line to every model
    ) -> None:
        super().__init__()
        if isinstance(pretrained, LanguageModel):
            self.model = pretrained
        else:
            tokenizer = tokenizer or str(hub.find(pretrained))
            words = tokenizer if isinstance(tokenizer, Tokenizer) else load_tokenizer(tokenizer)
            kind = getattr(torch, dtype) if dtype else None
            self.model = hub.load(pretrained, kind, device, tokenizer=words, a_activation=a_activation)
            tokenizer = words
        if tokenizer is None:
            raise AnymambaError("tokenizer", _("a model object needs a tokenizer"))
        self.tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else load_tokenizer(tokenizer)
        self.model.eval()
        self.max_length = int(max_length)
        self.batch_size = int(batch_size) if str(batch_size).isdigit() else 8

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_id or 0

    @property
    def prefix_token_id(self) -> int:
        bos = self.tokenizer.bos_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        return self.tokenizer.encode(string)

    @torch.no_grad()
    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """requests: ((context, continuation), context ids, continuation ids) -> (sum of log p, is it the greedy choice)."""
        # rows of like length together; padding on the right is after everything that is scored
        order = sorted(range(len(requests)), key=lambda i: len(requests[i][1]) + len(requests[i][2]))
        answers: dict[int, tuple[float, bool]] = {}
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            rows = [(requests[i][1] + requests[i][2])[-(self.max_length + 1) :] for i in batch]
            width = max(len(row) for row in rows) - 1
            inputs = torch.tensor([row[:-1] + [0] * (width - len(row) + 1) for row in rows], device=self.model.device)
            hidden = self.model.backbone(inputs)
            for i, row, states in zip(batch, rows, hidden):
                continuation = torch.tensor(row[-len(requests[i][2]) :], device=self.model.device)
                last = len(row) - 1
                answers[i] = _likelihood(self.model.lm_head(states[last - len(continuation) : last]), continuation)
        return [answers[i] for i in range(len(requests))]

    @torch.no_grad()
    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text: the state is carried along, nothing is cut."""
        from anymamba.evaluation.perplexity import score_text

        return [-score_text(self.model, self.tokenizer, request.args[0]).nats for request in requests]

    @torch.no_grad()
    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy continuations up to the first of the stop strings."""
        answers = []
        for request in requests:
            context, options = request.args
            if options.get("do_sample") and options.get("temperature", 1.0) > 0:
                raise UnsupportedError("usage", _("only greedy generation is supported here"))
            stops = options.get("until") or []
            stops = [stops] if isinstance(stops, str) else list(stops)
            answers.append(self._greedy(self.tokenizer.encode(context), stops, int(options.get("max_gen_toks", 256))))
        return answers

    def _greedy(self, context: list[int], stops: list[str], tokens: int) -> str:
        cache = self.model.make_cache(1)
        ids = torch.tensor([context or [self.prefix_token_id]], device=self.model.device)
        new_ids: list[int] = []
        text = ""
        for __ in range(tokens):
            ids = self.model(ids, cache=cache, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)
            new_ids.append(int(ids))
            if new_ids[-1] == self.tokenizer.eos_id:
                new_ids.pop()
                break
            text = self.tokenizer.decode(new_ids)
            if any(stop in text for stop in stops):
                break
        text = self.tokenizer.decode(new_ids)
        for stop in stops:
            text = text.split(stop)[0] if stop else text
        return text


def evaluate_tasks(
    model: LanguageModel, tokenizer: Tokenizer, tasks: list[str], limit: int | None = None
) -> dict[str, Any]:
    """task -> metric -> value, from ``lm_eval.simple_evaluate``."""
    results = lm_eval.simple_evaluate(model=AnymambaLM(model, tokenizer), tasks=tasks, limit=limit)
    return dict(results["results"]) if results else {}


def _likelihood(logits: Tensor, ids: Tensor) -> tuple[float, bool]:
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    target_log_probabilities = log_probabilities.gather(1, ids[:, None])
    return float(target_log_probabilities.sum()), bool((log_probabilities.argmax(-1) == ids).all())
