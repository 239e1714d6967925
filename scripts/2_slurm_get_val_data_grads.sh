#!/usr/bin/env bash
#SBATCH --job-name=icons-val-grads
#SBATCH --array=0-31
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@120
# Gradients of the target tasks at checkpoint 500, one an array task: sbatch scripts/2_slurm_get_val_data_grads.sh 500
# The array must cover the config's tasks; array tasks beyond them do nothing. docs/cluster.md has the options.
# Without Slurm: bash scripts/2_slurm_get_val_data_grads.sh 500 --task gqa
set -euo pipefail
export PATH="$PATH:$PWD/.venv/bin"
exec icons job val-grads "$@"
