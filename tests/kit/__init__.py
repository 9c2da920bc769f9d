"""What the tests of every folder share: servers as processes, clients, pictures, tiny models."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
