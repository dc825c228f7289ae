"""What every family's configuration shares: the fields of a Hugging Face config.json, read and checked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from anymamba.errors import ArgumentError, UnsupportedError
from anymamba.language import _

if TYPE_CHECKING:
    from torch import nn

C = TypeVar("C", bound="Config")


@dataclass(frozen=True)
class Multipliers:
    """Fixed factors of a model: of the embedding's rows, of what every block adds to the residual stream, of the logits."""

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0


@dataclass
class Config:
    """Field names and meanings of transformers' MambaConfig; defaults differ by family. Sizes are counts, not bytes."""

    vocab_size: int = 50280
    hidden_size: int = 768
    state_size: int = 16
    num_hidden_layers: int = 32
    layer_norm_epsilon: float = 1e-5
    pad_token_id: int | None = 0
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    expand: float = 2
    conv_kernel: int = 4
    use_bias: bool = False
    use_conv_bias: bool = True
    hidden_act: str = "silu"
    initializer_range: float = 0.02
    residual_in_fp32: bool = True
    time_step_rank: int | str = "auto"
    time_step_min: float = 0.001
    time_step_max: float = 0.1
    time_step_floor: float = 1e-4
    rescale_prenorm_residual: bool = True
    tie_word_embeddings: bool = True

    model_type: ClassVar[str]
    architecture: ClassVar[str]
    """The class of transformers that loads our folders."""

    def __post_init__(self) -> None:
        if self.time_step_rank == "auto":
            self.time_step_rank = math.ceil(self.hidden_size / 16)
        for name in ("vocab_size", "hidden_size", "state_size", "num_hidden_layers", "conv_kernel", "time_step_rank"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ArgumentError(
                    "config",
                    _("{name} must be a positive whole number, not {value!r}").format(name=name, value=value),
                )
        if self.hidden_act not in ("silu", "swish"):
            raise UnsupportedError(
                "config",
                _("hidden_act {hidden_act!r} is not supported").format(hidden_act=self.hidden_act),
                why=_("the kernels of Mamba gate and convolve with SiLU"),
            )

    @property
    def d_inner(self) -> int:
        return int(self.expand * self.hidden_size)

    @property
    def eos_token_ids(self) -> list[int]:
        if self.eos_token_id is None:
            return []
        return self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]

    @property
    def multipliers(self) -> Multipliers:
        return Multipliers()

    @property
    def context(self) -> int | None:
        """How many tokens of a text it was trained on, where positions make that a limit; None: a recurrent model has none."""
        return None

    def choose_activation(self, name: str) -> None:
        """Takes this activation of A, whatever the checkpoint says. Raises ArgumentError but for Mamba-3, which alone has a choice."""
        raise ArgumentError(
            "usage",
            _("--a-activation {name}: this model is {model_type}, and only mamba3 has a choice of it").format(
                name=name, model_type=self.model_type
            ),
        )

    def settle(self, model: nn.Module, tokenizer: Callable[[], Any]) -> None:
        """Called when a checkpoint's weights are in the model: decides what its configuration leaves open.

        tokenizer: gives the checkpoint's, or None."""

    def to_dict(self) -> dict[str, Any]:
        """The content of config.json, as the newest transformers reads it."""
        values = dataclasses.asdict(self)
        # it concerns fresh parameters only, but transformers 5 scales down the loaded ones, too, where it finds it set
        values["rescale_prenorm_residual"] = False
        return {"architectures": [self.architecture], "model_type": self.model_type, **values}

    @classmethod
    def from_dict(cls: type[C], values: dict[str, Any]) -> C:
        """From the content of config.json; fields that do not concern the computation are passed over.

        Raises ArgumentError for values that cannot be.
        """
        fields = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: _number(value) for name, value in values.items() if name in fields})


def _number(value: Any) -> Any:
    """transformers 5 writes infinity as {"__float__": "Infinity"}, since JSON has no such number."""
    if isinstance(value, dict) and set(value) == {"__float__"}:
        return float(value["__float__"])
    if isinstance(value, (list, tuple)):
        return type(value)(_number(entry) for entry in value)
    return value
