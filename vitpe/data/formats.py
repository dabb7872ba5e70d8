"""Which image formats can be read here, and the suffixes of their files. Torch-free, for the command line."""

import importlib
from functools import cache
from typing import Final

MAX_PIXELS: Final = 50_000_000
"""Of an image; a larger declared size is refused before decoding."""
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_WHERE_BUILT: Final = {"AVIF": "PIL.AvifImagePlugin"}  # Pillow's names of formats that not every build of it reads
_PLUGINS: Final = {"HEIF": "pillow_heif"}  # of packages that a user may have installed beside


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of all that is read."""
    found = list(_FORMATS)
    for name, module in _WHERE_BUILT.items():
        try:
            if importlib.import_module(module).SUPPORTED:
                found.append(name)
        except (ImportError, AttributeError):
            continue
    for name, module in _PLUGINS.items():
        try:
            importlib.import_module(module).register_heif_opener()
        except (ImportError, AttributeError):
            continue
        found.append(name)
    return tuple(found)


@cache
def suffixes() -> frozenset[str]:
    """Of the files of these formats, in lower case, with their dot."""
    from PIL import Image

    Image.init()
    read = {*formats(), "MPO"}  # several JPEGs in one file, of which the first is read
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in read)
