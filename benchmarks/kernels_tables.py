"""The tables of benchmarks/kernels.py in Markdown, from the rows of totals."""

from __future__ import annotations

from typing import Any


def widths_table(totals: list[dict[str, Any]], labels: dict[str, str]) -> str:
    """One core at every width, as instructions over CMSIS-NN's at int8; ``labels``: networks' names, by ``net``."""
    lines = [
        "| network | bits | instructions | to CMSIS-NN int8 | goal | CMSIS-NN int4 | modelled cycles | code "
        "| CMSIS-NN's code | outputs |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in totals:
        int4 = f"{row['cmsisnn_int4_insn'] / row['cmsisnn_insn']:.2f}" if row["bits"] == 4 else ""
        code = "" if row["cmsisnn_code_bytes"] is None else f"{row['cmsisnn_code_bytes']:,}"
        lines.append(
            f"| {labels[row['net']]} | {row['bits']} | {row['insn']:,} | {row['ratio']:.2f} | {_goal(row)} "
            f"| {int4} | {row['cycles_model']:,} ({row['cycles_model'] / row['cmsisnn_cycles_model']:.2f}) "
            f"| {row['code_bytes']:,} | {code} | {_outputs(row)} |"
        )
    return "\n".join(lines)


def cores_table(totals: list[dict[str, Any]], labels: dict[str, str]) -> str:
    """Several cores, each beside what it is compared with."""
    lines = [
        "| core | network | bits | instructions | beside | ratio | goal | outputs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in totals:
        name, other = ("plain", row["plain_insn"]) if row["plain_insn"] else ("CMSIS-NN", row["cmsisnn_insn"])
        core, name_and_bits = row["core"].replace("cortex-m", "Cortex-M"), f"{labels[row['net']]} | {row['bits']}"
        lines.append(
            f"| {core} | {name_and_bits} | {row['insn']:,} | {name} {other:,} | {row['ratio']:.2f} "
            f"| {_goal(row)} | {_outputs(row)} |"
        )
    return "\n".join(lines)


def _goal(row: dict[str, Any]) -> str:
    return "" if row["goal"] is None else f"{row['goal']:.2f}"


def _outputs(row: dict[str, Any]) -> str:
    return "equal" if row["checked"] else "DIFFER"
