#!/usr/bin/env bash
# Stage 2, the vote and the selection: bash scripts/4_generalist.sh
set -euo pipefail
exec icons generalist "${ICONS_CONFIG:-configs/llava_665k.yaml}" "$@"
