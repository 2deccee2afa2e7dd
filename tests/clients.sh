#!/bin/sh
# Put other people's clients of the server into an environment of their own (430 MB):
#
#   sh tests/clients.sh FOLDER
#   NEUROSTEER_CLIENTS=FOLDER python -m pytest tests/end_to_end/test_clients.py
set -eu
[ -e "$1/bin/llm" ] || {
    "${PYTHON:-python3}" -m venv "$1"
    "$1/bin/python" -m pip install --quiet --disable-pip-version-check \
        langchain-openai==1.7.4 litellm==1.110.2 llm==0.36 openai==3.57.0
}
