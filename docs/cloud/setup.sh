#!/usr/bin/env bash
# On a TPU VM: installs dd_jax from BUCKET/code into ~/dd_jax, and copies the data sets that were prepared.
#
#     bash setup.sh gs://BUCKET
#
# The VM images have Python 3.10, and dd_jax needs 3.11 or newer. uv brings one of its own.
set -euo pipefail
bucket=$1
mkdir -p ~/dd_jax ~/tensorflow_datasets
gcloud storage rsync --recursive "$bucket/code" ~/dd_jax
gcloud storage rsync --recursive "$bucket/tensorflow_datasets" ~/tensorflow_datasets || echo "no data sets in $bucket"
command -v ~/.local/bin/uv || curl -LsSf https://astral.sh/uv/install.sh | sh
cd ~/dd_jax
[ -d .venv ] || ~/.local/bin/uv venv --python 3.12 .venv
~/.local/bin/uv pip install --python .venv/bin/python -e '.[tpu]'
.venv/bin/python -c 'import jax; print(jax.device_count(), "devices,", jax.local_device_count(), "of this host")'
