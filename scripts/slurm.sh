#!/usr/bin/env bash
# Executes a run directory in a SLURM job, on one node or several; a process per GPU. Ahead of the end of its time the job
# saves and requeues itself, and goes on where it was. To be submitted from the folder that the run's path starts in:
#
#     run=$(python train.py experiment=d2l trainer=auto execute=false)
#     sbatch --nodes=2 --gpus-per-node=8 scripts/slurm.sh "$run"
#
# What is given to sbatch wins over these:
#SBATCH --job-name=fcn
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# B: to this script, 120 s ahead. torchrun ends with 1 whatever the signal was, so that only the script can know of it.
#SBATCH --signal=B:USR1@120
set -uo pipefail
run=${1:?usage: sbatch scripts/slurm.sh RUN_DIR}

export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100  # seconds for the last step and saving; torchrun's own 30 may be too few
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
trap 'preempted=yes; kill -TERM "$step"' USR1  # what torchrun of every version passes on to its ranks
trap 'kill -TERM "$step"' TERM  # scancel, or SLURM that will requeue the job by itself: only save
wait "$step"
status=$?
while kill -0 "$step" 2>/dev/null; do  # a trap ends `wait` before the step has ended
  wait "$step"
  status=$?
done

failed() { grep -q '"status": "failed"' "$run/summary.json" 2>/dev/null; }
if [[ -n $preempted && $status -ne 0 ]] && ! failed; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
