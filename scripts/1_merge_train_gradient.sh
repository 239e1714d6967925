#!/usr/bin/env bash
#SBATCH --job-name=icons-merge
#SBATCH --requeue
#SBATCH --open-mode=append
# Checks and indexes all chunks: bash scripts/1_merge_train_gradient.sh
set -euo pipefail
export PATH="$PATH:$PWD/.venv/bin"
exec icons job merge "$@"
