"""The words of the command line: every command, option and help text. What a command does stands in cli.py, by the name
that `command` gives here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from pantheon import __version__


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="git pantheon", description="Useful work from small local models, overnight, inside git."
    )
    parser.add_argument("--version", action="version", version=f"git-pantheon {__version__}")
    parser.set_defaults(command="status", json=False)
    table = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, command: str, summary: str, json: bool = False) -> argparse.ArgumentParser:
        sub = table.add_parser(name, help=summary, description=summary)
        sub.set_defaults(command=command, json=False)
        if json:
            sub.add_argument("--json", action="store_true", help="print JSON")
        return sub

    add("status", "status", "what needs me? then queue, last night, open PRs", json=True)
    sub = add("init", "init", "prepare this repository; shows everything it writes")
    sub.add_argument("--dry-run", action="store_true", help="show, write nothing")
    sub.add_argument("--no-fetch", action="store_true", help="do not ask the remotes what other clones pushed there")
    sub = add("uninstall", "uninstall", "put the repository back as it was")
    sub.add_argument("--purge", action="store_true", help="also delete Pantheon's refs, branches and keys")
    sub = add("plan", "plan", "what tonight would run, in what order, how long", json=True)
    sub.add_argument("--branch", metavar="NAME", help="on this branch, whatever is checked out")
    sub = add("capacity", "capacity", "what a night can carry: measured, forecast, what would change it", json=True)
    sub.add_argument("--budget", metavar="T", help="for a night of this length: 90s, 10m, 6h")
    _add_day(add)
    _add_catalog(add)
    _add_night(add)
    _add_report(add)
    add("metrics", "metrics", "the running night, or the last one, as Prometheus text")
    _add_pr(add)
    sub = add("run", "run", "one run: its nodes, why it failed, its artifacts", json=True)
    sub.add_argument("run", help="a run's id or its beginning, or a commit that carries runs")
    sub.add_argument("artifact", nargs="?", help="NODE/NAME: print this artifact")
    sub = add("replay", "replay", "run a node again from its artifacts, or through another agent", json=True)
    sub.add_argument("run", nargs="?", help="a run's id or its beginning, or the commit of an item")
    sub.add_argument("--node", metavar="N", help="only this node")
    sub.add_argument("--agent", metavar="X@M", help="put the old inputs through this version of the agent")
    sub.add_argument("--all-of", metavar="NIGHT", help="every run of a night")
    sub.add_argument("--quiet", "-q", action="store_true", help="no progress")
    sub = add("check", "check", "run named checks on a commit, outside any night", json=True)
    sub.add_argument("names", nargs="+", metavar="CHECK")
    sub.add_argument("--rev", default="HEAD", help="the commit to check")
    sub.add_argument("--flow", help="the flow whose rules the check `rules` goes by")
    sub.add_argument("--base", metavar="REV", help="the commit to compare with (default: its first parent)")
    _add_learning(add)
    _add_sync(add)
    _add_provenance(add)
    sub = add("trust", "trust", "read what .pantheon/ can run, and trust it", json=True)
    sub.add_argument("--yes", action="store_true", help="trust it without being asked (read it first)")
    _add_model(add)
    _add_daemon(add)
    sub = add("gc", "clean_up", "take away what old nights left; what was accepted or is open stays", json=True)
    sub.add_argument("--keep", type=_count, metavar="N", help="so many nights (default: retention.nights)")
    sub.add_argument("--dry-run", action="store_true", help="show what would go, take nothing")
    add("doctor", "doctor", "prove that a night can run here", json=True)
    sub = add("demo", "demo", "build a small repository and run a real night in it")
    sub.add_argument("directory", nargs="?", help="where (default: ~/pantheon-demo)")
    sub.add_argument("--budget", default="30m", metavar="T")
    sub.add_argument("--engine", choices=("vllm", "scripted"), default="vllm")
    sub = table.add_parser("hook")
    sub.add_argument("name")
    sub.add_argument("rest", nargs="*")
    sub.set_defaults(command="hook", json=False)
    return parser


def _add_night(add: Callable[..., argparse.ArgumentParser]) -> None:
    sub = add("night", "night", "run a night")
    sub.add_argument("--now", action="store_true", help="start it now")
    sub.add_argument("--budget", metavar="T", help="how long it may take: 90s, 10m, 6h")
    sub.add_argument(
        "--engine", choices=("vllm", "openai", "scripted"), help="openai: your own server; scripted: a dry run"
    )
    sub.add_argument(
        "--teacher", metavar="MODEL", help="a larger local model does the work that edits; what passes can be learned"
    )
    sub.add_argument("--branch", metavar="NAME", help="work on this branch, whatever is checked out")
    sub.add_argument("--quiet", "-q", action="store_true", help="print nothing but errors")
    sub.add_argument("--dry-run", action="store_true", help="a whole night without a model, and nothing is written")
    sub.add_argument("--json", action="store_true", help="of a dry run: print JSON")
    sub.add_argument("--enclosed", type=int, metavar="FD", help=argparse.SUPPRESS)  # we start ourselves so


def _add_catalog(add: Callable[..., argparse.ArgumentParser]) -> None:
    sub = add("lint", "lint", "check tasks, agents, flows, rules, prompts and tools as you wrote them", json=True)
    sub.add_argument("paths", nargs="*", metavar="PATH", help="only what lies here")
    sub = add("agents", "agents", "which specialists are in force, and why: list, show, rollback", json=True)
    verbs = sub.add_subparsers(metavar="VERB")
    verb = verbs.add_parser("list", help="which specialists are in force, and why")
    verb.set_defaults(command="agents")
    verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    verb = verbs.add_parser("show", help="one agent: its adapters, what they learned from, how they did")
    verb.set_defaults(command="agents_show")
    verb.add_argument("agent")
    verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    verb = verbs.add_parser("rollback", help="go back to the adapter before, as a local PR")
    verb.set_defaults(command="agents_rollback")
    verb.add_argument("agent")
    verb.add_argument("--to", metavar="ADAPTER", help="this one (sha256:... or its beginning); none: the base model")
    verb.add_argument("--now", action="store_true", help="accept the PR at once")
    sub = add("flow", "flow_list", "the flows: list, show", json=True)
    verbs = sub.add_subparsers(metavar="VERB")
    verb = verbs.add_parser("show", help="draw one")
    verb.set_defaults(command="flow_show")
    verb.add_argument("name")
    verb.add_argument("--mermaid", action="store_true", help="as a Mermaid flowchart")
    verb.add_argument("--whole", action="store_true", help="with the nodes of its sub-flows")
    verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    sub = add("tools", "tools", "what agents can call; of one its schemas", json=True)
    sub.add_argument("tool", nargs="?", metavar="TOOL")
    sub = add("explain", "explain", "why a task takes its flow and a node its agent", json=True)
    sub.add_argument("what", metavar="TASK|PR", help="a task's path, slug or uuid, or the number of a PR")
    sub = add("new", "new", "write a first agent, flow, tool or task, to be edited")
    sub.add_argument("kind", choices=("agent", "flow", "tool", "task"))
    sub.add_argument("name", help="its name; of a task its title")
    sub.add_argument("--agent", help="of a flow: the agent that does the work")
    sub.add_argument("--flow", help="of a task: the flow it takes")
    sub.add_argument("--scope", nargs="+", default=[], metavar="GLOB", help="of a task: the files it is about")


def _add_learning(add: Callable[..., argparse.ArgumentParser]) -> None:
    sub = add("mine", "mine", "gather what an agent can learn from your accepted work", json=True)
    sub.add_argument("agent")
    sub.add_argument("--teacher", action="store_true", help="also from what a teacher did that was accepted")
    sub = add("train", "train", "mine, train an adapter, bench it on held-out files, offer a better one", json=True)
    sub.add_argument("agent")
    sub.add_argument("--teacher", action="store_true", help="also from what a teacher did that was accepted")
    sub.add_argument("--budget", metavar="T", help="of the training: 90s, 30m, 2h (default: until it stops by itself)")
    sub.add_argument("--memory", metavar="SIZE", help="of the training: 4g (default: two thirds of what is free)")
    sub.add_argument("--items", type=_count, metavar="N", help="bench on at most N held-out items")
    sub.add_argument("--no-bench", action="store_true", help="train only; git pantheon bench comes later")
    sub.add_argument("--quiet", "-q", action="store_true", help="no progress")
    sub = add("bench", "bench", "an adapter against the version in force, on held-out files", json=True)
    sub.add_argument("agent")
    sub.add_argument("adapter", nargs="?", help="sha256:... or its beginning; the newest when absent")
    sub.add_argument("--items", type=_count, metavar="N", help="at most N held-out items")
    sub.add_argument("--quiet", "-q", action="store_true", help="no progress")


def _add_day(add: Callable[..., argparse.ArgumentParser]) -> None:
    sub = add("survey", "survey", "where repetition is highest; drafts task files for it", json=True)
    sub.add_argument("--write", action="store_true", help="write the drafts to the working tree")
    sub.add_argument("--limit", type=_count, metavar="N", help="only the N largest clusters")
    sub = add("breakdown", "breakdown", "split a task into items or child tasks", json=True)
    sub.add_argument("task", metavar="TASK", help="its path, slug or uuid")
    sub.add_argument("--into", choices=("items", "tasks"), default="tasks", help="what to write (default: tasks)")
    sub.add_argument("--planner", action="store_true", help="ask the planner of your own config.toml for the split")
    sub.add_argument("--yes", action="store_true", help="write without being asked")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 1_000_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1")
    return int(text)


def _add_report(add: Callable[..., argparse.ArgumentParser]) -> None:
    sub = add("report", "report", "the morning report", json=True)
    sub.add_argument("night", nargs="?", help="a night's id; the latest when absent")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print Markdown")
    form.add_argument(
        "--html", nargs="?", const="", metavar="FILE", help="write one HTML file, and say which; - or a pipe: print it"
    )


def _add_pr(add: Callable[..., argparse.ArgumentParser]) -> None:
    sub = add("pr", "pr_list", "local PRs: list, show, diff, range-diff, log, checkout, refresh, push", json=True)
    sub.add_argument("--all", action="store_true", help="closed ones too")
    verbs = sub.add_subparsers(metavar="VERB")
    for name, command, summary in (
        ("list", "pr_list", "the open PRs"),
        ("show", "pr_show", "one PR with its items"),
        ("diff", "pr_diff", "what it changes"),
        ("log", "pr_log", "its commits with their notes"),
        ("checkout", "pr_checkout", "check out its review branch"),
    ):
        verb = verbs.add_parser(name, help=summary)
        verb.set_defaults(command=command)
        verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
        if name == "list":
            verb.add_argument("--all", action="store_true", default=argparse.SUPPRESS)
        else:
            verb.add_argument("pr", type=int)
    _add_pr_verbs(verbs)
    sub = add("accept", "accept", "merge a PR with your own git; checked anew first where its base moved")
    sub.add_argument("pr", type=int)
    sub.add_argument("--drop", nargs="+", default=[], metavar="ITEM", help="leave these items out (id or path)")
    sub.add_argument("--no-check", action="store_true", help="merge it as it is, though its base moved")
    sub.add_argument("--unverified", action="store_true", help="merge it, whoever signed it")
    sub.add_argument("--push", nargs="?", const="", metavar="REMOTE", help="push its review branch first")
    sub = add("reject", "reject", "reject a PR or some of its items")
    sub.add_argument("pr", type=int)
    sub.add_argument("items", nargs="*", metavar="ITEM", help="id or path; all when absent")
    sub.add_argument("-m", "--message", required=True, metavar="WHY", help="the reason")
    sub = add("retry", "retry", "take items off a PR and have them tried again next night")
    sub.add_argument("pr", type=int)
    sub.add_argument("items", nargs="+", metavar="ITEM", help="id or path")
    sub.add_argument("-m", "--message", required=True, metavar="NOTE", help="one line for the agents")
    sub = add("never", "never", "reject items for good, also when their files change")
    sub.add_argument("pr", type=int)
    sub.add_argument("items", nargs="+", metavar="ITEM", help="id or path")
    sub = add("later", "later", "put a PR off, or have items of it offered again later")
    sub.add_argument("pr", type=int)
    sub.add_argument("items", nargs="*", metavar="ITEM", help="id or path; the PR as a whole when absent")
    sub.add_argument("--until", default="1d", metavar="WHEN", help="3d, 12h or a date like 2026-12-24 (default: 1d)")
    sub = add("undo", "undo", "take back the last decision on a PR")
    sub.add_argument("pr", type=int)
    sub = add("desk", "review_desk", "the morning report in your browser, with buttons to decide")
    sub.add_argument("--port", type=_count, metavar="P", help="default: a free one")
    sub.add_argument("--idle", default="30m", metavar="T", help="close after so long without a request")
    sub.add_argument("--read-only", action="store_true", help="nothing can be decided there")
    sub.add_argument("--no-open", action="store_true", help="print the link, open no browser")


def _add_pr_verbs(verbs: Any) -> None:
    verb = verbs.add_parser("range-diff", help="what changed from one revision to another (default: the last two)")
    verb.set_defaults(command="pr_range_diff")
    verb.add_argument("pr", type=int)
    verb.add_argument("one", type=_count, nargs="?", metavar="A", help="a revision")
    verb.add_argument("other", type=_count, nargs="?", metavar="B", help="a later one")
    verb = verbs.add_parser("refresh", help="build PRs anew on what their branch is now, and check them there")
    verb.set_defaults(command="pr_refresh")
    verb.add_argument("prs", type=int, nargs="*", metavar="N", help="all open ones whose base moved when absent")
    verb = verbs.add_parser("push", help="push a PR's review branch")
    verb.set_defaults(command="pr_push")
    verb.add_argument("pr", type=int)
    verb.add_argument("remote", nargs="?", metavar="REMOTE", help="default: the usual one")


def _add_model(add: Callable[..., argparse.ArgumentParser]) -> None:
    sub = add("model", "model_list", "the models on this disk: list, use, add", json=True)
    verbs = sub.add_subparsers(metavar="VERB")
    verb = verbs.add_parser("list", help="which there are, and which one this repository uses")
    verb.set_defaults(command="model_list")
    verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    verb = verbs.add_parser("use", help="name one in this repository's .pantheon/pantheon.toml")
    verb.add_argument("model", metavar="NAME|PATH")
    verb.set_defaults(command="model_use")
    verb = verbs.add_parser("add", help="put one beside the others: a directory, or by day hf:OWNER/NAME[@REVISION]")
    verb.add_argument("source", metavar="PATH|hf:OWNER/NAME")
    verb.set_defaults(command="model_add")


def _add_sync(add: Callable[..., argparse.ArgumentParser]) -> None:
    for name, summary in (
        ("pull", "fetch what other clones pushed, and merge it with what was done here"),
        ("push", "put nights, runs, PRs and notes on a remote, merged with what is there"),
    ):
        sub = add(name, name, summary, json=True)
        sub.add_argument("remote", nargs="?", metavar="REMOTE", help="default: the branch's, origin or the only one")


def _add_daemon(add: Callable[..., argparse.ArgumentParser]) -> None:
    sub = add("daemon", "daemon_status", "nights by themselves: start, stop, status, logs, run, install", json=True)
    verbs = sub.add_subparsers(metavar="VERB")
    verb = verbs.add_parser("start", help="have this repository watched, and its nights run in the window")
    verb.set_defaults(command="daemon_start")
    verb.add_argument("--branch", metavar="NAME", help="the branch to watch (default: the one checked out now)")
    verb.add_argument("--window", metavar="HH:MM-HH:MM", help="a window of its own (default: that of your config.toml)")
    verb = verbs.add_parser("stop", help="end the daemon; a night that runs goes on another time")
    verb.set_defaults(command="daemon_stop")
    verb = verbs.add_parser("status", help="what it watches, and when the next night is")
    verb.set_defaults(command="daemon_status")
    verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    verb = verbs.add_parser("logs", help="what it did")
    verb.set_defaults(command="daemon_logs")
    verb.add_argument("-f", "--follow", action="store_true", help="and what it does")
    verb.add_argument("-n", type=_count, default=50, metavar="N", help="the last N lines")
    verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS)
    verb = verbs.add_parser("run", help="be the daemon, on this terminal")
    verb.set_defaults(command="daemon_run")
    verb.add_argument("--quiet", "-q", action="store_true", help="only the log file")
    verb = verbs.add_parser("install", help="write a systemd user service")
    verb.set_defaults(command="daemon_install")
    verb.add_argument("--remove", action="store_true", help="take it away again")
    verb = verbs.add_parser("forget", help="have this repository no longer watched")
    verb.set_defaults(command="daemon_forget")
    verb.add_argument("path", nargs="?", help="a repository that is on the list (default: this one)")


def _add_provenance(add: Callable[..., argparse.ArgumentParser]) -> None:
    sub = add("verify", "verify", "recompute what Pantheon claims, and say what is wrong", json=True)
    sub.add_argument("what", nargs="?", help="a PR, a night's id; the latest night and the open PRs when absent")
    sub.add_argument("--all", action="store_true", help="everything")
    sub.add_argument("--signers", metavar="FILE", help="an allowed_signers file of your own in place of the trust root")
    sub = add("reindex", "reindex", "find runs again in rewritten history, and complete their notes", json=True)
    sub.add_argument("--dry-run", action="store_true", help="show, write nothing")
    sub = add("keys", "keys", "the bot's keys: list, rotate, revoke, accept", json=True)
    verbs = sub.add_subparsers(metavar="VERB")
    verb = verbs.add_parser("rotate", help="sign with a new key from now on")
    verb.set_defaults(command="keys_rotate")
    verb = verbs.add_parser("revoke", help="trust nothing that a key ever signed")
    verb.add_argument("fingerprint", metavar="SHA256:...")
    verb.set_defaults(command="keys_revoke")
    verb = verbs.add_parser("accept", help="trust, in this clone, the keys that refs/pantheon/keys shows")
    verb.add_argument("fingerprint", metavar="SHA256:...", nargs="?")
    verb.set_defaults(command="keys_accept")
