#!/bin/bash
# A Ray node and a Prefect worker in one container: who drives runs needs a node beside him.
#
#   beside.sh ray start --block ... -- prefect worker start ...
#
# The container ends with either of the two and is started anew: a node does not come back by itself to a head that was
# lost, and a worker without one would fail every run. Asked to end, Prefect's worker waits for its runs, perhaps for days,
# and they would be killed with the container; so they are asked as well, and leave their records in order.
set -euo pipefail

readonly PATIENCE=100 # seconds for runs to end; the container's own must be longer

node=()
while [[ $# -gt 0 && $1 != -- ]]; do
    node+=("$1")
    shift
done
worker=("${@:2}")
if [[ ${#node[@]} -eq 0 || ${#worker[@]} -eq 0 ]]; then
    echo "beside.sh: needs two commands, with -- between them" >&2
    exit 2
fi

"${node[@]}" &
node_pid=$!
"${worker[@]}" &
worker_pid=$!

runs_of() { # PID: the processes that it started, each a run's
    cat "/proc/$1/task/"*/children 2> /dev/null || true
}

end() { # CODE
    trap '' TERM INT
    local run runs until=$((SECONDS + PATIENCE))
    runs=$(runs_of "$worker_pid")
    kill -TERM "$worker_pid" 2> /dev/null || true # takes no run any more
    for run in $runs; do
        kill -TERM "$run" 2> /dev/null || true
    done
    for run in $runs; do
        while kill -0 "$run" 2> /dev/null && [[ $SECONDS -lt $until ]]; do
            sleep 0.2
        done
    done
    kill -KILL "$worker_pid" 2> /dev/null || true # it may wait for what is no more
    kill -TERM "$node_pid" 2> /dev/null || true
    exit "$1"
}

trap 'end 0' TERM INT
wait -n "$node_pid" "$worker_pid" || true
echo "beside.sh: one of the two ended, so the other one does" >&2
end 1
