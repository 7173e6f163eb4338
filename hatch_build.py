"""What an editable install puts on the import path: a folder of links to the packages, with nothing else in it.

Hatchling's own way is the folder that the packages are in, and with it `tests`, `docs` and all the rest. Its other
way, import hooks (`dev-mode-exact`), hides the packages from type checkers and editors.
"""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Links(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            (folder,) = self.build_config.dev_mode_dirs
            Path(self.root, folder).mkdir(exist_ok=True)
            for package in self.build_config.packages:
                link = Path(self.root, folder, package)
                link.unlink(missing_ok=True)
                link.symlink_to(Path("..", package))
