"""What is doubtful about images, counted: a line for each kind, however many images there are."""

import threading
from collections.abc import Callable


class Remarks:
    """Collects (image, remark) from several threads."""

    def __init__(self) -> None:
        self._names: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def about(self, name: str) -> Callable[[str], None]:
        """What `decode` may call with a remark on the image of that name."""

        def tell(text: str) -> None:
            with self._lock:
                self._names.setdefault(text, set()).add(name)

        return tell

    def lines(self) -> tuple[str, ...]:
        """A line for each remark, with the images' count and the first of their names."""
        with self._lock:
            return tuple(
                f"{min(names)}: {text}"
                if len(names) == 1
                else f"{len(names):,} images, {min(names)} one of them: {text}"
                for text, names in self._names.items()
            )
