#!/usr/bin/env bash
# A newcomer's first hour, every line of it: from a clone to a selection of one's own data and what it is worth.
#
#   bash benchmarks/first_hour.sh DATA FOLDER [CLONED FROM]
#
# DATA holds train.json, val/TASK.json and images/ in LLaVA's format; FOLDER is new. Half of each task's records choose
# the data, the other half are held out. Prints every command, all that it says, and its seconds; FOLDER as ~ and where
# it was cloned from as REPOSITORY. Last run: benchmarks/results/first_hour.txt.
set -euo pipefail
from=${3:-$(cd "$(dirname "$0")/.." && pwd)}
mkdir "$2"
cp -r "$1" "$2/data"
cd "$2"
exec > >(exec sed -u -e "s#$PWD#~#g" -e "s#$from#REPOSITORY#g") 2>&1
printf '%s, ' "$(date -I)" && lscpu | sed -n 's/^Model name: *//p;s/^CPU(s): */cores: /p' | paste -sd,

step() {
    printf '\n$ %s\n' "$*"
    local TIMEFORMAT='(%0R s)'
    { time "$@"; } 2>&1
}

step git clone --quiet "$from" icons
step make --no-print-directory -C icons install 2>&1 | grep -v '^WARNING: Location'
printf '\n$ . icons/.venv/bin/activate\n'
. icons/.venv/bin/activate

printf '\n# Half of each task chooses, half is held out.\n'
python - <<'PYTHON'
import json, pathlib

for path in sorted(pathlib.Path("data", "val").glob("*.json")):
    records = json.loads(path.read_text())
    for part, name in ((records[::2], "val"), (records[1::2], "held-out")):
        pathlib.Path(name).mkdir(exist_ok=True)
        pathlib.Path(name, path.name).write_text(json.dumps(part))
        print(f"{name}/{path.name}: {len(part)} records")
PYTHON

tasks=()
for path in val/*.json; do
    tasks+=(--task "$(basename "$path" .json)=$path")
done
step icons tiny-model model
step icons init mine --model model --data data/train.json --images data/images "${tasks[@]}"
step icons validate mine/config.yaml

printf '\n# The warm-up is too short, it says: more data and more epochs. And the held-out records, for evaluate.\n'
step sed -i -e 's/^  fraction: 0.05 /  fraction: 1.0 /' -e 's/^  max_steps: 500 /  max_steps: 300 /' \
    -e 's/^  epochs: 1$/  epochs: 6/' mine/config.yaml
python - <<'PYTHON'
import pathlib, re

held_out = "".join(
    f"\n    - {{name: {path.stem}, data: ../{path}, images: ../data/images}}"
    for path in sorted(pathlib.Path("held-out").glob("*.json"))
)
config = pathlib.Path("mine/config.yaml")
config.write_text(re.sub(r"\n  tasks: \[\].*", f"\n  tasks:{held_out}", config.read_text()))
PYTHON
step grep -n -A9 -E '^(warmup|evaluation):' mine/config.yaml
step icons run mine/config.yaml
step icons status mine/config.yaml
for method in proportional random; do
    step icons generalist mine/config.yaml --set selection.method=$method
done
step icons compare mine/config.yaml vote-20 proportional-20
for name in vote-20 proportional-20 random-20; do
    step icons finetune mine/config.yaml --selection "$name"
done
step icons evaluate mine/config.yaml
step icons report mine/config.yaml
step icons inspect mine/config.yaml --row 7
step icons export mine/config.yaml --selection proportional-20 --format messages exported
