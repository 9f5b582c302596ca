#!/bin/bash
# For a GPU machine without a network: gathers what its Python lacks to run the benchmarks and parity checks.
#   bash benchmarks/pack.sh [FOLDER] [PYTHON_VERSION]       default: .offline 3.12 (Linux x86-64, CUDA 13)
# `python -m benchmarks.gpu` unpacks FOLDER/packages.tar.gz there for what it runs. torch, numpy,
# transformers, safetensors, tokenizers, OpenCV, Pillow, rich and PyYAML are taken to be there.
set -euo pipefail
folder=${1:-.offline}
python_version=${2:-3.12}
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
fetch() {
  "$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary=:all: --python-version "$python_version" \
    --platform manylinux_2_24_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$wheels" "$@"
}
pinned() { # the version that is installed here, so that pydantic and its core fit each other
  for name in "$@"; do
    "$python" -c 'import sys, importlib.metadata as m; print(sys.argv[1] + "==" + m.version(sys.argv[1]))' "$name"
  done
}
fetch $(pinned pydantic pydantic_core annotated-types typing-inspection tyro docstring-parser stamina tenacity diffusers bitsandbytes peft accelerate psutil)
mkdir "$wheels/packages"
for wheel in "$wheels"/*.whl; do "$python" -m zipfile -e "$wheel" "$wheels/packages"; done
find "$wheels/packages/bitsandbytes" -name '*.so' ! -name '*cuda13*' ! -name '*_cpu.so' -delete
rm -rf "$folder"
mkdir -p "$folder"
tar -czf "$folder/packages.tar.gz" -C "$wheels/packages" .
du -sh "$folder"
