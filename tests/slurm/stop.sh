#!/usr/bin/env bash
# Stop the SLURM that start.sh started, each process by the id in its own pid file, and delete its folder.
set -euo pipefail

folder=${LETHE_SLURM:-/tmp/lethe-slurm-$(id -u)}

running() { # a process that has ended but was not yet reaped by its parent counts as stopped
    grep -qs '^State:[[:space:]]*[^Z]' "/proc/$1/status"
}

stop() {
    local file=$folder/$1.pid process
    [ -s "$file" ] || return 0
    process=$(cat "$file")
    if [ "$(cat "/proc/$process/comm" 2>/dev/null)" = "$1" ]; then # the id may have gone to another program since
        kill "$process"
        for _ in $(seq 150); do
            running "$process" || return 0
            sleep 0.2
        done
        echo "stop.sh: $1 (process $process) does not end; its folder $folder is left as it is" >&2
        exit 1
    fi
}

if [ -s "$folder/slurm.conf" ]; then
    SLURM_CONF=$folder/slurm.conf timeout 20 scancel --user="$(id -un)" 2>/dev/null || true
fi
stop slurmd
stop slurmctld
stop munged
rm -rf "$folder"
