"""What the installed command calls: nothing is imported before an interrupt is harmless."""

import signal


def main() -> None:
    """Run ``spinal``. Until its own answer to Ctrl-C is in place, an interrupt ends the process by the signal."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from spinal.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
