#!/usr/bin/env bash
# Start a SLURM of one node with two pretend GPUs, for the tests. Everything of it (keys, configuration, logs, process
# ids) lies in one folder and it listens on ports that were free, so that another SLURM on this machine is left alone.
#
#   eval "$(tests/slurm/start.sh)"      start it, or find it running; then sbatch, squeue, snakemake use it
#   tests/slurm/stop.sh                 stop it
#
# Wants the programs of Debian's packages munge, slurmctld, slurmd and slurm-client.
# LETHE_SLURM names the folder (default /tmp/lethe-slurm-UID). The node claims more than the machine may have.
set -euo pipefail

folder=${LETHE_SLURM:-/tmp/lethe-slurm-$(id -u)}
cpus=8 memory_mb=32000 gpus=2
host=$(hostname -s)
user=$(id -un)
export SLURM_CONF=$folder/slurm.conf
PATH=${PATH//"$folder/bin:"/}:/usr/sbin # not our own srun

fail() {
    echo "start.sh: $1" >&2
    exit 1
}

running() { # whether the process named in a pid file is alive and no zombie
    [ -s "$1" ] && grep -qs '^State:[[:space:]]*[^Z]' "/proc/$(cat "$1")/status"
}

wait_for() { # up to 30 seconds for a command to succeed
    for _ in $(seq 150); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    fail "waited in vain for: $*; see the logs in $folder"
}

node_is_up() { sinfo --noheader --format=%T | grep -qE '^(idle|mixed|allocated)$'; }

free_port() { # the first port from $1 on that nobody listens to
    local port=$1
    while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do
        port=$((port + 1))
    done
    echo "$port"
}

write_configuration() {
    cat >"$folder/gres.conf" <<CONF
NodeName=$host Name=gpu Type=pretend File=$folder/gpus/gpu[0-$((gpus - 1))]
CONF
    cat >"$SLURM_CONF" <<CONF
ClusterName=lethe
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port 16000)
SlurmdPort=$(free_port 20000)
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
# A job whose node went down starts again when its credential has expired, after two minutes by default.
AuthInfo=socket=$folder/munge.socket,cred_expire=10
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# No control groups: SLURM adds up the memory of a job's processes every second and ends a job above its request.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
KillWait=5
# No accounting database: ended jobs stay in squeue for an hour.
AccountingStorageType=accounting_storage/none
MinJobAge=3600
MailProg=/bin/true
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
DefMemPerCPU=1000
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory_mb Gres=gpu:pretend:$gpus State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=1-00:00:00 State=UP
CONF
}

for program in munged slurmctld slurmd sbatch srun; do
    command -v "$program" >/dev/null || fail "$program is missing; apt-get install munge slurmctld slurmd slurm-client"
done
getent hosts "$host" >/dev/null || fail "the host name $host has no address; add it to /etc/hosts"

umask 022
mkdir -p "$folder"/{bin,gpus,munge,spool,state}
chmod 700 "$folder/munge"
[ -s "$folder/munge/key" ] || (umask 077 && head -c 256 /dev/urandom >"$folder/munge/key")

# SLURM numbers GPUs by their device files and sets CUDA_VISIBLE_DEVICES; any character device will do.
for ((gpu = 0; gpu < gpus; gpu++)); do
    ln -sfn /dev/null "$folder/gpus/gpu$gpu"
done

# The executor plugin starts srun without the SLURM_* variables, and so without SLURM_CONF.
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$SLURM_CONF" "$(command -v srun)" >"$folder/bin/srun"
chmod 755 "$folder/bin/srun"

# From the choice of ports until they are taken: another start.sh would choose the same ones.
exec 9>"/tmp/lethe-slurm-$(id -u).lock"
flock 9
[ -s "$SLURM_CONF" ] || write_configuration

if ! running "$folder/munged.pid"; then
    munged --force --socket="$folder/munge.socket" --key-file="$folder/munge/key" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munge/seed" >&2 9>&-
    wait_for munge --socket="$folder/munge.socket" --no-input
fi
running "$folder/slurmctld.pid" || slurmctld -c >&2 9>&-
running "$folder/slurmd.pid" || slurmd -c >&2 9>&-
wait_for node_is_up

echo "export SLURM_CONF='$SLURM_CONF' PATH='$folder/bin':\"\$PATH\""
