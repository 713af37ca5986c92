"""Zip archives as torch and numpy write them, refused where they unpack to more than they are."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np


def refuse_compressed(path: Path) -> None:
    """ValueError for an archive with compressed members, a thousand times larger once they are read, or repeated ones.

    Neither torch.save nor numpy.savez compress.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its members are compressed, which is not done here")
    if (total := sum(member.file_size for member in members)) > path.stat().st_size:
        raise ValueError(f"its members claim {total} bytes, more than the file has")


def read_arrays(path: Path, kinds: Mapping[str, str], optional: Mapping[str, str]) -> dict[str, np.ndarray]:
    """The arrays of an npz file, without pickle: it can never run code.

    kinds, optional: the `dtype.kind`s that an array may have, by name, such as {"labels": "ib"}; those that may lack.
    Raises ValueError for a file that is damaged, or not made of these.
    """
    try:
        refuse_compressed(path)
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in [*kinds, *(name for name in optional if name in file.files)]}
        for name, array in found.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind not in (dict(kinds) | dict(optional))[name]:
                raise ValueError(f"what it has as {name} is not an array of the right kind")
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy and zipfile report damage with many types
        raise ValueError(f"{path} cannot be read: {error}") from error
    return found
