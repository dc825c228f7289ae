"""Rotary positions (Su et al. 2021, "RoFormer", section 3.4) with the scalings that transformers' configurations name.

A pair of channels of a head is turned by position times a frequency; the scalings change the frequencies of a model that reads longer texts
than it was trained on: "linear", "dynamic" (NTK), "yarn" (Peng et al. 2023), "longrope" (Ding et al. 2024), "llama3".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from anymamba.errors import UnsupportedError
from anymamba.language import _

KINDS = "default", "linear", "dynamic", "yarn", "longrope", "llama3"


class Rotary:
    """dim: channels of a head that are turned, the first ones. options: transformers' ``rope_parameters``: rope_type, rope_theta, factor
    and so on. context: the configuration's ``max_position_embeddings``. Raises UnsupportedError for another rope_type."""

    def __init__(self, dim: int, options: Mapping[str, Any], context: int) -> None:
        self.dim, self.context, self.options = dim, context, dict(options)
        self.kind = str(self.options.get("rope_type") or self.options.get("type") or "default")
        self.theta = float(self.options.get("rope_theta") or 10000.0)
        if self.kind not in KINDS:
            raise UnsupportedError(
                "config",
                _("rope_type {kind!r} is not supported").format(kind=self.kind),
                fix=_("known: ") + ", ".join(KINDS),
            )
        self._tables: dict[torch.device, tuple[Any, Tensor]] = {}

    def frequencies(self, length: int) -> tuple[Tensor, float]:
        """(dim / 2,) float32, radians a token, for a text of so many tokens, and the factor of cosine and sine."""
        return _FREQUENCIES[self.kind](self, length)

    def turns(self, first: int, length: int, device: torch.device) -> Tensor:
        """Cosine and sine of positions first ... first + length - 1: (2, length, dim), float32."""
        end = first + length
        key = self._regime(end)
        kept = self._tables.get(device)
        if kept is None or kept[0] != key or kept[1].shape[1] < end:
            rows = -(-end // 1024) * 1024 if key is None or not isinstance(key, int) else end
            kept = self._tables[device] = key, self._table(rows, end, device)
        return kept[1][:, first:end]

    def apply(self, x: Tensor, turns: Tensor) -> Tensor:
        """x: (batch, heads, length, headdim). turns: (2, length, dim), or (2, batch, 1, length, dim) where rows differ."""
        cos, sin = turns.unbind(0)
        turned = x[..., : self.dim].float()
        half = self.dim // 2
        other = torch.cat([-turned[..., half:], turned[..., :half]], dim=-1)
        turned = torch.addcmul(turned * cos, other, sin).to(x.dtype)
        return turned if self.dim == x.shape[-1] else torch.cat([turned, x[..., self.dim :]], dim=-1)

    def _regime(self, length: int) -> Any:
        """Equal for two lengths whose frequencies are equal."""
        if self.kind == "dynamic":
            return length if length > self.context else None
        if self.kind == "longrope":
            return "long" if length > self._original() else None
        return None

    def _table(self, rows: int, length: int, device: torch.device) -> Tensor:
        frequencies, factor = self.frequencies(length)
        angles = torch.arange(rows, dtype=torch.float32)[:, None] * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        with torch.inference_mode(False):  # kept for later calls, which may need gradients through products with it
            return (torch.stack([angles.cos(), angles.sin()]) * factor).to(device)

    def _powers(self, theta: float | None = None) -> Tensor:
        return (theta or self.theta) ** (torch.arange(0, self.dim, 2, dtype=torch.float32) / self.dim)

    def _original(self) -> int:
        return int(self.options.get("original_max_position_embeddings") or self.context)


def _default(rotary: Rotary, length: int) -> tuple[Tensor, float]:
    return 1 / rotary._powers(), 1.0


def _linear(rotary: Rotary, length: int) -> tuple[Tensor, float]:
    return 1 / rotary._powers() / float(rotary.options["factor"]), 1.0


def _dynamic(rotary: Rotary, length: int) -> tuple[Tensor, float]:
    factor, context, dim = float(rotary.options["factor"]), rotary.context, rotary.dim
    stretch = factor * max(length, context) / context - (factor - 1)
    return 1 / rotary._powers(rotary.theta * stretch ** (dim / (dim - 2))), 1.0


def _yarn(rotary: Rotary, length: int) -> tuple[Tensor, float]:
    """Peng et al. 2023, section 3.2: frequencies between beta_slow and beta_fast turns over the trained length are mixed."""
    options, dim, original = rotary.options, rotary.dim, rotary._original()
    factor = float(options.get("factor") or rotary.context / original)
    low, high = (
        dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rotary.theta))
        for turns in (options.get("beta_fast") or 32, options.get("beta_slow") or 1)
    )
    if options.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low or 0.001)).clamp(0, 1)
    powers = rotary._powers()
    return ramp / (factor * powers) + (1 - ramp) / powers, _yarn_factor(options, factor)


def _yarn_factor(options: Mapping[str, Any], factor: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if options.get("attention_factor") is not None:
        return float(options["attention_factor"])
    if options.get("mscale") and options.get("mscale_all_dim"):
        return scale(options["mscale"]) / scale(options["mscale_all_dim"])
    return scale(1.0)


def _longrope(rotary: Rotary, length: int) -> tuple[Tensor, float]:
    options, original = rotary.options, rotary._original()
    factors = options["long_factor" if length > original else "short_factor"]
    factor = options.get("factor") if original == rotary.context else rotary.context / original
    scale = options.get("attention_factor")
    if scale is None:
        scale = 1.0 if not factor or factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return 1 / (torch.tensor(factors, dtype=torch.float32) * rotary._powers()), float(scale)


def _llama3(rotary: Rotary, length: int) -> tuple[Tensor, float]:
    """Wavelengths above the trained length over low_freq_factor are stretched, those below it over high_freq_factor stay."""
    options, original = rotary.options, rotary._original()
    factor, low, high = (float(options[name]) for name in ("factor", "low_freq_factor", "high_freq_factor"))
    plain = 1 / rotary._powers()
    wavelength = 2 * math.pi / plain
    mix = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - mix) * plain / factor + mix * plain, 1.0


_FREQUENCIES = {"default": _default, "linear": _linear, "dynamic": _dynamic, "yarn": _yarn, "longrope": _longrope, "llama3": _llama3}
