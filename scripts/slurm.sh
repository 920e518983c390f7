#!/usr/bin/env bash
# Executes a run directory in a SLURM job, on one or several nodes, with one process per GPU. Shortly before its time limit
# the job saves a checkpoint and requeues itself, and then resumes. Submit it from the folder of the command:
#
#     run=$(python train.py experiment=d2l trainer=auto execute=false)
#     sbatch --nodes=2 --gpus-per-node=8 scripts/slurm.sh "$run"
#
# Options of sbatch take precedence over these:
#SBATCH --job-name=fcn
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# B: send the signal to this script, 120 s before the limit. torchrun exits with 1 after any signal, so its exit status
# does not tell the script about the limit.
#SBATCH --signal=B:USR1@120
set -uo pipefail
run=${1:?usage: sbatch scripts/slurm.sh RUN_DIR}

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100  # seconds to finish the step and save; torchrun's default of 30 may be too few
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --wait=300 torchrun \
  --nnodes="$SLURM_NNODES" \
  --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" \
  --rdzv-id="$SLURM_JOB_ID" \
  --rdzv-backend=c10d \
  --rdzv-endpoint="$head:$((20000 + SLURM_JOB_ID % 10000))" \
  -m fcn.worker "$run" &
step=$!

preempted=
trap 'preempted=yes; kill -TERM "$step"' USR1  # every version of torchrun forwards TERM to its ranks
trap 'kill -TERM "$step"' TERM  # from scancel, or from SLURM, which then requeues the job itself: only save
wait "$step"
status=$?
while kill -0 "$step" 2>/dev/null; do  # a trap ends `wait` early
  wait "$step"
  status=$?
done

failed() { grep -q '"status": "failed"' "$run/summary.json" 2>/dev/null; }
if [[ -n $preempted && $status -ne 0 ]] && ! failed; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
