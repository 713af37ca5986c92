"""`python -m data_prep` lists the commands."""

import ast
import sys
from pathlib import Path


def main() -> int:
    """Every module with a `main` is a command; the first line of its docstring says what it is for."""
    print("python -m data_prep.COMMAND --root FOLDER --out FOLDER [options]; see --help of each\n")
    for file in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            print(f"  {file.stem:12}{(ast.get_docstring(tree) or '').partition(chr(10))[0]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
