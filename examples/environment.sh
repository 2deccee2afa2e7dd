# Sourced by quickstart.sh and tests/run.sh: make a virtual environment once, and set BIN to its programs.
# INSTALL is what pip installs: '.' or '.[test]'.
VENV="${NEUROSTEER_VENV:-.venv}"
if [ -d "$VENV/Scripts" ]; then BIN="$VENV/Scripts"; else BIN="$VENV/bin"; fi
STAMP="$VENV/.neurosteer-$(cat pyproject.toml tests/constraints.txt | cksum | cut -d' ' -f1)-$(echo "$INSTALL" | tr -dc a-z)"
if [ ! -e "$STAMP" ]; then
    PYTHON="${PYTHON:-python3}"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
        echo "Python 3.10 or newer is needed; name one with PYTHON=..." >&2
        exit 1
    }
    echo "== installing neurosteer into $VENV (about 2 GB, a few minutes)"
    "$PYTHON" -m venv "$VENV"
    BIN="$VENV/bin"
    if [ -d "$VENV/Scripts" ]; then BIN="$VENV/Scripts"; fi
    "$BIN/python" -m pip install --quiet --disable-pip-version-check -c tests/constraints.txt -e "$INSTALL"
    touch "$STAMP"
fi
