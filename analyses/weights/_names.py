"""Which block a weight belongs to and what it is there, read off its name, in every family."""

import re


def layer_of(name: str) -> int | None:
    """Block a weight belongs to: the first number among the parts of its name; None outside blocks."""
    number = re.search(r"(?:^|\.)(\d+)\.", name)
    return int(number[1]) if number else None


def kind_of(name: str) -> str:
    """What a weight is in its block, as `mlp.up_proj`: the name without what stands before its block's number."""
    return re.sub(r"^.*?(?:^|\.)\d+\.", "", name, count=1).removesuffix(".weight")
