"""Generation with a MambaLMHeadModel: the prompt at once, then token by token with the states in InferenceParams."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from anymamba.dropin.borrowed import borrowed
from anymamba.errors import warn_once
from anymamba.language import _


@dataclass
class InferenceParams:
    """What the layers keep between calls: key_value_memory_dict, layer number -> states; seqlen_offset: tokens seen so far."""

    max_seqlen: int
    max_batch_size: int
    seqlen_offset: int = 0
    batch_size_offset: int = 0
    key_value_memory_dict: dict = field(default_factory=dict)
    lengths_per_sample: Tensor | None = None

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        self.max_seqlen, self.max_batch_size, self.seqlen_offset = max_seqlen, max_batch_size, 0
        self.is_reset = True
        if self.lengths_per_sample is not None:
            self.lengths_per_sample.zero_()


def modify_logits_for_min_p_filtering(logits: Tensor, min_p: float) -> None:
    """logits (batch, vocab_size) below min_p become -inf, in place; min_p outside (0, 1): nothing."""
    if 0.0 < min_p < 1.0:
        logits.masked_fill_(logits < min_p, float("-inf"))


def modify_logits_for_top_k_filtering(logits: Tensor, top_k: int) -> None:
    """All but the top_k largest of each row become -inf, in place."""
    logits.masked_fill_(logits < logits.topk(top_k).values[..., -1:], float("-inf"))


def modify_logits_for_top_p_filtering(logits: Tensor, top_p: float) -> None:
    """The least likely tokens, of 1 - top_p probability together at most, become -inf, in place; top_p outside (0, 1): nothing."""
    if 0.0 < top_p < 1.0:
        ascending, order = logits.sort(dim=-1)
        unlikely = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        logits.masked_fill_(torch.zeros_like(unlikely).scatter(1, order, unlikely), float("-inf"))


def modify_logit_for_repetition_penalty(logits: Tensor, prev_output_tokens: Tensor, repetition_penalty: float = 1.0) -> Tensor:
    """logits (batch, vocab_size) of tokens (batch, length) said before become less likely, in place. Source: Keskar et al., 2019."""
    if repetition_penalty == 1.0:
        return logits
    earlier_logits = logits.gather(1, prev_output_tokens)
    penalised = torch.where(earlier_logits < 0, earlier_logits * repetition_penalty, earlier_logits / repetition_penalty)
    return logits.scatter_(1, prev_output_tokens, penalised)


def sample(logits: Tensor, top_k: int = 1, top_p: float = 0.0, min_p: float = 0.0, temperature: float = 1.0) -> Tensor:
    """logits: (batch, vocab_size). Returns tokens (batch,): the most likely (top_k 1), or drawn from the top_k (0: all) after top_p;
    min_p, used with top_k 0, drops tokens less likely than min_p times the most likely."""
    if top_k == 1:
        return logits.argmax(dim=-1)
    assert 0.0 <= top_p <= 1.0, "top_p must lie in [0, 1]"
    if top_k > 0:
        scaled_logits, tokens = logits.topk(min(top_k, logits.shape[-1]), dim=-1)
        scaled_logits = scaled_logits / temperature
        modify_logits_for_top_p_filtering(scaled_logits, top_p)
        return tokens.gather(1, torch.multinomial(scaled_logits.softmax(dim=-1), 1))[:, 0]
    scaled_logits = logits / temperature
    if 0.0 < min_p < 1.0:
        probability = logits.softmax(dim=-1)
        scaled_logits = scaled_logits.masked_fill(probability < min_p * probability.amax(dim=-1, keepdim=True), float("-inf"))
    else:
        modify_logits_for_top_p_filtering(scaled_logits, top_p)
    return torch.multinomial(scaled_logits.softmax(dim=-1), 1)[:, 0]


@torch.inference_mode()
def decode(
    input_ids: Tensor,
    model: Any,
    max_length: int,
    top_k: int = 1,
    top_p: float = 0.0,
    min_p: float = 0.0,
    temperature: float = 1.0,
    repetition_penalty: float = 1.0,
    eos_token_id: int | None = None,
    teacher_outputs: Tensor | None = None,
    vocab_size: int | None = None,
    cg: bool = False,
    enable_timing: bool = False,
    output_scores: bool = False,
    streamer: Any = None,
) -> Any:
    """input_ids: (batch, length). Returns sequences (batch, max_length at most) and scores, one (batch, vocab_size) a new token.

    teacher_outputs (batch, length): tokens to take instead of sampling, as far as they reach. eos_token_id: stop when every sequence
    has it at the same step. cg: the model must run as a CUDA graph; here it runs eagerly, and says so.
    """
    if streamer is not None:
        streamer.put(input_ids.cpu())
    batch = input_ids.shape[0]
    if cg:
        model._decoding_cache = update_graph_cache(
            model, getattr(model, "_decoding_cache", None), batch, input_ids.shape[1], max_length
        )
    params = InferenceParams(max_seqlen=max_length, max_batch_size=batch)
    started = _now(input_ids) if enable_timing else 0.0
    scores: list[Tensor] = []
    sequences, new = input_ids, input_ids
    while True:
        positions = None
        if params.seqlen_offset > 0:
            positions = torch.full((batch, 1), params.seqlen_offset, dtype=torch.long, device=input_ids.device)
        logits = model(new, position_ids=positions, inference_params=params, num_last_tokens=1).logits[:, 0, :vocab_size]
        if output_scores:
            scores.append(logits.clone())
        params.seqlen_offset += new.shape[1]
        logits = modify_logit_for_repetition_penalty(logits, sequences, repetition_penalty)
        if teacher_outputs is not None and params.seqlen_offset < teacher_outputs.shape[1]:
            token = teacher_outputs[:, params.seqlen_offset]
        else:
            token = sample(logits, top_k, top_p, min_p, temperature)
        new = token[:, None]
        sequences = torch.cat([sequences, new], dim=1)
        if streamer is not None:
            streamer.put(new.cpu())
        if params.seqlen_offset >= max_length - 1 or (eos_token_id is not None and bool((new == eos_token_id).all())):
            break
    if streamer is not None:
        streamer.end()
    if enable_timing:
        milliseconds = 1000 * (_now(input_ids) - started)
        print(f"Prompt processing + decoding time: {milliseconds:.0f}ms", file=sys.stderr)
    return _output(sequences, tuple(scores))


def _now(tensor: Tensor) -> float:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()


def _output(sequences: Tensor, scores: tuple[Tensor, ...]) -> Any:
    try:
        from transformers.generation import GenerateDecoderOnlyOutput
    except ImportError:
        return SimpleNamespace(sequences=sequences, scores=scores)
    return GenerateDecoderOnlyOutput(sequences=sequences, scores=scores)  # type: ignore[arg-type]


class GenerationMixin:
    """Gives a model ``generate``."""

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> Any:
        raise NotImplementedError

    def generate(
        self,
        input_ids: Tensor,
        max_length: int,
        top_k: int = 1,
        top_p: float = 0.0,
        min_p: float = 0.0,
        temperature: float = 1.0,
        return_dict_in_generate: bool = False,
        output_scores: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Sequences (batch, max_length at most), or with return_dict_in_generate what ``decode`` returns; options as there."""
        output = decode(
            input_ids, self, max_length, top_k=top_k, top_p=top_p, min_p=min_p, temperature=temperature,
            output_scores=output_scores, **kwargs,
        )  # fmt: skip
        if not output_scores:
            output.scores = None
        return output if return_dict_in_generate else output.sequences


@dataclass
class DecodingCGCache:
    """What a captured decoder keeps; here only how to run one step."""

    max_batch_size: int = 0
    max_seqlen: int = 0
    device = None
    dtype = None
    callables: dict = field(default_factory=dict)
    mempool = None
    inference_params: InferenceParams | None = None
    run: Callable | None = None


@torch.inference_mode()
def update_graph_cache(
    model: Any,
    cache: DecodingCGCache | None,
    batch_size: int,
    seqlen_og: int,
    max_seqlen: int,
    decoding_seqlens: Sequence[int] = (1,),
    dtype: torch.dtype | None = None,
    n_warmups: int = 2,
) -> DecodingCGCache:
    """A cache whose ``run(input_ids, position_ids, seqlen)`` makes one eager step: no CUDA graph is captured, and that is said once."""
    cache = cache or DecodingCGCache()
    parameter = next(iter(model.parameters()))
    key = (parameter.device, dtype or parameter.dtype)
    params = cache.inference_params
    if params is None or key != (cache.device, cache.dtype) or batch_size > cache.max_batch_size or max_seqlen > cache.max_seqlen:
        states = model.allocate_inference_cache(batch_size, max_seqlen, key[1])
        lengths = torch.full((batch_size,), seqlen_og, dtype=torch.int32, device=parameter.device)
        params = InferenceParams(max_seqlen, batch_size, seqlen_og, 0, states, lengths)
        cache.device, cache.dtype = key  # type: ignore[assignment]
        cache.max_batch_size, cache.max_seqlen, cache.inference_params = batch_size, max_seqlen, params
    for length in decoding_seqlens:
        cache.callables[batch_size, length] = capture_graph(model, params, batch_size, max_seqlen, length, n_warmups=n_warmups)
    cache.run = lambda input_ids, position_ids, seqlen: cache.callables[tuple(input_ids.shape[:2])](input_ids, position_ids, seqlen)
    params.seqlen_offset = 0
    return cache


def capture_graph(
    model: Any,
    inference_params: InferenceParams,
    batch_size: int,
    max_seqlen: int,
    decoding_seqlen: int = 1,
    mempool: Any = None,
    n_warmups: int = 2,
) -> Callable[[Tensor, Tensor, int], Tensor]:
    """One eager step as a function: no CUDA graph is captured, and that is said once."""
    warn_once(
        "dropin:cg",
        _("cg=True: anymamba's drop-in decodes without a CUDA graph (`anymamba.load(...).generate` uses one)"),
    )

    def step(input_ids: Tensor, position_ids: Tensor, seqlen: int) -> Tensor:
        inference_params.seqlen_offset = seqlen
        return model(
            input_ids, position_ids=position_ids, inference_params=inference_params, num_last_tokens=decoding_seqlen
        ).logits.clone()

    return step


__getattr__ = borrowed(
    __name__,
    "from einops import rearrange, repeat"
    "; import torch.nn.functional as F"
    "; from torch.profiler import ProfilerActivity, profile, record_function"
    "; from transformers import TextStreamer"
    "; from transformers.generation import GenerateDecoderOnlyOutput",
)
