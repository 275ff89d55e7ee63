"""`python -m harness` is the command `playbook`, where nothing is installed."""

from harness.cli import main

if __name__ == "__main__":
    main()
