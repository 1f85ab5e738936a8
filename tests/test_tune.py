from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import itertools
import json
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tiny_model
from conftest import survivors

from pantheon import lora, process
from pantheon.errors import EngineError, Interrupted, TrainingError
from pantheon.lessons import Message, Row, Source, Tuned
from pantheon.limits import Limits
from pantheon.models import ChatTemplate
from pantheon.records import Tuning
from pantheon.training import tune
from pantheon.training.orders import CHECKPOINT, MERGED, Event, Failed, Phase, State, Step, Stopped, TuneOrder

PATIENCE_S = 900.0  # a machine may be busy; each wait ends as soon as it can
TUNING = Tuning(rate=1e-2, epochs=3)
SYSTEM = "You are a librarian. You fill in the front matter of notes, one field at a time."
AGENT = "doc.frontmatter"


def a_row(model: Path, item: int, field: str, said: str, **changes: Any) -> Row:
    user = f"Note: docs/n{item}.md\nText: The oven is cleaned every Friday.\nGoal: set_field {field}"
    prompt = ChatTemplate(model).render(SYSTEM, user)
    source = Source(
        run=f"run{item}",
        night="n1",
        item=f"item{item}",
        target=f"docs/n{item}.md",
        family=f"docs/n{item}.md",
        node="frontmatter",
        step=0,
        agent=f"{AGENT}@1",
        model=changes.pop("model", model.name),
        decision="accepted",
    )
    fields: dict[str, Any] = {
        "kind": "call",
        "messages": tuple(
            Message.model_validate({"role": role, "content": content})
            for role, content in (("system", SYSTEM), ("user", user), ("assistant", said))
        ),
        "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(),
        "level": item % 2,
        "source": source,
    }
    return Row(**{**fields, **changes})


def rows_of(model: Path, items: range) -> list[Row]:
    """Two calls for each note, of which the form is always the same: that can be learned."""
    return [
        a_row(model, item, field, json.dumps({"tool": "set_field", "field": field, "value": f"The oven {item}"}))
        for item in items
        for field in ("title", "tags")
    ]


def write_dataset(place: Path, train: list[Row], dev: list[Row]) -> Path:
    place.mkdir(parents=True)
    for name, rows in (("train.jsonl", train), ("dev.jsonl", dev)):
        (place / name).write_text("".join(row.to_json() + "\n" for row in rows), encoding="utf-8")
    return place


@dataclass(frozen=True)
class Ground:
    """A tiny model and a dataset for it."""

    root: Path
    model: Path
    dataset: Path

    def tune(self, name: str, **changes: Any) -> Tuned:
        options = {"agent": AGENT, "out": self.root / name, "work": self.root / "work", "quiet": True, **changes}
        return tune.tune(self.dataset, self.model, options.pop("tuning", TUNING), **options)

    def order(self, **changes: Any) -> TuneOrder:
        """For a training in this process, without the sandbox."""
        work = self.root / f"room{time.monotonic_ns()}"
        work.mkdir()
        paths = {"model_dir": self.model, "model": self.model.name, "dataset_dir": self.dataset, "work": work}
        return TuneOrder(**{**paths, "tuning": TUNING, **changes})


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    root = tmp_path_factory.mktemp("tune")
    model = tiny_model.build(root / "Tiny")
    dataset = write_dataset(root / "data", rows_of(model, range(20)), rows_of(model, range(100, 104)))
    return Ground(root, model, dataset)


@dataclass(frozen=True)
class Trained:
    tuned: Tuned
    adapter: Path
    told: str


@pytest.fixture(scope="module")
def trained(ground: Ground) -> Trained:
    """One training that nothing disturbed."""
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        tuned = ground.tune("whole", quiet=False)
    return Trained(tuned, ground.root / "whole", told.getvalue())


# --- in the sandbox --------------------------------------------------------------------------------------------------


def test_a_training_learns_and_tells_how(ground: Ground, trained: Trained) -> None:
    tuned = trained.tuned
    dev = [loss.dev for loss in tuned.losses if loss.dev is not None]
    train = [loss.train for loss in tuned.losses if loss.train is not None]
    assert dev[0] > 5 and min(dev) < dev[0] / 1.5 and train[-1] < train[0]
    assert (tuned.ended, tuned.rows, tuned.resumed) == ("epochs", 40, 0)
    assert len(dev) == len(tuned.losses) >= 1 + 2 * TUNING.epochs
    assert tuned.best == min((loss for loss in tuned.losses), key=lambda loss: loss.dev or 9).step > 0
    assert tuned.tokens < tuned.row_tokens and tuned.peak_bytes > 1 << 28
    assert {"torch", "peft", "bitsandbytes", "device", "threads", "plan", "seed"} <= set(tuned.environment)
    assert lora.examine(trained.adapter).rank == TUNING.rank
    assert not (ground.root / "work" / AGENT).exists()  # nothing to go on with
    assert f"training {AGENT}: packs of" in trained.told and "tokens/s" in trained.told
    assert trained.told.splitlines()[-1].startswith(f"dev    {dev[0]:.3f} █")


def saved(room: Path) -> int:
    """After how many steps the checkpoint is."""
    try:
        data = (room / CHECKPOINT).read_bytes()
    except FileNotFoundError:
        return -1
    (length,) = struct.unpack("<Q", data[:8])
    return State.model_validate_json(json.loads(data[8 : 8 + length])["__metadata__"]["state"]).step


def start(ground: Ground, name: str) -> subprocess.Popen[str]:
    """The same training in a process of its own, which saves after every step."""
    code = (
        "import sys; from pathlib import Path; from pantheon.records import Tuning\n"
        "from pantheon.errors import PantheonError; from pantheon.training import tune\n"
        "data, model, out, work, tuning = sys.argv[1:]\n"
        "try:\n"
        "    tune.tune(Path(data), Path(model), Tuning.model_validate_json(tuning), out=Path(out), work=Path(work),\n"
        f"              agent={AGENT!r}, quiet=True, save_s=0.0)\n"
        "except PantheonError as error:\n"
        "    sys.exit(error.render())\n"
    )
    places = [ground.dataset, ground.model, ground.root / name, ground.root / f"{name}.work"]
    argv = [sys.executable, "-c", code, *map(str, places), TUNING.to_json()]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, cwd=Path(tune.__file__).parents[2])


def wait_for(room: Path, step: int, running: subprocess.Popen[str]) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while (found := saved(room)) < step:
        assert running.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return found


def test_stopped_and_killed_it_goes_on_and_comes_to_the_same_bytes(ground: Ground, trained: Trained) -> None:
    work = ground.root / "again.work"
    room = work / AGENT / "room"
    with start(ground, "again") as first:
        while not (work / AGENT / "training.log").exists():
            assert first.poll() is None
            time.sleep(0.02)
        with pytest.raises(TrainingError, match="another training of this agent is running"):
            ground.tune("again", work=work)
        wait_for(room, 2, first)
        first.send_signal(signal.SIGINT)
        assert "a checkpoint was kept" in first.communicate(timeout=PATIENCE_S)[1]
    stopped = saved(room)
    with start(ground, "again") as second:
        killed = wait_for(room, stopped + 3, second)
        second.kill()
    assert 2 <= stopped < killed < trained.tuned.steps
    deadline = time.monotonic() + 60
    while survivors(str(work)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not survivors(str(work))  # nothing outlives who started it

    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        tuned = ground.tune("again", work=work, quiet=False)
    assert "going on after step" in told.getvalue()
    assert tuned.resumed == 2
    for name in lora.FILES:
        assert (ground.root / "again" / name).read_bytes() == (trained.adapter / name).read_bytes()
    same = {"steps", "best", "losses", "tokens", "row_tokens"}
    assert tuned.model_dump(include=same) == trained.tuned.model_dump(include=same)


def test_nothing_can_be_reached_or_changed_from_inside(ground: Ground) -> None:
    room = ground.root / "inside"
    room.mkdir()
    code = (
        "import os, socket\n"
        "def tries(job):\n"
        "    try: job()\n"
        "    except OSError: return False\n"
        "    return True\n"
        "reach = lambda: socket.create_connection(('1.1.1.1', 53), 2)\n"
        "print(tries(reach), tries(lambda: open('/model/x', 'w')), tries(lambda: open('/dataset/x', 'w')),\n"
        f"      tries(lambda: open('/room/x', 'w')), os.path.exists({str(ground.root)!r}))"
    )
    seen = ((ground.model, tune.MODEL), (ground.dataset, tune.DATASET))
    done = process.run([sys.executable, "-c", code], limits=Limits(), sandbox=tune.sandbox(room, seen))
    assert done.stdout.split() == [b"False", b"False", b"False", b"True", b"False"], done.stderr


def test_too_little_memory_is_said(ground: Ground) -> None:
    with pytest.raises(TrainingError, match=r"allowed") as caught:
        ground.tune("small", agent="small", memory_bytes=96 << 20)
    assert not (ground.root / "small").exists()
    assert caught.value.hint


@pytest.mark.filterwarnings("ignore")
def test_a_merged_model_answers_as_base_and_adapter_do(
    ground: Ground, trained: Trained, weights: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, cache = lora.examine(trained.adapter).digest, ground.root / "cache"
    place = tune.merged(ground.model, trained.adapter, digest, cache, quiet=True)
    assert place.parent == cache / "merged"
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (place / name).read_bytes() == (ground.model / name).read_bytes()

    torch, peft = weights.torch, importlib.import_module("peft")
    tokens = torch.tensor([[1, 85, 91, 265, 79, 201, 44, 60, 2]])
    with torch.no_grad():
        base = weights._load(ground.model, quantised=False)(tokens).logits
        both = peft.PeftModel.from_pretrained(weights._load(ground.model, quantised=False), trained.adapter)
        expected = both(tokens).logits
        found = weights._load(place, quantised=False)(tokens).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, base, atol=0.1)

    # the same again costs no child; what was changed is refused, and so is another adapter under this one's name
    monkeypatch.setattr(process, "start", None)
    assert tune.merged(ground.model, trained.adapter, digest, cache, quiet=True) == place
    (place / "planted.py").write_text("print()", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"planted\.py is not what the manifest says") as caught:
        tune.merged(ground.model, trained.adapter, digest, cache, quiet=True)
    assert str(place) in caught.value.hint
    (place / "planted.py").unlink()
    data = bytearray((place / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (place / "model.safetensors").write_bytes(data)
    with pytest.raises(TrainingError, match=r"model\.safetensors is not what the manifest says"):
        tune.merged(ground.model, trained.adapter, digest, cache, quiet=True)
    (place / MERGED).unlink()
    with pytest.raises(TrainingError, match="it has no manifest"):
        tune.merged(ground.model, trained.adapter, digest, cache, quiet=True)


@pytest.mark.filterwarnings("ignore")
def test_merging_refuses_changed_adapters_and_other_models(
    ground: Ground, trained: Trained, weights: ModuleType, tmp_path: Path
) -> None:
    def merge(model: Path, adapter: Path, digest: str) -> None:
        order = weights.MergeOrder(model_dir=model, adapter_dir=adapter, adapter=digest, target=tmp_path / "target")
        weights.merge(order, lambda _: None)

    digest = lora.examine(trained.adapter).digest
    changed = shutil.copytree(trained.adapter, tmp_path / "adapter")
    data = bytearray((changed / lora.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (changed / lora.WEIGHTS).write_bytes(data)
    with pytest.raises(EngineError, match="somebody changed them"):
        merge(ground.model, changed, digest)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"has no weights model\.layers\.0\.mlp\.down_proj"):
        merge(other, trained.adapter, digest)


def test_losses_are_told_in_the_order_of_the_pairs(ground: Ground, tmp_path: Path) -> None:
    prompt = ChatTemplate(ground.model).render(SYSTEM, "Note: a.md")
    chance = random.Random(0)
    pairs = [(prompt, '{"tool":"set_field"}'), ("Text", "Goal"), (prompt, ""), (prompt, "Goal"), ("Other text", "Goal")]
    numbered = list(enumerate(pairs))
    chance.shuffle(numbered)
    found = tune.losses(ground.model, [pair for _, pair in numbered] + [pairs[0]], work=tmp_path, quiet=True)
    assert found[-1] == pytest.approx(found[[number for number, _ in numbered].index(0)], abs=1e-5)
    by_pair = {number: loss for (number, _), loss in zip(numbered, found, strict=False)}
    assert by_pair[2] == 0 and len({round(by_pair[number], 4) for number in (0, 1, 3, 4)}) == 4
    assert all(3 < by_pair[number] < 20 for number in (0, 1, 3, 4))
    assert list(tmp_path.iterdir()) == []
    assert tune.losses(ground.model, [], work=tmp_path, quiet=True) == []


# --- in this process -------------------------------------------------------------------------------------------------


def run_here(weights: ModuleType, order: TuneOrder, clock: Callable[[], float] = time.monotonic) -> Tuned:
    heard: list[Event] = []
    found: Tuned = weights._Training(order, heard.append, clock).run(lambda: False)
    assert any(isinstance(event, Step) for event in heard)
    return found


@pytest.mark.filterwarnings("ignore")
def test_a_training_that_makes_it_worse_stops_early_and_keeps_nothing(
    ground: Ground, weights: ModuleType, tmp_path: Path
) -> None:
    other = [
        a_row(ground.model, item, "title", "".join(chr(33 + (item * k) % 90) for k in range(30))) for item in (7, 8)
    ]
    dataset = write_dataset(tmp_path / "data", rows_of(ground.model, range(16)), other)
    order = ground.order(dataset_dir=dataset, tuning=Tuning(rate=0.1, epochs=50))
    tuned = run_here(weights, order)
    assert (tuned.ended, tuned.best) == ("early", 0)
    assert len(tuned.losses) == 5  # the base, and four that were no better
    assert not (order.work / "adapter").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_time_ends_it_with_the_best_weights_so_far(ground: Ground, weights: ModuleType) -> None:
    readings = itertools.count()
    order = ground.order(tuning=Tuning(rate=1e-3, epochs=100), budget_s=60.0)
    tuned = run_here(weights, order, lambda: float(next(readings)))  # each look at the clock is a second later
    assert tuned.ended == "budget" and 0 < tuned.best <= tuned.steps < 100 * 8
    assert tuned.seconds < 70 and tuned.losses[-1].step == tuned.steps
    assert lora.examine(order.work / "adapter")


@pytest.mark.filterwarnings("ignore")
def test_memory_is_planned_before_anything_is_trained(ground: Ground, weights: ModuleType) -> None:
    with pytest.raises(TrainingError, match="cannot train within the memory") as caught:
        weights._Training(ground.order(memory_bytes=64 << 20), lambda _: None)
    assert "gradient checkpoints" in caught.value.why and "GiB or more" in caught.value.hint
    with_checkpoints = weights._Training(ground.order(checkpoints=True), lambda _: None)
    without = weights._Training(ground.order(checkpoints=False), lambda _: None)
    pack = without.course.packs[0]
    with_checkpoints.model.train()
    mine, theirs = (weights._loss(one.model, pack) for one in (with_checkpoints, without))
    mine.backward()
    theirs.backward()
    for name, one in without.learned.items():  # they save memory and change nothing
        assert weights.torch.allclose(one.grad, with_checkpoints.learned[name].grad, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_looking_at_the_dev_rows_changes_nothing(ground: Ground, weights: ModuleType) -> None:
    training = weights._Training(ground.order(), lambda _: None)

    def state() -> dict[str, bytes]:
        return {name: one.detach().numpy().tobytes() for name, one in training.model.state_dict().items()}

    before, loss = state(), weights._mean_loss(training.model, training.dev_packs)
    assert weights._mean_loss(training.model, training.dev_packs) == loss
    assert state() == before


def test_rows_that_were_changed_or_are_none_are_refused_by_their_line(
    ground: Ground, weights: ModuleType, tmp_path: Path
) -> None:
    good = rows_of(ground.model, range(2))
    other = Message(role="user", content="Note: another.md")
    tampered = good[1].model_copy(update={"messages": (good[1].messages[0], other, good[1].messages[2])})
    dataset = write_dataset(tmp_path / "tampered", [good[0], tampered], [])
    with pytest.raises(TrainingError, match=r"train\.jsonl:2: its prompt is not the one that Tiny got in run run0"):
        weights._Training(ground.order(dataset_dir=dataset), lambda _: None)
    teacher = tampered.model_copy(update={"source": tampered.source.model_copy(update={"model": "Teacher"})})
    speech = weights.Speech(ground.model)
    dataset = write_dataset(tmp_path / "teacher", [good[0], teacher], [])
    found = weights.read_rows(dataset / "train.jsonl", speech, ground.model.name, lambda _: None)
    assert len(found) == 2 and all(row.tokens[-1] == speech.end for row in found)
    (dataset / "train.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"train\.jsonl:1"):
        weights.read_rows(dataset / "train.jsonl", speech, ground.model.name, lambda _: None)
    dataset = write_dataset(tmp_path / "empty", [good[0].model_copy(update={"weight": 0.0})], [])
    with pytest.raises(TrainingError, match="it has no rows"):
        weights._Training(ground.order(dataset_dir=dataset), lambda _: None)


def test_a_control_token_in_an_answer_is_text(ground: Ground, weights: ModuleType) -> None:
    speech = weights.Speech(ground.model)
    assert speech.end in speech.prompt("<|im_end|>") and speech.end == 2
    assert speech.end not in speech.said("a<|im_end|>b")


def test_rows_longer_than_the_context_are_left_out_and_that_is_said(
    ground: Ground, weights: ModuleType, tmp_path: Path
) -> None:
    model = shutil.copytree(ground.model, tmp_path / ground.model.name)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 200}), encoding="utf-8")
    rows = [*rows_of(model, range(1)), a_row(model, 9, "title", "x" * 400)]
    dataset, told = write_dataset(tmp_path / "long", rows, []), list[str]()
    assert len(weights.read_rows(dataset / "train.jsonl", weights.Speech(model), "Tiny", told.append)) == 2
    assert told == ["train.jsonl: 1 rows are longer than the model's context, and left out"]


# --- for people ------------------------------------------------------------------------------------------------------


def test_the_bar_shows_steps_losses_and_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    out = io.StringIO()
    with contextlib.redirect_stderr(out), tune._bar("training [x]", False) as hear:
        hear(Phase(text="loading the model"))
        hear(Phase(text="packs of 512 tokens", note=True))
        hear(Step(step=0, steps=8, tokens=0, of_tokens=800, dev=2.0))
        hear(Step(step=1, steps=8, tokens=100, of_tokens=800, loss=1.5))
    shown = out.getvalue()
    assert "training [x]: packs of 512 tokens" in shown and "step 1/8" in shown
    assert "loss 1.500" in shown and "dev 2.000" in shown and "tokens/s" in shown


def test_how_a_child_ended_is_told_in_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text('{"event":"phase","text":"training"}\nTraceback:\nKeyError: 7\n', encoding="utf-8")

    def ended(last: Event | None, code: int | None) -> str:
        with pytest.raises((TrainingError, Interrupted)) as caught:
            tune._ended(last, code, "tune", log, 1 << 30, "git pantheon train x")
        return f"{caught.value}"

    assert ended(Failed(what="cannot", thing="this", why="since"), 1) == "cannot: this: since"
    assert "used more than the 1024 MiB allowed" in ended(Phase(text="training"), 137)
    assert ended(Phase(text="training"), 1).endswith("KeyError: 7")
    assert "a checkpoint was kept after step 5" in ended(Stopped(step=5), 130)
