"""Notes after history was rewritten: the matrix on real git, notes refs that are gone, and what `verify` says then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import provenance
import pytest
from provenance import DAYS, Copy, own_git

from pantheon import artifacts, attest, desk, hooks, prs, reindex
from pantheon.git import Repo

KINDS = (artifacts.NOTES, artifacts.SUMMARY, attest.ATTESTATIONS)
TEMPLATES = Path(__file__).resolve().parent.parent / "templates"


@pytest.fixture
def field(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Copy:
    """The two nights with `main` back at its start, and `init` done."""
    copy = provenance.copy(tmp_path_factory, tmp_path / "repo")
    repo = Repo.discover(copy.root)
    hooks.apply_init(repo, hooks.plan_init(repo, TEMPLATES, "/nowhere/git-pantheon", {}))
    return copy


def run_reindex(copy: Copy, dry_run: bool = False) -> reindex.Found:
    repo = Repo.discover(copy.root)
    return reindex.reindex(repo, DAYS[3], desk.signer(repo), dry_run=dry_run)


def test_nothing_is_missing_where_nothing_was_rewritten(field: Copy) -> None:
    before = field.git("for-each-ref")
    found = run_reindex(field)
    assert not found.wrote, found
    assert field.git("for-each-ref") == before
    assert found.lost == ()
    assert found.unreadable == ()
