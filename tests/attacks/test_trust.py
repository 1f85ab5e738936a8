"""A repository that wants its commands run, or more than is its own: nothing runs before a person trusted it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TASK, MakeRepo, git, write_files

from pantheon import enclosure, process, trust
from pantheon.config import load_user, packaged, within
from pantheon.errors import TrustError
from pantheon.git import Repo
from pantheon.places import places
from pantheon.survey import read_config

NOTE = "# Care of the oven\n\nThe oven is cleaned every Friday after the last loaf. It is not hot then.\n"
FILES = {"docs/oven.md": NOTE, "docs/tasks/tidy.md": TASK}
EVIL = packaged("checks.toml").read_text() + '[check.evil]\nrun = ["/bin/sh", "-c", "touch /check/tree/ran"]\n'
NIGHT = ("night", "--now", "--engine", "scripted", "--budget", "2m")
Typed = Callable[..., tuple[int, str]]


def commit(root: Path, message: str = "more") -> None:
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", message, cwd=root)


def nights_of(root: Path) -> str:
    return git("for-each-ref", "refs/pantheon/nights", cwd=root)


def test_18_a_branch_that_adds_a_command_is_parked_until_it_is_trusted(make_repo: MakeRepo, typed: Typed) -> None:
    root = make_repo(FILES)
    git("switch", "-q", "-c", "feature", cwd=root)
    write_files(root, {".pantheon/checks.toml": EVIL})
    commit(root)
    code, said = typed(root, *NIGHT)
    assert code == 1
    assert "nobody trusted it yet" in said
    assert "next: git pantheon trust" in said
    assert nights_of(root) == ""
    said = typed(root, "status")[1]
    assert said.splitlines()[0].startswith(".pantheon/ is not trusted, nothing of it runs: git pantheon trust")
    assert "1 item for tonight, parked until you trust .pantheon/" in said
    git("switch", "-q", "main", cwd=root)  # the other branch was never in doubt
    assert "not trusted" not in typed(root, "status")[1]
    git("switch", "-q", "feature", cwd=root)
    code, said = typed(root, "trust", "--yes")
    assert code == 0
    assert "/bin/sh -c 'touch /check/tree/ran'" in said
    assert "+[check.evil]" in said
    assert "not trusted" not in typed(root, "status")[1]


def test_what_init_wrote_needs_no_trust_and_a_change_to_it_asks_again(make_repo: MakeRepo, typed: Typed) -> None:
    root = make_repo(FILES)
    typed(root, "init")
    commit(root)
    assert "nothing to trust" in typed(root, "trust")[1]
    assert typed(root, *NIGHT, "--quiet") == (0, "")
    settings = root / ".pantheon/pantheon.toml"
    settings.write_text(settings.read_text().replace('budget = "6h"', 'budget = "7h"'))
    commit(root)
    assert typed(root, "trust", "--yes")[0] == 0
    settings.write_text(settings.read_text().replace('budget = "7h"', 'budget = "8h"'))
    commit(root)
    code, said = typed(root, *NIGHT)
    assert (code, "it changed since it was trusted" in said) == (1, True)
    code, said = typed(root, "trust", "--yes")
    assert '-budget = "7h"' in said
    assert '+budget = "8h"' in said
    assert '"6h"' not in said


def test_trust_is_not_given_without_a_terminal_or_a_plain_yes(make_repo: MakeRepo, typed: Typed) -> None:
    root = make_repo({**FILES, ".pantheon/checks.toml": EVIL})
    code, said = typed(root, "trust")
    assert (code, "there is no terminal to ask on" in said) == (1, True)
    assert json.loads(typed(root, "trust", "--json")[1])["trusted"] is False


def test_20_trust_in_one_worktree_is_none_in_another_with_other_content(
    make_repo: MakeRepo, typed: Typed, tmp_path: Path
) -> None:
    root = make_repo({**FILES, ".pantheon/checks.toml": EVIL})
    assert typed(root, "trust", "--yes")[0] == 0
    git("worktree", "add", "-q", "-b", "side", str(tmp_path / "side"), cwd=root)
    write_files(tmp_path / "side", {".pantheon/checks.toml": EVIL.replace("ran", "ran-too")})
    commit(tmp_path / "side")
    code, said = typed(tmp_path / "side", *NIGHT)
    assert (code, "it changed since it was trusted" in said) == (1, True)
    assert "not trusted" not in typed(root, "status")[1]


def test_18_a_clone_is_not_trusted_for_its_origins_sake(make_repo: MakeRepo, typed: Typed, tmp_path: Path) -> None:
    root = make_repo({**FILES, ".pantheon/checks.toml": EVIL})
    assert typed(root, "trust", "--yes")[0] == 0
    git("clone", "-q", str(root), str(tmp_path / "clone"), cwd=tmp_path)
    code, said = typed(tmp_path / "clone", *NIGHT)
    assert (code, "nobody trusted it yet" in said) == (1, True)


def test_a_record_copied_to_another_repositorys_name_counts_for_nothing(make_repo: MakeRepo, typed: Typed) -> None:
    mine = make_repo({**FILES, ".pantheon/checks.toml": EVIL}, name="mine")
    theirs = make_repo({**FILES, ".pantheon/checks.toml": EVIL}, name="theirs")
    assert typed(mine, "trust", "--yes")[0] == 0
    state = places(os.environ).state
    (record,) = (state / "trust").iterdir()
    theirs_record = trust._record_path(str(theirs / ".git"), state)
    theirs_record.write_bytes(record.read_bytes())
    assert typed(theirs, *NIGHT)[0] == 1


def test_a_check_by_day_runs_nothing_untrusted_either(make_repo: MakeRepo, typed: Typed) -> None:
    root = make_repo({**FILES, ".pantheon/checks.toml": EVIL})
    write_files(root, {"docs/oven.md": NOTE + "More.\n"})
    commit(root)
    code, said = typed(root, "check", "evil")
    assert (code, "nobody trusted it yet" in said) == (1, True)


def test_the_night_itself_cannot_trust(make_repo: MakeRepo, capfd: pytest.CaptureFixture[str]) -> None:
    root = make_repo({**FILES, ".pantheon/checks.toml": EVIL})
    repo = Repo.discover(root)
    where = places(os.environ)
    code = (
        "import os, socket; line = socket.socket(fileno=os.dup(0)); line.sendall(b'h')\n"
        "import sys; from pantheon import cli\n"
        f"os.chdir({str(root)!r}); sys.exit(cli.main(['trust', '--yes']))\n"
    )
    sandbox = enclosure.night_sandbox(repo, where, None, {})
    done = process.enclosed(
        [sys.executable, "-P", "-c", code], sandbox=sandbox, order=b"", keep=(), on_ready=lambda: None
    )
    assert (done, "cannot keep the trust" in capfd.readouterr().err) == (1, True)
    with pytest.raises(TrustError):
        trust.require(trust.look(repo, repo.entries(repo.head().commit), where.state))


def test_18_a_branch_that_moves_while_the_night_starts_is_noticed(
    make_repo: MakeRepo, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_repo(FILES)
    look = trust.look

    def then_moves(*args: object) -> trust.Look:
        found = look(*args)  # type: ignore[arg-type]
        write_files(root, {".pantheon/checks.toml": EVIL})
        commit(root, "meanwhile")
        return found

    monkeypatch.setattr(trust, "look", then_moves)
    code, said = typed(root, *NIGHT)
    assert (code, "the branch moved while the night started" in said) == (1, True)
    assert nights_of(root) == ""


def test_a_link_in_the_configuration_is_shown_as_what_it_is(make_repo: MakeRepo, typed: Typed) -> None:
    root = make_repo(FILES)
    (root / ".pantheon/rules").mkdir(parents=True)
    (root / ".pantheon/rules/frontmatter.toml").symlink_to("/etc/passwd")
    commit(root)
    assert typed(root, *NIGHT)[0] == 1
    said = typed(root, "trust", "--yes")[1]
    assert "+mode 120000: /etc/passwd" in said
    assert "root:" not in said


def test_escapes_in_the_configuration_do_not_reach_the_terminal(make_repo: MakeRepo, typed: Typed) -> None:
    hidden = '# \x1b[2K\x1b[1A\u202e innocent\n[check.a]\nrun = ["true", "\\u001b[2J"]\n' + EVIL
    root = make_repo({**FILES, ".pantheon/checks.toml": hidden, ".pantheon/prompts/x.j2": "\x1b]0;title\x07"})
    said = typed(root, "trust", "--yes")[1]
    assert "check" in said
    assert not [char for char in said if char != "\n" and not char.isprintable()]


def test_19_what_is_not_a_repositorys_to_set_is_ignored_and_said(make_repo: MakeRepo, typed: Typed) -> None:
    settings = (
        'schema_version = 1\n[trust]\nalways = true\n[sandbox]\nnetwork = true\n[keys]\nallowed = "x"\n'
        '[limits]\nbudget = "99h"\n[engine]\nkind = "scripted"\nendpoint = "http://203.0.113.1/v1"\napi_key = "x"\n'
    )
    check = EVIL + "network = true\nsandbox = false\nenv = {A = '1'}\n"
    agent = (
        '[agent]\nname = "doc.rename"\nversion = 2\nsummary = "x"\nprompt = "doc.rename.j2"\ntools = ["rename_note"]\n'
        'runtime = {engine = "vllm", origin = "local", endpoint = "http://203.0.113.1"}\n'
    )
    root = make_repo(
        {
            **FILES,
            ".pantheon/pantheon.toml": settings,
            ".pantheon/checks.toml": check,
            ".pantheon/agents/doc.rename.toml": agent,
        }
    )
    repo = Repo.discover(root)
    head = repo.head().commit
    found = read_config(repo, head, repo.entries(head))
    names = {line.split(": ")[1].split(" is ignored")[0] for line in found.ignored}
    assert names == {
        *("trust", "sandbox", "keys", "limits", "engine.endpoint", "engine.api_key"),
        *("check.evil.network", "check.evil.sandbox", "check.evil.env", "agent.runtime.endpoint"),
    }
    assert found.settings.engine.kind == "scripted"
    said = typed(root, "status")[1]
    assert "trust is ignored: it is yours to set, not a repository's" in said
    assert "203.0.113.1" not in found.model_dump_json()


def test_19_a_limit_above_the_users_is_cut_and_said(make_repo: MakeRepo, typed: Typed) -> None:
    settings = 'schema_version = 1\n[night]\nmax_open_prs = 5000\nbudget = "48h"\n'
    root = make_repo(
        {**FILES, ".pantheon/pantheon.toml": settings, ".pantheon/checks.toml": EVIL + "timeout_s = 3600\n"}
    )
    where = places(os.environ)
    where.config.mkdir(parents=True)
    (where.config / "config.toml").write_text('[limits]\nbudget = "1h"\nmax_open_prs = 3\ncheck_timeout_s = 30\n')
    repo = Repo.discover(root)
    head = repo.head().commit
    found = within(read_config(repo, head, repo.entries(head)), load_user(where.config).limits)
    assert found.settings.night.max_open_prs == 3
    assert found.checks["evil"].timeout_s == 30
    said = typed(root, "status")[1]
    assert "night.max_open_prs 5000 is beyond your limit: 3 is used" in said
    assert "check evil: 3600 s is beyond your limit: 30 s is used" in said
    assert "night.budget 48h is beyond your limit: 1h is used" in said


def test_16_an_agent_that_is_not_local_is_refused_by_name_before_anything_starts(
    make_repo: MakeRepo, typed: Typed
) -> None:
    agent = '[agent]\nname = "doc.rename"\nversion = 2\nsummary = "x"\nruntime = {origin = "cloud"}\n'
    root = make_repo({**FILES, ".pantheon/agents/doc.rename.toml": agent})
    code, said = typed(root, *NIGHT)
    assert code == 1
    assert "cannot use the agent: .pantheon/agents/doc.rename.toml:5" in said
    assert "only 'local' may run at night" in said
    assert nights_of(root) == ""
