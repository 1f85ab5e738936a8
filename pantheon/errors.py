"""Every error Pantheon raises on purpose, in one tree.

PantheonError                 what could not be done, to which thing, why, and the next command to type
├── InputError                a file the user wrote is not usable (path and line)
│   ├── TaskError             a task file
│   └── ConfigError           a file under .pantheon/
├── RepositoryError           the repository is not in a state we can work on
│   ├── Busy                  another process holds a lock that only one may hold
│   ├── NewerRecord           a stored record that a newer version wrote
│   ├── RefMoved              a compare-and-swap on a ref lost the race
│   └── MergeConflict         a three-way merge of trees left conflicts (paths)
├── DiskFull                  the disk that we write to is full: what was begun is left as it was before
├── TrustError                nobody trusted what a repository's .pantheon/ says
├── SandboxError              no sandbox, or it could not start: no sandbox, no night
├── EngineError               the model server is missing, did not start, or answered badly
│   ├── ContextOverflow       the prompt and its answer do not fit the model's context
│   └── Refused               the model server lives, and said no to this request
├── TrainingError             an agent could not be trained, or its adapter not be merged
├── DeadlineExceeded          a wait reached its deadline
├── ToolError                 one tool call was refused (the agent's loop counts it, it never ends a night)
└── Interrupted               the user stopped us

Foreign exceptions become one of these at the door that met them, with the cause kept.
"""

from __future__ import annotations

import errno


class PantheonError(Exception):
    """An error with its four parts. `str()` gives one line, `render()` the block shown in a terminal.

    `what` names the action that failed, `thing` what it was done to, `why` the reason, `hint` the next command.
    """

    exit_code = 1

    def __init__(self, what: str, thing: str = "", why: str = "", hint: str = "") -> None:
        self.what, self.thing, self.why, self.hint = what, thing, why, hint
        super().__init__(what, thing, why, hint)

    def __str__(self) -> str:
        head = f"{self.what}: {self.thing}" if self.thing else self.what
        return f"{head}: {self.why}" if self.why else head

    def render(self) -> str:
        """The message for a terminal: one or two lines and, where there is one, the next command. What could drive the
        terminal is escaped: a path or a program's words may hold anything."""
        text = f"{self}\n  next: {self.hint}" if self.hint else str(self)
        return "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in text)


class InputError(PantheonError):
    """A file the user wrote is not usable. `line` counts from 1; 0 when the whole file is meant."""

    def __init__(self, what: str, path: str, why: str, line: int = 0, hint: str = "") -> None:
        self.path, self.line = path, line
        super().__init__(what, f"{path}:{line}" if line else path, why, hint)


class TaskError(InputError):
    """A task file could not be used."""


class ConfigError(InputError):
    """A file under .pantheon/ could not be used."""


class RepositoryError(PantheonError):
    """The repository is not in a state Pantheon can work on."""


class Busy(RepositoryError):
    """Another process holds a lock that only one may hold."""


class NewerRecord(RepositoryError):
    """A stored record that a newer version of Pantheon wrote: it is neither used nor rewritten here."""

    def __init__(self, what: str, thing: str) -> None:
        super().__init__(what, thing, "a newer version of Pantheon wrote it", "upgrade git-pantheon")


class RefMoved(RepositoryError):
    """A ref did not hold the expected value when it was to be moved."""


class MergeConflict(RepositoryError):
    """A three-way merge of trees left conflicts in `paths`."""

    def __init__(self, what: str, paths: tuple[str, ...]) -> None:
        self.paths = paths
        super().__init__(what, ", ".join(paths), "both sides changed the same lines")


class DiskFull(PantheonError):
    """The disk that we write to is full. No item's failure: whatever runs pauses, and goes on once there is room."""


def is_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that of a full disk; libgit2 tells it in words only."""
    while error is not None:
        said = isinstance(error, DiskFull) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if said or any(words in str(error) for words in ("No space left", "Disk quota exceeded")):
            return True
        error = error.__cause__
    return False


class TrustError(PantheonError):
    """What a repository's `.pantheon/` says is not trusted, or the trust cannot be kept."""


class SandboxError(PantheonError):
    """The sandbox is missing or could not start."""


class EngineError(PantheonError):
    """The model server is missing, did not start, or answered badly."""


class ContextOverflow(EngineError):
    """Prompt and answer do not fit the model's context."""


class Refused(EngineError):
    """The model server lives, and said no to this request: another one may be answered."""


class TrainingError(PantheonError):
    """An agent could not be trained, or its adapter not be merged."""


class DeadlineExceeded(PantheonError):
    """A wait reached its deadline."""


class ToolError(PantheonError):
    """One tool call was refused; the agent's loop counts it."""


class Interrupted(PantheonError):
    """The user stopped us."""

    exit_code = 130
