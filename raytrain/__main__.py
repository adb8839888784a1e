"""``python -m raytrain``: the command, where a tree is on the path and nothing is installed."""

from raytrain.cli import main

if __name__ == "__main__":
    main()
