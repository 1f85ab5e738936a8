"""`git pantheon`: a table of commands. Each parses its arguments, calls one function with plain values and returns its
code. Reads the environment, which nothing else does. Imports lazily: the bare command must answer at once, from what it
said last (glance.py) where nothing has changed.

Exit codes: 0 done, 1 you can fix it, 2 usage, 3 our bug (with a log to send), 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pantheon import __version__, glance
from pantheon.errors import PantheonError
from pantheon.places import Places, places

if TYPE_CHECKING:
    import argparse

Command = Callable[["argparse.Namespace", Places], int]
BRIEF = frozenset({"status", "plan", "pr_list", "report", "hook", "lint"})
WHEN = "start a night with: git pantheon night --now --budget 10m; or have nights run: git pantheon daemon start"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    where = places(os.environ)
    try:
        words = sys.argv[1:] if argv is None else argv
        look = glance.of(words, where, os.environ)
        if look is not None and (answer := look.again(partial(_watching, where))) is not None:
            sys.stdout.write(answer)
            sys.stdout.flush()
            return 0
        return _run(words, where, look)
    except PantheonError as error:
        print(f"git pantheon: {error.render()}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("git pantheon: interrupted; nothing is half-done, the next night resumes", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:  # noqa: BLE001 - the last line of defence: a bug of ours must leave a log, not a screen of frames
        return _our_bug(where)


def _run(words: Sequence[str], where: Places, look: glance.Glance | None) -> int:
    from pantheon import usage

    options = usage.parser().parse_args(words)
    options.lasts = look.until if look else lambda _: None
    command: Command = globals()[options.command]
    if options.command in BRIEF:
        gc.disable()  # a short process that has to answer at once: nothing that it makes is worth collecting
    try:
        with look.kept() if look else nullcontext():
            return command(options, where)
    finally:
        gc.enable()


def _watching(where: Places, common: Path) -> str | None:
    """What the user's daemon says of the repository with this common git dir."""
    from pantheon import doorbell

    return doorbell.standing(doorbell.address(where), common)


def _our_bug(where: Places) -> int:
    import traceback

    log = where.logs / "crash.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"git-pantheon {__version__}\n{' '.join(sys.argv)}\n\n{traceback.format_exc()}")
        print(f"git pantheon: this is a bug of ours: {sys.exc_info()[1]}\n  the log to send: {log}", file=sys.stderr)
    except OSError:
        traceback.print_exc()
    return 3


# --- reading ---------------------------------------------------------------------------------------------------------


def status(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk

    return desk.status(desk.here(), where, as_json=options.json, lasts=options.lasts)


def plan(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk

    return desk.plan(desk.here(), as_json=options.json, branch=options.branch)


def capacity(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, outlook

    return outlook.command(desk.here(), where, budget=options.budget, as_json=options.json)


def survey(options: argparse.Namespace, where: Places) -> int:
    from pantheon import daytime, desk

    return daytime.survey(desk.here(), where, write=options.write, limit=options.limit, as_json=options.json)


def breakdown(options: argparse.Namespace, where: Places) -> int:
    from pantheon import daytime, desk

    return daytime.breakdown(
        desk.here(),
        where,
        options.task,
        dict(os.environ),
        into=options.into,
        use_planner=options.planner,
        yes=options.yes,
        as_json=options.json,
    )


def report(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk

    return desk.report(
        desk.here(), options.night, as_json=options.json, markdown=options.markdown, page_to=options.html
    )


def metrics(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, session

    return session.metrics(desk.here(), where)


def pr_list(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.pr_list(desk.here(), everything=options.all, as_json=options.json, lasts=options.lasts)


def pr_show(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.pr_show(desk.here(), options.pr, as_json=options.json)


def pr_diff(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.pr_diff(desk.here(), options.pr)


def pr_log(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.pr_git(desk.here(), options.pr, "log")


def pr_range_diff(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.pr_range_diff(desk.here(), options.pr, options.one, options.other)


def pr_refresh(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.refresh_all(desk.here(), options.prs, where)


def pr_push(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.say(desk.here(), options.pr, prdesk.Wish("push", push_to=options.remote))


def pr_checkout(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.pr_git(desk.here(), options.pr, "switch")


def run(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk

    return desk.run(desk.here(), options.run, options.artifact, as_json=options.json)


def lint(options: argparse.Namespace, where: Places) -> int:
    from pantheon import lint as linter

    return linter.lint(linter.root_of(Path.cwd()), options.paths, as_json=options.json, learned=_learned)


def _learned(*tree: Any) -> Any:
    from pantheon import learned  # takes longer than all else: only where an agent has an adapter

    return learned.problems(*tree)


def agents(options: argparse.Namespace, where: Places) -> int:
    from pantheon import catalog, desk

    return catalog.agents(desk.here(), as_json=options.json)


def agents_show(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, school

    return school.show(desk.here(), options.agent, as_json=options.json)


def agents_rollback(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, school

    return school.rollback(desk.here(), where, options.agent, to=options.to, at_once=options.now)


def mine(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, school

    return school.mine(desk.here(), where, options.agent, teacher=options.teacher, as_json=options.json)


def train(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, school

    return school.train(
        desk.here(),
        where,
        options.agent,
        teacher=options.teacher,
        budget=options.budget,
        memory=options.memory,
        items=options.items,
        no_bench=options.no_bench,
        quiet=options.quiet,
        as_json=options.json,
    )


def bench(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, school

    return school.bench(
        desk.here(),
        where,
        options.agent,
        options.adapter,
        items=options.items,
        quiet=options.quiet,
        as_json=options.json,
    )


def flow_list(options: argparse.Namespace, where: Places) -> int:
    from pantheon import catalog, desk

    return catalog.flows(desk.here(), as_json=options.json)


def flow_show(options: argparse.Namespace, where: Places) -> int:
    from pantheon import catalog, desk

    return catalog.flow_show(
        desk.here(), options.name, mermaid=options.mermaid, whole=options.whole, as_json=options.json
    )


def tools(options: argparse.Namespace, where: Places) -> int:
    from pantheon import catalog, desk

    return catalog.tools(desk.here(), options.tool, as_json=options.json)


def explain(options: argparse.Namespace, where: Places) -> int:
    from pantheon import catalog, desk

    return catalog.explain(desk.here(), options.what, as_json=options.json)


def new(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, scaffold

    return scaffold.new(
        desk.here(),
        options.kind,
        options.name,
        agent=options.agent,
        flow=options.flow,
        scope=options.scope,
        when=desk.now(),
    )


# --- deciding --------------------------------------------------------------------------------------------------------


def accept(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    wish = prdesk.Wish(
        "accept", options.drop, checked=not options.no_check, push_to=options.push, unverified=options.unverified
    )
    return prdesk.say(desk.here(), options.pr, wish, where)


def reject(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.say(desk.here(), options.pr, prdesk.Wish("reject", options.items, options.message))


def retry(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.say(desk.here(), options.pr, prdesk.Wish("retry", options.items, options.message))


def never(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.say(desk.here(), options.pr, prdesk.Wish("never", options.items))


def later(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.say(desk.here(), options.pr, prdesk.Wish("later", options.items, options.until))


def undo(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, prdesk

    return prdesk.say(desk.here(), options.pr, prdesk.Wish("undo"), where)


def review_desk(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, webdesk
    from pantheon.records import seconds

    return webdesk.serve(
        desk.here(),
        dict(os.environ),
        port=options.port or 0,
        idle_s=seconds(options.idle),
        read_only=options.read_only,
        open_browser=not options.no_open,
    )


# --- running ---------------------------------------------------------------------------------------------------------


def init(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk

    code = desk.init(desk.here(), _program(), dry_run=options.dry_run)
    if code == 0 and not options.dry_run and not options.no_fetch:
        from pantheon import sync

        sync.first(desk.here(), desk.now())
    return code


def uninstall(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, nightwatch

    repo = desk.here()
    nightwatch.forgotten(repo, where)
    return desk.uninstall(repo, purge=options.purge)


def pull(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, sync

    return sync.pull(desk.here(), options.remote, desk.now(), as_json=options.json)


def push(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, sync

    return sync.push(desk.here(), options.remote, desk.now(), as_json=options.json)


def night(options: argparse.Namespace, where: Places) -> int:
    if options.dry_run:
        from pantheon import desk, rehearsal

        return rehearsal.dry_run(
            desk.here(),
            where,
            dict(os.environ),
            budget=options.budget,
            quiet=options.quiet,
            as_json=options.json,
            branch=options.branch,
        )
    if not options.now and options.enclosed is None:
        print(WHEN)
        return 2
    from pantheon import session

    if options.enclosed is not None:
        return session.enclosed_night(where, options.enclosed)
    environ = dict(os.environ)
    return session.night(
        Path.cwd(),
        where,
        environ,
        budget=options.budget,
        engine=options.engine,
        quiet=options.quiet,
        teacher=options.teacher,
        branch=options.branch,
    )


def replay(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, rehearsal

    return rehearsal.replay(
        desk.here(),
        where,
        options.run,
        node=options.node,
        agent=options.agent,
        all_of=options.all_of,
        quiet=options.quiet,
        as_json=options.json,
    )


def check(options: argparse.Namespace, where: Places) -> int:
    from pantheon import session

    return session.check(
        Path.cwd(),
        where,
        options.names,
        rev=options.rev,
        base=options.base,
        flow=options.flow,
        as_json=options.json,
    )


def trust(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk

    return desk.trust(desk.here(), where, yes=options.yes, as_json=options.json)


def verify(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, notary

    signers = Path(options.signers) if options.signers else None
    what = "all" if options.all else options.what
    return notary.verify(desk.here(), what, signers=signers, as_json=options.json)


def reindex(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, notary

    repo = desk.here()
    return notary.reindex(repo, desk.now(), desk.signer(repo), dry_run=options.dry_run, as_json=options.json)


def keys(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, notary

    return notary.keys(desk.here(), as_json=options.json)


def keys_rotate(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, notary

    return notary.rotate(desk.here(), desk.now())


def keys_revoke(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, notary

    return notary.revoke(desk.here(), options.fingerprint, desk.now())


def keys_accept(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, notary

    return notary.accept(desk.here(), options.fingerprint)


def model_list(options: argparse.Namespace, where: Places) -> int:
    from pantheon import shelf

    return shelf.show(Path.cwd(), where, as_json=options.json)


def model_use(options: argparse.Namespace, where: Places) -> int:
    from pantheon import shelf

    return shelf.use(Path.cwd(), where, options.model)


def model_add(options: argparse.Namespace, where: Places) -> int:
    from pantheon import shelf

    return shelf.add(Path.cwd(), where, options.source, dict(os.environ))


def clean_up(options: argparse.Namespace, where: Places) -> int:
    from pantheon import cleanup, desk

    when = desk.now()
    return cleanup.command(desk.here(), keep=options.keep, dry_run=options.dry_run, when=when, as_json=options.json)


def daemon_start(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk, nightwatch

    return nightwatch.start(
        desk.here(), where, dict(os.environ), branch=options.branch, window=options.window, now=desk.now()
    )


def daemon_stop(options: argparse.Namespace, where: Places) -> int:
    from pantheon import nightwatch

    return nightwatch.stop(where)


def daemon_status(options: argparse.Namespace, where: Places) -> int:
    from pantheon import nightwatch

    return nightwatch.status(where, as_json=options.json)


def daemon_logs(options: argparse.Namespace, where: Places) -> int:
    from pantheon import nightwatch

    return nightwatch.logs(where, follow=options.follow, count=options.n, as_json=options.json)


def daemon_run(options: argparse.Namespace, where: Places) -> int:
    from pantheon import nightwatch

    return nightwatch.run(where, dict(os.environ), quiet=options.quiet)


def daemon_install(options: argparse.Namespace, where: Places) -> int:
    from pantheon import nightwatch

    return nightwatch.install(where, dict(os.environ), remove=options.remove)


def daemon_forget(options: argparse.Namespace, where: Places) -> int:
    from pantheon import nightwatch

    return nightwatch.forget(Path.cwd(), where, options.path)


def doctor(options: argparse.Namespace, where: Places) -> int:
    from pantheon import session

    return session.doctor(Path.cwd(), where, dict(os.environ), as_json=options.json)


def demo(options: argparse.Namespace, where: Places) -> int:
    from pantheon import demo as demos

    target = Path(options.directory) if options.directory else None
    return demos.run(where, dict(os.environ), target, _program(), budget=options.budget, engine=options.engine)


def hook(options: argparse.Namespace, where: Places) -> int:
    from pantheon import desk

    return desk.hook(desk.here(), where, options.name, options.rest, dict(os.environ), sys.stdin)


def _program() -> str:
    """The absolute path by which hooks find this program."""
    beside = Path(sys.argv[0])
    if beside.name == "git-pantheon" and beside.exists():
        return str(beside.resolve() if not beside.is_symlink() else beside.absolute())
    return str(Path(sys.executable).with_name("git-pantheon"))


if __name__ == "__main__":
    sys.exit(main())
