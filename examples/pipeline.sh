#!/bin/sh
# Fit two vectors, add them up, continue prompts at three strengths, and read the records with jq.
# Run after quickstart.sh, with its environment active: . .venv/bin/activate
set -eu
cd "$(dirname "$0")"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

neurosteer fit polite.jsonl rude.jsonl -o "$out/polite.st"
neurosteer fit happy.jsonl sad.jsonl -o "$out/happy.st"
neurosteer combine "$out/polite.st:1" "$out/happy.st:0.5" -o "$out/warm.st"
neurosteer gen --vector "$out/warm.st" --alpha=-12,0,12 --max-new-tokens 30 --json prompts.jsonl > "$out/texts.jsonl"

echo "== a text each"
jq -r '"[\(.alpha)] \(.prompt)\(.text)"' "$out/texts.jsonl" | head -6
echo "== mean length in tokens by alpha"
jq -s -c 'group_by(.alpha)[] | {alpha: .[0].alpha, n: length, tokens: (map(.n_tokens) | add / length)}' "$out/texts.jsonl"
