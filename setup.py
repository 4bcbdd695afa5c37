"""Builds the wheel: the whole service as one package, `artifact_deletion`.

In the repository `workflows`, `activities` and the others stand at the top, where one finds them. Installed beside a backend
they would meet modules of the same names, so they move under one name, and their imports of each other with them.
"""

import ast
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PACKAGE = "artifact_deletion"
OURS = {
    "activities",
    "adapters",
    "client",
    "conformance",
    "doctor",
    "migrations",
    "settings",
    "starter",
    "telemetry",
    "terminal",
    "worker",
    "workflows",
}


class BuildOnePackage(build_py):
    """Puts everything under one package, and lets it import itself from there."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found: list[tuple[str, str, str]] = super().find_package_modules(package, package_dir)
        return [module for module in found if module[1] in OURS or package != PACKAGE]

    def run(self) -> None:
        super().run()
        package = Path(self.build_lib, PACKAGE)
        (package / "__init__.py").write_text(
            '"""Deletes a backend\'s snapshot artifacts for good; see `artifact_deletion.client`."""\n'
        )
        for module in package.rglob("*.py"):
            module.write_text(with_imports_moved(module.read_text()))


def with_imports_moved(source: str) -> str:
    """`from workflows.x import y` as `from artifact_deletion.workflows.x import y`, and all else as it was."""
    lines = source.split("\n")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level and node.module.partition(".")[0] in OURS:
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = line.replace("from ", f"from {PACKAGE}.", 1)
        elif isinstance(node, ast.Import) and any(name.name.partition(".")[0] in OURS for name in node.names):
            raise SystemExit(f"line {node.lineno}: import our own modules with “from … import …”, so that they can be moved")
    return "\n".join(lines)


if __name__ == "__main__":
    setup(cmdclass={"build_py": BuildOnePackage})
