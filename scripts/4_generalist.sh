#!/usr/bin/env bash
#SBATCH --job-name=icons-generalist
#SBATCH --requeue
#SBATCH --open-mode=append
# Stage 2, the vote and the selection: bash scripts/4_generalist.sh
set -euo pipefail
export PATH="$PATH:$PWD/.venv/bin"
exec icons job generalist "$@"
