#!/bin/sh
# Put transformers 4 into a folder of its own, for the tests that read baked checkpoints with it:
#
#   sh tests/transformers4.sh FOLDER
#   NEUROSTEER_TRANSFORMERS4=FOLDER python -m pytest tests/end_to_end/test_transformers4.py
#
# torch and all else are those of the environment, whose python PYTHON names (python3 if not set).
set -eu
target="$1"
[ -d "$target/transformers" ] || "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps \
    --target "$target" transformers==4.57.6 huggingface_hub==0.36.2 tokenizers==0.22.2
