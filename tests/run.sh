#!/bin/sh
# Set up an environment (once) and run every test, those on the embedded model included.
#
#   sh tests/run.sh              all tests
#   sh tests/run.sh -k vector    further arguments go to pytest
#
# NEUROSTEER_VENV names the environment's folder (.venv if not set).
set -eu
cd "$(dirname "$0")/.."
INSTALL='.[test]'
. examples/environment.sh

echo "== checks: ruff, mypy"
"$BIN/ruff" check neurosteer_cli tests
"$BIN/ruff" format --check neurosteer_cli tests
"$BIN/mypy"
PYTHON="$BIN/python" sh tests/transformers4.sh "$VENV/transformers4"
export NEUROSTEER_TRANSFORMERS4="$VENV/transformers4"
echo "== tests: tiny random models, then the embedded default and sentence encoder (fetched once, 93 and 84 MB)"
"$BIN/python" -m pytest -m "real or not real" "$@"
