"""The front door: ``load`` gives a model that takes text as well as token ids, with its tokenizer, on the fastest device here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, overload

import torch
from torch import Tensor

from anymamba.backends import machine
from anymamba.errors import AnymambaError, ArgumentError
from anymamba.generation import engine
from anymamba.generation.dtype import fastest
from anymamba.generation.engine import Reader, Step
from anymamba.generation.quantize import WIDTHS
from anymamba.generation.quantize import quantize as rounded
from anymamba.generation.sampling import Sampling
from anymamba.generation.text import Piece, encode_prompt, end_tokens, generate_batch, pieces
from anymamba.language import _
from anymamba.models import hub, lora
from anymamba.models.cache import Cache
from anymamba.models.gguf import load as gguf
from anymamba.models.gguf.file import is_gguf
from anymamba.models.hub import adapter_files
from anymamba.models.lm import LanguageModel
from anymamba.models.plain import plain_class
from anymamba.models.tokenizer import Tokenizer, has_tokenizer, load_tokenizer
from anymamba.models.trunk.lora import adapted

if TYPE_CHECKING:
    from typing_extensions import Unpack

DTYPES = {
    "float32": torch.float32, "fp32": torch.float32, "bfloat16": torch.bfloat16, "bf16": torch.bfloat16,
    "float16": torch.float16, "fp16": torch.float16,
}  # fmt: skip

SCORED_TOKENS = 256
"""Tokens of a text whose logits are held at once while it is scored: the logits are the largest tensor there."""


class SamplingOptions(TypedDict, total=False):
    """The fields of ``sampling.Sampling``, for type checkers."""

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    no_repeat_ngram: int
    seed: int | None


@dataclass(frozen=True)
class TokenScores:
    """How likely a model finds a text, token by token.

    ids, tokens: what was scored. log_probabilities: of each, in nats, after everything before it.
    """

    ids: list[int]
    tokens: list[str]
    log_probabilities: list[float]

    @property
    def total(self) -> float:
        """Log-probability of the whole text, in nats."""
        return math.fsum(self.log_probabilities)

    @property
    def perplexity(self) -> float:
        """exp of the mean of -log p over the tokens."""
        return math.exp(min(-self.total / len(self.log_probabilities), 700.0)) if self.log_probabilities else math.nan


@plain_class
class Model(LanguageModel):
    """A language model with its tokenizer: ``anymamba.load`` returns one.

    It is a torch module over token ids like its base class, and ``generate``, ``stream`` and ``score`` also take text.
    tokenizer: None where the checkpoint has none; text then raises an error that says how to bring one.
    """

    tokenizer: Tokenizer | None = None

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Model:
        """The same as ``anymamba.load``."""
        return load(source, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes a Hugging Face folder (config.json, model.safetensors, the tokenizer) that ``load`` and transformers read. A
        quantized model is saved with its rounded weights, which only ``load`` reads."""
        hub.save(self, folder, self.tokenizer)

    def load_adapter(self, folder: str | Path, name: str = "default") -> None:
        """Reads an adapter in PEFT's format under that name; it acts with those that do. Raises AnymambaError where it does not fit."""
        adapter_files.add(self, adapter_files.read(hub.find(folder), self.config), name)
        active = next(iter(adapted(self).values())).active
        lora.activate(self, list(dict.fromkeys((*active, name))))

    def set_adapter(self, *names: str) -> None:
        """From now on these adapters act, together; none: the base alone."""
        lora.activate(self, list(names))

    @property
    def adapters(self) -> list[str]:
        """The names of the adapters that were loaded."""
        return lora.adapter_names(self)

    @overload
    def generate(
        self, prompt: str, max_new_tokens: int = 128, *, stop: Sequence[str] = (), **sampling: Unpack[SamplingOptions]
    ) -> str: ...

    @overload
    def generate(
        self, prompt: list[str], max_new_tokens: int = 128, *, stop: Sequence[str] = (), **sampling: Unpack[SamplingOptions]
    ) -> list[str]: ...

    @overload
    def generate(
        self, prompt: Tensor, max_new_tokens: int = 128, *, attention_mask: Tensor | None = None,
        eos: list[int] | None = None, cache: Cache | None = None, **sampling: Unpack[SamplingOptions],
    ) -> Tensor: ...  # fmt: skip

    def generate(self, prompt: Any, max_new_tokens: int = 128, **options: Any) -> Any:
        """Continues a text, several texts, or rows of token ids.

        prompt: a str gives the new text as a str, a list of str a list; a Tensor (rows, length) gives (rows, length + new).
        max_new_tokens: at most so many. stop: texts at which the answer ends. sampling: fields of ``Sampling``; greedy by
        default. attention_mask, eos, cache: ids only, see ``engine.generate``.
        """
        if isinstance(prompt, Tensor):
            return engine.generate(self, prompt, max_new_tokens, **options)
        if isinstance(prompt, str):
            return "".join(piece.text for piece in self._pieces(prompt, max_new_tokens, options, alone=True))
        texts = list(prompt)
        if not texts:
            return []
        stop = options.pop("stop", ())
        tokenizer = self._tokenizer()
        rows = [encode_prompt(tokenizer, text) for text in texts]
        ends = end_tokens(self, tokenizer)
        written = generate_batch(Reader(self, len(rows), alone=True), tokenizer, rows, max_new_tokens, Sampling(**options), stop, ends)
        return [one.text for one in written]

    @overload
    def stream(
        self, prompt: str, max_new_tokens: int = 128, *, stop: Sequence[str] = (), **sampling: Unpack[SamplingOptions]
    ) -> Iterator[str]: ...

    @overload
    def stream(
        self, prompt: Tensor, max_new_tokens: int = 128, *, attention_mask: Tensor | None = None,
        eos: list[int] | None = None, cache: Cache | None = None, measure: bool = False, top: int = 0,
        **sampling: Unpack[SamplingOptions],
    ) -> Iterator[Step]: ...  # fmt: skip

    def stream(self, prompt: Any, max_new_tokens: int = 128, **options: Any) -> Iterator[Any]:
        """The same, yielding whole characters as they come (for ids: each ``Step``; measure, top: see ``engine.stream``)."""
        if isinstance(prompt, Tensor):
            return engine.stream(self, prompt, max_new_tokens, **options)
        return (piece.text for piece in self._pieces(prompt, max_new_tokens, options) if piece.text)

    def score(self, text: str) -> TokenScores:
        """Log-probabilities of a text's tokens.

        The first token is predicted from the beginning-of-text or end-of-text token; without either it is not scored.
        Raises AnymambaError when nothing is left to score.
        """
        tokenizer = self._tokenizer()
        ids = tokenizer.encode(text)
        start = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
        row = ids if start is None else [start, *ids]
        if len(row) < 2:
            raise AnymambaError("data", _("the text is too short to be scored"))
        device, cache = self.device, self.make_cache(1)
        was_training = self.training
        self.eval()
        scores: list[float] = []
        try:
            with torch.inference_mode():
                for begin in range(0, len(row) - 1, SCORED_TOKENS):
                    part = torch.tensor([row[begin : begin + SCORED_TOKENS + 1]], device=device)
                    logits = self(part[:, :-1], cache=cache).logits
                    target_log_probabilities = logits.float().log_softmax(-1).gather(-1, part[:, 1:, None])
                    scores += target_log_probabilities[0, :, 0].tolist()
        finally:
            self.train(was_training)
        scored = row[1:]
        return TokenScores(scored, [tokenizer.decode([token]) for token in scored], scores)

    def _pieces(self, prompt: str, max_new_tokens: int, options: dict[str, Any], alone: bool = False) -> Iterator[Piece]:
        """Arguments are checked and the prompt is read now; the iterator writes."""
        stop = options.pop("stop", ())
        sampling = Sampling(**options)
        tokenizer = self._tokenizer()
        ids = encode_prompt(tokenizer, prompt)
        reader = Reader(self, alone=alone)
        reader.read(torch.tensor([ids], device=self.device))
        ends = end_tokens(self, tokenizer)
        return pieces(reader, tokenizer, ids, max_new_tokens, sampling, stop, ends, ahead=reader.ahead)

    def _tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise AnymambaError(
                "usage",
                _("this model was loaded without a tokenizer, so it takes token ids only"),
                fix=_('anymamba.load(path, tokenizer="FILE|FOLDER|NAME"), or model.tokenizer = ...'),
            )
        return self.tokenizer


def load(
    source: str | Path,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    *,
    tokenizer: str | Path | Tokenizer | None = None,
    a_activation: str | None = None,
    mapped: bool = False,
    adapter: str | Path | Mapping[str, str | Path] | None = None,
) -> Model:
    """A checkpoint's model and tokenizer, ready to generate.

    source: a checkpoint folder of ours, of transformers (MambaForCausalLM, Mamba2ForCausalLM, FalconMambaForCausalLM), of
    mamba_ssm (state-spaces/mamba-*, mamba2-*, mamba3-*) or of Codestral; a run folder of ``anymamba train``; or a Hugging Face
    name where no such folder exists; or a GGUF file, whose matrices on a CPU stay as they lie in it unless a dtype is given. device: the
    fastest here by default (``machine.default_device``). dtype: of the weights, a torch.dtype or its name; "auto": what is fast on
    that device (``generation/dtype.py``); as saved by default. quantize: "int8" or "int4" rounds the weights of the linear
    layers.
    tokenizer: where it is not in the folder. a_activation: "softplus" or "heavy_tail", of a Mamba-3 whose configuration
    does not say, or says it wrongly; without it both are tried (``hub.load``). mapped: on a CPU, weights that need no change are used
    where the file lies in memory: sooner there, and shared by processes, but nobody may write into the file while the model
    lives. adapter: a folder that ``anymamba train --lora`` or PEFT wrote, or several by name; all of them act until ``set_adapter``
    says otherwise. A source that is such a folder itself stands for its base with it; a tokenizer in it takes the place of the
    base's. The model is in eval mode; its ``tokenizer`` is None where the checkpoint has none.

    Raises AnymambaError that says which file, key, shape or argument is wrong.
    """
    automatic = dtype == "auto"
    if isinstance(dtype, str):
        if dtype not in DTYPES and not automatic:
            raise _unknown("dtype", dtype, ["auto", *DTYPES])
        dtype = DTYPES.get(dtype)
    if quantize not in (None, *WIDTHS):
        raise _unknown("quantize", quantize, list(WIDTHS))
    where = torch.device(device) if device is not None else machine.default_device()
    given = adapter if isinstance(adapter, Mapping) else {} if adapter is None else {"default": adapter}
    words = tokenizer if isinstance(tokenizer, Tokenizer) else load_tokenizer(tokenizer) if tokenizer is not None else None
    path = Path(source).expanduser()
    if is_gguf(path):
        wide = torch.float32 if quantize else dtype
        model, own = gguf.load(Model, path, wide, where, a_activation=a_activation, vocabulary=words is None)
        words = words or own
        adapters = {name: adapter_files.read(hub.find(place), model.config) for name, place in given.items()}
    else:
        folder, adapters = find_with_adapters(source, given)
        places = [place for place in (*(saved.folder for saved in adapters.values()), folder) if has_tokenizer(place)]
        if words is None and places:
            words = load_tokenizer(places[0])
        model = hub.load_as(Model, folder, dtype, where, tokenizer=words, a_activation=a_activation, mapped=mapped)
    if automatic:
        model.to(fastest(model.dtype, where)[0])
    if words is not None:
        hub.check_vocabulary(model.config, words)
    model.tokenizer = words
    if quantize:  # before the adapters: in a few bits their change of a weight would be rounded away
        rounded(model, quantize)
    for name, saved in adapters.items():
        adapter_files.add(model, saved, name)
    lora.activate(model, list(adapters))
    return model


def find_with_adapters(
    source: str | Path, given: Mapping[str, str | Path]
) -> tuple[Path, dict[str, adapter_files.SavedAdapter]]:
    """The folder of the base model and the adapters by name, read and checked against its configuration before any weight is loaded.

    source: the base, or an adapter that names its base, which then is the first. Raises AnymambaError for what is missing or does not fit.
    """
    folder, places = hub.find(source), {name: hub.find(place) for name, place in given.items()}
    if adapter_files.is_adapter(folder):
        places = {next(name for name in ("default", "first", "own") if name not in places): folder, **places}
        folder = adapter_files.base_of(folder)
    config = hub.load_config(folder)
    return folder, {name: adapter_files.read(place, config) for name, place in places.items()}


def _unknown(name: str, value: object, known: list[str]) -> ArgumentError:
    return ArgumentError(
        "usage",
        _("{name} {value!r} is not known").format(name=name, value=value),
        fix=_("known: ") + ", ".join(known),
    )
