"""Adapters in force: what lint, doctor and the start of a night say of them; what is deleted once nobody needs it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from adapter_files import WHEN, card_of, write_adapter
from conftest import MakeRepo, git
from hypothesis import given
from hypothesis import strategies as st

from pantheon import adapters, attic, cli, config, desk, inforce, learned, nights, session
from pantheon.errors import EngineError
from pantheon.git import Repo
from pantheon.lessons import Known
from pantheon.models import DEFAULT_MODEL
from pantheon.places import places
from pantheon.records import Agent, Runtime
from pantheon.survey import read_config

AGENT = "doc.frontmatter"
A = f"sha256:{'a' * 64}"
LEARNED = Agent(
    name=AGENT, version=2, summary="x", prompt="x.j2", runtime=Runtime(origin="local", adapter=A), tools=("set_field",)
)
WEIGHTS = {"model.safetensors": "f" * 64}  # those of card_of


# --- the decision -----------------------------------------------------------------------------------------------------


def asked(
    known: Known, *, prompt: str = "e" * 64, model: str = "scripted", weights: dict[str, str] | None = None
) -> str:
    templates = {LEARNED.label: prompt}
    found = inforce.doubts([LEARNED], {LEARNED.label: known}, templates=templates, model=model, weights=weights)
    return "; ".join(f"{'grave' if one.grave else 'note'}: {one}" for one in found)


def test_an_adapter_with_card_files_model_and_prompt_is_fine() -> None:
    assert asked(Known(card=card_of(AGENT, A))) == ""
    assert asked(Known(card=card_of(AGENT, A)), weights=WEIGHTS, model="renamed") == ""


def test_each_thing_that_is_wrong_is_said() -> None:
    card = card_of(AGENT, A)
    assert "grave: doc.frontmatter@2: its adapter aaaaaaaaaaaa cannot be loaded: gone" in asked(
        Known(card=card, files="gone")
    )
    assert "grave: doc.frontmatter@2: its adapter aaaaaaaaaaaa has no card that counts" in asked(Known())
    assert asked(Known(card=card), model="big").startswith("grave: ")
    assert "trained on scripted, and big is served" in asked(Known(card=card), model="big")
    other = asked(Known(card=card), weights={"model.safetensors": "0" * 64})
    assert "trained on scripted, with other weights than those of scripted here" in other
    assert asked(Known(card=card), prompt="0" * 64).startswith("note: doc.frontmatter@2: its adapter aaaaaaaaaaaa was ")


def test_an_adapter_that_nothing_is_known_of_cannot_be_used() -> None:
    (first, second) = inforce.doubts([LEARNED], {}, templates={})
    assert first.grave
    assert second.grave


@given(st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_a_night_runs_only_where_files_card_and_model_are_right(
    files: bool, card: bool, base: bool, prompt: bool
) -> None:
    known = Known(card=card_of(AGENT, A) if card else None, files="" if files else "gone")
    weights = WEIGHTS if base else {"model.safetensors": "0" * 64}
    said = asked(known, weights=weights, prompt="e" * 64 if prompt else "0" * 64)
    assert ("grave" not in said) == (files and card and base)
    assert ("note" in said) == (card and not prompt)


def test_agents_without_an_adapter_are_not_asked_about() -> None:
    plain = LEARNED.model_copy(update={"runtime": Runtime(origin="local")})
    assert inforce.doubts([plain], {}, templates={}) == []


# --- in a repository --------------------------------------------------------------------------------------------------


def agent_file(adapter: str) -> str:
    text = config.packaged("agents", f"{AGENT}.toml").read_text("utf-8").replace("version = 1", "version = 2")
    return text.replace('origin = "local"}', f'origin = "local", adapter = "{adapter}"}}')


@pytest.fixture
def repo(make_repo: MakeRepo, tmp_path: Path) -> Repo:
    """An agent with an adapter that was trained here, on the default model and the prompt in force."""
    root = make_repo()
    repo = Repo.discover(root)
    digest, _ = adapters.keep(repo, AGENT, write_adapter(tmp_path / "made"))
    head = repo.head().commit
    prompt = nights.template_digests(read_config(repo, head, repo.entries(head)))[f"{AGENT}@1"]
    dataset = card_of(AGENT, digest).dataset.model_copy(update={"template_sha256": prompt})
    card = card_of(AGENT, digest, dataset=dataset.model_dump(), base_model=DEFAULT_MODEL)
    adapters.write_card(repo, card, WHEN, desk.signer(repo))
    write_agent(repo, agent_file(digest))
    return repo


def write_agent(repo: Repo, text: str) -> None:
    place = repo.root / ".pantheon/agents" / f"{AGENT}.toml"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    git("add", "-A", cwd=repo.root)
    git("commit", "-q", "--allow-empty", "-m", "an agent", cwd=repo.root)


def in_force(repo: Repo) -> str:
    head = repo.head().commit
    return read_config(repo, head, repo.entries(head)).agents[AGENT].runtime.adapter or ""


def linted(repo: Repo, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.chdir(repo.root)
    code = cli.main(["lint"])
    return code, capsys.readouterr().out


Capture = pytest.CaptureFixture[str]


def test_lint_is_content_with_an_adapter_that_fits(
    repo: Repo, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert linted(repo, capsys, monkeypatch) == (0, "1 file: no problems\n")


def test_lint_names_the_line_of_an_adapter_that_is_not_here(
    repo: Repo, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_agent(repo, agent_file(A))
    code, out = linted(repo, capsys, monkeypatch)
    where = f".pantheon/agents/{AGENT}.toml:5: its adapter aaaaaaaaaaaa "
    assert code == 1
    assert f"{where}cannot be loaded: " in out
    assert f"{where}has no card that counts" in out
    assert out.endswith("1 file: 2 problems\n")


def test_lint_warns_of_an_adapter_for_an_older_prompt_and_is_content(
    repo: Repo, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = config.packaged("prompts", f"{AGENT}.j2").read_text("utf-8")
    place = repo.root / f".pantheon/prompts/{AGENT}.j2"
    place.parent.mkdir()
    place.write_text(f"{prompt}\n{{# another #}}\n", encoding="utf-8")
    code, out = linted(repo, capsys, monkeypatch)
    assert code == 0
    assert f".pantheon/agents/{AGENT}.toml:5: warning: its adapter " in out
    assert "was trained with another prompt than the one in force" in out
    assert cli.main(["lint", "--json"]) == 0
    (warning,) = json.loads(capsys.readouterr().out)["warnings"]
    assert (warning["line"], warning["next"]) == (5, f"git pantheon train {AGENT}")


def test_lint_names_an_adapter_of_another_model(repo: Repo, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = repo.root / ".pantheon/pantheon.toml"
    settings.write_text('schema_version = 1\n[engine]\nmodel = "Big-7B"\n')
    code, out = linted(repo, capsys, monkeypatch)
    assert code == 1
    assert f"was trained on {DEFAULT_MODEL}, and Big-7B is served" in out


def test_an_adapter_is_not_named_by_a_path(repo: Repo, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("../../../etc", "/home/ann/adapter", f"sha256:{'a' * 63}/", "sha256:" + "A" * 64):
        write_agent(repo, agent_file(name))
        code, out = linted(repo, capsys, monkeypatch)
        assert code == 1, name
        assert f".pantheon/agents/{AGENT}.toml:5: " in out


def test_doctor_says_what_is_in_force_and_what_could_train(repo: Repo) -> None:
    said = learned.said(repo, places(os.environ))
    assert said.startswith("1 adapter in force, verified; ")
    assert f"peft {importlib.metadata.version('peft')}" in said
    assert "KiB adapters" in said


def test_doctor_fails_with_the_way_on_where_an_adapter_was_changed(repo: Repo) -> None:
    place = adapters.place(repo, AGENT, in_force(repo))
    (place / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(EngineError, match=r"beside its two files it holds 'adapter_model\.bin'") as raised:
        learned.said(repo, places(os.environ))
    assert raised.value.hint == f"git pantheon agents rollback {AGENT}"


def test_doctor_says_what_is_missing_for_a_training(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert "nothing can be trained here: torch, peft, bitsandbytes missing, ./install.sh" in learned.said(
        repo, places(os.environ)
    )


def started(repo: Repo, model: Path, teacher: Path | None = None) -> None:
    head = repo.head().commit
    found = read_config(repo, head, repo.entries(head))
    session._cast(repo, found, model, places(os.environ), teacher, True)


def test_a_night_does_not_start_on_other_weights_than_an_adapter_was_trained_on(repo: Repo, tmp_path: Path) -> None:
    model = tmp_path / DEFAULT_MODEL
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"others")
    with pytest.raises(EngineError, match="with other weights than those of"):
        started(repo, model)


def test_a_teacher_with_the_name_of_the_nights_model_is_refused(make_repo: MakeRepo, tmp_path: Path) -> None:
    repo = Repo.discover(make_repo())
    model, teacher = tmp_path / "a" / "same", tmp_path / "b" / "same"
    with pytest.raises(EngineError, match="could not tell who answered"):
        started(repo, model, teacher)


def test_where_a_teacher_answers_nobody_asks_for_the_adapter(repo: Repo) -> None:
    shutil.rmtree(adapters.place(repo, AGENT, in_force(repo)))
    head = repo.head().commit
    found = read_config(repo, head, repo.entries(head))
    assert learned.look(repo, found)
    assert learned.look(repo, found, taught=True) == []


# --- what is left on the disk -----------------------------------------------------------------------------------------


def dataset(repo: Repo, name: str, age_s: float) -> Path:
    place = repo.common_dir / "pantheon/datasets" / AGENT / name
    place.mkdir(parents=True)
    (place / "train.jsonl").write_bytes(b"x" * 10_000)
    at = WHEN.timestamp() - age_s
    os.utime(place, (at, at))
    return place


def test_what_a_card_names_and_the_newest_stay(repo: Repo) -> None:
    named = dataset(repo, "d" * 64, 500)  # by the card of the adapter in force
    old, older, newest = (dataset(repo, name * 64, age) for name, age in (("1", 100), ("2", 200), ("3", 10)))
    kept = adapters.place(repo, AGENT, in_force(repo))
    stray = kept.with_name("b" * 64)
    shutil.copytree(kept, stray)
    half = kept.with_name(".new-x")
    half.mkdir()
    now = half.stat().st_mtime
    freed = attic.sweep(repo, AGENT, [], now)
    assert [path.exists() for path in (named, newest, kept, half)] == [True] * 4
    assert [path.exists() for path in (old, older, stray)] == [False] * 3
    assert freed >= 20_000
    assert attic.sweep(repo, AGENT, [], now + timedelta(hours=2).total_seconds()) == 0
    assert not half.exists()


def test_what_an_agent_names_stays_without_a_card_and_another_agents_things_are_not_touched(repo: Repo) -> None:
    kept = adapters.place(repo, AGENT, in_force(repo))
    named, stray, foreign = (kept.with_name(c * 64) for c in "bcd")
    foreign = kept.parents[1] / "doc.rename" / foreign.name
    for place in (named, stray, foreign):
        shutil.copytree(kept, place)
    attic.sweep(repo, AGENT, [f"sha256:{'b' * 64}"])
    assert [place.exists() for place in (kept, named, stray, foreign)] == [True, True, False, True]


def test_a_link_among_the_datasets_is_left_alone(repo: Repo, tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    outside.mkdir()
    (outside / "x").write_text("x")
    newest = dataset(repo, "3" * 64, 0)
    (newest.parent / ("0" * 64)).symlink_to(outside)
    attic.sweep(repo, AGENT, [])
    assert (outside / "x").exists()


def test_a_card_that_does_not_count_still_keeps_its_things(repo: Repo) -> None:
    """A revoked key, a clone that trusts nobody yet: no reason to delete what cannot be made again."""
    (repo.common_dir / "pantheon/allowed_signers").write_bytes(b"")
    kept = adapters.place(repo, AGENT, in_force(repo))
    assert adapters.cards(repo, AGENT) == []
    attic.sweep(repo, AGENT, [])
    assert kept.exists()


def test_what_is_taken_is_counted(repo: Repo, tmp_path: Path) -> None:
    dataset(repo, "1" * 64, 0)
    merged = tmp_path / "cache" / "merged" / "m"
    merged.mkdir(parents=True)
    (merged / "model.safetensors").write_bytes(bytes(5000))
    found = {one.what: (one.count, one.bytes > 0) for one in attic.taken(repo, tmp_path / "cache") if one.bytes}
    assert found == {"merged models": (1, True), "datasets": (1, True), "adapters": (1, True)}


@pytest.mark.parametrize(("count", "text"), [(0, "0 KiB"), (1, "1 KiB"), (5 << 20, "5 MiB"), (3 << 29, "1.5 GiB")])
def test_bytes_as_a_person_reads_them(count: int, text: str) -> None:
    assert attic.shown(count) == text
