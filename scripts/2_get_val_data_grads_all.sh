#!/usr/bin/env bash
# Gradients of every target task, one after the other: bash scripts/2_get_val_data_grads_all.sh 500
set -euo pipefail
checkpoint=${1:-500}
shift || true
exec icons val-grads "${ICONS_CONFIG:-configs/llava_665k.yaml}" --set "gradients.checkpoints=[$checkpoint]" "$@"
