#!/usr/bin/env bash
#SBATCH --job-name=icons-warmup
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@120
# The warm-up adapter: sbatch scripts/warmup.sh, or bash scripts/warmup.sh. docs/cluster.md has the options.
set -euo pipefail
export PATH="$PATH:$PWD/.venv/bin"
exec icons job warmup "$@"
