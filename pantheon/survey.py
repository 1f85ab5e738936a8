"""What the base commit holds, read once: configuration, tasks, the rules each note breaks, and the tools' facts.

Ring 3: reads through git.py, asks tools and tasks.py what they see, decides nothing. Task files that are damaged become
problems for a person; the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pantheon import config, flow, tasks
from pantheon.errors import InputError
from pantheon.git import Entry, Repo
from pantheon.records import Finding, PullRequest, PullState, Task
from pantheon.tools.facts import Facts, build_facts
from pantheon.tools.rules import Rules, check_note, parse_rules

MARKDOWN = (".md", ".markdown")


@dataclass(frozen=True)
class Survey:
    """One commit as Pantheon sees it. `problems` are task files that cannot be used, one line each."""

    repo: Repo
    base: str
    config: config.Config
    entries: Mapping[str, Entry]
    tasks: tuple[Task, ...]
    problems: tuple[str, ...]
    rules: Rules

    @cached_property
    def notes(self) -> dict[str, bytes]:
        """Every Markdown file that is a regular file, by path."""
        return {
            path: self.repo.read_blob(entry.oid)
            for path, entry in self.entries.items()
            if path.lower().endswith(MARKDOWN) and entry.mode in (0o100644, 0o100755)
        }

    @cached_property
    def facts(self) -> Facts:
        """What the tools know of the repository: dates, vocabulary, inbound links."""
        return build_facts(self.notes, tuple(self.entries), self.repo.first_commit_dates(self.base))

    def findings(self, paths: tuple[str, ...]) -> dict[str, tuple[Finding, ...]]:
        """What each of these notes breaks."""
        return {path: check_note(path, self.notes[path], self.rules) for path in paths if path in self.notes}

    def targets(self) -> tuple[str, ...]:
        """The notes that some usable task has in scope."""
        scoped = [t.spec for t in self.tasks if t.spec and t.status in self.config.settings.tasks.ready]
        found: dict[str, None] = {}
        for spec in scoped:
            found.update(dict.fromkeys(tasks.select(sorted(self.notes), spec.scope, spec.exclude)))
        return tuple(found)


def read_config(repo: Repo, commit: str, entries: Mapping[str, Entry]) -> config.Config:
    """The configuration of a commit, checked: every agent local, every flow a DAG. Raises ConfigError."""
    names = tuple(path for path in entries if path.startswith(config.DIRECTORY + "/"))
    found = config.load(lambda path: repo.read_path(commit, path), names)
    config.refuse_remote(found)
    for name, graph in found.flows.items():
        flow.check(graph, f"{config.DIRECTORY}/flows/{name}.toml", found.agents, found.checks)
    return found


def survey(repo: Repo, commit: str, limits: config.UserLimits | None = None, protected: tuple[str, ...] = ()) -> Survey:
    """Read a commit, within the user's limits and with further patterns of paths to protect. Raises ConfigError for its
    configuration; damaged task files become `problems`."""
    entries = repo.entries(commit)
    settings = config.within(read_config(repo, commit, entries), limits or config.UserLimits(), protected)
    found: list[Task] = []
    problems: list[str] = []
    for path in tasks.select(sorted(entries), settings.settings.tasks.paths):
        entry = entries[path]
        if not path.lower().endswith(MARKDOWN) or entry.mode not in (0o100644, 0o100755):
            continue
        try:
            task = tasks.parse(repo.read_blob(entry.oid), path)
        except InputError as error:
            problems.append(str(error))
            continue
        if task is not None:
            found.append(task)
    rules = parse_rules(settings.rules["frontmatter.toml"], f"{config.DIRECTORY}/rules/frontmatter.toml")
    return Survey(repo, commit, settings, entries, tuple(found), tuple(problems), rules)


def open_count(pulls: list[PullRequest]) -> int:
    """How many PRs wait for a person: the review debt."""
    return len([pull for pull in pulls if pull.state is PullState.OPEN])
