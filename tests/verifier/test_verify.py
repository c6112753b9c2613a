"""The verifier passes true clones, and names the layer, tensor or key that makes a false one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperclone_cli.errors import CheckpointError, RequestError
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.verifier import Report, generation, verify
from hyperclone_cli.writing.pipeline import expand
from support import models
from support.heard import Heard

Sources = Callable[[str], Path]
Tensors = dict[str, torch.Tensor]
DOUBLE = Request(embed_mult=2, ffn_mult=2)
O_PROJ = "model.layers.1.self_attn.o_proj.weight"


def scale_a_block(tensors: Tensors) -> None:
    width = tensors[O_PROJ].shape[1] // 2
    tensors[O_PROJ][:48, :width] *= 1.01


def swap_two_heads(tensors: Tensors) -> None:
    rows = tensors["model.layers.0.self_attn.q_proj.weight"]
    rows[:24] = torch.cat([rows[12:24], rows[:12]])


def leave_the_tied_head_undivided(tensors: Tensors) -> None:
    tensors["model.norm.weight"] *= 2


def drop_a_bias(tensors: Tensors) -> None:
    del tensors["model.layers.1.self_attn.k_proj.bias"]


def forge(clone: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(clone / "model.safetensors")
    change(tensors)
    save_file(tensors, clone / "model.safetensors", metadata={"format": "pt"})


def set_config(clone: Path, **values: object) -> None:
    config = json.loads((clone / "config.json").read_text())
    (clone / "config.json").write_text(json.dumps(config | values))


def forget_provenance(clone: Path) -> None:
    (clone / "hyperclone.json").unlink()


@pytest.fixture
def clone(source: Sources, tmp_path: Path) -> Path:
    expand(source("llama-gqa-tied"), tmp_path / "clone", DOUBLE)
    return tmp_path / "clone"


def test_a_source_that_transformers_loads_and_cannot_run_is_an_error_of_the_source(
    source: Sources, tmp_path: Path
) -> None:
    src = models.edited(source("mixtral"), tmp_path / "src", None, num_experts_per_tok=9)
    expand(src, tmp_path / "clone", DOUBLE)
    with pytest.raises(CheckpointError, match=r"src: transformers [0-9.]+ cannot run it in float32: ") as refusal:
        verify(tmp_path / "clone")
    assert "--weights-only" in refusal.value.hint
    assert verify(tmp_path / "clone", weights_only=True).passed


def assert_fails(report: Report, *words: str) -> None:
    assert not report.passed
    assert any(all(word in failure for word in words) for failure in report.failures), report.failures


@pytest.mark.parametrize("variant", ["opt-350m", "opt-postnorm", "pythia-tied", "olmo-tied", "gemma3-mqa", "qwen3"])
@pytest.mark.parametrize("embed, ffn", [(2, 2), (3, 1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_true_clone_passes_in_every_storage_dtype(
    variant: str, embed: int, ffn: int, dtype: str, tmp_path: Path
) -> None:
    src = models.build(variant, tmp_path / "source", getattr(torch, dtype))
    expand(src, tmp_path / "clone", Request(embed_mult=embed, ffn_mult=ffn))
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits is not None
    assert report.logits.floor_dtype == dtype
    assert max(error for _, error in report.logits.layers) <= report.logits.tolerance


@pytest.mark.parametrize(
    "change, layer, tensor",
    [
        (scale_a_block, "layer 1", O_PROJ),
        (swap_two_heads, "layer 0", "model.layers.0.self_attn.q_proj.weight"),
        (leave_the_tied_head_undivided, "the head", "model.norm.weight"),
    ],
)
def test_a_forged_tensor_is_caught_by_the_logits_and_by_the_weights(
    change: Callable[[Tensors], None], layer: str, tensor: str, clone: Path, source: Sources
) -> None:
    forge(clone, change)
    assert_fails(verify(clone, weights_only=True), tensor)
    forget_provenance(clone)  # leaves the logits alone to find it
    assert_fails(verify(clone, src=source("llama-gqa-tied")), "logits", layer)


def test_one_number_off_by_its_last_bit_is_caught_by_the_weights(clone: Path) -> None:
    def flip(tensors: Tensors) -> None:
        tensors[O_PROJ].view(torch.int32)[3, 5] ^= 1

    forge(clone, flip)
    assert_fails(verify(clone, weights_only=True), O_PROJ, "1 of 9,216 weights")


def test_a_dropped_bias_is_caught_by_the_weights_and_by_loading(source: Sources, tmp_path: Path) -> None:
    src, clone = source("llama-head_dim-biases"), tmp_path / "clone"
    expand(src, clone, DOUBLE)
    forge(clone, drop_a_bias)
    assert_fails(verify(clone, weights_only=True), "model.layers.1.self_attn.k_proj.bias", "missing")
    forget_provenance(clone)
    assert_fails(verify(clone, src=src), "model.layers.1.self_attn.k_proj.bias", "missing")


def test_a_wrong_eps_is_caught_by_the_config_and_by_the_logits(clone: Path, source: Sources) -> None:
    set_config(clone, rms_norm_eps=1e-2)
    assert_fails(verify(clone, weights_only=True), "config.json", "rms_norm_eps", "0.01")
    forget_provenance(clone)
    assert_fails(verify(clone, src=source("llama-gqa-tied")), "logits", "layer 0")


def test_zeroed_weights_are_off_by_all_of_their_size(clone: Path) -> None:
    forge(clone, lambda tensors: tensors[O_PROJ].zero_())
    report = verify(clone, weights_only=True)
    assert_fails(report, O_PROJ, "by up to 1.0e+00 of their size")
    assert report.weights is not None
    assert report.weights.worst == 1.0


def test_an_extra_tensor_is_caught(clone: Path) -> None:
    forge(clone, lambda tensors: tensors.update(stray=torch.zeros(3)))
    assert_fails(verify(clone, weights_only=True), "stray", "not in the plan")


def test_not_a_number_never_passes(clone: Path) -> None:
    def spoil(tensors: Tensors) -> None:
        tensors[O_PROJ][0, 0] = torch.nan

    forge(clone, spoil)
    report = verify(clone)
    assert_fails(report, O_PROJ)
    assert_fails(report, "logits")


def test_another_source_does_not_match(clone: Path, tmp_path: Path) -> None:
    other = models.build("llama-gqa-tied", tmp_path / "other")
    forge(other, lambda tensors: tensors.update({O_PROJ: tensors[O_PROJ] * 1.001}))
    assert_fails(verify(clone, src=other), O_PROJ)


def test_the_decoding_is_checked_over_a_ragged_left_padded_batch(clone: Path) -> None:
    made = verify(clone, new_tokens=8).generation
    assert made is not None
    assert (made.identical, made.prompts, made.new_tokens) == (5, 5, 8)
    assert len(set(made.prompt_lengths)) == 5


@pytest.mark.parametrize(
    "says",
    [
        {"stop_strings": ["User:"]},
        {"num_beams": 3, "num_return_sequences": 2},
        {"repetition_penalty": 5.0, "no_repeat_ngram_size": 1},
        {"do_sample": True, "temperature": 5.0},
        {"prompt_lookup_num_tokens": 3},
        {"max_time": 1e-9},
    ],
)
def test_decoding_is_greedy_whatever_the_checkpoint_says(says: dict[str, Any], clone: Path, source: Sources) -> None:
    expected = decode_prompts(source("llama-gqa-tied"))
    src = models.edited(source("llama-gqa-tied"), clone.parent / "src")
    (src / "generation_config.json").write_text(json.dumps(says))
    assert torch.equal(decode_prompts(src), expected)


def decode_prompts(path: Path) -> torch.Tensor:
    return generation.decode(models.load(path), [[5, 7, 9], [3]], 8, torch.device("cpu")).tokens


def test_a_tie_is_one_between_tokens_that_decoding_may_take(tmp_path: Path) -> None:
    """Nowhere is the end of the text among these, by far the likeliest token though it is."""
    src = models.build("phi", tmp_path / "src", eos_token_id=2)
    shutil.copytree(src, tmp_path / "clone")

    def nearly_tie(likelier: int) -> Callable[[Tensors], None]:
        def change(tensors: Tensors) -> None:
            tensors["lm_head.weight"][8] = tensors["lm_head.weight"][7]
            tensors["lm_head.bias"][[2, 7, 8]] = torch.tensor([40.0, 20.0, 20.0])
            tensors["lm_head.bias"][likelier] += 1e-5

        return change

    forge(src, nearly_tie(7))
    forge(tmp_path / "clone", nearly_tie(8))
    report = verify(tmp_path / "clone", src=src)
    assert report.passed, report.failures
    assert report.generation is not None
    assert (report.generation.identical, report.generation.ties) == (0, 5)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a device that is not there": ({"device": "nosuch"}, "--device nosuch: "),
    "a dtype that there is not": ({"dtype": "float99"}, "--dtype float99: expected one of float32, bfloat16, float16"),
    "no tokens": ({"new_tokens": 0}, "--new-tokens 0: expected a whole number from 1 up"),
    "half a token": ({"new_tokens": 1.5}, "--new-tokens 1.5: expected a whole number from 1 up"),
    "too many tokens": ({"new_tokens": 64}, "--new-tokens 64: the models take 64 tokens, prompt included"),
    "a device for nothing": ({"weights_only": True, "device": "cpu"}, "--device cpu: with --weights-only no model"),
    "a dtype of nothing": ({"weights_only": True, "dtype": "float16"}, "--dtype float16: with --weights-only no"),
    "tokens of nothing": ({"weights_only": True, "new_tokens": 9}, "--new-tokens 9: with --weights-only no model"),
}


@pytest.mark.parametrize("options, words", REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_run_is_refused_before_anything_is_compared(
    options: dict[str, Any], words: str, clone: Path
) -> None:
    heard = Heard()
    with pytest.raises(RequestError, match=words):
        verify(clone, progress=heard, **options)
    assert [step for step in heard.steps if not step.startswith("Reading ")] == []


def test_a_clone_of_unknown_origin_needs_a_source(clone: Path, source: Sources) -> None:
    forget_provenance(clone)
    with pytest.raises(CheckpointError, match=r"no hyperclone\.json"):
        verify(clone)
    report = verify(clone, src=source("llama-gqa-tied"))
    assert report.passed
    assert report.logits is not None
    assert max(error for _, error in report.logits.layers) <= 1e-5


def test_a_clone_finds_its_source_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.build("llama-mqa", tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    expand(Path("source"), Path("clone"), DOUBLE)
    monkeypatch.chdir("clone")
    assert verify(Path("."), weights_only=True).passed


def test_a_source_that_is_gone_is_named(clone: Path) -> None:
    record = json.loads((clone / "hyperclone.json").read_text())
    (clone / "hyperclone.json").write_text(json.dumps(record | {"source": "../gone"}))
    with pytest.raises(CheckpointError, match="gone"):
        verify(clone)


def test_a_tensor_of_another_shape_is_named_by_loading_too(clone: Path, source: Sources) -> None:
    forge(clone, lambda tensors: tensors.update({"model.norm.weight": torch.ones(95)}))
    forget_provenance(clone)
    assert_fails(verify(clone, src=source("llama-gqa-tied")), "mismatched tensor model.norm.weight")


def test_a_source_is_the_same_in_other_shards(clone: Path, source: Sources) -> None:
    models.load(source("llama-gqa-tied")).save_pretrained(clone.parent / "src", max_shard_size="60KB")
    report = verify(clone, src=clone.parent / "src")
    assert report.passed, report.failures
    assert report.notes == ()
    assert (clone / "verification.json").exists()


def test_a_clone_that_transformers_cannot_load_still_names_its_tensor(clone: Path) -> None:
    def cut(tensors: Tensors) -> None:
        tensors[O_PROJ] = tensors[O_PROJ][:, :-1].contiguous()

    forge(clone, cut)
    assert_fails(verify(clone), O_PROJ, "should be F32 [96, 96]")


def test_infinities_in_a_rounded_clone_are_caught_by_the_weights(source: Sources, tmp_path: Path) -> None:
    expand(source("llama-mha"), tmp_path / "clone", Request(embed_mult=3))
    forge(tmp_path / "clone", lambda tensors: tensors["lm_head.weight"].fill_(torch.inf))
    assert_fails(verify(tmp_path / "clone", weights_only=True), "lm_head.weight")


def test_a_source_that_overflows_excuses_nothing(tmp_path: Path) -> None:
    src = models.build("llama-mha", tmp_path / "src", torch.float16)
    forge(src, lambda tensors: tensors["model.layers.0.mlp.down_proj.weight"].mul_(60_000))
    expand(src, tmp_path / "clone", DOUBLE)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert any("overflows" in note for note in report.notes)
    forge(tmp_path / "clone", lambda tensors: tensors["lm_head.weight"].neg_())
    forget_provenance(tmp_path / "clone")
    assert_fails(verify(tmp_path / "clone", src=src), "logits")


def test_a_key_that_the_source_lacks_is_caught(clone: Path) -> None:
    set_config(clone, attention_multiplier=2.0)
    assert_fails(verify(clone, weights_only=True), "attention_multiplier", "absent")


@pytest.mark.parametrize("context", [8, 16])
def test_a_model_with_a_short_context_is_verified(context: int, tmp_path: Path) -> None:
    src = models.build("opt-125m", tmp_path / "src", max_position_embeddings=context)
    expand(src, tmp_path / "clone", DOUBLE)
    assert verify(tmp_path / "clone", new_tokens=4).passed
    with pytest.raises(RequestError, match="--new-tokens"):
        verify(tmp_path / "clone", new_tokens=context)


def test_no_token_is_drawn_that_has_no_logit(tmp_path: Path) -> None:
    src = models.build("inkling", tmp_path / "src", unpadded_vocab_size=40)
    expand(src, tmp_path / "clone", DOUBLE)
    assert verify(tmp_path / "clone", new_tokens=2).passed


@pytest.mark.parametrize("variant, runs", [("dory", 6), ("inkling2_loop", 6), ("qwen4_exp", 2)])
def test_each_run_of_a_layer_is_compared_in_all_residual_streams(
    variant: str, runs: int, source: Sources, tmp_path: Path
) -> None:
    expand(source(variant), tmp_path / "clone", DOUBLE)
    report = verify(tmp_path / "clone", new_tokens=2)
    assert report.passed, report.failures
    assert report.logits
    assert len(report.logits.layers) == runs + 1
    assert max(error for _, error in report.logits.layers) <= 1e-5


def test_another_vocabulary_fails(clone: Path, tmp_path: Path) -> None:
    other = models.build("llama-gqa-tied", tmp_path / "other", vocab_size=80)
    forget_provenance(clone)
    assert_fails(verify(clone, src=other), "vocab_size")


@pytest.mark.parametrize(
    "record",
    [
        {"schema_version": 99},
        {"request": {"embed_mult": "2"}},
        {"request": {"surprise": 1}},
        {"request": None},
        {"source": 3},
        {"files": 3},
        {"files": [1]},
        {"plan_digest": None, "request": {"dtype": "int8"}},
    ],
)
def test_a_damaged_record_is_refused(record: dict[str, object], clone: Path) -> None:
    path = clone / "hyperclone.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | record))
    with pytest.raises(CheckpointError, match=r"hyperclone\.json"):
        verify(clone)


def test_in_another_dtype_the_clone_may_err_as_far_as_that_dtype_does(clone: Path) -> None:
    report = verify(clone, dtype="bfloat16")
    assert report.passed, report.failures
    assert report.logits is not None
    assert report.logits.dtype == "bfloat16"


def test_a_file_that_is_not_the_sources_is_caught(clone: Path) -> None:
    (clone / "generation_config.json").write_text("{}")
    assert_fails(verify(clone, weights_only=True), "generation_config.json")


STRAYS: dict[str, bool | None] = {
    "tokenizer.json": True,
    "chat_template.jinja": True,
    "additional_chat_templates/rag.jinja": True,
    "adapter_config.json": True,
    "adapter_model.safetensors": True,
    "pytorch_model.bin": True,
    "model-00001-of-00002.safetensors": True,
    "model.safetensors.index.json": True,
    "notes.txt": False,
    "secrets.pt": False,
    "LICENSE": False,
    "run/checkpoint-1/model.safetensors": False,
    ".env": None,
    ".cache/tokenizer.json": None,
}
"""A file more than the clone was written with → whether it fails, rather than is noted; None: neither."""


@pytest.mark.parametrize("name, fails", STRAYS.items())
def test_a_file_too_many_fails_if_loaders_read_it_and_is_noted_otherwise(
    name: str, fails: bool | None, clone: Path
) -> None:
    (clone / name).parent.mkdir(parents=True, exist_ok=True)
    (clone / name).write_bytes(b"mine")
    report = verify(clone, weights_only=True)
    assert [failure for failure in report.failures if name in failure] == list(report.failures)
    assert report.passed is not fails
    assert any(f"`push` would publish it: {name}." in note for note in report.notes) is (fails is False)


def test_a_file_that_the_clone_lost_is_caught(clone: Path) -> None:
    (clone / "generation_config.json").unlink()
    assert_fails(verify(clone, weights_only=True), "generation_config.json is missing")


def test_without_a_record_it_is_said_what_was_not_compared(clone: Path, source: Sources) -> None:
    forget_provenance(clone)
    assert any("weights were not compared" in note for note in verify(clone, src=source("llama-gqa-tied")).notes)


def test_a_norm_that_is_stored_coarsely_decides_too(tmp_path: Path) -> None:
    src = models.build("llama-gqa-tied", tmp_path / "src")
    forge(src, lambda tensors: tensors.update({n: t.half() for n, t in tensors.items() if t.dim() == 1}))
    expand(src, tmp_path / "clone", Request(embed_mult=1.5, heads_mult=1))
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits is not None
    assert report.logits.floor_dtype == "float16"
    assert report.logits.relative_error > 1e-5  # which float32 alone would not excuse


def test_a_buffer_that_is_not_written_excuses_nothing(tmp_path: Path) -> None:
    src = models.build("llama-mha", tmp_path / "src")
    forge(src, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6).half()}))
    expand(src, tmp_path / "clone", DOUBLE)
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures
    assert report.logits is not None
    assert report.logits.floor_dtype == "float32"


def test_the_coarsest_dtype_of_a_mixed_checkpoint_decides(tmp_path: Path) -> None:
    src = models.build("llama-gqa-tied", tmp_path / "src", vocab_size=2000)
    tensors = load_file(src / "model.safetensors")
    tensors = {n: t if "embed" in n else t.bfloat16() for n, t in tensors.items()}
    save_file(tensors, src / "model.safetensors", metadata={"format": "pt"})
    expand(src, tmp_path / "clone", Request(embed_mult=2, ffn_mult=2, mixing=Mixing(noise_snr_db=10.0)))
    report = verify(tmp_path / "clone")
    assert report.passed, report.failures


def test_a_clone_that_transformers_cannot_run_is_wrong(source: Sources, tmp_path: Path) -> None:
    expand(source("helium"), tmp_path / "clone", DOUBLE)
    set_config(tmp_path / "clone", hidden_size=193)
    assert_fails(verify(tmp_path / "clone"), "transformers cannot run it")
