#!/usr/bin/env bash
# Runs a command whose work folders outlive the machine: they are copied to a bucket each minute, and at the end.
#
#     bash run.sh gs://BUCKET/NAME COMMAND …
#
# First it copies what the bucket has to ./runs, so that the command goes on from there. A termination is passed on to
# the command, which saves its state. A command that succeeds leaves NAME/finished. For one host: the processes of
# several need a folder that all of them see.
set -u
bucket=$1
shift
every=${EVERY:-60} # seconds

copy() { gcloud storage rsync --recursive runs "$bucket" >/dev/null 2>&1; }

mkdir -p runs
gcloud storage rsync --recursive "$bucket" runs || echo "nothing in $bucket yet" >&2
"$@" &
command=$!
trap 'kill -TERM "$command" 2>/dev/null' TERM INT
while sleep "$every"; do copy; done </dev/null >/dev/null 2>&1 &
copier=$!
while :; do # a trap ends a wait before its time
  wait "$command"
  status=$?
  kill -0 "$command" 2>/dev/null || break
done
kill "$copier"
[ "$status" -ne 0 ] || touch runs/finished
copy || echo "the last copy to $bucket failed" >&2
exit "$status"
