#!/usr/bin/env bash
# Profile this machine into the tables that are shipped here; those that are there already stay.
#   latency_tables/make.sh xeon-2cores        the word names the machine in the files
set -euo pipefail
cd "$(dirname "$0")/.."
machine=${1:?name the machine, such as xeon-2cores}
supernet=${SUPERNET:-.venv/bin/supernet}

profile() { # file name, space, further options
    local name=$1 space=$2 word
    shift 2
    for word in onnxruntime-fp32:onnxruntime onnxruntime-int8:onnxruntime-int8 openvino-fp32:openvino; do
        local out=latency_tables/$name-$machine-${word%%:*}-1thread.json
        [ -e "$out" ] || "$supernet" profile "$space" "$@" --runtime "${word##*:}" --out "$out"
    done
}

profile ofa_mbv3-224 ofa_mbv3 --resolution 224
profile ofa_mbv3-160 ofa_mbv3 --resolution 160
profile fashion fashion --in-chans 1 --num-classes 10
profile tiny tiny --in-chans 1 --num-classes 10
