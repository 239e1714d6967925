#!/usr/bin/env bash
# Gradients of every target task, one after the other: bash scripts/2_get_val_data_grads_all.sh
set -euo pipefail
export PATH="$PATH:$PWD/.venv/bin"
exec icons job val-grads "$@"
