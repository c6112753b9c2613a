"""What trainers and downloads leave that is no checkpoint yet: what lies there, and the command that makes it one."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from reprlib import repr as short

from hyperclone_cli.checkpoint.safetensors_file import StoredTensor
from hyperclone_cli.errors import CheckpointError, first_of

_SHARD = re.compile(r"(model|pytorch_model)-(\d{5})-of-(\d{5})\.(safetensors|bin)")
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""Parts of names that torch.compile, FSDP and activation checkpointing put in front of a module, wherever it is."""

_PREFIXES = ("module.", "base_model.model.", "pretrained_model.")
"""What DataParallel, DDP and DeepSpeed, PEFT, and TRL put in front of all names."""

_DOUBLED = "model."
"""What torchtitan puts in front of all names of a model of transformers, of which most begin so themselves."""

_LORA = re.compile(r"\.(lora_(A|B|embedding_A|embedding_B|magnitude_vector)|base_layer|ia3_l|oft_[RS])(\.|$)")
_META = re.compile(r"layers\.\d+\.attention\.(qkv_linear\.)?wq\.")
_EMPTY = "DeepSpeed ZeRO-3 writes parameters so when each process holds a part of them"

_WRITE_INDEX = (
    "import glob, json; from safetensors import safe_open;"
    " json.dump({'metadata': {}, 'weight_map': {name: file for file in sorted(glob.glob('model-*.safetensors'))"
    " for name in safe_open(file, 'pt').keys()}}, open('model.safetensors.index.json', 'w'))"
)
_JOIN_BINS = (
    "import glob, torch; from safetensors.torch import save_file; save_file({name: tensor.contiguous()"
    " for file in sorted(glob.glob('pytorch_model-*.bin')) for name, tensor in"
    " torch.load(file, map_location='cpu', weights_only=True).items()}, 'model.safetensors', {'format': 'pt'})"
)


def adapter_alone(directory: Path) -> CheckpointError:
    """That a directory holds an adapter and no model, and how to merge it into its base model."""
    merge = (
        "from peft import AutoPeftModelForCausalLM as M;"
        f" M.from_pretrained({str(directory)!r}, dtype='auto').merge_and_unload().save_pretrained('MERGED')"
    )
    return CheckpointError(
        f"{directory}: this is a PEFT adapter{_base_model(directory / 'adapter_config.json')}, not a model.",
        f"Merge it into its base model: {_python(merge)}, copy the tokenizer to MERGED, and expand that.",
    )


def explain(path: Path) -> CheckpointError | None:
    """What lies in a directory in which no weights were found, and what makes a checkpoint of it; None if unknown."""
    names = sorted(entry.name for entry in path.iterdir())
    if "adapter_config.json" in names:
        return adapter_alone(path)
    here = shlex.quote(str(path))
    if shards := [found for name in names if (found := _SHARD.fullmatch(name))]:
        return _without_index(path, shards)
    if steps := _numbered(names, "global_step") or [name for name in names if "_model_states" in name]:
        return CheckpointError(
            f"{path}: a checkpoint of DeepSpeed, whose weights lie in parts for each process ({first_of(steps, 2)}).",
            f"Put them together with the script that DeepSpeed left beside them:"
            f" python {here}/zero_to_fp32.py {here} {here} --safe_serialization",
        )
    if parts := [name for name in names if name.endswith(".distcp")]:
        return CheckpointError(
            f"{path}: parts of a distributed checkpoint ({first_of(parts, 2)}) without the file .metadata, which says"
            " what they hold.",
            "Copy .metadata here too: it is hidden, so `*` leaves it out.",
        )
    if parts := [name for name in names if name.startswith("consolidated.")]:
        of = "llama" if parts[0].endswith(".pth") else "mistral"
        return CheckpointError(
            f"{path}: weights in the layout of their maker's own code ({first_of(parts, 2)}).",
            "Use the repository in the Hugging Face layout, or convert them: pip install 'transformers<5' &&"
            f" python -m transformers.models.{of}.convert_{of}_weights_to_hf --input_dir {here} --output_dir CONVERTED",
        )
    if steps := _numbered(names, "checkpoint-"):
        return CheckpointError(
            f"{path}: the directory of a training run, with {len(steps)} checkpoints in it ({first_of(steps, 3)}).",
            f"Name one of them: --src {shlex.quote(str(path / steps[-1]))}",
        )
    if others := [name for name in names if name.endswith((".pt", ".pth", ".ckpt"))]:
        take = (
            f"import torch; found = torch.load({others[0]!r}, map_location='cpu', weights_only=True);"
            " torch.save(next(found[key] for key in ('model', 'state_dict', 'module') if key in found),"
            " 'pytorch_model.bin')"
        )
        return CheckpointError(
            f"{path}: files of a trainer ({first_of(others, 2)}), none with the name of a model's weights.",
            f"Take the model's state dict out of the right one: cd {here} && {_python(take)}",
        )
    if others := [name for name in names if name in ("tf_model.h5", "flax_model.msgpack")]:
        return CheckpointError(
            f"{path}: weights for another framework alone ({first_of(others)}).",
            "Convert them with transformers 4: AutoModelForCausalLM.from_pretrained(…, from_tf=True) or from_flax=True,"
            " then save_pretrained.",
        )
    return None


def check_names(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise CheckpointError for tensors that are parts of a model's weights, not the weights."""
    if lora := [name for name in tensors if _LORA.search(name)]:
        raise CheckpointError(
            f"{path}: holds {len(lora)} tensors of an adapter, not merged into the weights: {first_of(lora, 1)}.",
            "Where the model was trained, call model.merge_and_unload().save_pretrained('MERGED') and expand that: the"
            " scale of the adapter (lora_alpha / r) is not in this file.",
        )
    if empty := [name for name, tensor in tensors.items() if 0 in tensor.shape]:
        raise CheckpointError(
            f"{path}: {len(empty)} tensors are empty, of shape {list(tensors[empty[0]].shape)}: {first_of(empty, 2)}."
            f" {_EMPTY}.",
            f"Put them together: python {shlex.quote(str(path))}/zero_to_fp32.py {shlex.quote(str(path))} MERGED"
            " --safe_serialization; or save again with stage3_gather_16bit_weights_on_model_save.",
        )
    if "tok_embeddings.weight" in tensors and any(_META.match(name) for name in tensors):
        raise CheckpointError(
            f"{path}: its tensors have the names of Meta's own code and torchtitan (tok_embeddings, attention.wq).",
            "Convert it to the Hugging Face layout. With torchtitan: python scripts/checkpoint_conversion/"
            f"convert_to_hf.py {shlex.quote(str(path))} CONVERTED --model_name NAME --model_flavor SIZE. That converts"
            " the weights alone; an optimizer is grown where torchtitan trains a model of transformers"
            " (--module transformers_modeling_backend).",
        )


def plain_names(names: Iterable[str]) -> tuple[dict[str, str], str]:
    """(stored name → name without what wrapped the module in training, note); unchanged, and no note, if nothing did.

    Raises CheckpointError if two names would become one.
    """
    stored = list(names)
    together = "\n".join(stored)
    taken = {wrapper for wrapper in _WRAPPERS if wrapper in together}
    plain = {name: _without_wrappers(name) if taken else name for name in stored}
    while prefix := _prefix_of(plain.values()):
        plain = {name: longer.removeprefix(prefix) for name, longer in plain.items()}
        taken.add(prefix)
    if not taken:
        return plain, ""
    if len(set(plain.values())) < len(plain):
        raise CheckpointError(
            f"tensors are stored twice, with and without {first_of(sorted(taken))} in their names.",
            "Save the state dict of the model itself, not of what wraps it.",
        )
    wrappers = first_of([repr(wrapper) for wrapper in sorted(taken)])
    return plain, f"Taken off the names of tensors, where wrappers of training had put it: {wrappers}."


def prefix_of(names: Iterable[str]) -> str | None:
    """What wrappers put in front of every name; "" if there is none, None if they put more, inside of names."""
    stored = list(names)
    plain, _ = plain_names(stored)
    found = {name.removesuffix(plain[name]) for name in stored}
    return found.pop() if len(found) == 1 and all(map(str.endswith, stored, plain.values())) else None


def _prefix_of(names: Collection[str]) -> str:
    """One prefix that all names have and the model has not; "" if there is none."""
    twice = 2 * _DOUBLED
    doubled = [_DOUBLED] if any(name.startswith(twice) for name in names) else []
    return next((one for one in (*_PREFIXES, *doubled) if names and all(_begins(name, one) for name in names)), "")


def _begins(name: str, prefix: str) -> bool:
    return name.startswith((prefix, "v_head."))  # TRL's value head stands beside the model


def _without_wrappers(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _base_model(config: Path) -> str:
    """The name of an adapter's base model, as its config tells it."""
    try:
        named = json.loads(config.read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        return ""
    return f" of {short(named)}" if isinstance(named, str) else ""


def _numbered(names: Iterable[str], before: str) -> list[str]:
    """Those of the names that are a number after `before`, in the order of their numbers."""
    found = [name for name in names if name.startswith(before) and name.removeprefix(before).isdecimal()]
    return sorted(found, key=lambda name: int(name.removeprefix(before)))


def _without_index(path: Path, shards: list[re.Match[str]]) -> CheckpointError:
    present, count = {int(found[2]) for found in shards}, int(shards[0][3])
    missing = [number for number in range(1, min(count, 100_000) + 1) if number not in present]
    what = f"{path}: {len(present)} of {count} shards of a model and no index, which says which tensor lies in which"
    if missing:
        numbers = first_of([f"{number:05}" for number in missing])
        return CheckpointError(f"{what}; missing: {numbers}.", "Copy the other shards here, and the index.")
    write = _WRITE_INDEX if shards[0][4] == "safetensors" else _JOIN_BINS
    return CheckpointError(f"{what}.", f"Copy it here, or write it: cd {shlex.quote(str(path))} && {_python(write)}")


def _python(code: str) -> str:
    return f'python -c "{code}"'
