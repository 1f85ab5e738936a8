"""Nothing is lost: kills at every step and at moments of chance, and engines that die, each followed by an honest look.

    python bench/faults.py [--kills 1000] [--seed 1] [--points N] [--acts NAME,NAME] [--deaths 50] [--keep DIR]

Three tables. *Steps*: an item's night, and each decision of a person, is killed at each of its fault points (or at
`--points` of them), then done again as a user would. *Moments*: a real `git pantheon night` is killed at a moment of
chance: all of its processes, only the outer one, only the one in the enclosure, or what runs in its sandbox. *Engines*:
a night whose scripted engine dies under its requests. What is counted as wrong: an item without exactly one outcome,
offered or accepted twice; other PRs than those of an undisturbed night; a ref, branch, worktree, lock, socket, process
or control group that is left; anything that `git fsck --strict` or `git pantheon verify --all` finds; a change to what
is the user's. Exit status 1 when anything was wrong; `--keep` keeps such repositories.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from killing import (
    ACTS,
    MODES,
    Act,
    Look,
    Trial,
    build,
    copied,
    dying_night,
    forked,
    kill_at,
    kill_sometime,
    look,
    points,
    run_night,
)

AT_ONCE = 2  # real nights at a time


@contextmanager
def sealed(place: Path) -> Iterator[None]:
    """A home of its own, so that nothing of the user's is met."""
    home = place / "home"
    (home / "run").mkdir(parents=True, mode=0o700)
    config = home / "gitconfig"
    user = "[user]\n\tname = Ann\n\temail = ann@example.org\n"
    config.write_text(f"{user}[init]\n\tdefaultBranch = main\n[gc]\n\tauto = 0\n")
    for name in [name for name in os.environ if name.startswith(("GIT_", "XDG_", "PANTHEON_"))]:
        del os.environ[name]
    names = {"CONFIG": "config", "CACHE": "cache", "DATA": "data", "STATE": "state"}
    os.environ.update({f"XDG_{name}_HOME": str(home / folder) for name, folder in names.items()})
    os.environ.update(HOME=str(home), XDG_RUNTIME_DIR=str(home / "run"), GIT_CONFIG_GLOBAL=str(config))
    os.environ.update(GIT_CONFIG_NOSYSTEM="1", GIT_TERMINAL_PROMPT="0", GIT_EDITOR="false", LC_ALL="C.UTF-8", TZ="UTC")
    yield


def template_of(act: Act, place: Path) -> Path:
    repo = build(place, act.notes)
    for before in act.before:
        code = forked(lambda before=before: before(repo), place.parent / "log")  # type: ignore[misc]
        assert code == 0, (place.parent / "log").read_text()
    return place


def steps(acts: Sequence[Act], most: int | None, place: Path) -> list[Trial]:
    """Each act killed at each of its points, or at `most` of them, evenly spread."""
    trials: list[Trial] = []
    for number, act in enumerate(acts):
        template = template_of(act, place / f"steps-{number}")
        names = points(act, template, place / f"whole-{number}")
        wanted = look(copied(place / f"whole-{number}", place / f"look-{number}"))
        chosen = range(1, len(names) + 1)
        if most is not None and most < len(names):
            chosen = range(1, len(names) + 1, -(-len(names) // most))
        for at in chosen:
            trials.append(kill_at(act, at, template, place / f"k{number}-{at}", wanted))
            _progress(act.name, trials)
    return trials


def moments(count: int, seed: int, place: Path) -> list[Trial]:
    """Real nights, killed at moments that the seed decides."""
    template = place / "moments"
    build(template, 3)
    whole = copied(template, place / "moments-whole")
    began = time.monotonic()
    assert run_night(whole.root, place / "log") == 0, (place / "log").read_text()
    usual_s = time.monotonic() - began
    wanted: Look = look(whole)

    def one(number: int) -> Trial:
        chance = random.Random(f"{seed}-{number}")
        mode = MODES[number % len(MODES)]
        return kill_sometime(chance, usual_s * 1.3, template, place / f"m{number}", wanted, mode)

    trials: list[Trial] = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for trial in pool.map(one, range(count)):
            trials.append(trial)
            _progress("moments", trials)
    return trials


def engines(count: int, seed: int, place: Path) -> list[Trial]:
    """Nights whose engine dies under requests that the seed chooses."""
    template = place / "engines"
    build(template, 2)
    whole = copied(template, place / "engines-whole")
    assert forked(lambda: ACTS["night"].do(whole), place / "log") == 0, (place / "log").read_text()
    wanted = look(whole)
    trials: list[Trial] = []
    for number in range(count):
        trials.append(dying_night(random.Random(f"{seed}-{number}"), template, place / f"e{number}", wanted))
        _progress("engines", trials)
    return trials


def _progress(name: str, trials: Sequence[Trial]) -> None:
    last = trials[-1]
    if last.wrong:
        print(f"{name} {len(trials)}: {last.act} at {last.where}: {'; '.join(last.wrong)[:2000]}", file=sys.stderr)
    elif len(trials) % 25 == 0:
        print(f"{name}: {len(trials)} trials", file=sys.stderr)


KINDS = {
    "cannot go on": ("it cannot", "it failed", "three more", "it neither"),
    "lost or other": ("outcomes", "pulls", "tree", "decided"),
    "twice": ("item ",),
    "left behind": (
        "a branch",
        "an open PR",
        "PR ",
        "a revision",
        "a worktree",
        "a lock",
        "/",
        "a process",
        "a control",
    ),
    "fsck": ("fsck",),
    "verify": ("verify",),
    "user's": ("something",),
}


def table(title: str, trials: Sequence[Trial], rows: str) -> None:
    """Counts by act, or by the point within each act."""
    found: dict[str, list[Trial]] = defaultdict(list)
    for trial in trials:
        found[trial.act if rows == "act" else trial.where].append(trial)
    print(f"\n{title}\n\n| {rows} | kills | in order | {' | '.join(KINDS)} |")
    print(f"| --- | {' | '.join('---' for _ in range(len(KINDS) + 2))} |")
    for name, some in sorted(found.items()):
        print(_row(name, some))
    print(_row("all", trials))


def _row(name: str, trials: Sequence[Trial]) -> str:
    kinds: Counter[str] = Counter()
    for trial in trials:
        kinds.update({kind for kind, heads in KINDS.items() for wrong in trial.wrong if wrong.startswith(heads)})
    good = sum(not trial.wrong for trial in trials)
    killed = sum(trial.killed for trial in trials)
    return f"| {name} | {killed} | {good} of {len(trials)} | {' | '.join(str(kinds[kind]) for kind in KINDS)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=1000, help="at moments of chance")
    parser.add_argument("--points", type=int, default=None, help="of each act; all without it, 0 for none")
    parser.add_argument("--acts", default=",".join(ACTS), help="names, with commas between")
    parser.add_argument("--deaths", type=int, default=50, help="nights with an engine that dies")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, default=None)
    options = parser.parse_args()
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as short:
        place = options.keep or Path(short)
        place.mkdir(parents=True, exist_ok=True)
        with sealed(place):
            if options.points != 0:
                found = steps([ACTS[name] for name in options.acts.split(",")], options.points, place)
                table("Kills at steps, by act", found, "act")
                table("Kills at steps, by point", found, "point")
                trials += found
            if options.kills:
                found = moments(options.kills, options.seed, place)
                table("Kills at moments of chance", found, "act")
                trials += found
            if options.deaths:
                found = engines(options.deaths, options.seed, place)
                table("Engines that die", found, "act")
                trials += found
    return 1 if any(trial.wrong for trial in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
