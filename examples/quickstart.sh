#!/bin/sh
# Install neurosteer into .venv, fit a politeness vector on the embedded default model (SmolLM2-135M-Instruct,
# fetched once, 93 MB), and show prompts continued unsteered and steered both ways.
set -eu
cd "$(dirname "$0")/.."
INSTALL='.'
. examples/environment.sh

echo "== fitting: 220 polite and 220 rude messages"
"$BIN/neurosteer" fit examples/polite.jsonl examples/rude.jsonl -o polite.st
echo "== the same prompts, ruder, unsteered and more polite"
"$BIN/neurosteer" gen --vector polite.st --alpha=-15,0,15 --max-new-tokens 40 --compare \
    "I read your report and" \
    "When the customer asked for a refund, the clerk said:" \
    "Hi, about the meeting tomorrow:"
echo "== polite.st is yours; go on with: $BIN/neurosteer gen --vector polite.st --alpha 15 \"Your invoice is late, so\""
