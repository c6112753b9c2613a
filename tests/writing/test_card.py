"""README.md of a clone: its metadata, its body, and the command that makes the clone again."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, metadata_load

from hyperclone_cli import expand, plan, verify
from hyperclone_cli.checkpoint.source import Origin
from hyperclone_cli.growth.request import Request
from hyperclone_cli.growth.strategies import Mixing
from hyperclone_cli.writing.card import command, model_card
from support.command_line import hyperclone

Sources = Callable[[str], Path]
FRONT_MATTER = (
    "---\nlicense: other\nlicense_name: opt\nlicense_link: LICENSE\nlanguage:\n- en\n- de\ndatasets: c4\n---\n# Small\n"
)


@pytest.fixture
def src(source: Sources, tmp_path: Path) -> Path:
    """A source of the test's own, with a card."""
    path = Path(shutil.copytree(source("llama-gqa-tied"), tmp_path / "opt-350m"))
    (path / "README.md").write_text(FRONT_MATTER)
    return path


@pytest.fixture
def clone(src: Path, tmp_path: Path) -> Path:
    expand(src, tmp_path / "opt-700m", embed_mult=2, ffn_mult=2)
    return tmp_path / "opt-700m"


def card_of(clone: Path) -> str:
    return (clone / "README.md").read_bytes().decode()


def test_the_metadata_is_what_the_hub_reads(clone: Path) -> None:
    assert metadata_load(clone / "README.md") == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["hyperclone", "model-growth"],
        "license": "other",
        "license_name": "opt",
        "license_link": "LICENSE",
        "language": ["en", "de"],
    }


def test_the_hubs_own_library_reads_and_writes_it_unchanged(clone: Path) -> None:
    """ModelCard raises for metadata that is malformed."""
    card = ModelCard.load(clone / "README.md")
    assert str(card) == card_of(clone)
    assert "{{" not in card.text
    assert "{%" not in card.text


def test_the_body_says_what_a_reader_needs(clone: Path) -> None:
    text = " ".join(card_of(clone).split())
    for words in (
        "# opt-350m, grown to 157,152 parameters",
        "an initialisation, not yet a better model",
        "| `hidden_size` | `48` | `96` |",
        "| parameters | 41,712 | 157,152 |",
        "```bash hyperclone expand --src opt-350m --embed-mult 2 --ffn-mult 2 --out clone ```",
        'AutoModelForCausalLM.from_pretrained(".")',
        "That of `opt-350m`: opt.",
        "arXiv:2409.12903",
        "Not verified yet",
    ):
        assert words in text


def test_it_names_no_place_on_this_machine(clone: Path, tmp_path: Path) -> None:
    verify(clone)
    for name in ("README.md", "verification.json", "hyperclone.json"):
        assert str(tmp_path) not in (clone / name).read_text()


def test_copies_that_do_not_diverge_need_advice(src: Path) -> None:
    assert "The copies get equal gradients" in model_card(plan(src, embed_mult=2, strategy="symmetric"))
    assert "equal gradients" not in model_card(plan(src, embed_mult=2))
    assert "equal gradients" not in model_card(plan(src, embed_mult=2, strategy="symmetric", noise_snr_db=10.0))


def test_the_same_plan_gives_the_same_card(src: Path) -> None:
    assert model_card(plan(src, embed_mult=2)) == model_card(plan(src, embed_mult=2))


@pytest.mark.parametrize(
    "request_, options",
    [
        (Request(), ""),
        (Request(embed_mult=2, heads_mult=4, kv_heads_mult=2), "--embed-mult 2 --heads-mult 4 --kv-heads-mult 2"),
        (Request(dtype="float16", max_shard_size="5GB"), "--dtype float16 --max-shard-size 5GB"),
        (
            Request(mixing=Mixing("uneven", (1, 3), 12.5, 7)),
            "--strategy uneven --uneven-ratio 1:3 --noise-snr-db 12.5 --seed 7",
        ),
    ],
)
def test_the_command_has_every_option_that_is_not_its_default(request_: Request, options: str) -> None:
    assert command(request_, "a") == " ".join(f"hyperclone expand --src a {options} --out clone".split())


def test_the_command_makes_the_clone_again(src: Path, tmp_path: Path) -> None:
    src.rename(tmp_path / "a small model")
    options: Any = {"embed_mult": 2, "strategy": "uneven", "uneven_ratio": (1, 3), "noise_snr_db": 9.5, "seed": 4}
    expand(tmp_path / "a small model", tmp_path / "first", tie_embeddings="untie", **options)
    line = next(line for line in card_of(tmp_path / "first").splitlines() if line.startswith("hyperclone expand"))
    hyperclone(*shlex.split(line)[1:], "--no-verify", cwd=tmp_path)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("first", "clone"))
    assert first == second


@pytest.mark.parametrize(
    "front_matter, expected",
    [
        ("---\nlicense: mit\n---\n", {"license": "mit"}),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", {"license": ["mit", "apache-2.0"]}),
        ("---\nlanguage: no\nlicense: 3\n---\n", {}),  # YAML's false, and a number
        ("---\nlicense: [mit\n---\n", {}),
        ("---\n- mit\n---\n", {}),
        ("# A card without metadata\n", {}),
        (b"\xff\xfe---\n", {}),
    ],
)
def test_licence_and_language_are_the_sources_where_its_card_can_be_read(
    front_matter: str | bytes, expected: dict[str, object], src: Path, tmp_path: Path
) -> None:
    (src / "README.md").write_bytes(front_matter if isinstance(front_matter, bytes) else front_matter.encode())
    expand(src, tmp_path / "clone")
    found = metadata_load(tmp_path / "clone" / "README.md")
    assert found is not None
    assert {key: found[key] for key in ("license", "language") if key in found} == expected


COMMIT = "0123456789abcdef0123456789abcdef01234567"

LOCAL: dict[str, tuple[str, object]] = {
    "a name": ("opt-350m", None),
    "what it was trained from, not what it is": ("opt-350m", "facebook/opt-350m"),
    "another name in its config": ("my-finetune", "facebook/opt-350m"),
    "a name that the Hub would refuse": ("my model (old)", None),
    "a name as on the Hub": ("facebook/opt-350m", None),
    "not quite the Hub's cache": ("models--facebook--opt-350m/snapshots/main", None),
}


@pytest.mark.parametrize("directory, stated", LOCAL.values(), ids=list(LOCAL))
def test_a_local_source_is_called_by_its_directory_and_claims_no_place_on_the_hub(
    directory: str, stated: object, src: Path, tmp_path: Path
) -> None:
    config = json.loads((src / "config.json").read_text())
    (src / "config.json").write_text(json.dumps(config | {"_name_or_path": stated}))
    place = tmp_path / directory
    place.parent.mkdir(parents=True, exist_ok=True)
    card: Any = ModelCard(model_card(plan(src.rename(place))))
    assert not {"base_model", "base_model_relation"} & card.data.to_dict().keys()
    assert f"# {place.name}, grown to" in card.text
    assert shlex.join(["--src", place.name]) in card.text


def test_a_source_is_called_as_its_user_calls_it(src: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "latest").symlink_to(src)
    assert "# latest, grown to" in model_card(plan(tmp_path / "latest"))
    monkeypatch.chdir(src)
    assert "# opt-350m, grown to" in model_card(plan("."))


@pytest.mark.parametrize("repo_id", ["facebook/opt-350m", "gpt2"])
def test_a_source_in_the_hubs_cache_is_called_by_its_id_and_commit(repo_id: str, src: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / f"models--{repo_id.replace('/', '--')}" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    card: Any = ModelCard(model_card(plan(src.rename(snapshot), embed_mult=2)))
    assert card.data.to_dict()["base_model"] == repo_id
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    assert f"# {repo_id}, grown to" in card.text
    assert f"--src {repo_id} --revision {COMMIT} --embed-mult 2" in card.text


def test_a_source_from_the_hub_is_called_by_its_id_and_commit(src: Path) -> None:
    planned = plan(src, embed_mult=2)
    fetched = replace(planned, source=replace(planned.source, origin=Origin("facebook/opt-350m", COMMIT)))
    card: Any = ModelCard(model_card(fetched))
    assert card.data.to_dict()["base_model"] == "facebook/opt-350m"
    assert f"--src facebook/opt-350m --revision {COMMIT} " in card.text


def test_the_template_is_in_the_package() -> None:
    from importlib.resources import files

    assert files("hyperclone_cli.writing").joinpath("card_template.md").is_file()


def test_the_card_of_a_clones_clone_tells_every_growth(clone: Path, tmp_path: Path) -> None:
    expand(clone, tmp_path / "opt-1b", depth_mult=2, strategy="symmetric")
    card = card_of(tmp_path / "opt-1b")
    assert "each of the model before: `opt-350m` → `opt-700m` → this one." in card
    assert "hyperclone expand --src opt-350m --embed-mult 2 --ffn-mult 2 --out opt-700m\n" in card
    assert "hyperclone expand --src opt-700m --depth-mult 2 --strategy symmetric --out clone\n" in card
    assert "each of the model before" not in card_of(clone)
