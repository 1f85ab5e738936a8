"""The gate: accept only when everything says so. Pure.

Reviewers can only reject; they never override a check. Nothing here reads what a model says of its own work: the
diff comes from two trees, the checks from the base commit.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pathspec

from pantheon import testpaths
from pantheon.names import path_spec
from pantheon.records import CheckResult, Decision, Verdict

REVIEWERS = 2

# What runs on a person's machine or a server, or tells other agents what to do: held until a task names the very path.
HELD = (
    *(".github/", ".gitlab-ci.yml", ".gitlab/", ".circleci/", ".ci/", ".travis.yml", "azure-pipelines.yml"),
    *("Jenkinsfile", ".woodpecker*", ".drone.yml", ".buildkite/", ".pre-commit-config.yaml", "lefthook.y*ml"),
    *("Makefile", "justfile", "Taskfile.y*ml", ".envrc", ".env", ".direnv/", ".devcontainer/", ".vscode/", ".idea/"),
    *("*.code-workspace", ".editorconfig", ".vimrc", ".exrc", ".nvim.lua", ".dir-locals.el"),
    *("AGENTS.md", "CLAUDE.md", "GEMINI.md", ".cursorrules", ".cursor/", ".windsurfrules", ".claude/", ".aider*"),
    *testpaths.PATTERNS,
)
# What git, Pantheon or a hook obeys: no task can name it.
PROTECTED = (".git*", "!.github", "!.gitlab", "!.gitlab-ci.yml", ".git", ".pantheon/", "hooks/**", ".husky/")


def held_paths(paths: Sequence[str], confirmed: Sequence[str] = ()) -> tuple[str, ...]:
    """Those of `paths` that wait for a person's word, given by naming the path. Case and Unicode variants count as the
    name they look like, and only an exact path confirms."""
    spec = _spec(HELD)
    return tuple(path for path in paths if spec.match_file(testpaths.folded(path)) and path not in confirmed)


def protected_paths(
    paths: Sequence[str], extra: Sequence[str] = (), allowed_tests: Sequence[str] = ()
) -> tuple[str, ...]:
    """Those of `paths` that no item may change: git's and Pantheon's own, `extra`, and tests that are not allowed."""
    ours, more = _spec(PROTECTED), _spec(tuple(extra))

    def protected(path: str) -> bool:
        name = testpaths.folded(path)
        return ours.match_file(name) or more.match_file(name) or (testpaths.is_test(path) and path not in allowed_tests)

    return tuple(path for path in paths if protected(path))


def _spec(patterns: tuple[str, ...]) -> pathspec.GitIgnoreSpec:
    return path_spec(tuple(map(testpaths.folded, patterns)))


_INVISIBLE = re.compile(
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


def invisible_added(patch: bytes) -> bool:
    """Whether an added line brings in zero-width or bidirectional control characters that no removed line had."""
    lines = patch.decode("utf-8", "replace").split("\n")  # as git splits: not at a vertical tab
    added = {c for line in lines if line.startswith("+") for c in _INVISIBLE.findall(line)}
    removed = {c for line in lines if line.startswith("-") for c in _INVISIBLE.findall(line)}
    return bool(added - removed)


def decide(
    *,
    changed: Sequence[str],
    added: int,
    deleted: int,
    max_diff_lines: int,
    patch: bytes,
    checks: Sequence[CheckResult],
    wanted_checks: Sequence[str],
    verdicts: Sequence[Verdict],
    protected: Sequence[str] = (),
    outside: Sequence[str] = (),
    weakened: Sequence[str] = (),
    secrets: Sequence[str] = (),
    allowed_tests: Sequence[str] = (),
    confirmed: Sequence[str] = (),
    binary: Sequence[str] = (),
) -> Decision:
    """The decision on one item, with every reason against it. `outside`: changed paths that are none of its business;
    `binary`: those whose new content is no text, so that no count of lines bounds it; `weakened` and `allowed_tests`
    are testguard's words; `confirmed`: the paths that the task names. `held` in the answer: these paths are all that is
    against it, and a person's word would lift it."""
    reasons: list[str] = []
    if not changed:
        reasons.append("nothing changed")
    if added + deleted > max_diff_lines:
        reasons.append(f"the diff has {added + deleted} lines, the task allows {max_diff_lines}")
    forbidden = protected_paths(changed, protected, allowed_tests)
    if forbidden:
        reasons.append(f"protected path changed: {', '.join(forbidden)}")
    if binary:
        reasons.append(f"not text, so that nobody can review it: {', '.join(binary)}")
    if outside:
        reasons.append(f"outside the task's scope: {', '.join(outside)}")
    reasons.extend(weakened)
    reasons.extend(secrets)
    if invisible_added(patch):
        reasons.append("the diff adds invisible or bidirectional characters")
    passed = {check.name for check in checks if check.passed}
    reasons.extend(f"check {name} did not pass" for name in wanted_checks if name not in passed)
    reasons.extend(
        f"check {check.name} failed" for check in checks if not check.passed and check.name not in wanted_checks
    )
    reasons.extend(f"{v.agent} says {v.verdict}: {v.reason}" for v in verdicts if v.verdict != "pass")
    if len({v.node for v in verdicts}) < REVIEWERS:
        reasons.append(f"{len(verdicts)} of {REVIEWERS} reviewers spoke")
    held = held_paths(changed, confirmed)
    words = [f"held: {', '.join(held)}; to allow it, name the path in the task: pantheon.confirm"] if held else []
    return Decision(accepted=not reasons and not held, reasons=(*reasons, *words), held=() if reasons else held)
