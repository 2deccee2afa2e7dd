"""The program: `neurosteer`, or `python -m neurosteer_cli`."""

import signal


def main() -> None:
    """Run the program. Ctrl-C while modules are loaded ends it without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import run

    run()


if __name__ == "__main__":
    main()
