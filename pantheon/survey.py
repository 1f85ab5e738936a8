"""What the base commit holds, read once: configuration, tasks, the rules each file breaks, and the tools' facts.

Ring 3: reads through git.py, asks tools and tasks.py what they see, decides nothing. Task files that are damaged become
problems for a person; the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from pantheon import config, registry, route, tasks
from pantheon.errors import InputError, RepositoryError
from pantheon.git import Entry, Repo
from pantheon.records import Finding, PullRequest, PullState, Task
from pantheon.registry import Ruled
from pantheon.tools.facts import Facts, gather_facts
from pantheon.tools.tool import Tree

MARKDOWN = (".md", ".markdown")
FILE, EXECUTABLE = 0o100644, 0o100755


@dataclass(frozen=True)
class Survey:
    """One commit as Pantheon sees it. `problems` are task files that cannot be used, one line each."""

    repo: Repo
    base: str
    config: config.Config
    entries: Mapping[str, Entry]
    tasks: tuple[Task, ...]
    problems: tuple[str, ...]
    rules: Mapping[str, Ruled]  # by the name that flows use

    @cached_property
    def notes(self) -> dict[str, bytes]:
        """Every Markdown file that is a regular file, by path."""
        return dict(self._notes())

    def _notes(self) -> Iterator[tuple[str, bytes]]:
        for path, entry in self.entries.items():
            if path.lower().endswith(MARKDOWN) and entry.mode in (FILE, EXECUTABLE):
                yield path, self.repo.read_blob(entry.oid)

    @cached_property
    def facts(self) -> Facts:
        """What the tools know of the repository: dates, vocabulary, inbound links."""
        return gather_facts(self._notes(), tuple(self.entries), self.repo.first_commit_dates(self.base))

    @cached_property
    def tree(self) -> Tree:
        """The base commit, for judging one file in it."""
        return Tree(frozenset(self.entries), self.read)

    def read(self, path: str) -> bytes | None:
        """A regular file of the commit."""
        entry = self.entries.get(path)
        return self.repo.read_blob(entry.oid) if entry and entry.mode in (FILE, EXECUTABLE) else None

    def judge(self, flow_name: str, path: str) -> tuple[Finding, ...]:
        """What a file breaks of the rules of a flow; nothing where they are not about it."""
        ruled = self.rules[self.config.flows[flow_name].rules]
        if not ruled.kind.about(path, ruled.rules):
            return ()
        try:
            raw = self.read(path)
        except RepositoryError as error:
            why = f"it cannot be read: {error.why}; git fsck names what is damaged"
            return (Finding(rule="damaged", message=why),)
        return () if raw is None else ruled.kind.check(path, raw, ruled.rules, self.tree)

    def flow_of(self, task: Task) -> str:
        """The flow that the router gives a task; "" for none."""
        return route.flow_of(task, self.config.flows).name


def read_config(repo: Repo, commit: str, entries: Mapping[str, Entry]) -> config.Config:
    """The configuration of a commit, checked as a whole, with sub-flows in place. Raises ConfigError."""
    names = tuple(path for path in entries if path.startswith(config.DIRECTORY + "/"))
    return registry.read(config.load(lambda path: repo.read_path(commit, path), names))


def survey(repo: Repo, commit: str, limits: config.UserLimits | None = None, protected: tuple[str, ...] = ()) -> Survey:
    """Read a commit, within the user's limits and with further patterns of paths to protect. Raises ConfigError for its
    configuration; damaged task files become `problems`."""
    entries = repo.entries(commit)
    settings = config.within(read_config(repo, commit, entries), limits or config.UserLimits(), protected)
    found: list[Task] = []
    problems: list[str] = []
    for path in tasks.select(sorted(entries), settings.settings.tasks.paths):
        entry = entries[path]
        if not path.lower().endswith(MARKDOWN) or entry.mode not in (FILE, EXECUTABLE):
            continue
        try:
            task = tasks.parse(repo.read_blob(entry.oid), path)
        except InputError as error:
            problems.append(str(error))
            continue
        except RepositoryError as error:
            problems.append(f"{path}: it cannot be read: {error.why}; git fsck names what is damaged")
            continue
        if task is not None:
            found.append(task)
    return Survey(repo, commit, settings, entries, tuple(found), tuple(problems), registry.rules_of(settings))


def open_count(pulls: list[PullRequest]) -> int:
    """How many PRs wait for a person: the review debt."""
    return len([pull for pull in pulls if pull.state is PullState.OPEN])
