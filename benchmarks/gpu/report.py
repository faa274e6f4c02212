"""The findings of all parts as Markdown and JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.supervise import Part, Result
from lvad_perception.files import write_whole

BAD = ("failed", "ended at its limit")


class Report:
    """Tables of the parts so far.

    Args:
        folder: where gpu.md and gpu.json go.
        command: that made them.
        on_cpu: whether only the code was tried.
    """

    def __init__(self, folder: Path, command: str, *, on_cpu: bool) -> None:
        self.command, self.on_cpu = command, on_cpu
        self.markdown_path, self.json_path = folder / "gpu.md", folder / "gpu.json"
        self._parts: list[tuple[Part, Result]] = []

    @property
    def failed(self) -> bool:
        """Whether a part failed or ran into its limit."""
        return any(result.outcome in BAD for _, result in self._parts)

    def add(self, part: Part, result: Result) -> None:
        """Take in a part's result."""
        self._parts.append((part, result))
        print(f"   {result.outcome} after {result.seconds:.1f} s {result.reason}".rstrip(), flush=True)

    def write(self) -> None:
        """Write both files, whole."""
        content = {
            "command": self.command,
            "on_cpu": self.on_cpu,
            "parts": {part.name: asdict(result) for part, result in self._parts},
        }
        write_whole(self.json_path, json.dumps(content, indent=1) + "\n")
        write_whole(self.markdown_path, self.to_markdown())

    def to_markdown(self) -> str:
        """Command and hardware first, then what became of each part, then their tables."""
        blocks = ["# What a GPU was asked", f"```bash\n{self.command}\n```"]
        if self.on_cpu:
            blocks.append("**Tiny sizes on a CPU: the code was tried, nothing was measured.**")
        blocks += [self._tables(result) for part, result in self._parts if part.name == "environment"]
        blocks.append(self.summary())
        for part, result in self._parts:
            if part.name != "environment":
                state = "" if result.outcome == "done" else f"\n\n**{result.outcome}** {result.reason}"
                blocks += [f"## {part.name}\n\n{part.asks[0].upper()}{part.asks[1:]}.{state}", self._tables(result)]
        return "\n\n".join(block for block in blocks if block) + "\n"

    def summary(self) -> str:
        """One line per part: limit, time, rows measured and rows without a measurement, outcome."""
        rows = []
        for part, result in self._parts:
            lines = [row for table in result.tables.values() for row in table]
            empty = sum("outcome" in row for row in lines)
            rows.append(
                {
                    "part": part.name,
                    "limit s": result.limit_s,
                    "took s": round(result.seconds, 1),
                    "measured": len(lines) - empty,
                    "without result": empty,
                    "outcome": f"{result.outcome} {result.reason}".strip(),
                }
            )
        return markdown_table(rows)

    @staticmethod
    def _tables(result: Result) -> str:
        blocks = [f"**{title}**\n\n{markdown_table(rows)}" for title, rows in result.tables.items()]
        blocks += result.notes
        return "\n\n".join(blocks)


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """Rows that may have different columns as one table; "outcome" comes last."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if "outcome" in columns:
        columns.append(columns.pop(columns.index("outcome")))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
