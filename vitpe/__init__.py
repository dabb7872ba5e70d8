"""vitpe trains a Vision Transformer on face attributes and shows what its position embeddings learn.

From Python: `vitpe.load("runs").predict("face.jpg")`; see vitpe.api.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitpe.api import LoadedModel, load

__version__ = "0.4.0"
__all__ = ["LoadedModel", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """What is here is imported when it is asked for: `import vitpe` and every command begin at once."""
    if name not in __all__:
        raise AttributeError(f"module 'vitpe' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module("vitpe.api"), name)
