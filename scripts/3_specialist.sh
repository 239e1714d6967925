#!/usr/bin/env bash
#SBATCH --job-name=icons-specialist
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR2@120
# Stage 1, influence of every sample on every task: bash scripts/3_specialist.sh
set -euo pipefail
export PATH="$PATH:$PWD/.venv/bin"
exec icons job specialist "$@"
