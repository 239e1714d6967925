#!/usr/bin/env bash
# Checks and indexes all chunks: bash scripts/1_merge_train_gradient.sh
set -euo pipefail
exec icons merge "${ICONS_CONFIG:-configs/llava_665k.yaml}" "$@"
