"""A stored run read back: per attempt at a node its inputs, prompts, schemas, calls and output.

What lies in a run ref may come from anywhere: sizes are bounded, and whatever does not fit together is a
RepositoryError that names the artifact. It runs nothing and judges nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from pantheon import artifacts, prompt
from pantheon.errors import RepositoryError
from pantheon.git import Entry, Repo
from pantheon.plan import printable
from pantheon.records import NodeResult, NodeState, Run, ToolCall

_TRAILER = re.compile(r"^Pantheon-Run: ([0-9a-f]{8,64})$", re.MULTILINE | re.ASCII)
_PART = re.compile(r"(.+)\.([0-9]{1,6})", re.ASCII)
_ATTEMPT = re.compile(r"attempt-([0-9]{1,2})\.tool_calls\.jsonl", re.ASCII)
_MOST = artifacts.MAX_BYTES + 4096  # of one artifact, as it is kept
T = TypeVar("T")


@dataclass(frozen=True)
class Take:
    """One attempt of an agent at a node, as its artifacts tell it. `values` are the prompt's, as the node got them."""

    node: str
    attempt: int
    agent: str
    template: str | None
    values: Mapping[str, Any]
    prompts: tuple[str, ...]
    schemas: tuple[dict[str, Any], ...]
    calls: tuple[ToolCall, ...]
    output: Mapping[str, Any]
    engine: str = ""
    model: str = ""

    @property
    def asks(self) -> tuple[ToolCall, ...]:
        """The calls that a model answered, in the order of their prompts; a prompt without an answer is the last."""
        return tuple(call for call in self.calls if call.prompt_sha256 is not None)

    @property
    def focus(self) -> str:
        """The element of a fan-out that it worked on."""
        return str(self.values.get("focus", ""))


@dataclass(frozen=True)
class Stored:
    """A run with the entries of its tree."""

    repo: Repo
    run: Run
    entries: Mapping[str, Entry]

    @classmethod
    def load(cls, repo: Repo, run: Run) -> Stored:
        return cls(repo, run, repo.entries(run.run_commit or ""))

    def read(self, node: str, name: str) -> bytes | None:
        """What was kept of an artifact; None when there is none."""
        entry = self.entries.get(f"{node}/{name}")
        if entry is None:
            return None
        if self.repo.blob_size(entry.oid) > _MOST:
            raise self.broken(node, name, f"more than {_MOST} bytes")
        return self.repo.read_blob(entry.oid)

    def broken(self, node: str, name: str, why: str) -> RepositoryError:
        thing = f"run {self.run.id[:12]}, {printable(node)}/{printable(name)}"
        return RepositoryError("cannot replay", thing, printable(why), "git pantheon verify --all")

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that left artifacts."""
        kept = {path.partition("/")[0] for path in self.entries if "/" in path}
        return tuple(name for name in self.run.nodes if name in kept)

    def agents(self) -> dict[str, str]:
        """Of each node that an agent worked at, the agent as `name@version`."""
        return {name: self.run.node_agents.get(name, "") for name in self.nodes if self.ran_an_agent(name)}

    def ran_an_agent(self, node: str) -> bool:
        return any(f"{node}/{name}" in self.entries for name in ("input.json", "attempt-1.input.json"))

    def takes(self, node: str) -> tuple[Take, ...]:
        """Every attempt at a node that left artifacts, in order; none where no agent worked. Raises RepositoryError."""
        names = [path.partition("/")[2] for path in self.entries if path.startswith(f"{node}/")]
        numbers = sorted(int(found[1]) for name in names if (found := _ATTEMPT.fullmatch(name)))
        takes = [self._take(node, f"attempt-{number}.") for number in numbers]
        return (*takes, self._take(node, "")) if "tool_calls.jsonl" in names else tuple(takes)

    def parts(self, node: str) -> tuple[str, ...]:
        """A node's names in this run: its own, or those of a fan-out's parts in order."""
        found = [(int(m[2]), name) for name in self.run.nodes if (m := _PART.fullmatch(name)) and m[1] == node]
        return tuple(name for _, name in sorted(found)) or (node,)

    def _take(self, node: str, prefix: str) -> Take:
        given = self._parsed(node, f"{prefix}input.json", _object)
        prompts: list[str] = self._parsed(node, f"{prefix}llm_prompt.txt", prompt.read_record, [])
        schemas: list[dict[str, Any]] = self._parsed(node, f"{prefix}schemas.jsonl", _objects, [])
        calls = self._parsed(node, f"{prefix}tool_calls.jsonl", _calls)
        output = self._parsed(node, f"{prefix}output.json", _object)
        if prompts and not schemas:
            raise RepositoryError(
                "cannot replay",
                f"run {self.run.id[:12]}, {node}",
                "an earlier version stored it, without the schemas of the answers",
                f"git pantheon run {self.run.id[:12]} {node}/{prefix}llm_prompt.txt",
            )
        if len(prompts) != len(schemas):
            raise self.broken(node, f"{prefix}schemas.jsonl", f"{len(schemas)} schemas for {len(prompts)} prompts")
        values = given.get("values")
        if not isinstance(values, dict):
            raise self.broken(node, f"{prefix}input.json", "it has no values")
        take = Take(
            node=node,
            attempt=int(prefix[8:-1]) if prefix else _number(values.get("attempt")),
            agent=str(given.get("agent", "")),
            template=given.get("template_sha256"),
            values=values,
            prompts=tuple(prompts),
            schemas=tuple(schemas),
            calls=calls,
            output=output,
            engine=str(given.get("engine", "")),
            model=str(given.get("model", "")),
        )
        if len(take.asks) > len(prompts):
            raise self.broken(node, f"{prefix}llm_prompt.txt", f"{len(take.asks)} answers to {len(prompts)} prompts")
        return take

    def _parsed(self, node: str, name: str, parse: Callable[[bytes], T], default: T | None = None) -> T:
        data = self.read(node, name)
        if data is None:
            if default is None:
                raise self.broken(node, name, "it is not there")
            return default
        try:
            return parse(data)
        except (ValueError, KeyError, RecursionError) as error:
            why = str(error.errors()[0]["msg"]) if isinstance(error, ValidationError) else str(error)
            raise self.broken(node, name, why or type(error).__name__) from error

    def done(self) -> dict[str, NodeResult]:
        """Every node as a result, as far as expressions and the gate look at one."""
        found = {}
        for name, state in self.run.nodes.items():
            output: dict[str, Any] = {}
            if f"{name}/output.json" in self.entries:
                value = self._parsed(name, "output.json", _json)
                output = _checked(value) if isinstance(value, list) else dict(value) if isinstance(value, dict) else {}
            agent = self.run.node_agents.get(name, "")
            found[name] = NodeResult(node=name, state=NodeState(state), agent=agent, output=output)
        return found


def _checked(results: list[Any]) -> dict[str, Any]:
    """The output of a node with checks, of which the results alone are kept."""
    known = [one for one in results if isinstance(one, dict)]
    failed = [str(one.get("name")) for one in known if not one.get("passed")]
    return {"checks": known, "passed": not failed, "failed": failed}


def _number(value: object) -> int:
    return value if isinstance(value, int) else 1


def _json(data: bytes) -> Any:
    return json.loads(data.decode("utf-8", "surrogateescape"))


def _object(data: bytes) -> dict[str, Any]:
    found = _json(data)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    return found


def _objects(data: bytes) -> list[dict[str, Any]]:
    return [_object(line) for line in data.splitlines()]


def _calls(data: bytes) -> tuple[ToolCall, ...]:
    return tuple(ToolCall.model_validate(one) for one in _objects(data))


def find_run(repo: Repo, name: str) -> Run:
    """The run whose id begins with `name`, or that made the commit `name`. Raises RepositoryError, also for a canary,
    whose change no agent made."""
    found = _named(repo, name)
    if found.item.canary is not None:
        why = "it is a canary: its change was put there to measure the reviewers, and no agent made it"
        raise RepositoryError("cannot replay", found.id[:12], why, f"git pantheon run {found.id[:12]}")
    return found


def _named(repo: Repo, name: str) -> Run:
    ids = [ref.rsplit("/", 1)[1] for ref in repo.refs(artifacts.RUNS)]
    found = [one for one in ids if name and one.startswith(name)]
    if len(found) > 1:
        raise RepositoryError("no such run", name, f"{len(found)} runs begin so", "git pantheon report")
    if found:
        return artifacts.load_run(repo, found[0])
    try:
        trailer = _TRAILER.search(repo.commit_info(repo.resolve(name)).message)
    except RepositoryError:
        trailer = None
    if trailer is None or trailer[1] not in ids:
        why = "no run has that id, and no commit of that name is a run's"
        raise RepositoryError("no such run", name, why, "git pantheon report")
    return artifacts.load_run(repo, trailer[1])


def runs_of(repo: Repo, night: str) -> list[Run]:
    """The runs of a night's own items. Raises RepositoryError when there is none."""
    found = [run for run in artifacts.list_runs(repo) if run.night == night and run.item.canary is None]
    if not found:
        raise RepositoryError("no such night", night, "no run is of it", "git pantheon report")
    return found
