#!/usr/bin/env bash
#SBATCH --job-name=icons-train-grads
#SBATCH --array=0-199
#SBATCH --gpus=1
# Gradients of the training data, one chunk an array task: sbatch scripts/0_slurm_train_grads.sh 500
# 500 is the warm-up checkpoint. The array must cover train.num_chunks (sbatch --array=0-9 ... for ten).
# Without Slurm: bash scripts/0_slurm_train_grads.sh 500 --chunk 3
set -euo pipefail
checkpoint=${1:-500}
shift || true
exec icons train-grads "${ICONS_CONFIG:-configs/llava_665k.yaml}" --set "gradients.checkpoints=[$checkpoint]" \
    ${SLURM_ARRAY_TASK_ID:+--chunk "$SLURM_ARRAY_TASK_ID"} "$@"
