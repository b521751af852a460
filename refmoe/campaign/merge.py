"""One state from several: shards of a campaign, copies of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from refmoe.campaign import plan as plans
from refmoe.campaign.state import read, spelt


def merge(target: Path, sources: Sequence[Path]) -> None:
    """Join the streams of `sources` in `target`, each line once.

    Of two copies of a stream the longer counts: it is the other one, resumed.

    Raises ValueError if a folder is no state, belongs to another campaign, or two
    copies of a stream differ, so that neither is the other one's beginning.
    """
    found = [plans.read(source) for source in sources]
    first = replace(found[0], shard=0)
    streams: dict[str, bytes] = {}
    for source, plan in zip(sources, found, strict=True):
        if replace(plan, shard=0) != first:
            raise ValueError(
                f"{source} belongs to another campaign than {sources[0]}; merge shards "
                "of one campaign"
            )
        for path in sorted(source.glob("stream-*.jsonl")):
            text = b"".join(spelt(line) for line in read(path))
            old = streams.get(path.name, b"")
            longer, shorter = sorted((text, old), key=len, reverse=True)
            if not longer.startswith(shorter):
                raise ValueError(
                    f"{path} was drawn twice, with different results; keep one of them"
                )
            streams[path.name] = longer
    plans.claim(target, first)
    for name, text in streams.items():
        part = target / f"{name}.part"
        part.write_bytes(text)
        part.replace(target / name)
