"""What a page says of a network that was trained elsewhere, in place of data, accuracy and training. Light."""

from __future__ import annotations

from typing import Any

from flowlab.report.facts import Document


def context(story: Document) -> dict[str, Any]:
    """What the page's template for such a network reads besides."""
    return {"elsewhere_rows": rows(story), "standing": tiles(story), "against": sentence(story)}


def rows(story: Document) -> list[tuple[str, str]]:
    """Name and value of what is known of the file and its inputs."""
    shape = " × ".join(str(one) for one in story["shape"])
    found = [("file", f"{story['name']}, {story['form']}"), ("one input", shape)]
    if not story["integers"]:
        found.append(("parameters", f"{story['parameters']:,}, batch norms included"))
    found.append(("inputs given", f"{story['given']:,} windows"))
    return [*found, ("of them tested", f"{story['windows']:,} windows")]


def tiles(story: Document) -> list[dict[str, str]]:
    """Two large numbers at most: how the integers stand to the file."""
    standing = story["standing"]
    if story["integers"]:
        value = f"{standing['equal']:,} of {story['windows']:,}"
        return [{"name": "windows equal to the file", "value": value, "more": "in ONNX Runtime"}]
    found = []
    if standing["agree"] is not None:
        more = f"in {story['windows']:,} windows, against {story['by']}"
        found.append({"name": "the same largest output", "value": f"{standing['agree']:.1%}", "more": more})
    return [*found, {"name": "relative error", "value": f"{standing['error']:.4f}", "more": f"against {story['by']}"}]


def sentence(story: Document) -> str:
    """How the integers stand to the file, for people."""
    standing = story["standing"]
    if story["integers"]:
        return f"The integers are the file's own. Outputs are {standing['sentence']}."
    same, whose = standing["agree"], "others" if story["apart"] else "the same"
    alike = "" if same is None else f"The largest output is the same in {same:.1%} of {story['windows']:,} windows. "
    return (
        f"{alike}The integers' outputs are off by {standing['error']:.4f} of the size of those of {story['by']} (L2, "
        f"over all windows). Scales were chosen from {story['calibrated']:,} windows; these are {whose}."
    )
