#!/bin/bash
# One stage on several nodes of a Slurm cluster, until it is trained:
#
#   sbatch docs/slurm.sh configs/celeba/srf64.yaml train.precision=bf16
#
# Submit it from the repository's folder, in the environment the package is installed in. The stage's
# folder (out=...) has to lie on storage that all nodes see. The job ends with the training; when its
# time is up, or when it is preempted, it saves, is queued again, and goes on where it was.
#SBATCH --job-name=csrflow
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
PROCESSES=$SLURM_GPUS_ON_NODE
export MASTER_ADDR MASTER_PORT PROCESSES

# What each node runs: an agent, which starts a process for each of the node's GPUs
node='exec torchrun --nnodes "$SLURM_NNODES" --node_rank "$SLURM_NODEID" \
  --nproc_per_node "$PROCESSES" --master_addr "$MASTER_ADDR" --master_port "$MASTER_PORT" \
  tools/train.py "$@"'

# USR1 comes 300 seconds before the time is up, TERM before preemption. srun hands TERM to the nodes,
# whose processes finish their step, save, and end
stopping=
stop() {
  stopping=1
  kill -TERM "$steps"
}
srun --kill-on-bad-exit=0 bash -c "$node" node "$@" &
steps=$!
trap stop USR1 TERM

code=1
while kill -0 "$steps" 2>/dev/null; do # a signal ends `wait` as well
  wait "$steps"
  code=$?
done
if [ -n "$stopping" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
