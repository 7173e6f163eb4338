#!/usr/bin/env bash
# The comparison on a machine that has an accelerator for some minutes and no network.
#
#   bring        this checkout, and DATA: the folder that holds cifar-10-batches-bin, or a packed JPEG copy (.npz)
#   run          bash experiments/accelerator.sh DATA OUT [more options of python -m experiments.accelerator]
#   go on        the same command again, until it exits with 0; WORK (/tmp/accelerator) must still be there
#   take back    OUT: eight files, 2 MB or less
#
# docs/accelerator.md says what is done, in which order, and how long it should take.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; }
data=$(realpath "$1") out=$(realpath -m "$2")
shift 2
cd "$(dirname "$0")/.."
# Without a GPU JAX would quietly take the CPU, for hours.
export JAX_PLATFORMS=${JAX_PLATFORMS:-cuda,cpu}
exec "${PYTHON:-python3}" -m experiments.accelerator --data "$data" --out "$out" \
  --work "${WORK:-/tmp/accelerator}" --minutes "${MINUTES:-9}" "$@"
