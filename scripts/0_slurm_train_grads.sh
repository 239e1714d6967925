#!/usr/bin/env bash
#SBATCH --job-name=icons-train-grads
#SBATCH --array=0-199
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@120
# Gradients of the training data at checkpoint 500, one chunk an array task: sbatch scripts/0_slurm_train_grads.sh 500
# The array must cover train.num_chunks; tasks beyond it do nothing. docs/cluster.md has the options.
# Without Slurm: bash scripts/0_slurm_train_grads.sh 500 --chunk 3
set -euo pipefail
export PATH="$PATH:$PWD/.venv/bin"
exec icons job train-grads "$@"
