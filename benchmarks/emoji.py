"""Real colour images from a package registry: two artists' drawings of each emoji, 64 px.

npm's `emoji-datasource-google` (Noto, Apache-2.0) and `emoji-datasource-twitter` (Twemoji, CC-BY
4.0); nine classes, the groups of Unicode. Both drawings of an emoji lie in the same part.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

VENDORS, VERSION = ("google", "twitter"), "16.0.0"


def write_emoji(root: Path, *, test: float = 0.2, seed: int = 0) -> Path:
    """Fetch the packages, write `root`/train and `root`/test, a folder a class; return `root`.

    Raises:
        OSError: if npm is not there or cannot fetch them.
    """
    rng, root = random.Random(seed), root.absolute()
    archives = {vendor: _fetched(f"emoji-datasource-{vendor}", root) for vendor in VENDORS}
    with tarfile.open(archives["google"]) as archive:
        listed = archive.extractfile("package/emoji.json")
        assert listed is not None
        table = json.load(listed)
    place = {}
    for emoji in table:
        if emoji["category"] == "Component":  # skin tones and hair by themselves
            continue
        part = "test" if rng.random() < test else "train"
        place[emoji["image"]] = f"{part}/{emoji['category'].replace(' & ', '_').replace(' ', '_')}"
    for vendor, file in archives.items():
        with tarfile.open(file) as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                if folder == f"package/img/{vendor}/64" and name in place:
                    target = root / place[name] / f"{vendor}_{name}"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    image = archive.extractfile(member)
                    assert image is not None
                    target.write_bytes(image.read())
        file.unlink()
    return root


def _fetched(package: str, folder: Path) -> Path:
    """Return the archive of a package, put into `folder` by npm."""
    if shutil.which("npm") is None:
        raise OSError("no emoji: apt-get install npm")
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["npm", "pack", "--silent", f"{package}@{VERSION}"], cwd=folder,
                          capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        raise OSError(f"no emoji: npm pack {package}@{VERSION} fails here")
    return folder / f"{package}-{VERSION}.tgz"
