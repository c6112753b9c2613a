"""Greedy decoding with the KV cache, from one left-padded batch of prompts of different lengths.

The source decodes. The clone is given the source's tokens, through its own cache, and says at each of them which token
it would have chosen: so every position is compared, also after the first near tie. The cache takes one token, then 2,
4, 8, …, which is few passes over the weights.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from hyperclone_cli.errors import is_memory_error
from hyperclone_cli.verifier.report import GenerationFigures
from hyperclone_cli.verifier.run_options import follow_passes, follow_steps

Advance = Callable[[int, int], None]
"""Called with the number of tokens just decoded of each prompt, and of all that will be."""

_NEAR_TIE = 1e-3
"""A gap between logits that the order of additions may turn round."""


@dataclass(frozen=True)
class Decoded:
    """New tokens (prompts, steps), and at each step the gap between the two best logits of the allowed tokens."""

    tokens: torch.Tensor
    gaps: torch.Tensor


@torch.inference_mode()
def decode(
    model: Any,
    prompts: list[list[int]],
    new_tokens: int,
    device: torch.device,
    advance: Advance = lambda *_: None,
) -> Decoded:
    """Continue every prompt by `new_tokens` tokens. End-of-text tokens are not allowed, so that all are compared.

    `generate` fills in what is not given here from the model's generation config, so that sampling, beams, penalties
    or stop strings would apply. The model's generation config is therefore replaced. `advance` is called with
    (1, new_tokens) after each step.
    """
    ids, mask = _left_padded(prompts, device)
    # a streamer is given the prompts first, (prompts, tokens), then one token of each after every step
    counter = SimpleNamespace(put=lambda put: advance(1, new_tokens) if put.dim() == 1 else None, end=lambda: None)
    output = _generate(model, ids, mask, new_tokens, streamer=counter)
    best = torch.stack([scores.float().topk(2).values for scores in output.scores], 1)
    return Decoded(output.sequences[:, ids.shape[1] :].cpu(), (best[..., 0] - best[..., 1]).cpu())


def _generate(model: Any, ids: torch.Tensor, mask: torch.Tensor, new_tokens: int, **more: Any) -> Any:
    from transformers import GenerationConfig

    eos = model.generation_config.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=eos)
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        eos_token_id=eos,
        pad_token_id=0,
        use_cache=True,
        return_dict_in_generate=True,
        output_scores=True,  # -inf for end-of-text tokens, which are not allowed
    )
    return model.generate(ids, attention_mask=mask, generation_config=config, **more)


def _left_padded(prompts: list[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, attention mask) of the prompts, each (prompts, length of the longest)."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


_CACHES = ("cache", "past_key_values", "cache_params", "state")
"""What models call their cache, the first from transformers 5.24 on."""


@torch.inference_mode()
def follow(
    model: Any,
    prompts: list[list[int]],
    tokens: torch.Tensor,
    device: torch.device,
    advance: Advance = lambda *_: None,
) -> torch.Tensor:
    """The most likely token, of those allowed, at each place of the continuations `tokens` (prompts, steps).

    The model is fed the prompts, then the tokens in a few steps, through its cache.
    """
    parameters = inspect.signature(model.forward).parameters
    cache_name = next(name for name in _CACHES if name in parameters)
    ids, mask = _left_padded(prompts, device)
    fed = tokens.to(device)
    length = ids.shape[1]
    mask = torch.cat([mask, torch.ones_like(fed)], 1)
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    chosen, cache = [], None
    for first, stop in [(-length, 0), *follow_steps(fed.shape[1])]:
        piece = ids if stop == 0 else fed[:, first:stop]
        places = slice(length + first, length + stop)
        inputs = {"position_ids": positions[:, places], "logits_to_keep": 1 if stop == 0 else 0}
        inputs = {name: value for name, value in inputs.items() if name in parameters}
        output = model(piece, attention_mask=mask[:, : places.stop], use_cache=True, **{cache_name: cache}, **inputs)
        cache = getattr(output, cache_name)
        chosen.append(_best(model, output.logits[:, -1:] if stop == 0 else output.logits))
        advance(chosen[-1].shape[1], tokens.shape[1])
    return torch.cat(chosen, 1).cpu()


@torch.inference_mode()
def follow_singly(
    model: Any,
    prompts: list[list[int]],
    tokens: torch.Tensor,
    device: torch.device,
    advance: Advance = lambda *_: None,
) -> torch.Tensor:
    """As `follow`, by `generate`, one token at a time: for models whose cache takes no more."""
    chosen: list[torch.Tensor] = []

    def force(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        wanted = tokens[:, len(chosen)].to(scores.device)
        chosen.append(scores.argmax(-1).cpu())
        advance(1, tokens.shape[1])
        return torch.full_like(scores, -math.inf).scatter(1, wanted[:, None], 0.0)

    ids, mask = _left_padded(prompts, device)
    _generate(model, ids, mask, tokens.shape[1], logits_processor=[force])
    return torch.stack(chosen, 1)


def _best(model: Any, logits: torch.Tensor) -> torch.Tensor:
    eos = model.generation_config.eos_token_id
    allowed = logits.float()
    for token in [] if eos is None else [eos] if isinstance(eos, int) else eos:
        allowed[..., token : token + 1] = -math.inf  # a token beyond the vocabulary is none
    return allowed.argmax(-1)


def takes_several(model: Any, prompts: list[list[int]], decoded: Decoded, device: torch.device) -> bool:
    """Whether the model itself, when it follows what it decoded, chooses the same tokens, near ties aside.

    Caches of some recurrent layers take one token at a time, and compute something else, or fail, for several.
    """
    try:
        chosen = follow(model, prompts, decoded.tokens, device)
    except Exception as error:  # each architecture raises its own kinds
        if is_memory_error(error):
            raise
        return False
    if chosen.shape != decoded.tokens.shape:
        return False
    return bool(((chosen == decoded.tokens) | (decoded.gaps <= _NEAR_TIE)).all())


def compare(
    source: Decoded, chosen: torch.Tensor, prompts: list[list[int]], logit_error: float, at_once: bool
) -> GenerationFigures:
    """Compare what the source decoded with what the clone, following it, would have `chosen` at each place.

    The models' logits differ by at most `logit_error`. `at_once` tells whether the clone was fed several tokens at a
    time.
    """
    different = source.tokens != chosen
    wrong = different & ~(source.gaps <= 2 * logit_error)
    diverged = [(number, int(row.nonzero()[0])) for number, row in enumerate(wrong) if row.any()]
    identical = int((~different).all(1).sum())
    return GenerationFigures(
        prompts=len(prompts),
        prompt_lengths=tuple(map(len, prompts)),
        new_tokens=source.tokens.shape[1],
        identical=identical,
        ties=len(prompts) - identical - len(diverged),
        parted=tuple(diverged),
        steps=follow_passes(source.tokens.shape[1]) if at_once else source.tokens.shape[1],
    )
