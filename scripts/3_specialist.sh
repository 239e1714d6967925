#!/usr/bin/env bash
# Stage 1, influence of every sample on every task: bash scripts/3_specialist.sh
set -euo pipefail
exec icons specialist "${ICONS_CONFIG:-configs/llava_665k.yaml}" "$@"
