# What train.sbatch, eval.sbatch and prepare.sbatch share; they read this file. docs/slurm.md says what to set where.
# shellcheck shell=bash

PYTHON=${PYTHON:-python}
MAX_RESTARTS=${MAX_RESTARTS:-100}
left=$PWD/.slurm-$SLURM_JOB_ID.left # what a run was asked for when it saved itself and left: REQUEUE or SAVE; or MISTAKE

say() { echo "slurm: $*"; }
fail() {
  echo "slurm: $*" >&2
  exit 1
}

# Runs `python -m mvit_train "$@"` as a process for each task, and comes back where that is asked for.
run_model() {
  check_restarts
  check_layout
  export MASTER_ADDR=${MASTER_ADDR:-$(first_address)}
  [[ -n $MASTER_ADDR ]] || fail "the first of $SLURM_JOB_NODELIST has no address that others can reach: set MASTER_ADDR"
  say "job $SLURM_JOB_ID, start $((restarts + 1)): $nodes x $per_node processes, the first at $MASTER_ADDR"
  local settings=("trainer.num_nodes=$nodes" "trainer.devices=$per_node")
  if [[ -n ${STAGE:-} ]]; then
    stage
    settings+=("data.root='$staged_root'")
  fi
  # A signal that is ignored stays ignored across exec: none ends an interpreter that still starts.
  answer_for srun --kill-on-bad-exit=1 bash -c 'trap "" USR1 USR2; exec "$@"' bash \
    "$PYTHON" -m mvit_train "${settings[@]}" "$@"
}

# Runs `python -m data_prep.$1 "${@:2}"` on this task's share of the files.
run_share() {
  (($# > 0)) || fail "which command? python -m data_prep lists them"
  [[ -n ${SLURM_ARRAY_TASK_ID:-} ]] || fail "this is for arrays: sbatch --array=0-31 ..."
  check_restarts
  # shellcheck disable=SC2153 # it is no misspelling
  local count=$SLURM_ARRAY_TASK_COUNT first=$SLURM_ARRAY_TASK_MIN last=$SLURM_ARRAY_TASK_MAX
  local index=$((SLURM_ARRAY_TASK_ID - first))
  ((last - first + 1 == count)) || fail "--array must be one range, such as 0-31"
  say "job ${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID, start $((restarts + 1)): share $index of $count"
  answer_for interruptible srun "$PYTHON" -m "data_prep.$1" "${@:2}" \
    --workers "${SLURM_CPUS_PER_TASK:-1}" --shard "$index/$count"
}

# A preparation that SIGTERM has interrupted goes on from where it was.
interruptible() {
  local status=0
  "$@" || status=$?
  ((status != 130)) || echo REQUEUE >"$left"
  return "$status"
}

check_restarts() {
  restarts=${SLURM_RESTART_COUNT:-0}
  [[ $MAX_RESTARTS =~ ^[0-9]+$ ]] || fail "MAX_RESTARTS=$MAX_RESTARTS is not a number"
  ((restarts <= MAX_RESTARTS)) || give_up
}

# One process for each GPU, the same number on every node.
check_layout() {
  nodes=$SLURM_JOB_NUM_NODES per_node=${SLURM_NTASKS_PER_NODE:-1}
  local tasks=${SLURM_NTASKS:-$((nodes * per_node))} gpus=${SLURM_GPUS_ON_NODE:-$per_node}
  ((tasks == nodes * per_node)) ||
    fail "$tasks tasks are not $per_node on each of $nodes nodes: give --nodes and --ntasks-per-node, not --ntasks"
  [[ -z ${SLURM_GPUS_PER_TASK:-} ]] || fail "--gpus-per-task hides a node's other GPUs: give --gpus-per-node"
  ((gpus == per_node)) || fail "$gpus GPUs for $per_node processes on a node: give --ntasks-per-node=$gpus"
  if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun does not take it from sbatch since Slurm 22.05
  fi
}

# The first node's address as a number: on a name that does not resolve, processes would wait until the time is over.
first_address() {
  local first address name
  first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
  name=$(scontrol show node "$first" | sed -n 's/.*NodeAddr=\([^ ]*\).*/\1/p')
  if [[ $name =~ ^[0-9.]+$ || $name == *:* ]]; then
    echo "$name"
    return
  fi
  for name in "$name" "$first" "$(hostname)"; do # which a node's own /etc/hosts may call 127.0.1.1
    address=$(getent ahostsv4 "$name" | sed -n '/^127\./d; s/ .*//p' | sed -n 1p) || true
    [[ -z $address ]] || break
  done
  if [[ -z $address ]] && ((nodes == 1)); then
    address=127.0.0.1
  fi
  echo "$address"
}

# Copies or unpacks $STAGE to the local disk of every node, and leaves in `staged_root` where the data lie.
stage() {
  [[ -r $STAGE ]] || fail "STAGE=$STAGE: no such folder or tar file"
  staged=${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/mvit_train-$SLURM_JOB_ID
  on_every_node bash -c "$(declare -f stage_here); stage_here \"\$@\"" bash "$STAGE" "$staged" || fail "not staged"
  local entries=("$staged"/*)
  staged_root=$staged
  if ((${#entries[@]} == 1)) && [[ -d ${entries[0]} ]]; then # a tar file of one folder
    staged_root=${entries[0]}
  fi
  if [[ -e $staged_root/train.csv ]] && grep -q '^"\?/' "$staged_root/train.csv"; then
    say "warning: $STAGE names videos by absolute paths in train.csv; these are read where they are"
  fi
}

# On one node; an earlier start of this job may have left a copy.
stage_here() {
  local begin=$SECONDS
  [[ ! -d $2 ]] || return 0
  rm -rf "$2.part"
  if mkdir -p "$2.part" && if [[ -d $1 ]]; then cp -R "$1/." "$2.part"; else tar -xf "$1" -C "$2.part"; fi; then
    mv "$2.part" "$2"
    echo "slurm: $1 is at $2 on $(hostname), $((SECONDS - begin)) s"
  else
    rm -rf "$2.part"
    echo "slurm: STAGE=$1 does not get to $2 on $(hostname), where are free: $(df -h --output=avail,target "${2%/*}" | sed 1d)" >&2
    return 1
  fi
}

unstage() {
  if [[ $(fact JobState) == RUNNING ]]; then
    on_every_node rm -rf "$staged"
  else # no step can start any more
    rm -rf "$staged"
  fi
}

on_every_node() { srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 "$@"; }

# Runs a command, and decides what its end means for the job.
answer_for() {
  local status=0 wish=NOTHING
  rm -f "$left"
  trap : TERM # it reaches this script, too, which outlives its step
  MVIT_TRAIN_LEFT=$left "$@" || status=$?
  if [[ -s $left ]]; then
    wish=$(<"$left")
    rm -f "$left"
  fi
  [[ -z ${staged:-} ]] || unstage
  case $(fact JobState):$wish in
    *:MISTAKE) status=2 ;; # srun may have ended another process, with its own status, before that had found it, too
    RUNNING:REQUEUE) come_back ;;
    *:NOTHING) if ((status != 0)) && preempted; then come_back; fi ;;
    RUNNING:SAVE) if preempted; then come_back; else say "saved and left on SIGTERM: not requeued"; fi ;;
    *) # Slurm has ended the job: by scontrol requeue or preemption, and then it queues it; by scancel; or by its time
      if [[ $(fact Reason) == TimeLimit ]]; then come_back; fi
      ;;
  esac
  exit "$status"
}

# A fact of this job, in Slurm's words.
fact() { scontrol show job --oneliner "$SLURM_JOB_ID" | sed -n "s/\(.* \)\?$1=\([^ ]*\).*/\2/p"; }

# Whether a job of higher priority wants this one's place. Slurm queues those again which it has to end, but not those
# that leave by themselves within the time of grace.
preempted() {
  local since
  since=$(fact PreemptTime)
  [[ $(fact JobState) == RUNNING && $since == 20* && ! $since < $(fact StartTime) ]]
}

come_back() {
  ((restarts < MAX_RESTARTS)) || give_up
  scontrol requeue "$SLURM_JOB_ID" || fail "the job cannot be requeued; what it has saved is there"
  say "requeued"
  exit 0
}

give_up() { fail "MAX_RESTARTS=$MAX_RESTARTS is reached, not requeued. What it has saved is there: run_id=$SLURM_JOB_ID goes on"; }
