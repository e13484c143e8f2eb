#!/usr/bin/env bash
# N processes of one run on this machine, restarted together when one of them fails.
#
#   launch/local.sh --processes 2 [options] -- --config configs/digits.py --workdir DIR [...]
#
#   --processes N   how many processes (1)
#   --devices D     CPU devices of each process; without it they take what jax finds
#   --restarts R    restarts in a row without a newer checkpoint before giving up (3)
#   --grace S       seconds that a process has to save after SIGTERM, before SIGKILL (60)
#   --port P        of the coordinator; 0: a free one (0)
#   --python PY     the interpreter (.venv/bin/python where it exists, else python3)
#   --dry-run       print the commands and do nothing
#
# What comes after -- is passed to byol_jax.train unchanged. Output is prefixed with [process] and kept in
# DIR/logs/PROCESS.log. Codes 0 (complete), 2 (the user's error) and 130 (Ctrl-C) are final; after
# any other, all processes start again and resume. SIGTERM and Ctrl-C are passed on; the code is
# then 143 or 130, and the same command resumes.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }
say() { printf 'local.sh: %s\n' "$*" >&2; }
refuse() { printf 'error: %s\n' "$*" >&2; exit 2; }
number() { [[ $2 =~ ^(0|[1-9][0-9]*)$ ]] || refuse "$1 is '$2'; expected a whole number."; }

processes=1 devices='' restarts=3 grace=60 port=0 python=python3 dry=false
[[ -x .venv/bin/python ]] && python=.venv/bin/python
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --dry-run) dry=true; shift; continue ;;
    --processes | --devices | --restarts | --grace | --port | --python) ;;
    *) refuse "$1 is not an option; see --help. What train takes comes after --." ;;
  esac
  (($# > 1)) || refuse "$1 needs a value; see --help."
  [[ $1 == --python ]] || number "$1" "$2"
  printf -v "${1#--}" %s "$2"
  shift 2
done
shift $(($# > 0))
((processes > 0)) || refuse '--processes is 0; expected 1 or more.'

workdir=''
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --workdir) j=$((i + 1)) && workdir=${!j-} ;;
    --workdir=*) workdir=${!i#*=} ;;
  esac
done
[[ -n $workdir ]] || refuse '--workdir is missing; give the folder of the run after --.'

# A port that nobody listens on, below those that the system uses for outgoing connections.
free_port() {
  local try
  for _ in {1..100}; do
    try=$((20000 + RANDOM % 12000))
    (: </dev/tcp/127.0.0.1/"$try") 2>/dev/null || { echo "$try"; return; }
  done
  refuse 'no free port was found; give one with --port.'
}

# The newest complete checkpoint, -1 if there is none.
newest() {
  local path step=-1
  for path in "$workdir"/checkpoints/*; do
    [[ ${path##*/} =~ ^[0-9]+$ ]] && ((10#${path##*/} > step)) && step=$((10#${path##*/}))
  done
  echo "$step"
}

prefixed() {
  while IFS= read -r line || [[ -n $line ]]; do printf '[%s] %s\n' "$1" "$line"; done
}

environment=(env)
[[ -z $devices ]] || environment+=(JAX_PLATFORMS=cpu "JAX_NUM_CPU_DEVICES=$devices")

command_of() { # PROCESS TRAIN_ARGUMENTS...: the command, as an array
  command=("${environment[@]}" "$python" -m byol_jax.train "${@:2}")
  command+=("--coordinator=127.0.0.1:$address" "--num_processes=$processes" "--process_id=$1")
}

signal_all() { # SIGNAL: to those still running
  local i
  for i in "${!pids[@]}"; do kill -s "$1" "${pids[i]}" 2>/dev/null || true; done
}

# Start all, wait until all have ended. The others are stopped when one fails, or on request.
attempt() {
  local i code deadline=''
  pids=() failed=0
  address=$((port > 0 ? port : $(free_port)))
  for ((i = 0; i < processes; i++)); do
    command_of "$i" "$@"
    "${command[@]}" > >(tee -a -- "$workdir/logs/$i.log" | prefixed "$i") 2>&1 &
    pids[i]=$!
  done
  while ((${#pids[@]})); do
    for i in "${!pids[@]}"; do
      kill -0 "${pids[i]}" 2>/dev/null && continue
      code=0
      wait "${pids[i]}" 2>/dev/null || code=$?
      unset "pids[$i]"
      ((code == 0)) || say "process $i ended with code $code"
      # The first failure is the cause, unless a later one says that starting again cannot help.
      if ((failed == 0 || code == 2 || code == 130)); then failed=$((code ? code : failed)); fi
    done
    if [[ -z $deadline ]] && ((failed || asked)); then
      deadline=$((SECONDS + grace))
      ((asked)) || signal_all TERM
    fi
    if [[ -n $deadline ]] && ((SECONDS >= deadline)); then signal_all KILL; fi
    sleep 0.1
  done
}

if $dry; then
  address=$port
  for ((i = 0; i < processes; i++)); do
    command_of "$i" "$@"
    printf '%q ' "${command[@]}"
    printf '>> %q 2>&1 &\n' "$workdir/logs/$i.log"
  done
  exit 0
fi

# Each process in its own group: Ctrl-C reaches it once, from here, and never its log.
set -m
asked=0 pids=()
trap 'asked=143; signal_all TERM' TERM
trap 'asked=130; signal_all INT' INT
mkdir -p -- "$workdir/logs"
last=$(newest) count=0
while true; do
  attempt "$@"
  ((failed)) || exit 0
  ((asked)) && exit "$asked"
  ((failed == 2 || failed == 130)) && exit "$failed"
  step=$(newest)
  ((step > last)) && count=0
  last=$step count=$((count + 1))
  if ((count > restarts)); then
    say "gave up after $restarts restarts without a newer checkpoint"
    exit "$failed"
  fi
  say "starting all again ($count of $restarts, newest checkpoint ${step/#-1/none})"
done
