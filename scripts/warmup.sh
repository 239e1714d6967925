#!/usr/bin/env bash
#SBATCH --job-name=icons-warmup
#SBATCH --gpus=1
# The warm-up adapter: sbatch scripts/warmup.sh, or bash scripts/warmup.sh
# ICONS_CONFIG names the config; further options go to icons.
set -euo pipefail
exec icons warmup "${ICONS_CONFIG:-configs/llava_665k.yaml}" "$@"
