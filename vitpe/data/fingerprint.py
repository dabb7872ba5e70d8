"""Whether data is the same as it was."""

import hashlib
from collections.abc import Iterable

from vitpe.data.file_samples import FileSamples
from vitpe.data.samples import Samples


def fingerprint(splits: Iterable[Samples]) -> str:
    """Changes with the names, the labels and, where they are files, the number of bytes of the images of all splits."""
    digest = hashlib.sha256()
    for samples in splits:
        digest.update("\n".join((samples.source, *samples.attributes, *samples.names, "")).encode())
        digest.update(samples.labels.tobytes())
        if isinstance(samples, FileSamples):
            digest.update(str(samples.num_encoded_bytes()).encode())
    return digest.hexdigest()
