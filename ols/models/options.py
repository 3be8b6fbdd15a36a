"""What can be chosen about networks, declared without loading torch."""

FRESH, RUN, IMAGENET = "none", "run", "imagenet"
PUBLISHED = ("radimagenet-keras", "radimagenet-torch", "radimagenet-hub", "radiologynet")


def parse_start(start: str) -> tuple[str, str | None]:
    """Return kind and place of a start such as `radimagenet-keras:weights.h5`.

    Raises:
        ValueError: There is no such kind, or it needs a place, or takes none.
    """
    kind, _, place = start.partition(":")
    kinds = (FRESH, IMAGENET, RUN, *PUBLISHED)
    if kind not in kinds:
        raise ValueError(f"unknown start {kind!r}; known: {', '.join(kinds)}")
    if kind == FRESH and place:
        raise ValueError(f"the start {FRESH!r} takes no file, got {place!r}")
    if kind not in (FRESH, IMAGENET) and not place:
        raise ValueError(f"the start {kind!r} needs a {'folder' if kind == RUN else 'file'}: {kind}:<path>")
    return kind, place or None
