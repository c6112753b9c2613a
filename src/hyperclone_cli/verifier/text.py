"""The input of the models: a page of English and five prompts, or random tokens without a usable tokenizer."""

from __future__ import annotations

import os
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperclone_cli.checkpoint.gguf import pretrained_arguments
from hyperclone_cli.checkpoint.json_config import read_json
from hyperclone_cli.checkpoint.transformers_model import NOTHING_RUN, quiet_transformers
from hyperclone_cli.checkpoint.trial import too_much
from hyperclone_cli.errors import last_line
from hyperclone_cli.verifier.report import Continuation

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

PAGE = """\
The harbour wakes before the town does. At half past four the first boats come in past the breakwater,
their lamps still lit, and the gulls that slept on the warehouse roofs lift off in one grey sheet and
settle again on the water behind them. Nobody speaks much. Crates are passed from hand to hand, the ice is
shovelled, a rope is thrown and caught without a look. By six the auction hall is loud, and by eight it is
empty and wet, and the smell of fish and diesel has climbed the hill as far as the school.

My grandfather worked here for forty-one years, first on the boats and later, when his knees gave out, in
the small office above the chandlery, where he kept the tide tables and the ledgers. He taught me to read
both. A tide table, he used to say, is the only book in which every prediction comes true, and you should
learn from it how to make a promise: state the hour, state the height, and leave out the weather. The
ledgers were harder. They showed what the sea had given each week since 1908, in pounds of cod and herring,
and anyone who could add could see the line going down.

When the cod failed, people blamed the seals, the foreign trawlers, the government and each other, roughly
in that order. A biologist came from the university and spent two winters measuring the ear bones of fish.
These bones have rings, like trees, and under a microscope she could tell how old a fish was and in which
years it had eaten well. Her report was forty pages long. It said that the fish were being caught before
they were old enough to spawn, that the nets should have wider meshes, and that the bay should be left
alone for six springs. The council thanked her and did nothing for three years, and then, because there was
no longer anything to lose, did all of it.

It took nine springs rather than six. But last April I stood on the quay with my daughter and watched the
scales in the auction hall, and the numbers that were called out were numbers that I had only ever seen in
ink, in my grandfather's hand, near the top of the page.
"""

PROMPTS = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "List three prime numbers larger than ten and explain briefly why each of them is prime.",
    "Hello!",
    "If a train leaves at nine in the morning and travels for two and a half hours, when does it arrive?",
)

RANDOM_LENGTHS = (5, 9, 14, 3, 11)


def load_tokenizer(path: Path, vocab_size: int) -> tuple[Any, str]:
    """(tokenizer, "") of a checkpoint; (None, note) if it cannot be used, with an empty note if there is none."""
    from transformers import AutoTokenizer

    if path.is_dir() and not any(path.glob("tokenizer*")) and not any(path.glob("vocab*")):
        return None, ""

    def load() -> tuple[Any, list[list[int]]]:
        with quiet_transformers(), pretrained_arguments(path) as arguments:
            tokenizer = AutoTokenizer.from_pretrained(**arguments, **NOTHING_RUN)
        return tokenizer, [tokenizer(PAGE)["input_ids"], *_prompts(tokenizer)]

    def try_all() -> None:
        tokenizer, encoded = load()
        for tokens in encoded:
            _decode(tokenizer, tuple(tokens))

    try:
        if outside := file_outside(path):
            return (
                None,
                f"tokenizer_config.json names a file outside the checkpoint, {outside}; random tokens are used.",
            )
        if too_much(try_all):
            return None, "The tokenizer takes too long, or too much memory, for a page of text; random tokens are used."
        tokenizer, encoded = load()
    except Exception as error:  # tokenizers and chat templates raise their own kinds
        if "trust_remote_code" in str(error):  # transformers advises to run the code
            return None, "The tokenizer needs code of its own, which is never run; random tokens are used."
        return None, f"The tokenizer does not load ({last_line(error)}); random tokens are used."
    if len(encoded[0]) < 2 or not all(encoded):
        return None, "The tokenizer makes no tokens of English; random tokens are used."
    largest = max(map(max, encoded))
    if largest >= vocab_size:
        return None, f"The tokenizer makes token {largest}, the vocabulary has {vocab_size}; random tokens are used."
    return tokenizer, ""


def file_outside(path: Path) -> str:
    """A file that exists, is not in the directory `path`, and would be read as part of its tokenizer; "" if none is."""
    config = path / "tokenizer_config.json"
    stated = read_json(config) if config.is_file() else {}
    files = [
        one for key, one in stated.items() if key.endswith("_file") and isinstance(one, str) and os.path.exists(one)
    ]
    return next((one for one in files if path.resolve() not in Path(one).resolve().parents), "")


def page(tokenizer: Any, vocab_size: int, limit: int, avoid: Collection[int] = ()) -> list[int]:
    """The first `limit` token ids of the page; random ones without a tokenizer, and none of those to `avoid`."""
    if tokenizer is None:
        return _random_ids(min(limit, 256), vocab_size, avoid)
    ids: list[int] = tokenizer(PAGE)["input_ids"]
    return ids[:limit]


def prompts(tokenizer: Any, vocab_size: int, limit: int, avoid: Collection[int] = ()) -> list[list[int]]:
    """The last `limit` token ids of each prompt, as a chat if the tokenizer has a template; or random ones."""
    random = tokenizer is None
    ids = [_random_ids(length, vocab_size, avoid) for length in RANDOM_LENGTHS] if random else _prompts(tokenizer)
    return [prompt[-limit:] for prompt in ids]


def _prompts(tokenizer: Any) -> list[list[int]]:
    if not getattr(tokenizer, "chat_template", None):
        return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        for prompt in PROMPTS
    ]


def continuations(
    tokenizer: Any,
    prompts: Iterable[list[int]],
    source: Iterable[list[int]],
    clone: Iterable[list[int]],
) -> tuple[Continuation, ...]:
    """Each prompt with the tokens by which source and clone continued it, and their texts if there is a tokenizer."""
    found = []
    for tokens in zip(prompts, source, clone, strict=True):
        prompt, ours, theirs = map(tuple, tokens)
        texts: tuple[Any, ...] = ()
        if tokenizer is not None:
            try:
                start = _decode(tokenizer, prompt)
                texts = (start, _texts(tokenizer, prompt, ours), _texts(tokenizer, prompt, theirs))
            except Exception:  # tokenizers raise their own kinds; the ids are shown instead
                texts = ()
        found.append(Continuation(prompt, ours, theirs, *texts))
    return tuple(found)


def _texts(tokenizer: Any, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[str, ...]:
    """The text that each token adds. A character of several tokens counts as that of the last one."""
    texts, before = [], _decode(tokenizer, prompt)
    for count in range(1, len(tokens) + 1):
        text = _decode(tokenizer, prompt + tokens[:count])
        if text.endswith("�") and count < len(tokens):
            texts.append("")
            continue
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False)))
        texts.append(text[same:])
        before = text
    return tuple(texts)


def _decode(tokenizer: Any, tokens: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _random_ids(count: int, vocab_size: int, avoid: Collection[int]) -> list[int]:
    from random import Random

    random = Random(count)
    ids = [random.randrange(vocab_size) for _ in range(count)]
    instead = next((token for token in range(vocab_size) if token not in avoid), 0)
    return [instead if token in avoid else token for token in ids]
