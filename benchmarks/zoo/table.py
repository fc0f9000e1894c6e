"""The results page of the zoo, as Markdown."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from benchmarks.zoo.examine import Row, verdict

HEAD = (
    "model|status|parameters|groups|prunable|splittable|trace, s|peak, MB|50 % pruned|"
    "as masked|other size|10 % split|trained|bf16|saved|pretrained|written|exported|Torch-Pruning"
)
TEXT = """# The zoo: models from other libraries

Every model below is taken as it is: traced, pruned by half, split by a tenth, saved, loaded and
exported. This page is written by

```
python -m benchmarks.zoo --write
```

{summary}

* **groups**: how many of the groups can be pruned. **prunable, splittable**: the fraction of
  the parameters in groups that can be pruned, or split. A model with less than half prunable is
  *partial*.
* **50 % pruned**: half of the channels of every prunable group, at random, are removed; forward and
  backward run, and every parameter that had a gradient still has one. **as masked**: the model with
  only exact groups pruned (whose removal changes no norm or mean) equals the original with the same
  channels set to zero where they are read, to 1e-4 in float32 and 1e-8 in float64.
* **10 % split**: a tenth of the channels of every group that can be split; the outputs stay the
  same, to 1e-5 of the largest in float32 and 1e-10 in float64.
* **other size**: the same with another batch size and, where the model accepts it, with images half
  as large again in each direction, or three more tokens. **trained**: a step of SGD in train mode
  after all edits. **bf16**: traced, pruned by half and run in bfloat16.
* **saved**: `ramify.save`, then `ramify.load` with the model's own class. **exported**:
  `torch.export` of the edited model gives the same outputs; *n/a* if the original cannot be
  exported either. **pretrained**: half of one kind of group is removed from every layer alike, and
  `save_pretrained` and `from_pretrained` of the model's own library give the same outputs, for
  every kind that the configuration can express; *n/a* if it can express none. **written**:
  `generate` writes the same tokens with and without a cache.
* **Torch-Pruning**: the same model, pruned by half by its `BasePruner` with random scores, with the
  layers that produce the outputs ignored and no other hints. *pass*: forward and backward run, and
  the outputs keep their shapes. *values differ*: the outputs are not those of the original with the
  same channels set to zero where they are read, to 1e-4; this compares only groups that hold
  ungrouped convolutions, linear layers, batch norms and operations without weights (a norm that a
  model writes itself counts as such operations, and may change the outputs rightly).
* Every model has run in a process of its own, ended after {seconds:g} s, and once more for
  Torch-Pruning, which only prunes, ended after {peer_seconds:g} s; each with at most {memory:g} GB
  and one thread. Seconds are processor time. An empty cell was not run.

{table}

## What is missing

{missing}

## What is frozen, and why

Groups of two channels or more that cannot be pruned, in all models together; names of layers are
left out.

{frozen}
"""


def page(rows: Sequence[Row], seconds: float, peer_seconds: float, memory: float) -> str:
    """The whole page.

    Args:
        rows: one row for each model.
        seconds: the time limit for one model.
        peer_seconds: the same for the peer, which only prunes.
        memory: the memory limit, in gigabytes.

    Returns:
        Markdown.
    """
    return TEXT.format(
        summary=summary(rows),
        seconds=seconds,
        peer_seconds=peer_seconds,
        memory=memory,
        table=table(rows),
        missing=missing(rows),
        frozen=frozen(rows),
    )


def summary(rows: Sequence[Row]) -> str:
    """The number of models with each status."""
    count = Counter(verdict(row)[0] for row in rows)
    peers = Counter(row["peer"]["status"] for row in rows if row.get("peer"))
    slow = [r["name"] for r in rows if r.get("trace_s", 0) > 10 or r.get("peak_mb", 0) > 4096]
    ours = ", ".join(f"{n} {status}" for status, n in count.most_common())
    said = f"Of {len(rows)} models and structures: {ours}."
    if peers:
        theirs = ", ".join(f"{n} {status}" for status, n in peers.most_common())
        said += f" Torch-Pruning, on {sum(peers.values())} of them: {theirs}{compared(rows)}."
    over = ", ".join(slow) if slow else "none"
    return f"{said} Traces over 10 s or processes over 4 GB: {over}."


def compared(rows: Sequence[Row]) -> str:
    """The number of models in which the peer's outputs could be compared, and the results."""
    found = [row["peer"].get("values", "") for row in rows if row.get("peer")]
    known = Counter(text.split(":")[0] for text in found if text)
    differ, equal = known["differ"], known["as masked"]
    return f"; where values can be compared, {equal} are right and {differ} differ" if known else ""


def table(rows: Sequence[Row]) -> str:
    """One line for each model."""
    lines = [HEAD, "|".join("---" for _ in HEAD.split("|"))]
    lines += ["|".join(cells(row)) for row in rows]
    return "\n".join(f"|{line}|" for line in lines)


def cells(row: Row) -> list[str]:
    """The cells of a model's line."""
    checks = row.get("checks", {})
    both = lambda kind: mark(*(text for c, text in checks.items() if c.startswith(f"{kind} ")))  # noqa: E731
    share = lambda key: f"{row[key]:.0%}" if key in row else ""  # noqa: E731
    status = verdict(row)[0]
    return [
        row["name"],
        status if status == "pass" else f"**{status}**",
        f"{row.get('parameters', 0):,}",
        f"{row['prunable']}/{row['groups']}" if "groups" in row else "",
        share("share_prune"),
        share("share_split"),
        f"{row['trace_s']:.2f}" if "trace_s" in row else "",
        str(row.get("peak_mb", "")),
        both("prune"),
        both("masked"),
        both("size"),
        both("split"),
        *(mark(checks.get(name, "")) for name in ("train", "bfloat16", "save")),
        *(mark(checks.get(name, "")) for name in ("pretrained", "generate")),
        mark(checks.get("export", "")),
        peer(row),
    ]


def mark(*found: str) -> str:
    """The result of a check in one word: the worst of several."""
    for word in ("WRONG", "refused", "error"):
        if any(text.startswith(word) for text in found):
            return word
    if all(text == "yes" for text in found):
        return "yes"
    return "" if not any(found) else "n/a"


def peer(row: Row) -> str:
    """The result of the peer, and its duration."""
    known = row.get("peer")
    if not known:
        return ""
    differ = ", **values differ**" if known.get("values", "").startswith("differ") else ""
    took = f", {known['seconds']:.2f} s" if "seconds" in known else ""
    return known["status"] + differ + took


def missing(rows: Sequence[Row]) -> str:
    """The reason for each model that does not pass."""
    lines = []
    for row in rows:
        status, why = verdict(row)
        if status != "pass":
            lines.append(f"* {row['name']}: {status}; {shorten(why, 220)}")
    return "\n".join(lines) or "Nothing."


def frozen(rows: Sequence[Row]) -> str:
    """The number of groups frozen for each reason."""
    count: Counter[str] = Counter()
    models: dict[str, set[str]] = {}
    for row in rows:
        for why, times in row.get("frozen", {}).items():
            reason = general(why)
            count[reason] += times
            models.setdefault(reason, set()).add(row["name"])
    lines = ["|groups|models|reason|", "|---|---|---|"]
    lines += [f"|{n}|{len(models[why])}|{shorten(why, 160)}|" for why, n in count.most_common(40)]
    return "\n".join(lines)


def general(why: str) -> str:
    """A reason without the names of layers and numbers."""
    return re.sub(r"[0-9]+", "#", re.sub(r"'[^']*'", "'…'", why))


def shorten(text: str, most: int) -> str:
    """The text on one line, truncated if it is too long."""
    flat = " ".join(text.split()).replace("|", "/")
    return flat if len(flat) <= most else flat[: most - 1] + "…"
