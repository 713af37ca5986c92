"""Kinetics-400's replacements for corrupt videos: a folder, or the archive it comes in."""

import os
import shutil
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from uuid import uuid4

from data_prep.listing import UserError, find_files
from mvit_train.data.manifest import VIDEO_SUFFIXES

ARCHIVES = (".tgz", ".tar.gz", ".tar")


@dataclass(frozen=True)
class Replacements:
    files: Sequence[Path]
    folders: Sequence[Path]  # in the user's data: not to be listed as videos of a split


def find_replacements(root: Path, out: Path, given: Path | None) -> Replacements:
    """Videos of `given`, or of every folder and archive below `root` whose name begins with `replacement`.

    An archive is extracted below `out`, once, never into the user's folder; a folder of the same name makes that
    unnecessary.
    """
    if given is not None and not given.exists():
        raise UserError(f"--replacement {given}: no such file or folder")
    places = [given] if given else sorted(path for depth in ("", "*/") for path in root.glob(f"{depth}replacement*"))
    folders = [Path(os.path.abspath(place)) for place in places if place.is_dir()]
    files = [path for folder in folders for path in find_files(folder, without=[out])]
    if not files:
        for archive in (place for place in places if place.name.endswith(ARCHIVES)):
            files += extract(archive, out / "replacement")
    return Replacements(sorted(set(files)), folders)


def extract(archive: Path, folder: Path) -> list[Path]:
    """The archive's videos as flat files in `folder`; those that are there in full size are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = PurePosixPath(member.name).name  # its folders are dropped, so none can lead elsewhere
                if not member.isfile() or name.startswith(".") or Path(name).suffix.lower() not in VIDEO_SUFFIXES:
                    continue
                found.append(file := folder / name)
                if file.exists() and file.stat().st_size == member.size:
                    continue
                part = folder / f".{name}.{uuid4().hex}.part"
                content = tar.extractfile(member)
                assert content is not None  # a regular file
                with part.open("wb") as stream:
                    shutil.copyfileobj(content, stream)
                os.utime(part, (member.mtime, member.mtime))  # the same in every run: what was probed stays known
                os.replace(part, file)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive}: cannot be extracted to {folder}: {error}") from error
    return found
