"""From rows to a card: every step of a training is kept, so that nothing is trained twice."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_model
from adapter_files import card_of
from conftest import MakeRepo, git
from held_out_notes import AGENT, build
from test_tune import TUNING, rows_of, write_dataset

from pantheon import adapters, school
from pantheon.errors import EngineError
from pantheon.git import Repo
from pantheon.lessons import Card
from pantheon.records import Agent
from pantheon.survey import survey
from pantheon.training.mine import Mined
from pantheon.verify import load_trust, verify


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.build(tmp_path_factory.mktemp("model") / "Tiny")


def mined(place: Path, model: Path) -> Mined:
    directory = write_dataset(place, rows_of(model, range(12)), rows_of(model, range(100, 103)))
    (directory / "DATASHEET.md").write_text("# What is in it\n", encoding="utf-8")
    return Mined(card_of(AGENT, "sha256:" + "0" * 64).dataset, directory)


def learner(repo: Repo) -> Agent:
    found = survey(repo, repo.head().commit).config.agents[AGENT]
    return found.model_copy(update={"training": TUNING.model_copy(update={"epochs": 2})})


def train(repo: Repo, agent: Agent, model: Path, found: Mined) -> Card | None:
    return school._trained(repo, agent, model, found, None, None, True)


def test_a_training_ends_in_a_card_and_is_not_done_again(make_repo: MakeRepo, tmp_path: Path, model: Path) -> None:
    repo = build(make_repo, 1)
    agent, found = learner(repo), mined(tmp_path / "data", model)
    card = train(repo, agent, model, found)
    assert card is not None
    assert (card.agent, card.version, card.parent, card.base_model) == (AGENT, 2, None, "Tiny")
    assert card.tuned.best > 0
    assert adapters.verified(repo, AGENT, card.adapter).is_dir()
    sheet = git("show", f"refs/pantheon/adapters/{AGENT}:{card.adapter[7:]}/DATASHEET.md", cwd=repo.root)
    assert sheet == "# What is in it\n"
    assert list((repo.common_dir / "pantheon" / "trained").iterdir()) == []
    refs = git("for-each-ref", cwd=repo.root)
    (found.directory / "train.jsonl").unlink()  # whoever trained now would need it
    assert train(repo, agent, model, found) == card
    assert git("for-each-ref", cwd=repo.root) == refs
    assert verify(repo.common_dir, load_trust(repo.common_dir), "all").faults == ()
    weights = adapters.place(repo, AGENT, card.adapter) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    with pytest.raises(EngineError, match="cannot use the adapter"):
        train(repo, agent, model, found)


def test_what_was_trained_when_it_was_killed_gets_its_card(make_repo: MakeRepo, tmp_path: Path, model: Path) -> None:
    """A kill between the end of the training and the card: the files and how it ended are there."""
    repo = build(make_repo, 1)
    agent, found = learner(repo), mined(tmp_path / "data", model)
    trained = repo.common_dir / "pantheon" / "trained"
    keep, adapters_ = adapters.keep, repo.common_dir / "pantheon" / "adapters"
    adapters_.parent.mkdir(exist_ok=True)
    adapters_.write_text("in the way")  # the disk gives out
    with pytest.raises(OSError, match="adapters"):
        train(repo, agent, model, found)
    assert {path.name for path in trained.iterdir()} == {AGENT, f"{AGENT}.json"}
    adapters_.unlink()
    (found.directory / "train.jsonl").unlink()
    card = train(repo, agent, model, found)
    assert card is not None
    assert keep(repo, AGENT, adapters.verified(repo, AGENT, card.adapter))[0] == card.adapter
    assert list(trained.iterdir()) == []
