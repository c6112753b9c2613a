"""Greedy decoding with the KV cache, from one left-padded batch of prompts of different lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from hyperclone_cli.verifier.report import GenerationFigures


@dataclass(frozen=True)
class Decoded:
    """New tokens (prompts, steps), and at each step the gap between the two best logits of the allowed tokens."""

    tokens: torch.Tensor
    gaps: torch.Tensor


@torch.inference_mode()
def decode(model: Any, prompts: list[list[int]], new_tokens: int, advance: Callable[[int, int], None]) -> Decoded:
    """Continue every prompt by `new_tokens` tokens. End-of-text tokens are not allowed, so that all are compared.

    `generate` fills in what is not given here from the model's generation config, so that sampling, beams, penalties
    or stop strings would apply. The model's generation config is therefore replaced. `advance` is called with
    (1, new_tokens) after each step.
    """
    from transformers import GenerationConfig

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device)
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
    # a streamer is given the prompts first, (prompts, tokens), then one token of each after every step
    counter = SimpleNamespace(put=lambda put: advance(1, new_tokens) if put.dim() == 1 else None, end=lambda: None)
    output = model.generate(ids, attention_mask=mask, generation_config=config, streamer=counter)
    best = torch.stack([scores.float().topk(2).values for scores in output.scores], 1)
    return Decoded(output.sequences[:, longest:].cpu(), (best[..., 0] - best[..., 1]).cpu())


def compare(source: Decoded, clone: Decoded, prompts: list[list[int]], logit_error: float) -> GenerationFigures:
    """Compare two decodings up to the first difference; the models' logits differ by at most `logit_error`."""
    identical, ties, diverged = 0, 0, []
    for number in range(len(prompts)):
        different = (source.tokens[number] != clone.tokens[number]).nonzero()
        if not len(different):
            identical += 1
            continue
        step = int(different[0])
        if source.gaps[number, step] <= 2 * logit_error:
            ties += 1
        else:
            diverged.append((number, step))
    steps = source.tokens.shape[1]
    return GenerationFigures(len(prompts), tuple(map(len, prompts)), steps, identical, ties, tuple(diverged))
