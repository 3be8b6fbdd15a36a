"""A table of targets whose images are packed: the pack keeps the CSV, and masks as a pack inside of it.

`table.csv` is the CSV as it was; `masks`, where it names a mask for every image, is a pack of their own, resized to the
nearest pixel, whose targets say which masks have any foreground before that.
"""

import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from ols.data.sources.pack import MASKS, TABLE, WHOLE, Pack, load_manifest, verify_pack
from ols.data.sources.table_rows import MASK, TableRows


class PackedTable(TableRows, Pack):
    """What `ols.data.sources.table.Table` is, image by image and name by name, out of a pack.

    Args:
        root: The pack's folder.
        kind: See `Table`, as for all of these.
        targets: Target columns.
        patient: Column that says which images belong together.
        mask: Column with the file of each image's mask.
        side: Columns with what a head takes beside the image.
        in_chans: Channels that the pack must have.

    Raises:
        FileNotFoundError: A file of the pack is missing.
        ValueError: A file is damaged, the table lacks what is asked for, the pack has no such masks, or another number
            of channels.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        kind: str = "class",
        targets: list[str] | None = None,
        patient: str | None = None,
        mask: str | None = None,
        side: list[str] | None = None,
        in_chans: int = 1,
    ):
        root = Path(root)
        manifest = _open(root)
        if manifest["in_chans"] != in_chans:
            raise ValueError(f"{root} is a pack of {manifest['in_chans']} channels; in_chans asks for {in_chans}")
        path, said = root / TABLE, manifest["table"]
        if not path.is_file() or f"{zlib.crc32(path.read_bytes()):08x}" != said["crc32"]:
            raise ValueError(f"{path} is missing or damaged: its checksum is not that of the manifest; pack again")
        Pack.__init__(self, root, WHOLE, manifest)
        TableRows.__init__(
            self, path, name=said["name"], kind=kind, targets=targets, patient=patient, mask=mask, side=side
        )
        self._packed_masks: Pack | None = None
        if kind == "mask":
            if said["mask"] != (mask or MASK):
                has = f"those of column {said['mask']}" if said["mask"] else "none, as not every image had one"
                raise ValueError(f"{root} has no masks of column {mask or MASK}; it has {has}: pack again")
            self._packed_masks = Pack(root / MASKS, WHOLE, _open(root / MASKS))

    def content(self) -> str:
        """Return how images were resized, and checksums of images and masks."""
        masks = "" if self._packed_masks is None else f" and masks, {self._packed_masks.content()}"
        return Pack.content(self) + masks

    def has_foreground(self, index: int) -> bool:
        """Return whether the mask of an image was not empty before it was resized."""
        return bool(self._masks_of_targets().targets[index])

    def mask(self, index: int) -> Image.Image:
        """Return the classes of an image's pixels, of mode L and of its stored size."""
        return self._masks_of_targets().read(index)

    def _masks_of_targets(self) -> Pack:
        if self._packed_masks is None:
            raise ValueError(f"{self.root} was opened for targets of kind {self.kind!r}, without its masks")
        return self._packed_masks


def _open(root: Path) -> dict[str, Any]:
    """Return the manifest of a pack whose files are sound."""
    manifest = load_manifest(root)
    verify_pack(root, manifest, trust_stamp=True)
    return manifest
