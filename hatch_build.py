"""Build hook: compiles the kernels into the package where there is a C compiler; without one Lorica is pure Python."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileKernels(BuildHookInterface[Any]):
    """Runs before a wheel is packed, an editable one too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the library beside its sources, and into the wheel, which is one for this platform then."""
        script = Path(self.root) / "src/lorica/models/compiled/build.py"
        spec = importlib.util.spec_from_file_location("lorica_build", script)
        assert spec is not None
        assert spec.loader is not None
        build = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(build)  # by its path: the package itself is not installed yet
        reason = build.build()
        if reason:
            self.app.display_warning(f"Lorica goes without compiled kernels, which are faster: {reason}")
            return
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["artifacts"].append(f"/{Path(build.LIBRARY).relative_to(self.root)}")
        print(f"compiled {build.LIBRARY.name}", file=sys.stderr)
