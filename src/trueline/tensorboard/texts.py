"""What a run came to, in Markdown."""

from typing import Any

from trueline.results.result_table import number, parameters, trained, verdict
from trueline.statistics import summary_text
from trueline.statistics.summary_text import escaped, markdown_table

MOST_ROWS = 200
"""Of a table of parameters; more are in result.json."""


def of_run(result: dict[str, Any]) -> dict[str, str]:
    """Return the texts of a run by tag, from the entries of `result.json`."""
    texts = {"report/line": line(result)}
    if result["crosscheck"]:
        texts["report/crosscheck"] = crosscheck(result["crosscheck"])
    for summary in result["summary"] or []:
        texts[f"summary/{summary['target']}"] = summary_text.markdown(summary)
    return texts


def line(result: dict[str, Any]) -> str:
    """Lay out the trained line beside its closed form."""
    best = result["closed_form"] or {}
    found = parameters(result).items()
    rows = [[label, trained(value), number(expected)] for label, (value, expected) in found]
    left_out = len(rows) - MOST_ROWS
    rows = [*rows[:MOST_ROWS], ["loss", number(result["loss"]), number(best.get("loss"))]]
    text = markdown_table(["", "trained", "closed form"], rows)
    facts = [f"{left_out:,} parameters more in result.json"] if left_out > 0 else []
    if result["n_samples"]:
        facts.append(f"{result['n_samples']:,} rows")
    facts.append(f"{result['epochs']:,} epochs, {result['steps']:,} steps, lr {result['lr']:g}")
    if result["converged"] is not None:
        far = f"{result['distance']:.2g} of the spread of y from the closed form"
        facts.append(f"{'converged' if result['converged'] else 'not converged'}: {far}")
    return "\n".join([text, "", *(f"- {fact}" for fact in facts)])


def crosscheck(check: dict[str, Any]) -> str:
    """Lay out the verdict of the cross-check, and how near each quantity came to its bound."""
    rows = [[name, f"{ratio:.3g}", "1"] for name, ratio in check["worst_ratios"].items()]
    head = ["quantity", "largest deviation, as a fraction of its bound", "limit"]
    facts = [f"{check['epochs_counted']:,} epochs whose rows were counted, each row once"]
    facts = facts if check["epochs_counted"] and check["passed"] else []
    if check["steps_skipped"]:
        facts.append(f"{check['steps_skipped']:,} steps skipped by the loss scale")
    rows_of_table = markdown_table(head, rows)
    listed = (f"- {fact}" for fact in facts)
    return "\n".join([f"**{escaped(verdict(check))}**", "", rows_of_table, "", *listed])
