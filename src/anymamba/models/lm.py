"""The language model that every family shares: embedding, blocks of norm and mixer, final norm, head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from anymamba import ops
from anymamba.errors import ArgumentError, warn_once
from anymamba.language import _
from anymamba.models import contract
from anymamba.models.cache import Cache
from anymamba.models.config import Config
from anymamba.models.families import family_of
from anymamba.models.family import LayerKind
from anymamba.models.plain import plain_class
from anymamba.models.trunk import padding
from anymamba.models.trunk.adapters import head_and_input
from anymamba.models.trunk.documents import Documents, find_documents
from anymamba.models.trunk.linear import Linear
from anymamba.models.trunk.loss import IGNORE_INDEX, linear_cross_entropy, logits_cross_entropy
from anymamba.models.trunk.state import State
from anymamba.models.trunk.submodule import call
from anymamba.models.trunk.tied import SharedGradient, embed, shares_gradient
from anymamba.ops.calls.checks import has_values
from anymamba.ops.projection import autocast_dtype


@dataclass
class Output:
    """loss: float32 scalar in nats, when labels or targets were given. logits: (batch, kept tokens, vocabulary), when they were
    not, or on request. cache: the one that was passed."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    cache: Cache | None = None


# torch.export returns nothing whose parts it does not know
pytree.register_pytree_node(
    Output,
    lambda output: ([output.loss, output.logits], output.cache),
    lambda parts, cache: Output(**dict(zip(("loss", "logits"), parts)), cache=cache),
    serialized_type_name="anymamba.models.lm.Output",
    to_dumpable_context=lambda cache: None,
    from_dumpable_context=lambda cache: None,
)


@plain_class
class RMSNorm(nn.Module):
    """Holds the weight; ``forward`` adds the residual stream first and returns both (``ops.rms_norm_fn``, prenorm)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, residual: Tensor | None, residual_in_fp32: bool) -> tuple[Tensor, Tensor]:
        both: Any = ops.rms_norm_fn(
            x, self.weight, None, residual=residual, eps=self.eps, prenorm=True, residual_in_fp32=residual_in_fp32
        )
        return both


@plain_class
class Block(nn.Module):
    """(output of the block before, residual stream) -> the same of this block; the sum is formed inside the next norm. Where its kind has
    an MLP, norm and MLP follow the mixer in the same way."""

    def __init__(self, config: Config, kind: LayerKind[Any]) -> None:
        super().__init__()
        self.residual_in_fp32 = config.residual_in_fp32
        self.scale = config.multipliers.residual
        self.norm = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.mixer = kind.mixer(config)
        self.mlp: nn.Module | None = None
        if kind.mlp is not None:
            self.norm2 = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
            self.mlp = kind.mlp(config)
        self.aside = None if kind.aside is None else kind.aside(config)

    def forward(
        self,
        hidden: Tensor,
        residual: Tensor | None,
        mask: Tensor | None = None,
        documents: Documents | None = None,
        state: State | None = None,
        embedded: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """embedded: the text's embedding, for a block with something beside the stream."""
        if self.aside is None:
            hidden, residual = self.norm(hidden, residual, self.residual_in_fp32)
        else:
            stream = hidden if residual is None else hidden + residual
            addition = self.aside(stream, embedded, mask, documents, state)
            hidden = self.norm((stream + addition).to(addition.dtype), None, self.residual_in_fp32)[0]
            residual = stream.float() if self.residual_in_fp32 else stream
        hidden = self._scaled(self.mixer(hidden, mask=mask, documents=documents, state=state))
        if self.mlp is not None:
            hidden, residual = self.norm2(hidden, residual, self.residual_in_fp32)
            hidden = self._scaled(self.mlp(hidden))
        return hidden, residual

    def _scaled(self, hidden: Tensor) -> Tensor:
        return hidden if self.scale == 1.0 else hidden * self.scale


@plain_class
class Backbone(nn.Module):
    """ids (batch, length) -> the normed hidden states (batch, length, d_model)."""

    def __init__(self, config: Config, kinds: Sequence[LayerKind[Any]]) -> None:
        super().__init__()
        self.config = config
        self.embeddings = _embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, kind) for kind in kinds)
        tie = family_of(config).tie
        if tie is not None:
            tie(config, list(self.layers))
        for index, block in enumerate(self.layers):
            block.mixer.layer_index = index  # type: ignore[union-attr, assignment]  # for errors that name a layer
        self.norm_f = RMSNorm(config.hidden_size, config.layer_norm_epsilon)
        self.gradient_checkpointing = False

    def forward(
        self,
        input_ids: Tensor,
        mask: Tensor | None = None,
        documents: Documents | None = None,
        cache: Cache | None = None,
        shared: SharedGradient | None = None,
    ) -> Tensor:
        embedded = self.embeddings(input_ids) if shared is None else embed(self.embeddings.weight, input_ids, shared)
        multipliers = self.config.multipliers
        if multipliers.embedding != 1.0:
            embedded = embedded * multipliers.embedding
        hidden, residual = embedded, None
        if mask is not None:
            mask = mask.to(hidden.dtype)
        for index, block in enumerate(self.layers):
            state = None if cache is None else cache.layers[index]
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden, residual = _recomputed(block, hidden, residual, mask, documents, state, embedded)
            else:
                hidden, residual = block(hidden, residual, mask, documents, state, embedded)
        hidden = self.norm_f(hidden, residual, self.config.residual_in_fp32)[0]
        return hidden if multipliers.logits == 1.0 else hidden * multipliers.logits


@plain_class
class LanguageModel(nn.Module):
    """A Mamba language model. ``LanguageModel(config)`` has fresh parameters; ``hub.load`` fills in saved ones.

    ``model.backbone.gradient_checkpointing = True`` recomputes each block in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.backbone = Backbone(config, family_of(config).layers(config))
        self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.backbone.embeddings.weight
        contract.check_model(family_of(config), config, self)
        self.init_parameters()

    @torch.no_grad()
    def init_parameters(self) -> None:
        """As mamba_ssm's ``_init_weights``: embedding normal, biases zero, out_proj scaled down with depth."""
        if self.device.type == "meta":
            return
        self.backbone.embeddings.weight.normal_(std=self.config.initializer_range)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.bias is not None:
                module.bias.zero_()
        kinds = family_of(self.config).layers(self.config)
        branches = [[layer.name for layer in kind.linear_layers if layer.residual] for kind in kinds]
        for block, names in zip(self.backbone.layers, branches):
            block.mixer.init_parameters()  # type: ignore[union-attr, operator]
            for name in names if self.config.rescale_prenorm_residual else ():
                weight: Any = block.get_submodule(name).weight
                nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
                weight /= math.sqrt(sum(map(len, branches)))

    @property
    def device(self) -> torch.device:
        return self._table().device

    @property
    def dtype(self) -> torch.dtype:
        return self._table().dtype

    def _table(self) -> Tensor:
        """A parameter of the embedding, whatever was put around it."""
        weight = getattr(self.backbone.embeddings, "weight", None)
        return weight if isinstance(weight, Tensor) and weight.is_floating_point() else next(self.parameters())

    def make_cache(self, batch: int = 1) -> Cache:
        """An empty recurrent state for that many rows; under autocast its convolution part is in autocast's dtype."""
        return Cache(self.config, batch, self.device, autocast_dtype(self.device) or self.dtype, self)

    def forward(
        self,
        input_ids: Tensor,
        labels: Tensor | None = None,
        *,
        targets: Tensor | None = None,
        seq_idx: Tensor | None = None,
        cache: Cache | None = None,
        attention_mask: Tensor | None = None,
        logits_to_keep: int = 0,
        return_logits: bool | None = None,
        token_weights: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Output:
        """The loss, or the logits, of a batch of rows.

        input_ids: (batch, length) integers below vocab_size.
        labels: (batch, length); token t is predicted from what is before it, as in transformers: pass input_ids, with -100
        where nothing is to be learnt. targets: (batch, length), already the token after each position; labels or targets.
        token_weights, normalizer: of the loss, see ``loss.linear_cross_entropy``; token_weights goes with labels or targets,
        position by position.
        seq_idx: (batch, length) ids of the documents packed into a row: nothing passes from one to the next, and no label is
        predicted across a border. Not together with cache.
        cache: ``make_cache()``, continued from and updated. A row of one token is a step, more are read in parallel.
        attention_mask: (batch, length or more) 1 for tokens, 0 for padding, anywhere. Longer masks count from the right. Padding is zeroed
        before and after the convolution, and between tokens taken out (but not with seq_idx); with a cache, it leaves a row's state as
        it was, and other padding than on the left of the first piece makes the rows be read one by one.
        logits_to_keep: only the last so many positions' logits (0: all).
        return_logits: also return logits when there is a loss; they take (batch, length, vocabulary) memory.
        """
        _check_ids(input_ids, self.config.vocab_size)
        mask = padding.mask_of(attention_mask, input_ids)
        documents = None
        if seq_idx is not None:
            if cache is not None:
                raise ArgumentError("usage", _("seq_idx and cache cannot be used together"))
            documents = find_documents(seq_idx, input_ids)
        learning = labels is not None or targets is not None
        shared = SharedGradient() if learning and not return_logits and shares_gradient(self) else None
        if cache is not None and mask is not None and padding.cuts_into(mask, cache):
            hidden = padding.read_rows(self.backbone, input_ids, mask, cache)
        elif mask is not None and documents is None and (closed := padding.closed_up(input_ids, mask)) is not None:
            ids, mask, columns = closed
            hidden = self.backbone(ids, mask, None, cache, shared)
            hidden = hidden.gather(1, columns.unsqueeze(-1).expand_as(hidden))
        else:
            hidden = self.backbone(input_ids, mask, documents, cache, shared)
        if cache is not None:
            cache.advance(input_ids.shape[1])
        _check_context(self.config, input_ids.shape[1] if cache is None else cache.tokens)
        output = Output(cache=cache)
        if labels is not None:
            targets, token_weights = _shift(labels, token_weights, documents)
        if targets is not None:
            weight, inputs, reason = head_and_input(self.lm_head, hidden)
            if weight is None:
                output.logits = self._logits_for_loss(hidden, reason)
            arguments: dict[str, Any] = {"token_weights": token_weights, "normalizer": normalizer}
            if output.logits is not None:
                output.loss = logits_cross_entropy(output.logits, targets, **arguments)
            else:
                assert weight is not None
                output.loss = linear_cross_entropy(inputs, weight, targets, shared=shared, **arguments)
        if targets is None if return_logits is None else return_logits:
            if output.logits is None:
                output.logits = call(self, "lm_head", hidden[:, -logits_to_keep:] if logits_to_keep else hidden, self._vocabulary())
            elif logits_to_keep:
                output.logits = output.logits[:, -logits_to_keep:]
        else:
            output.logits = None
        return output

    def _logits_for_loss(self, hidden: Tensor, reason: str) -> Tensor:
        if not torch.compiler.is_compiling():  # a graph cannot speak
            warn_once(
                f"loss from logits: {reason}",
                _(
                    "the loss keeps the logits of all tokens in memory, since lm_head itself has to run: {reason}"
                ).format(reason=reason),
            )
        return call(self, "lm_head", hidden, self._vocabulary())

    def _vocabulary(self) -> int | None:
        """Of the head, which may have been given more rows than the embedding."""
        return getattr(self.lm_head, "out_features", None)


def _embedding(rows: int, size: int) -> nn.Embedding:
    """nn.Embedding, but not drawn at random where there is no memory to draw into: torch would import its compiler for that (2 s)."""
    table = torch.empty(rows, size)
    return nn.Embedding.from_pretrained(table, freeze=False) if table.is_meta else nn.Embedding(rows, size)


def _check_ids(input_ids: Tensor, vocabulary: int) -> None:
    if input_ids.dim() != 2 or input_ids.is_floating_point():
        raise ArgumentError(
            "shape",
            _("input_ids must be integers of shape (batch, length), not {dtype} {shape}").format(
                dtype=input_ids.dtype, shape=tuple(input_ids.shape)
            ),
        )
    # looking at values on another device would make it wait for them; there, and in a graph, the embedding's own check has to do
    if input_ids.device.type == "cpu" and input_ids.numel() and has_values(input_ids):
        low, high = (int(value) for value in torch.aminmax(input_ids))
        if low < 0 or high >= vocabulary:
            raise ArgumentError(
                "vocabulary",
                _("token id {token} is outside the model's vocabulary of {vocabulary}").format(
                    token=low if low < 0 else high, vocabulary=vocabulary
                ),
                fix=_("use the tokenizer that the model was trained with"),
            )


def _check_context(config: Config, tokens: int) -> None:
    context = config.context
    if context is not None and tokens > context and not torch.compiler.is_compiling():
        warn_once(
            f"context {config.model_type} {context}",
            _(
                "the text is longer than the {context} tokens that this model was trained for (max_position_embeddings): "
                "what it says from there on may make no sense"
            ).format(context=context),
        )


def _recomputed(
    block: nn.Module,
    hidden: Tensor,
    residual: Tensor | None,
    mask: Tensor | None,
    documents: Documents | None,
    state: State | None,
    embedded: Tensor,
) -> Any:
    """The block's output, of which only the inputs are kept: the backward pass runs it again, from the state that it had."""
    if state is None:
        return checkpoint(block, hidden, residual, mask, documents, None, embedded, use_reentrant=False)
    before, after = state.map(Tensor.clone), []

    def run(hidden: Tensor, residual: Tensor | None) -> Any:
        after.append(before.map(Tensor.clone))
        return block(hidden, residual, mask, documents, after[-1], embedded)

    result = checkpoint(run, hidden, residual, use_reentrant=False)
    state.copy_(after[0])
    after.clear()
    return result


def _shift(labels: Tensor, weights: Tensor | None, documents: Documents | None) -> tuple[Tensor, Tensor | None]:
    """Labels one to the left; nothing is predicted at the end of a row or across a border of documents."""
    if documents is not None:
        labels = labels.masked_fill(documents.starts, IGNORE_INDEX)
    targets = torch.full_like(labels, IGNORE_INDEX)
    targets[:, :-1] = labels[:, 1:]
    if weights is not None:
        shifted = torch.zeros_like(weights)
        shifted[:, :-1] = weights[:, 1:]
        weights = shifted
    return targets, weights
