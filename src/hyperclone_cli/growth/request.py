"""What the user asked for, checked as far as that is possible without a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, get_args

from hyperclone_cli.errors import RequestError
from hyperclone_cli.growth.numbers import number_of
from hyperclone_cli.growth.option import GROWTH, WRITING, Value, check_values, flag, option, options_of, take
from hyperclone_cli.growth.strategies import Mixing

MAX_MULTIPLIER = 65536
MAX_UNITS = 1 << 30
MAX_LAYERS = 1 << 14
MAX_EXPERTS = 1 << 16
DepthOrder = Literal["interleave", "top", "middle", "stack"]
DepthInit = Literal["zero", "copy"]
Aspect = Literal["wide", "keep"]
_OF_EXPERTS = ("num_experts", "experts_per_token", "expert_granularity", "expert_drop", "expert_noise_snr_db")

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


def _times(default: Value, width: str, unset: str = "") -> Value:
    return option(default, f"Multiply {width}.", min=1, max=MAX_MULTIPLIER, unset=unset)


def _units(width: str, mult: str, most: int = MAX_UNITS) -> int | None:
    return option(None, f"The clone's {width}, instead of {flag(mult)}.", min=1, max=most, instead_of=mult)


@dataclass(frozen=True)
class Request:
    """What the user asked for. Each field but `mixing`, the strategy and the noise, is an option.

    How a width follows from what was asked for is described at `resolve`.

    Raises RequestError for a value that no checkpoint could be grown by.
    """

    panel: ClassVar[str] = GROWTH
    embed_mult: float = _times(1, "hidden_size, the width of the residual stream")
    ffn_mult: float = _times(1, "the feed-forward width")
    moe_ffn_mult: float | None = _times(
        None, "the width of each expert, shared ones too, where config.json has a key for it", "as --ffn-mult"
    )
    heads_mult: float | None = _times(
        None, "the number of query heads", "as --embed-mult, or the nearest number that the architecture allows"
    )
    kv_heads_mult: float | None = _times(
        None,
        "the number of key/value heads; 1 keeps the size of the KV cache",
        "as --heads-mult, but a single key/value head stays single",
    )
    head_dim_mult: int = _times(1, "the size of a head")
    hidden_size: int | None = _units("hidden_size", "embed_mult")
    intermediate_size: int | None = _units("feed-forward width", "ffn_mult")
    num_heads: int | None = _units("number of query heads", "heads_mult")
    num_kv_heads: int | None = _units("number of key/value heads", "kv_heads_mult")
    depth_mult: float = _times(1, "the number of layers. New ones add nothing until training makes them")
    num_layers: int | None = _units("number of layers", "depth_mult", MAX_LAYERS)
    depth_order: DepthOrder = option(
        "interleave",
        "Where new layers stand. interleave: each after the layer that it copies, evenly. top: copies of the last"
        " layers, after the last. middle: copies of a run of layers in the middle, after it. stack: the whole stack"
        " again.",
    )
    depth_init: DepthInit = option(
        "zero",
        "What new layers begin as. zero: copies that add nothing to the residual stream, which keeps the function."
        " copy: plain copies, which do not keep it: such a clone never counts as verified.",
    )
    num_experts: int | None = option(
        None,
        "The clone's number of experts: of a mixture, a multiple of the source's. A dense model becomes a mixture, each"
        " of whose experts is its feed-forward.",
        min=2,
        max=MAX_EXPERTS,
    )
    experts_per_token: int | None = option(
        None,
        "How many experts the clone's router chooses for a token: of a mixture, as many times more as there are"
        " experts.",
        min=1,
        max=MAX_EXPERTS,
    )
    expert_granularity: int = option(
        1,
        "How many experts of a dense model make one feed-forward, each with this part of its units.",
        min=1,
        max=MAX_EXPERTS,
    )
    expert_drop: float = option(
        0,
        "Draw this part of the units of each expert of a dense model anew, with the mean and the spread of its weights"
        " (Drop-Upcycling). That does not keep the function: such a clone never counts as verified.",
        min=0,
        max=1,
    )
    expert_noise_snr_db: float | None = option(
        None,
        "Add noise to each expert of a dense model, this many decibels below its weights. Experts differ by it, so it"
        " does not keep the function: such a clone never counts as verified.",
        min=0,
        max=200,
        unset="no noise",
    )
    family: str | None = option(
        None,
        "The table of another architecture, such as llama, for a model_type without one. A refusal names the table that"
        " fits all tensors; the verification shows whether the architecture computes the same too.",
    )
    text_only: bool = option(
        False,
        "Of a model of text and pictures or sound, write the text model alone: the causal language model that it is.",
    )
    target_params: int | str | None = option(
        None,
        "The clone's number of parameters, such as 1.3B, instead of hidden_size and the feed-forward width. The closest"
        " shape is chosen and shown.",
    )
    multiple_of: int = option(
        64, "--target-params chooses a feed-forward width that is a multiple of this.", min=1, max=MAX_UNITS
    )
    aspect: Aspect = option(
        "wide",
        "The shape that --target-params chooses. wide: the source's number of layers. keep: about as many units of"
        " hidden_size for each layer as in the source, so that depth grows too.",
    )
    dtype: Dtype | None = option(
        None, "The clone's storage dtype.", panel=WRITING, unset="each tensor's own; bfloat16 for a GGUF file"
    )
    max_shard_size: int | str | None = option(
        None,
        "The size of the largest file, in bytes or such as 5GB.",
        panel=WRITING,
        unset="50GB; above 1 GB a quarter of the clone, if that is less",
    )
    tie_embeddings: Literal["auto", "keep", "untie"] = option(
        "auto",
        "What becomes of tied embeddings. auto: they stay tied where that can be exact; elsewhere the head becomes a"
        " matrix of its own. keep: they stay tied, or the request is refused. untie: a matrix of its own.",
    )
    source_lr: float | None = option(
        None,
        "The peak learning rate that the source was trained at: recipe.json then states the clone's.",
        panel=WRITING,
        min=0,
        max=1000,
        unset="not known",
    )
    mixing: Mixing = field(default_factory=Mixing)

    def __post_init__(self) -> None:
        check_values(self)
        for name, value in vars(self).items():
            if isinstance(value, float) and value.is_integer():
                object.__setattr__(self, name, int(value))  # 2.0 is the same request as 2
        if self.source_lr == 0:
            raise RequestError("--source-lr 0: nothing is trained at that rate.", "Leave it out if it is not known.")
        for size in options_of(Request):
            mult = size.instead_of
            if mult and getattr(self, size.name) is not None and getattr(self, mult) not in (None, 1):
                raise RequestError(f"{size.flag} and {flag(mult)} are two answers to one question.", "Give one.")
        if not (self.grows_depth or self.aspect == "keep") and (self.depth_order, self.depth_init) != (
            Request.depth_order,
            Request.depth_init,
        ):
            raise RequestError(
                "--depth-order and --depth-init are for new layers.", "Add --depth-mult or --num-layers."
            )
        if self.num_experts is None and (self.expert_granularity != 1 or self.varies_experts):
            raise RequestError(
                "--expert-granularity, --expert-drop and --expert-noise-snr-db are for the experts of a dense model.",
                "Add --num-experts.",
            )
        if self.num_experts is None and self.experts_per_token is not None:
            raise RequestError(
                f"--experts-per-token {self.experts_per_token}: with the same experts that is another function.",
                "Add --num-experts, or leave it out.",
            )
        if self.target_params is not None:
            object.__setattr__(self, "target_params", number_of("--target-params", self.target_params, "parameters"))
            sizes = self.hidden_size, self.intermediate_size, self.moe_ffn_mult
            if any(sizes) or self.embed_mult != 1 or self.ffn_mult != 1:
                raise RequestError(
                    "--target-params chooses the hidden and the feed-forward size itself.",
                    "Leave out --embed-mult, --ffn-mult, --moe-ffn-mult, --hidden-size and --intermediate-size.",
                )
        if self.aspect == "keep" and (self.target_params is None or self.grows_depth):
            raise RequestError(
                "--aspect keep chooses the number of layers for --target-params.",
                "Leave it out, or give --target-params, and neither --depth-mult nor --num-layers.",
            )
        if self.target_params is None and self.multiple_of != Request.multiple_of:
            raise RequestError("--multiple-of is for the widths that --target-params chooses.", "Leave it out.")

    @property
    def grows_depth(self) -> bool:
        """Whether a number of layers is asked for."""
        return self.depth_mult != 1 or self.num_layers is not None

    @property
    def varies_experts(self) -> bool:
        """Whether experts are asked for that differ from one another."""
        return self.expert_drop > 0 or self.expert_noise_snr_db is not None

    @property
    def by_request(self) -> str:
        """Why the clone is not to compute what its source does, as a phrase; "" if it is."""
        asked = ["depth_init"] if self.grows_depth and self.depth_init != "zero" else []
        asked += ["expert_drop"] if self.expert_drop else []
        asked += ["expert_noise_snr_db"] if self.expert_noise_snr_db is not None else []
        options = ", ".join(f"{flag(name)} {getattr(self, name)}" for name in asked)
        return f"not function-preserving by request ({options})" if asked else ""

    @property
    def keeps_function(self) -> bool:
        """Whether the clone is to compute what its source does. Plain copies of layers do not, by request."""
        return not self.by_request

    def recorded(self) -> dict[str, Any]:
        """The request as JSON; options of depth, experts, wrappers and training only where they are used."""
        left_out = set() if self.grows_depth else {"depth_mult", "num_layers", "depth_order", "depth_init"}
        left_out |= {"aspect"} if self.aspect == Request.aspect else set()
        left_out |= set() if self.text_only else {"text_only"}
        left_out |= {"source_lr"} if self.source_lr is None else set()
        left_out |= set(_OF_EXPERTS) if self.num_experts is None else set()
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    @classmethod
    def of(cls, given: Request | None, options: Mapping[str, Any]) -> Request:
        """`given`, or the request that the keywords `options` make, fields of Mixing among them.

        Raises TypeError for an unknown keyword, and for keywords beside `given`; RequestError for a value out of range.
        """
        if given is not None and options:
            raise TypeError(f"{', '.join(options)}: give a request or keywords, not both")
        rest = dict(options)
        mixing = Mixing(**take(Mixing, rest))
        return given or cls(**rest, mixing=mixing)

    def typed(self, size: str, mult: str) -> str:
        """The option that gave a width, as on a command line; empty where it is the source's."""
        name = mult if getattr(self, size) is None else size
        return "" if getattr(self, name) in (None, 1) else f"{flag(name)} {getattr(self, name)}"
