"""Judgements as JUnit XML: one test case for each rule, or for each signal and checkpoint of a training run
(``docs/pipelines.md`` ("JUnit"))."""

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from spinal.report.content.cases import LONGEST_NAME, Case, cases, judgement, pair, plain_name, short
from spinal.report.formats.format import Problem, Reader, verdict_format
from spinal.report.reported import Judged


def render_junit(document: Judged, reader: Reader) -> str:
    """Cases that stop the pipeline are failures; what was waived, or not looked at, is skipped; the rest has passed."""
    found = cases(document)
    failures = sum(one.fails(reader.fail_on) and one.waived is None for one in found)
    suite, root = _suite(
        pair(document),
        len(found),
        failures=failures,
        skipped=sum(one.waived is not None or one.left_out for one in found),
    )
    whole = judgement(document)
    told = {
        "verdict": whole.outcome,
        "status": whole.word if whole.word != whole.outcome else "",
        "policy": short(whole.policy, LONGEST_NAME),
        "decided_by": short(whole.decided_by or "", LONGEST_NAME),
        whole.kind: whole.digest,
        **{name: str(step) for name, step in whole.steps.items()},
        **{f"weights.{role}": digest for role, digest in whole.weights.items()},
        **{f"link.{label}": short(address) for label, address in reader.links.items()},
        # The schema has no properties of a case: they stand with the suite, under the name of the rule.
        **{f"{one.name}.{name}": value for one in found for name, value in one.numbers.items()},
    }
    properties = SubElement(suite, "properties")
    for name, value in told.items():
        if value:
            SubElement(properties, "property", name=name, value=value)
    for one in found:
        # Two models in one pipeline are two classes, and a model is the same one in every version.
        _case(suite, one, f"spinal.{plain_name(document)}", reader)
    return _text(root)


def render_junit_failure(problem: Problem, subject: str) -> str:
    """Nothing was judged: one case that is an error, and no failure."""
    suite, root = _suite(short(subject, LONGEST_NAME), 1, errors=1)
    case = SubElement(suite, "testcase", name="audit", classname="spinal", time="0")
    detail = short(str(problem.get("detail") or problem.get("title") or "no verdict"))
    error = SubElement(
        case, "error", type=short(str(problem.get("code", "internal_error")), LONGEST_NAME), message=detail
    )
    hint = problem.get("hint")
    error.text = detail if not hint else f"{detail}\nnext: {short(str(hint))}"
    return _text(root)


def _suite(name: str, tests: int, *, failures: int = 0, errors: int = 0, skipped: int = 0) -> tuple[Element, Element]:
    counts = {"tests": str(tests), "failures": str(failures), "errors": str(errors)}
    root = Element("testsuites", {"name": "spinal", **counts})
    return SubElement(root, "testsuite", {"name": name, **counts, "skipped": str(skipped), "time": "0"}), root


def _case(suite: Element, one: Case, kind: str, reader: Reader) -> None:
    case = SubElement(suite, "testcase", name=one.name, classname=kind, time="0")
    numbers = "\n".join(f"{name}: {value}" for name, value in one.numbers.items())
    told = "\n".join(part for part in (one.asks, one.message, numbers) if part)
    if one.waived is not None:
        reason, expires, would_be = one.waived
        SubElement(case, "skipped", type="waived", message=f"waived until {expires}: {reason} (found: {would_be})")
    elif one.left_out:
        SubElement(case, "skipped", type="not_measured", message=one.message)
    elif one.fails(reader.fail_on):
        SubElement(case, "failure", type=one.outcome, message=one.message).text = told
        return
    SubElement(case, "system-out").text = f"{one.outcome}\n{told}"


def _text(root: Element) -> str:
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


JUNIT = verdict_format("junit", (".xml",), "application/xml", render_junit, render_failure=render_junit_failure)
