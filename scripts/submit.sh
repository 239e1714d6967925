#!/usr/bin/env bash
# Submits what is missing of a run, each stage behind the one it needs: bash scripts/submit.sh CONFIG [sbatch options]
# Run again after a failure it adds what is missing then. --dry-run shows the commands. docs/cluster.md has the rest.
set -euo pipefail
scripts=$(dirname "$(realpath "$0")")
export PATH="$PATH:$scripts/../.venv/bin"
exec icons submit --scripts "$scripts" "$@"
