#!/usr/bin/env bash
# One run on a Cloud TPU slice of one or many hosts, with gcloud.
#
#   launch/tpu_vm.sh VERB --name NAME --zone ZONE [options] [-- --config FILE --workdir DIR ...]
#
#   up          create the slice and wait until it is ready
#   install     copy the commit checked out here to all hosts and install it
#   run         start the training on all hosts, in the background
#   follow      show the output of all hosts until the training has ended
#   status      the state of the slice, and of the training on each host
#   stop        SIGTERM to the training on all hosts: it saves
#   down        delete the slice
#   supervise   all of this, again and again until the run is complete: after a preemption the
#               slice is deleted and created again; at the end it is deleted. May be interrupted
#               and started again at any time: the training continues, and is found again
#
#   --type T        accelerator type, e.g. v4-32 (up, supervise)
#   --version V     TPU software version (tpu-ubuntu2204-base)
#   --project P     instead of gcloud's own
#   --spot          cheap, and may be preempted at any time
#   --queued        wait in the queue of requests instead of failing if there is no capacity
#   --setup CMD     shell command on every host before the installation: mount DIR's storage
#   --restarts R    in a row without a newer checkpoint, and failures to get or reach the slice,
#                   before giving up (5)
#   --poll S        seconds between checks of the slice (30)
#   --keep          supervise: do not delete the slice at the end
#   --dry-run       print the commands and do nothing
#
# What comes after -- is passed to byol_jax.train. DIR must be on storage that all hosts mount
# (Filestore or a bucket by gcsfuse, see docs/pods.md). Codes 0 (complete), 2 (the user's error) and
# 130 (Ctrl-C) are final; after any other, all hosts start again and resume.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}"; }
say() { printf 'tpu_vm.sh: %s\n' "$*" >&2; }
refuse() { printf 'error: %s\n' "$*" >&2; exit 2; }

verb=${1-}
case $verb in
  up | install | run | follow | status | stop | down | supervise) shift ;;
  -h | --help) usage; exit 0 ;;
  *) refuse "'$verb' is not a verb; see --help." ;;
esac
name='' zone='' type='' version=tpu-ubuntu2204-base project='' setup='' restarts=5 poll=30
spot=false queued=false keep=false dry=false
while (($#)) && [[ $1 != -- ]]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --spot) spot=true; shift; continue ;;
    --queued) queued=true; shift; continue ;;
    --keep) keep=true; shift; continue ;;
    --dry-run) dry=true; shift; continue ;;
    --name | --zone | --type | --version | --project | --setup | --restarts | --poll) ;;
    *) refuse "$1 is not an option; see --help. What train takes comes after --." ;;
  esac
  (($# > 1)) || refuse "$1 needs a value; see --help."
  printf -v "${1#--}" %s "$2"
  shift 2
done
shift $(($# > 0))

[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] ||
  refuse "--name is '$name'; expected lowercase letters, digits and hyphens, a letter first."
[[ -n $zone ]] || refuse '--zone is missing, e.g. --zone us-central2-b.'
[[ $restarts =~ ^(0|[1-9][0-9]*)$ ]] || refuse "--restarts is '$restarts'; expected a whole number."
[[ $poll =~ ^[0-9]+([.][0-9]+)?$ ]] || refuse "--poll is '$poll'; expected seconds."
[[ -n $type || $verb != up && $verb != supervise ]] ||
  refuse '--type is missing, e.g. --type v4-32.'
workdir=''
for ((i = 1; i <= $#; i++)); do
  case ${!i} in
    --workdir) j=$((i + 1)) && workdir=${!j-} ;;
    --workdir=*) workdir=${!i#*=} ;;
  esac
done
[[ $workdir == /* || $verb != run && $verb != supervise ]] ||
  refuse "--workdir is '$workdir'; give a full path on storage that all hosts mount, after --."

quoted() { printf '%q ' "$@"; }

# Everything that changes anything goes through here.
act() { if $dry; then quoted "$@" && echo; else "$@"; fi; }

tpus() { act gcloud compute tpus "$@" "--zone=$zone" ${project:+"--project=$project"}; }

# A shell command on one host or on all. A host that is gone is noticed within minutes.
on_hosts() { # all|NUMBER COMMAND
  tpus tpu-vm ssh "$name" "--worker=$1" --ssh-flag=-oConnectTimeout=20 \
    --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4 "--command=$2"
}

# The state of the slice, or of its request until that is granted; NONE if there is neither.
state() {
  local request='' node
  if $queued; then
    request=$(tpus queued-resources list '--format=value(name.basename(),state.state)') || return
    request=$(awk -v name="$name" '$1 == name { print $2 }' <<<"$request")
    [[ $request == ACTIVE ]] || { echo "${request:-NONE}"; return; }
  fi
  node=$(tpus tpu-vm list '--format=value(name.basename(),state)') || return
  node=$(awk -v name="$name" '$1 == name { print $2 }' <<<"$node")
  echo "${node:-${request:-NONE}}"
}

create() {
  local options=("--accelerator-type=$type")
  $spot && options+=(--spot)
  if $queued; then
    options+=("--node-id=$name" "--runtime-version=$version")
    tpus queued-resources create "$name" "${options[@]}"
  else
    tpus tpu-vm create "$name" "--version=$version" "${options[@]}"
  fi
}

down() {
  if $queued; then
    tpus queued-resources delete "$name" --force --quiet
  else
    tpus tpu-vm delete "$name" --quiet
  fi
}

# Create the slice if there is none, and wait. One that was lost is deleted: then, and if
# creating fails, this fails, and can be tried again.
ready() {
  local found created=false
  while true; do
    found=$(state) || return
    case $found in
      READY) return ;;
      NONE)
        $created && return 1
        say "creating $name ($type)"
        create || return
        created=true
        continue
        ;;
      FAILED | SUSPENDED | PREEMPTED | TERMINATED | STOPPED | HIDDEN | UNKNOWN)
        say "$name is $found: deleting it"
        down || true
        return 1
        ;;
    esac
    say "$name is $found"
    sleep "$poll"
  done
}

install() {
  local here archive="${TMPDIR:-/tmp}/byol_jax.$$.tar.gz"
  here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) || return
  act git -C "$here" archive --format=tar.gz --output="$archive" HEAD || return
  tpus tpu-vm scp "$archive" "$name:byol_jax.tar.gz" --worker=all || return
  act rm -f "$archive"
  [[ -z $setup ]] || on_hosts all "$setup" || return
  # uv brings its own Python: that of the TPU images may be too old.
  on_hosts all 'set -e; mkdir -p byol_jax; cd byol_jax; tar -xzf ../byol_jax.tar.gz
python3 -m pip install --quiet --user uv
python3 -m uv venv --quiet --allow-existing --python 3.12 .venv
python3 -m uv pip install --quiet --python .venv/bin/python -r requirements.txt -e ".[tpu]"'
}

# What the hosts do. In ~/.byol_jax: pid (of the process group), command, log, code (when it ended).
# shellcheck disable=SC2016
alive='d=~/.byol_jax; mkdir -p $d; alive() { kill -0 "$(cat $d/pid 2>/dev/null)" 2>/dev/null; }'
line=$(quoted "$@")
same="[ \"\$(cat \$d/command 2>/dev/null)\" = $(quoted "$line")]"
(($#)) || same=true # status alone

# The log is kept next to the run too, since a lost slice loses its disks.
start() {
  # shellcheck disable=SC2016
  local body='trap : TERM; d=$1 w=$2; shift 2; "$@" >$d/log 2>&1; echo $? >$d/code
mkdir -p "$w/logs" && cat $d/log >>"$w/logs/$(hostname).log"'
  on_hosts all "$alive; if alive; then echo 'a run is going on here'; exit 1; fi
cd byol_jax || exit; rm -f \$d/code; printf %s $(quoted "$line")>\$d/command; : >\$d/log
setsid nohup bash -c $(quoted "$body")run \$d $(quoted "$workdir")\
.venv/bin/python -m byol_jax.train $line>/dev/null 2>&1 </dev/null &
echo \$! >\$d/pid"
}

# shellcheck disable=SC2016
follow() {
  on_hosts all 'd=~/.byol_jax; [ -e $d/pid ] || { echo "nothing was started here"; exit 1; }
tail --pid="$(cat $d/pid)" -n 200 -s 0.2 -f $d/log | sed -u "s/^/[$(hostname)] /"
exit "$(cat $d/code 2>/dev/null || echo 137)"'
}

# One line per host: running, other (another command runs), none, or the code that it ended with.
codes() {
  on_hosts all "$alive; same() { $same; }
if alive; then if same; then echo running; else echo other; fi
elif same && [ -e \$d/pid ]; then cat \$d/code 2>/dev/null || echo 137; else echo none; fi"
}

# shellcheck disable=SC2016
stop() {
  on_hosts all "$alive"'; alive && kill -TERM -- "-$(cat $d/pid)"
for i in $(seq 120); do alive || exit 0; sleep 1; done; kill -KILL -- "-$(cat $d/pid)"'
}

newest() {
  on_hosts 0 "ls -- $(quoted "$workdir/checkpoints")2>/dev/null || true" |
    awk 'BEGIN { n = -1 } /^[0-9]+$/ && $1 > n { n = $1 } END { print n }'
}

# Whether the codes of all hosts are the last word; then `final` is the run's.
is_final() {
  final=$(sort -un <<<"$1")
  [[ $final != 0 ]] || return 0
  final=$(grep -xE '2|130' <<<"$1" | head -n 1)
  [[ -n $final ]]
}

# One check, and what needs to be done. Succeeds when it is over, with `final`.
attempt() {
  local found step
  ready || return
  found=$(codes) || { say 'not all hosts answer'; return 1; }
  [[ $found != *other* ]] || refuse 'another run is going on there; stop it first.'
  step=$(newest) || return
  ((step > last && count > 0)) && count=0
  last=$step
  if [[ $found != *running* ]]; then
    # A code from before we started counts only if the run was complete.
    is_final "$found" && [[ $final == 0 ]] && return
    count=$((count + 1))
    if ((count > restarts)); then
      say "gave up after $restarts restarts without a newer checkpoint"
      final=1
      return
    fi
    say "starting on all hosts (restart $count of $restarts, newest checkpoint ${step/#-1/none})"
    install || return
    start || return
  fi
  failures=0
  set -m # in its own group, to end it with all of its connections
  follow </dev/null &
  following=$!
  set +m
  wait "$following" || true
  found=$(codes) || { say 'the hosts were lost'; return 1; }
  is_final "$found" || { say "ended with ${found//$'\n'/ }"; return 1; }
}

left() {
  [[ -z $following ]] || kill -- "-$following" 2>/dev/null || true
  say 'what was started goes on, and costs money: supervise again, or stop and down'
}

supervise() {
  trap 'left; exit 143' TERM
  trap 'left; exit 130' INT
  until attempt; do
    failures=$((failures + 1))
    if ((failures > restarts)); then
      say "gave up: nothing could be started $failures times in a row"
      final=1
      break
    fi
    sleep "$poll"
  done
  trap - TERM INT
  $keep || down || say "could not delete $name: delete it by hand, it costs money"
  say "ended with code $final"
  exit "$final"
}

following='' final='' last=-1 count=-1 failures=0
if $dry; then
  case $verb in
    up) create ;;
    run) start ;;
    status) codes ;;
    supervise) create && install && start && follow && down ;;
    *) "$verb" ;;
  esac
  exit
fi
case $verb in
  up) ready || ready ;;
  run) start ;;
  status)
    echo "$name is $(state)"
    codes
    ;;
  *) "$verb" ;;
esac
