"""Language models of Mamba-1, Mamba-2, Mamba-3 and attention layers."""

from __future__ import annotations

import json
import math
import os
from collections import namedtuple
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from anymamba.dropin.borrowed import borrowed
from anymamba.models import plain

from ..modules.block import Block
from ..modules.mamba2 import Mamba2
from ..modules.mamba3 import Mamba3
from ..modules.mamba_simple import Mamba
from ..modules.mha import MHA
from ..modules.mlp import GatedMLP
from ..modules.modules_as_weights import called
from ..ops.triton.layer_norm import RMSNorm, layer_norm_fn
from ..utils.generation import GenerationMixin
from ..utils.hf import load_config_hf, load_state_dict_hf
from .config_mamba import MambaConfig

CausalLMOutput = namedtuple("CausalLMOutput", ["logits"])
_MIXERS = {"Mamba1": Mamba, "Mamba2": Mamba2, "Mamba3": Mamba3}


def create_block(
    d_model: int,
    d_intermediate: int,
    ssm_cfg: dict | None = None,
    attn_layer_idx: list | None = None,
    attn_cfg: dict | None = None,
    norm_epsilon: float = 1e-5,
    rms_norm: bool = False,
    residual_in_fp32: bool = False,
    fused_add_norm: bool = False,
    layer_idx: int | None = None,
    device: Any = None,
    dtype: torch.dtype | None = None,
) -> Block:
    """One layer: attention where layer_idx is in attn_layer_idx, else the mixer that ssm_cfg["layer"] names."""
    factory_kwargs = {"device": device, "dtype": dtype}
    mixer: Any
    if layer_idx in (attn_layer_idx or []):
        mixer = partial(MHA, layer_idx=layer_idx, **(attn_cfg or {}), **factory_kwargs)
    else:
        options = dict(ssm_cfg or {})
        name = options.pop("layer", "Mamba1")
        if name not in _MIXERS:
            raise ValueError(f"Invalid ssm_layer: {name}, anymamba's drop-in has {', '.join(_MIXERS)}")
        mixer = partial(_MIXERS[name], layer_idx=layer_idx, **options, **factory_kwargs)
    norm: Any = partial(RMSNorm if rms_norm else nn.LayerNorm, eps=norm_epsilon, **factory_kwargs)
    mlp: Any = nn.Identity
    if d_intermediate:
        mlp = partial(GatedMLP, hidden_features=d_intermediate, out_features=d_model, **factory_kwargs)
    block = Block(d_model, mixer, mlp, norm_cls=norm, fused_add_norm=fused_add_norm, residual_in_fp32=residual_in_fp32)
    block.layer_idx = layer_idx  # type: ignore[assignment]
    return block


def _init_weights(
    module: nn.Module,
    n_layer: int,
    initializer_range: float = 0.02,
    rescale_prenorm_residual: bool = True,
    n_residuals_per_layer: int = 1,
) -> None:
    """For nn.Module.apply: biases to zero (unless marked _no_reinit), embeddings normal, the projections into the residual stream
    uniform as torch does, divided by sqrt(residual branches) (GPT-2)."""
    if isinstance(module, nn.Linear) and module.bias is not None and not getattr(module.bias, "_no_reinit", False):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=initializer_range)
    if rescale_prenorm_residual:
        for name, parameter in module.named_parameters():
            if name in ("out_proj.weight", "fc2.weight"):
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
                with torch.no_grad():
                    parameter.div_(math.sqrt(n_residuals_per_layer * n_layer))


class MixerModel(nn.Module):
    """embedding, layers, norm_f. input_ids (batch, length) to hidden states (batch, length, d_model)."""

    def __init__(
        self,
        d_model: int,
        n_layer: int,
        d_intermediate: int,
        vocab_size: int,
        ssm_cfg: dict | None = None,
        attn_layer_idx: list | None = None,
        attn_cfg: dict | None = None,
        norm_epsilon: float = 1e-5,
        rms_norm: bool = False,
        initializer_cfg: dict | None = None,
        fused_add_norm: bool = False,
        residual_in_fp32: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.residual_in_fp32, self.fused_add_norm = residual_in_fp32, fused_add_norm
        self.embedding = nn.Embedding(vocab_size, d_model, device=device, dtype=dtype)
        self.layers = nn.ModuleList(
            create_block(
                d_model, d_intermediate, ssm_cfg, attn_layer_idx, attn_cfg, norm_epsilon, rms_norm, residual_in_fp32,
                fused_add_norm, layer_idx, device, dtype,
            )
            for layer_idx in range(n_layer)
        )  # fmt: skip
        norm: Any = RMSNorm if rms_norm else nn.LayerNorm
        self.norm_f = norm(d_model, eps=norm_epsilon, device=device, dtype=dtype)
        branches = 2 if d_intermediate else 1
        self.apply(partial(_init_weights, n_layer=n_layer, **(initializer_cfg or {}), n_residuals_per_layer=branches))

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> dict[int, Any]:
        """Layer number -> its states."""
        layers: Any = self.layers
        return {i: layer.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **kwargs) for i, layer in enumerate(layers)}

    def forward(self, input_ids: Tensor, inference_params: Any = None, **mixer_kwargs: Any) -> Tensor:
        hidden_states, residual = self.embedding(input_ids), None
        for layer in self.layers:
            hidden_states, residual = layer(hidden_states, residual, inference_params=inference_params, **mixer_kwargs)
        norm_weights = plain.weights(self.norm_f)[0] if self.fused_add_norm else None
        if norm_weights is not None:
            return layer_norm_fn(
                hidden_states, norm_weights.weight, norm_weights.bias, eps=self.norm_f.eps, residual=residual, prenorm=False,
                residual_in_fp32=self.residual_in_fp32, is_rms_norm=isinstance(self.norm_f, RMSNorm),
            )  # fmt: skip
        total = hidden_states if residual is None else hidden_states + residual
        return self.norm_f(total.to(self.norm_f.weight.dtype))


class MambaLMHeadModel(nn.Module, GenerationMixin):
    """backbone (MixerModel) and lm_head, tied to the embedding when the configuration says so."""

    def __init__(
        self,
        config: MambaConfig,
        initializer_cfg: dict | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        multiple = config.pad_vocab_size_multiple
        vocab_size = -(-config.vocab_size // multiple) * multiple
        self.backbone = MixerModel(
            config.d_model, config.n_layer, config.d_intermediate, vocab_size, config.ssm_cfg, config.attn_layer_idx,
            config.attn_cfg, rms_norm=config.rms_norm, initializer_cfg=initializer_cfg, fused_add_norm=config.fused_add_norm,
            residual_in_fp32=config.residual_in_fp32, device=device, dtype=dtype,
        )  # fmt: skip
        self.lm_head = nn.Linear(config.d_model, vocab_size, bias=False, device=device, dtype=dtype)
        self.apply(partial(_init_weights, n_layer=config.n_layer, **(initializer_cfg or {})))
        self.tie_weights()

    def tie_weights(self) -> None:
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def allocate_inference_cache(
        self, batch_size: int, max_seqlen: int, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> dict[int, Any]:
        return self.backbone.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **kwargs)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        inference_params: Any = None,
        num_last_tokens: int = 0,
        **mixer_kwargs: Any,
    ) -> Any:
        """input_ids: (batch, length). Returns a named tuple with logits (batch, length or num_last_tokens, vocab_size).
        position_ids are not needed by a recurrence."""
        hidden_states = self.backbone(input_ids, inference_params=inference_params, **mixer_kwargs)
        if num_last_tokens > 0:
            hidden_states = hidden_states[:, -num_last_tokens:]
        return CausalLMOutput(logits=called(self.lm_head, hidden_states))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name: str, device: Any = None, dtype: torch.dtype | None = None, **kwargs: Any
    ) -> MambaLMHeadModel:
        """From a folder or a name on the Hub in mamba_ssm's own format (config.json and pytorch_model.bin or safetensors).

        a_activation (among kwargs): of a Mamba-3, instead of what its ssm_cfg says. Where that says nothing, both are tried."""
        config = MambaConfig(**load_config_hf(pretrained_model_name))
        activation = kwargs.pop("a_activation", None) or config.ssm_cfg.get("a_activation")
        model = cls(config, device=device, dtype=dtype, **kwargs)
        mixers = model._mamba3_mixers()
        for mixer in mixers:
            mixer.take_activation(activation or "heavy_tail")
        model.load_state_dict(load_state_dict_hf(pretrained_model_name, device=device, dtype=dtype))
        if mixers and activation is None:
            model._try_activations(pretrained_model_name, mixers)
        return model

    def _mamba3_mixers(self) -> list[Mamba3]:
        return [module for module in self.modules() if isinstance(module, Mamba3)]

    def _try_activations(self, name: str, mixers: list[Mamba3]) -> None:
        from anymamba.models.mamba3_activation import decide
        from anymamba.models.tokenizer import has_tokenizer, load_tokenizer

        def logits(ids: Tensor, activation: str) -> Tensor:
            for mixer in mixers:
                mixer.take_activation(activation)
            return self(ids).logits

        words = load_tokenizer(name) if os.path.isdir(name) and has_tokenizer(name) else None
        table = self.lm_head.weight
        choice = decide(logits, table.shape[0], table.device, words, "heavy_tail")
        for mixer in mixers:
            mixer.take_activation(choice)

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Writes pytorch_model.bin and config.json, readable by mamba_ssm; of a Mamba-3, ssm_cfg says the activation of A."""
        os.makedirs(save_directory, exist_ok=True)
        torch.save(self.state_dict(), os.path.join(save_directory, "pytorch_model.bin"))
        values = dict(self.config.__dict__)
        for mixer in self._mamba3_mixers()[:1]:
            values["ssm_cfg"] = {**values["ssm_cfg"], "a_activation": mixer.a_activation}
        with open(os.path.join(save_directory, "config.json"), "w", encoding="utf-8") as file:
            json.dump(values, file, indent=4)


__getattr__ = borrowed(__name__, "import copy; from ..ops.triton.layer_norm import rms_norm_fn")
