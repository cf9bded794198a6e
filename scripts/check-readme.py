"""Runs the commands of a document against a running cluster, as a reader would.

A ```bash block after the comment <!-- tested --> is run; a ```text block after <!-- output --> is
what the block before it must have printed, with `...` standing for anything. All blocks run in one
shell, in order, so that variables stay. The ports 7070, 7080, 7090 become those of the cluster.
"""

import argparse
import os
import re
import subprocess
import sys

BLOCK = re.compile(r"<!-- (tested|output) -->\n```(?:bash|text)\n(.*?)```", re.DOTALL)


def pattern_of(expected):
    """What the output must match: the text, but anything for each `...`."""
    lines = [line.rstrip() for line in expected.strip().splitlines()]
    parts = [re.escape(part) for part in "\n".join(lines).split("...")]
    return re.compile(".*?".join(parts), re.DOTALL)


class Shell:
    """One bash that is fed block after block."""

    def __init__(self, environment):
        self.process = subprocess.Popen(
            ["bash", "-eu", "-o", "pipefail"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    def run(self, block):
        """Runs a block; returns what it printed, and whether all of it succeeded."""
        self.process.stdin.write(f"{block}\necho\necho end-of-block\n")
        self.process.stdin.flush()
        lines = []
        for line in self.process.stdout:
            if line == "end-of-block\n":
                return "".join(lines), True
            lines.append(line)
        return "".join(lines), False


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("document")
    parser.add_argument("--base-port", type=int, default=7070)
    parser.add_argument("--path", required=True, help="where the binary is")
    arguments = parser.parse_args()

    with open(arguments.document, encoding="utf-8") as file:
        text = file.read()
    for offset in (0, 10, 20):
        text = re.sub(rf"\b{7070 + offset}\b", str(arguments.base_port + offset), text)
    blocks = BLOCK.findall(text)
    if not any(kind == "tested" for kind, _ in blocks):
        sys.exit(f"{arguments.document} has no tested commands")

    environment = dict(os.environ)
    environment["PATH"] = arguments.path + os.pathsep + environment["PATH"]
    environment["STARLING_NODE"] = f"http://127.0.0.1:{arguments.base_port}"
    environment["no_proxy"] = "*"
    shell = Shell(environment)
    printed = ""
    for kind, block in blocks:
        if kind == "tested":
            print(block, end="")
            printed, succeeded = shell.run(block)
            print(printed)
            if not succeeded:
                sys.exit("the block above failed")
            continue
        found = "\n".join(line.rstrip() for line in printed.strip().splitlines())
        if not pattern_of(block).fullmatch(found):
            sys.exit(f"the block above should have printed:\n{block}")


if __name__ == "__main__":
    main()
