#!/usr/bin/env bash
# On your machine: keeps a spot TPU of one host running a command until it succeeds.
#
#     PROJECT=… ZONE=… TYPE=v5litepod-8 RUNTIME=v2-alpha-tpuv5-lite bash queued.sh NAME gs://BUCKET COMMAND …
#
# A spot TPU that is preempted cannot be started again, so it is deleted and asked for anew. The run itself goes on from
# its last checkpoint in gs://BUCKET/NAME (run.sh). The TPU is deleted at the end, and also on Ctrl-C.
set -u
name=$1 bucket=$2
shift 2
: "${PROJECT:?}" "${ZONE:?}" "${TYPE:?}" "${RUNTIME:?}"
where=(--project="$PROJECT" --zone="$ZONE")
here=$(dirname "$0")

ssh_to() { gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --command="$1"; }
finished() { gcloud storage ls "$bucket/$name/finished" >/dev/null 2>&1; }
delete() { gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force --quiet; }
state() {
  gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)' 2>/dev/null
}

trap 'delete; exit 130' INT TERM
until finished; do
  case $(state) in
  "")
    gcloud compute tpus queued-resources create "$name" --node-id="$name" "${where[@]}" \
      --accelerator-type="$TYPE" --runtime-version="$RUNTIME" --spot || sleep 60
    ;;
  ACTIVE)
    gcloud compute tpus tpu-vm scp "$here/setup.sh" "$here/run.sh" "$name": "${where[@]}" &&
      ssh_to "bash setup.sh '$bucket'" &&
      ssh_to "cd dd_jax && . .venv/bin/activate && bash ~/run.sh '$bucket/$name' $(printf '%q ' "$@")"
    status=$?
    finished && break
    # 1 is an error of the command, which another try would repeat; others are a lost connection or a preemption
    [ "$status" -ne 1 ] || { echo "the command failed; the TPU $name is still there" >&2; exit 1; }
    sleep 30
    ;;
  SUSPENDED | SUSPENDING | FAILED) delete ;;
  *) sleep 60 ;; # it waits for a TPU
  esac
done
delete
