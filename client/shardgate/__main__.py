"""`python -m shardgate`, the `shardgate` command."""

from __future__ import annotations

from shardgate.cli.main import app

if __name__ == "__main__":
    app()
