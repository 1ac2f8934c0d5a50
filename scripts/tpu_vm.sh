#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A training run on a Cloud TPU slice, from this machine. docs/tpu_vm.md walks through it.
#
#   scripts/tpu_vm.sh create  --name=N --zone=Z --accelerator=TYPE [--spot]     ask for a slice and wait until it is there
#   scripts/tpu_vm.sh install --name=N --zone=Z [--repository=URL --branch=B]   this checkout's commit, or a repository's
#   scripts/tpu_vm.sh launch  --name=N --zone=Z --config=FILE --workdir=DIR [--config.field=value ...]
#   scripts/tpu_vm.sh status  --name=N --zone=Z                                 of the slice and of every worker
#   scripts/tpu_vm.sh logs    --name=N --zone=Z [--worker=I] [--follow]
#   scripts/tpu_vm.sh stop    --name=N --zone=Z                                 SIGTERM: the run saves and leaves
#   scripts/tpu_vm.sh resume  (flags of create, install and launch)             brings a preempted run back; repeatable
#   scripts/tpu_vm.sh collect --name=N --zone=Z --workdir=DIR --out=DIR         copies the run folder here
#   scripts/tpu_vm.sh delete  --name=N --zone=Z
#
# Everywhere: --project=P, --runtime=VERSION (create, resume), and --dry-run, which prints the commands and runs none.
set -euo pipefail

POLL_SECONDS=30

fail() {
    echo "error: $*" >&2
    exit 2
}

# Prints a command as it could be typed, then runs it; a dry run only prints.
run() {
    local word quote="'"
    printf '+'
    for word in "$@"; do
        [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//$quote/$quote\\$quote$quote}'"
        printf ' %s' "$word"
    done
    printf '\n'
    [ "$dry_run" = yes ] || "$@"
}

tpus() {
    local group="$1" verb="$2"
    shift 2
    run gcloud compute tpus "$group" "$verb" "$name" "$@" "--zone=$zone" ${project:+"--project=$project"}
}

# Runs a shell command on workers of the slice.
on_workers() {
    local which="$1" command="$2"
    tpus tpu-vm ssh "--worker=$which" "--command=$command"
}

# The state of the queued resource: ACTIVE, SUSPENDED, ..., or "absent".
state() {
    gcloud compute tpus queued-resources describe "$name" "--zone=$zone" ${project:+"--project=$project"} \
        '--format=value(state.state)' 2>/dev/null || echo absent
}

default_runtime() {
    case "$accelerator" in
        v6e-*) echo v2-alpha-tpuv6e ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        v5litepod-*) echo v2-alpha-tpuv5-lite ;;
        v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
        *) fail "--accelerator=$accelerator: no runtime version is known for it; give --runtime=VERSION" ;;
    esac
}

create() {
    need accelerator
    local version now
    version="${runtime:-$(default_runtime)}"
    tpus queued-resources create "--node-id=$name" "--accelerator-type=$accelerator" "--runtime-version=$version" \
        ${spot:+--spot}
    if [ "$dry_run" = yes ]; then
        echo "# then: wait until the state of the queued resource is ACTIVE"
        return
    fi
    while now="$(state)"; [ "$now" != ACTIVE ]; do
        case "$now" in FAILED | SUSPENDED | absent) fail "$name: the request ended as $now" ;; esac
        echo "$name is $now"
        sleep "$POLL_SECONDS"
    done
}

install() {
    local get
    if [ -n "$repository" ]; then
        get="$(printf 'if [ -d t5x_like/.git ]; then git -C t5x_like fetch -q origin; else git clone -q %q t5x_like; fi && git -C t5x_like checkout -q --detach %q' "$repository" "origin/$branch")"
    else
        archive="$(mktemp)"
        trap 'rm -f "$archive"' EXIT
        run git -C "$(dirname "${BASH_SOURCE[0]}")/.." archive --format=tar.gz "--output=$archive" HEAD
        run gcloud compute tpus tpu-vm scp "$archive" "$name:t5x_like.tar.gz" --worker=all "--zone=$zone" \
            ${project:+"--project=$project"}
        get="mkdir -p t5x_like && tar -xzf t5x_like.tar.gz -C t5x_like"
    fi
    # The images have Python 3.10; scripts/setup.sh takes the newest that it finds.
    on_workers all "sudo apt-get -qq update && sudo apt-get -qq install -y python3.11-venv && $get && cd t5x_like && . scripts/setup.sh && setup tpu"
}

launch() {
    need config
    need workdir
    local command
    command="$(printf ' %q' .venv/bin/python scripts/train.py "--config=$config" "--workdir=$workdir" "${overrides[@]}")"
    # A worker that has the run already is left alone, so that launching twice does no harm.
    on_workers all "cd t5x_like && if [ -f run.pid ] && kill -0 \$(cat run.pid) 2>/dev/null; then echo already running; else setsid nohup$command >>run.log 2>&1 </dev/null & echo \$! >run.pid; fi"
}

status() {
    tpus queued-resources describe '--format=value(state.state)'
    on_workers all "cd t5x_like && hostname && if kill -0 \$(cat run.pid) 2>/dev/null; then echo running; else echo not running; fi && tail -n 1 run.log"
}

logs() {
    on_workers "$worker" "tail -n 50 ${follow:+-f }t5x_like/run.log"
}

stop() {
    on_workers all "kill -TERM \$(cat t5x_like/run.pid) 2>/dev/null || echo not running"
}

resume() {
    need accelerator
    need config
    need workdir
    local now=SUSPENDED
    if [ "$dry_run" = yes ]; then
        echo "# taken for preempted: the state of the queued resource is SUSPENDED"
    else
        now="$(state)"
    fi
    case "$now" in
        ACTIVE) ;;
        absent) create && install ;;
        FAILED | SUSPENDED) delete && create && install ;;
        *) fail "$name is $now; wait until it is ACTIVE or SUSPENDED" ;;
    esac
    launch
}

collect() {
    need workdir
    need out
    run mkdir -p "$out"
    case "$workdir" in
        gs://*) run gcloud storage rsync --recursive "$workdir" "$out" ;;
        *)
            run gcloud compute tpus tpu-vm scp --recurse --worker=0 "$name:$(in_checkout "$workdir")" "$out" \
                "--zone=$zone" ${project:+"--project=$project"}
            ;;
    esac
}

# A folder as the training program sees it, from a worker's home.
in_checkout() {
    case "$1" in /*) echo "$1" ;; *) echo "t5x_like/$1" ;; esac
}

delete() {
    tpus queued-resources delete --force --quiet
}

need() {
    [ -n "${!1}" ] || fail "missing: --$1 (--help lists the flags)"
}

case "${1:-}" in
    create | install | launch | status | logs | stop | resume | collect | delete) subcommand="$1" ;;
    -h | --help) sed -n '3,16s/^# \{0,1\}//p' "$0"; exit ;;
    "") fail "missing: a subcommand; accepted: create, install, launch, status, logs, stop, resume, collect, delete" ;;
    *) fail "unknown subcommand '$1'; accepted: create, install, launch, status, logs, stop, resume, collect, delete" ;;
esac
shift

archive="" name="" zone="" project="" accelerator="" runtime="" spot="" repository="" branch=main
config="" workdir="" out="" worker=0 follow="" dry_run=no overrides=()
for word in "$@"; do
    value="${word#*=}"
    case "$word" in
        --config.*=*) overrides+=("$word") ;;
        --name=* | --zone=* | --project=* | --accelerator=* | --runtime=* | --repository=* | --branch=* | \
            --config=* | --workdir=* | --out=* | --worker=*)
            flag="${word%%=*}"
            [ -n "$value" ] || fail "$flag is empty"
            printf -v "${flag#--}" '%s' "$value"
            ;;
        --spot) spot=yes ;;
        --follow) follow=yes ;;
        --dry-run) dry_run=yes ;;
        -*) fail "unknown flag '${word%%=*}' (--help lists the flags; a value belongs to its flag: --flag=value)" ;;
        *) fail "'$word' stands alone; a value belongs to its flag: --flag=value" ;;
    esac
done
need name
need zone
[[ "$name" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || fail "--name=$name: expected lower-case letters, digits and dashes"
[[ "$zone" =~ ^[a-z]+-[a-z]+[0-9]+-[a-z]$ ]] || fail "--zone=$zone: expected a zone, such as us-west4-a"
[[ "$worker" =~ ^([0-9]+|all)$ ]] || fail "--worker=$worker: expected a number, or all"
[ "$dry_run" = yes ] || command -v gcloud >/dev/null || fail "gcloud is not installed; --dry-run needs none"
"$subcommand"
