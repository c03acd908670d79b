"""What every test relies on: one thread, no network, and a skip where models or data are absent."""

from __future__ import annotations

import os

# Before anything imports torch or transformers: both read these once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
