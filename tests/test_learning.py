"""The whole loop, nothing of it played but the reviewers: a night with a model of four hundred thousand random weights
on the real engine, its work accepted, mined, a QLoRA trained with peft and bitsandbytes, and both versions on held-out
files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny_model
from conftest import MakeRepo, git

from pantheon import adapters, cli, nights, prs
from pantheon.config import packaged
from pantheon.families import HELD_OUT, place
from pantheon.git import Repo
from pantheon.records import PullState

AGENT = "doc.frontmatter"
SHARE = 0.42
REVIEWERS = ("review.peer-a", "review.peer-b")
PLACES = "harbour garden kitchen library station orchard museum theatre bakery stable mill tower market chapel bridge"
THINGS = "keys ropes"
SETTINGS = """schema_version = 1

[engine]
model = "{model}"

[gate]
canaries = 0.0

[training]
held_out = {share}
dev = 0.2
"""
TASK = """---
uuid: "1b7b0a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Normalise the notes"
slug: "normalise-the-notes"
status: "ready"
labels: ["docops"]
pantheon:
  flow: docops
  scope: ["docs/**/*.md"]
  exclude: ["docs/tasks/**"]
  max_diff_lines: 200
  acceptance:
    - run: "frontmatter"
---
Every note gets the front matter that the rules ask for.
"""


def note(name: str, thing: str) -> str:
    """A note whose words are mostly its own."""
    own = " ".join(f"{name}{thing}{n}" for n in range(24))
    return (
        f"# {thing.capitalize()} of the {name}\n\nThe {thing} of the {name} are counted every evening before closing. "
        f"Whoever takes one writes it into the {name} book. {own}.\n\nThe {name} lends its {thing} to nobody else.\n"
    )


def repository(make_repo: MakeRepo, model: Path) -> Repo:
    """Thirty notes, of which some are held out, with reviewers that are scripted: a model of random weights would
    refuse nearly everything."""
    files = {f"docs/{a}-{b}.md": note(a, b) for a in PLACES.split() for b in THINGS.split()}
    for name in REVIEWERS:
        text = packaged("agents", f"{name}.toml").read_text()
        files[f".pantheon/agents/{name}.toml"] = text.replace('engine = "vllm"', 'engine = "scripted"')
    learner = packaged("agents", f"{AGENT}.toml").read_text()
    files[f".pantheon/agents/{AGENT}.toml"] = f"{learner}training = {{rate = 0.02, epochs = 3}}\n"
    files[".pantheon/pantheon.toml"] = SETTINGS.format(model=model, share=SHARE)
    files["docs/tasks/tidy.md"] = TASK
    return Repo.discover(make_repo(files))


@pytest.mark.live
@pytest.mark.serial  # its bound, three minutes, is for two cores
def test_accepted_work_is_mined_trained_on_and_measured_on_held_out_files(
    make_repo: MakeRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")  # a socket's path is short
    others = set(os.listdir("/tmp"))
    repo = repository(make_repo, tiny_model.build(tmp_path / "Tiny"))
    monkeypatch.chdir(repo.root)

    def said(*words: str) -> str:
        capsys.readouterr()
        assert cli.main(words) == 0, capsys.readouterr()
        return capsys.readouterr().out

    said("trust", "--yes")
    said("night", "--now", "--budget", "5m", "--quiet")
    report = nights.load_report(repo)
    held = [run for run in report.runs if place(run.item.target, HELD_OUT) < SHARE]
    assert len(report.runs) == 30 and 6 <= len(held) <= 24
    for pull in prs.load_all(repo):
        said("accept", str(pull.id))

    mined = json.loads(said("mine", AGENT, "--json"))
    assert mined["rows"] > 15 and mined["dev"] > 0
    rows = [json.loads(line) for line in (Path(mined["directory"]) / "train.jsonl").read_text().splitlines()]
    assert not {row["source"]["target"] for row in rows} & {run.item.target for run in held}

    trained = json.loads(said("train", AGENT, "--budget", "60s", "--memory", "3g", "--quiet", "--json"))
    (card,) = adapters.cards(repo, AGENT)
    losses = [one.dev for one in card.tuned.losses if one.dev is not None]
    assert min(losses) < 0.5 * losses[0], "it learned something"
    assert card.tuned.environment and card.dataset.digest == mined["digest"]
    seen = card.comparison
    assert seen is not None and 5 <= seen.items <= len(held)
    assert seen.promote == (trained["pr"] is not None)
    assert f"{seen.after_pass.hits} of {seen.items}" in said("agents", "show", AGENT)
    assert "kept" in trained["comparison"]["why"][-1] or seen.promote
    assert git("status", "--porcelain", cwd=repo.root) == ""

    said("verify", "--all")
    waiting = [pull for pull in prs.load_all(repo) if pull.state is PullState.OPEN]
    assert len(waiting) == seen.promote
    assert not [name for name in set(os.listdir("/tmp")) - others if name.startswith("pantheon-") and "day" in name]
