"""`verify` on learning: cards that only grow, adapters that are what nights say of them, the model that answered."""

from __future__ import annotations

import asyncio
import base64
import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import provenance
import pytest
from adapter_files import card_of, write_adapter
from provenance import DAYS, Copy

from pantheon import adapters, artifacts, attest, config, desk, keys, lora, nights, prs
from pantheon import night as runner
from pantheon.cast import Cast, taught
from pantheon.egress import EgressProof
from pantheon.engine import ScriptedEngine
from pantheon.git import Signer
from pantheon.lessons import Card, Comparison
from pantheon.records import TEACHER, Night, NightReport, PullItem, PullRequest, Runtime, Share, pretty
from pantheon.survey import survey
from pantheon.training import promote

AGENT = "doc.frontmatter"
REF = f"refs/pantheon/adapters/{AGENT}"
A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
COMPARED = Comparison(
    agent=AGENT,
    before=f"{AGENT}@1",
    after=f"{AGENT}@2",
    items=60,
    before_pass=Share(hits=20, of=60),
    after_pass=Share(hits=45, of=60),
    only_before=2,
    only_after=27,
    p_value=0.0001,
    before_errors=Share(),
    after_errors=Share(),
    promote=True,
)


@pytest.fixture
def field(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Copy:
    return provenance.copy(tmp_path_factory, tmp_path / "copy")


def stem(adapter: str) -> str:
    return adapter.removeprefix("sha256:")


def put(field: Copy, files: Mapping[str, bytes | None], message: str, signer: Signer | None = None) -> str:
    """A commit on the cards' ref by somebody who writes what they like; with the bot's key unless told otherwise."""
    repo, before = field.repo, field.repo.ref(REF)
    entries = {name: None if data is None else (0o100644, repo.write_blob(data)) for name, data in files.items()}
    tree = repo.write_tree(repo.tree_of(before) if before else None, entries)
    commit = repo.commit(tree, [before] if before else [], message, DAYS[2], signer or desk.signer(repo))
    repo.move_ref(REF, commit, before, "x")
    return commit


def line(card: Card) -> bytes:
    return pretty(card.model_dump(mode="json"))


def trained(field: Copy, adapter: str = A, **changed: Any) -> Card:
    card = card_of(AGENT, adapter, **changed)
    adapters.write_card(field.repo, card, DAYS[2], desk.signer(field.repo), {"DATASHEET.md": b"# Rows\n"})
    return card


# --- cards ------------------------------------------------------------------------------------------------------------


def test_cards_that_were_trained_and_compared_verify(field: Copy) -> None:
    card = trained(field)
    compared = card.model_copy(update={"comparison": COMPARED})
    adapters.write_card(field.repo, compared, DAYS[2], desk.signer(field.repo), {"trials.jsonl": b"{}\n"})
    trained(field, B, parent=A)
    found = field.verify()
    assert (found.faults, found.cards) == ((), 2)
    assert "2 adapter cards" in found.summary


def test_a_card_may_not_become_another_one(field: Copy) -> None:
    card = trained(field)
    better = card.model_copy(update={"base_model": "other", "comparison": COMPARED})
    commit = put(field, {f"{stem(A)}.json": line(better)}, f"adapter {AGENT}: compared {'a' * 12}\n")
    where = f"card: {REF} in {commit}, {stem(A)}.json"
    assert field.lines() == [f'{where}: field base_model: expected "scripted", found "other"']


def test_a_second_comparison_is_said_and_a_comparison_cannot_be_taken_away(field: Copy) -> None:
    """Whoever compares until chance helps leaves a trace of it."""
    card = trained(field, comparison=COMPARED.model_dump())
    luckier = COMPARED.model_copy(update={"only_after": 40})
    later = card.model_copy(update={"comparison": luckier})
    adapters.write_card(field.repo, later, DAYS[2], desk.signer(field.repo), {"trials.jsonl": b"{}\n"})
    found = field.verify()
    assert found.faults == ()
    assert [text for text in found.said if "was compared again" in text]
    bare = card.model_copy(update={"comparison": None})
    commit = put(field, {f"{stem(A)}.json": line(bare)}, f"adapter {AGENT}: trained {'a' * 12}\n")
    where = f"card: {REF} in {commit}, {stem(A)}.json"
    assert field.lines() == [f"{where}: field comparison: it was there, or nothing became another"]


def test_trials_change_only_with_the_comparison_of_their_card(field: Copy) -> None:
    card = trained(field)
    compared = card.model_copy(update={"comparison": COMPARED})
    adapters.write_card(field.repo, compared, DAYS[2], desk.signer(field.repo), {"trials.jsonl": b"{}\n"})
    put(field, {f"{stem(A)}/trials.jsonl": b"better\n"}, f"adapter {AGENT}: compared {'a' * 12}\n")
    assert any("trials.jsonl: it was changed; what stands beside a card stays" in text for text in field.lines())


CHANGES: dict[str, tuple[Callable[[Card], Mapping[str, bytes | None]], str]] = {
    "taken away": (lambda card: {f"{stem(A)}.json": None}, "it was taken away"),
    "two at once": (
        lambda card: {f"{c * 64}.json": line(card_of(AGENT, f"sha256:{c * 64}")) for c in "cd"},
        "it touches 2 cards",
    ),
    "nothing at all": (lambda card: {}, "it touches 0 cards"),
    "under another name": (lambda card: {f"{'c' * 64}.json": line(card)}, "field adapter: expected sha256:ccc"),
    "of another agent": (
        lambda card: {f"{stem(B)}.json": line(card_of("doc.rename", B))},
        f"field agent: expected {AGENT}, found doc.rename",
    ),
    "no card": (lambda card: {f"{stem(B)}.json": b"{}\n"}, "Field required"),
    "not the one form": (
        lambda card: {f"{stem(B)}.json": line(card_of(AGENT, B)).replace(b"\n", b"\r\n")},
        "its JSON is not in the one form",
    ),
    "a stranger": (lambda card: {"evil.py": b"x"}, "it is no card, and stands beside none"),
    "weights": (lambda card: {f"{'c' * 64}/model.bin": b"x"}, "it is no card, and stands beside none"),
    "another datasheet": (lambda card: {f"{stem(A)}/DATASHEET.md": b"# All fine\n"}, "what stands beside a card stays"),
    "a parent that is not there": (
        lambda card: {f"{stem(B)}.json": line(card_of(AGENT, B, parent=f"sha256:{'0' * 64}"))},
        "has no card that counts",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_whoever_holds_the_key_can_only_add_cards(field: Copy, case: str) -> None:
    change, why = CHANGES[case]
    put(field, change(trained(field)), f"adapter {AGENT}: trained {'b' * 12}\n")
    lines = field.lines()
    assert any(text.startswith(f"card: {REF}") and why in text for text in lines), lines


def test_a_commit_that_says_it_did_something_else(field: Copy) -> None:
    put(field, {f"{stem(A)}.json": line(card_of(AGENT, A))}, f"adapter {AGENT}: compared {'a' * 12}\n")
    assert any("its message is" in text for text in field.lines())


def test_a_card_without_a_signature_of_ours(field: Copy, tmp_path: Path) -> None:
    stranger = Signer.load_or_create(tmp_path / "mine")
    commit = put(
        field, {f"{stem(A)}.json": line(card_of(AGENT, A))}, f"adapter {AGENT}: trained {'a' * 12}\n", stranger
    )
    found = field.verify()
    assert [fault.kind for fault in found.faults] == ["key"]
    assert commit in found.faults[0].where
    assert found.cards == 0


def test_a_later_signature_does_not_cover_what_a_stranger_put_before(field: Copy, tmp_path: Path) -> None:
    stranger = Signer.load_or_create(tmp_path / "mine")
    put(field, {f"{stem(A)}.json": line(card_of(AGENT, A))}, f"adapter {AGENT}: trained {'a' * 12}\n", stranger)
    trained(field, B)
    assert field.verify().cards == 1
    trust = attest.trust_root(field.common)
    assert list(adapters.trusted_cards(field.repo, AGENT, trust)) == [B]


def test_a_card_of_a_revoked_key_counts_no_more(field: Copy) -> None:
    trained(field)
    old = desk.signer(field.repo).fingerprint
    keys.rotate(field.repo, DAYS[3])
    keys.revoke(field.repo, old, DAYS[3])
    found = field.verify()
    assert found.cards == 0
    assert any(fault.kind == "key" and REF in fault.where for fault in found.faults)
    assert adapters.trusted_cards(field.repo, AGENT, attest.trust_root(field.common)) == {}


def test_a_cards_ref_that_was_put_back_is_named_by_the_seal(field: Copy, tmp_path: Path) -> None:
    trained(field)
    trained(field, B)
    play(field, tmp_path / "three")
    assert field.lines() == []
    (field.common / REF).write_text(field.ref(f"{REF}^") + "\n")
    assert any(text.startswith(f"ref: {REF}: ") and "does not descend" in text for text in field.lines())


def test_a_ref_below_an_agents_name_is_none_of_ours(field: Copy) -> None:
    trained(field)
    field.git("update-ref", "refs/pantheon/adapters/Evil/x", field.ref(REF))
    assert "ref: refs/pantheon/adapters/Evil/x: Pantheon knows no such ref" in field.lines()


# --- files ------------------------------------------------------------------------------------------------------------


def test_an_adapter_whose_files_were_swapped_is_named(field: Copy, tmp_path: Path) -> None:
    digest, place = adapters.keep(field.repo, AGENT, write_adapter(tmp_path / "made"))
    trained(field, digest)
    assert field.lines() == []
    data = (place / lora.WEIGHTS).read_bytes()
    (place / lora.WEIGHTS).write_bytes(data[:-1] + b"\x01")
    (text,) = field.lines()
    assert text.startswith(f"adapter: {place}: its files have the digest sha256:")
    (place / lora.WEIGHTS).unlink()
    (place / lora.WEIGHTS).symlink_to("/dev/zero")
    (text,) = field.lines()
    assert text.startswith(f"adapter: {place}: cannot be read: ")


def test_an_adapter_that_is_elsewhere_is_no_fault(field: Copy) -> None:
    trained(field)
    assert field.verify().faults == ()


# --- nights -----------------------------------------------------------------------------------------------------------


class Two(ScriptedEngine):
    """Two models on one engine: the night's own, and a teacher."""

    teacher = "big"

    def of(self, runtime: Runtime) -> ScriptedEngine:
        spoken = copy.copy(self)
        spoken.model = self.teacher if runtime.model == TEACHER else self.model
        return spoken


def play(
    field: Copy, work: Path, *, teacher: str = "", engine: ScriptedEngine | None = None, **changed: Any
) -> NightReport:
    """A third night; `changed`: what somebody makes of its record before it is frozen."""
    provenance.write_and_commit(field.root, {"docs/buoys.md": "# Buoys\n\nA buoy is painted in spring.\n"}, "third")
    repo = field.repo
    found = survey(repo, repo.head().commit)
    planned = desk.make_plan(repo, found)
    if teacher:
        found = dataclasses.replace(found, config=taught(found.config, Cast(model=work, teacher=work)))
    options: dict[str, Any] = {"budget_s": 300, "engine": "scripted", "model": "scripted", "window": 1}
    options |= {"teacher": teacher, "teacher_sha256": {"model.safetensors": "9" * 64} if teacher else {}}
    signer = desk.signer(repo)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nights, "Night", lambda **values: Night(**{**values, **changed}))
        frozen = nights.freeze(repo, found, planned, now=DAYS[4], signer=signer, **options)
    closed = EgressProof(attempts=(), interfaces=("lo",), closed=True)
    return asyncio.run(
        runner.run(
            repo,
            frozen,
            engine or ScriptedEngine(provenance.wrong_title),
            closed,
            work=work,
            signer=signer,
            now=lambda: DAYS[4],
            progress=runner.Progress(),
        )
    )


def in_force(field: Copy, adapter: str, version: int = 2) -> None:
    """The user accepts an agent that names an adapter."""
    text = agent_file(adapter, version)
    provenance.write_and_commit(field.root, {f".pantheon/agents/{AGENT}.toml": text}, "an agent that learned")


def agent_file(adapter: str, version: int) -> str:
    text = config.packaged("agents", f"{AGENT}.toml").read_text("utf-8").replace("version = 1", f"version = {version}")
    return text.replace('origin = "local"}', f'origin = "local", adapter = "{adapter}"}}')


def test_a_night_with_an_adapter_verifies_and_its_statements_name_it(field: Copy, tmp_path: Path) -> None:
    digest, _ = adapters.keep(field.repo, AGENT, write_adapter(tmp_path / "made"))
    trained(field, digest)
    in_force(field, digest)
    night = play(field, tmp_path / "three")
    assert night.night.adapters == {f"{AGENT}@2": digest}
    assert field.lines() == []
    assert field.lines(night.night.id) == []
    run = next(run for run in night.runs if f"{AGENT}@2" in run.agents)
    needs = {
        one["name"]: one for one in statement(field, run.id)["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert needs[f"adapter/{AGENT}@2"]["digest"] == {"sha256": stem(digest)}


def test_a_night_with_an_adapter_that_has_no_card(field: Copy, tmp_path: Path) -> None:
    in_force(field, A)
    night = play(field, tmp_path / "three").night.id
    why = f"field adapters: {AGENT}@2 had {A[:19]}, which has no card that counts"
    assert field.lines(night) == [f"card: night {night}, night.json: {why}"]


def test_a_night_that_names_another_adapter_than_its_base(field: Copy, tmp_path: Path) -> None:
    trained(field)
    trained(field, B)
    in_force(field, A)
    night = play(field, tmp_path / "three", adapters={f"{AGENT}@2": B}).night.id
    why = f"field adapters: {AGENT}@2 of its base names {A}, the night {B}"
    assert field.lines(night) == [f"night: night {night}, night.json: {why}"]


def test_a_night_that_is_silent_about_an_adapter(field: Copy, tmp_path: Path) -> None:
    trained(field)
    in_force(field, A)
    night = play(field, tmp_path / "three", adapters={}).night.id
    why = f"field adapters: {AGENT}@2 of its base names {A}, the night none"
    assert field.lines(night) == [f"night: night {night}, night.json: {why}"]


def test_a_night_whose_adapter_was_trained_on_other_weights(field: Copy, tmp_path: Path) -> None:
    trained(field)
    in_force(field, A)
    night = play(field, tmp_path / "three", model_sha256={"model.safetensors": "1" * 64}).night.id
    assert field.lines(night) == [
        f"card: night {night}, night.json: field adapters: {AGENT}@2 had {A[:19]}, "
        "which was trained on other weights than those of scripted"
    ]


# --- promotions -------------------------------------------------------------------------------------------------------


def test_a_promotion_verifies_and_one_that_no_comparison_backs_is_said(field: Copy, tmp_path: Path) -> None:
    digest, _ = adapters.keep(field.repo, AGENT, write_adapter(tmp_path / "made"))
    card = trained(field, digest)
    pull = promoted(field, digest)
    found = field.verify(str(pull.id))
    assert found.faults == ()
    assert any("puts an adapter in force that no comparison found better" in text for text in found.said)
    compared = card.model_copy(update={"comparison": COMPARED})
    adapters.write_card(field.repo, compared, DAYS[2], desk.signer(field.repo))
    found = field.verify(str(pull.id))
    assert (found.faults, found.said) == ((), ())
    assert field.lines() == []


def promoted(field: Copy, digest: str) -> PullRequest:
    signer = desk.signer(field.repo)
    return promote.offer(field.repo, AGENT, digest, title="better", why=["so"], when=DAYS[2], signer=signer)


def test_a_promotion_whose_adapter_has_no_card(field: Copy, tmp_path: Path) -> None:
    digest, _ = adapters.keep(field.repo, AGENT, write_adapter(tmp_path / "made"))
    pull = promoted(field, digest)
    why = f"{AGENT}@2 would have {digest[:19]}, which has no card that counts"
    assert field.lines(str(pull.id)) == [f"card: PR {pull.id}: {why}"]


@pytest.mark.parametrize("path", [".pantheon/checks.toml", ".pantheon/agents/doc.rename.toml", "evil.sh", "docs/x.md"])
def test_a_promotion_that_changes_something_else_as_well(field: Copy, tmp_path: Path, path: str) -> None:
    digest, _ = adapters.keep(field.repo, AGENT, write_adapter(tmp_path / "made"))
    trained(field, digest, comparison=COMPARED.model_dump())
    repo, head, signer = field.repo, field.ref("main"), desk.signer(field.repo)
    own = f".pantheon/agents/{AGENT}.toml"
    files = {own: agent_file(digest, 2).encode(), path: b"x = 1\n"}
    blobs = {name: (0o100644, repo.write_blob(data)) for name, data in files.items()}
    commit = repo.commit(repo.write_tree(repo.tree_of(head), blobs), [head], "agents: better\n", DAYS[2], signer)
    item = PullItem(item=f"{AGENT}@2", run="", target=own, commit=commit)
    of = {"task": "", "slug": "agents", "title": "better", "night": "", "onto": "main", "base": head, "tip": commit}
    pull = prs.open_pull(repo, items=(item,), when=DAYS[2], signer=signer, **of)
    lines = field.lines(str(pull.id))
    assert f"pr: PR {pull.id}: it puts {AGENT}@2 in force, and changes {path} as well" in lines


# --- teachers ---------------------------------------------------------------------------------------------------------


def statement(field: Copy, run_id: str) -> dict[str, Any]:
    run = next(run for run in artifacts.list_runs(field.repo) if run.id == run_id)
    (envelope,) = attest.read(field.repo, run.noted_on)
    payload = json.loads(envelope)["payload"]
    found: dict[str, Any] = json.loads(base64.b64decode(payload))
    return found


def test_the_statements_of_a_teachers_night_name_who_answered(field: Copy, tmp_path: Path) -> None:
    night = play(field, tmp_path / "three", teacher="big", engine=Two(provenance.wrong_title))
    assert field.lines() == []
    run = next(run for run in night.runs if run.verdicts and f"{AGENT}@1" in run.agents)
    said = statement(field, run.id)["predicate"]["buildDefinition"]
    by_agent = {one["name"]: one["models"] for one in said["internalParameters"]["agents"]}
    assert by_agent[f"{AGENT}@1"] == ["big"]
    assert all(by_agent[one.agent] == ["scripted"] for one in run.verdicts)
    needs = {one["name"]: one for one in said["resolvedDependencies"]}
    assert needs["model/big/model.safetensors"]["digest"] == {"sha256": "9" * 64}
    assert "model/scripted" in needs


def test_a_run_in_which_only_the_teacher_spoke_names_only_the_teacher(field: Copy, tmp_path: Path) -> None:
    night = play(field, tmp_path / "three", teacher="big", engine=Two(lambda prompt, schema: "{}"))
    alone = [run for run in night.runs if not run.verdicts]
    assert alone
    for run in alone:
        said = statement(field, run.id)["predicate"]["buildDefinition"]
        names = [one["name"] for one in said["resolvedDependencies"] if one["name"].startswith("model/")]
        assert names == ["model/big/model.safetensors"]
    assert field.lines() == []


def test_a_teacher_that_did_not_answer_is_found(field: Copy, tmp_path: Path) -> None:
    """The night says that a larger model taught; the small one answered everybody."""
    night = play(field, tmp_path / "three", teacher="big", engine=ScriptedEngine(provenance.wrong_title))
    lines = field.lines(night.night.id)
    assert any(f"{AGENT}@1 was answered by 'scripted'; in night {night.night.id} 'big' answers it" in x for x in lines)


def test_a_teacher_that_judged_its_own_work_is_found(field: Copy, tmp_path: Path) -> None:
    engine = Two(provenance.wrong_title)
    engine.model = "big"
    night = play(field, tmp_path / "three", teacher="big", engine=engine)
    lines = field.lines(night.night.id)
    assert any("was answered by 'big'; in night" in text and "'scripted' answers it" in text for text in lines)


def test_another_model_than_the_nights_is_found(field: Copy, tmp_path: Path) -> None:
    engine = ScriptedEngine(provenance.wrong_title)
    engine.model = "elsewhere"
    night = play(field, tmp_path / "three", engine=engine)
    lines = field.lines(night.night.id)
    assert any("was answered by 'elsewhere'" in text for text in lines), lines


def test_a_teacher_that_is_the_nights_own_model_or_has_no_digest(field: Copy, tmp_path: Path) -> None:
    weights = {"model.safetensors": "1" * 64}
    night = play(field, tmp_path / "three", teacher="scripted", teacher_sha256={}, model_sha256=weights).night.id
    lines = field.lines(night)
    assert f"night: night {night}, night.json: field teacher: scripted is the night's own model" in lines
    assert f"night: night {night}, night.json: field teacher_sha256: nothing, but scripted taught" in lines
