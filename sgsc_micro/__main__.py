"""``python -m sgsc_micro``."""

from sgsc_micro.cli import main

if __name__ == "__main__":
    main()
