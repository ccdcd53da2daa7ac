"""Where the change sits: accounts over places, profiles over blocks, settings."""

import math

from spinal.documents.account import READ_OUTS, Account, PlacePart
from spinal.documents.base import Estimate
from spinal.documents.comparison import Comparison
from spinal.numbers import share
from spinal.report.content.cells import DASH, Table, estimate, interval, number


def _title(read_out: str) -> str:
    """Of a table: KL is a change by itself."""
    name = READ_OUTS.get(read_out, read_out)
    return name if read_out == "kl" else f"change of {name}"


def accounts_tables(result: Comparison) -> tuple[Table, ...]:
    """One table for every read-out, the one that speaks first."""
    # Here, so that asking which formats there are needs no numpy.
    from spinal.analysis.statements.carries import speaking

    first = speaking(result.accounts)
    ordered = sorted(result.accounts.values(), key=lambda one: one is not first)
    return tuple(_account_table(result, account) for account in ordered)


def _account_table(result: Comparison, account: Account) -> Table:
    read_out = account.read_out
    beside = {
        "control": result.control_accounts.get(read_out),
        "noise": result.noise_accounts.get(read_out),
    }
    others = {name: {part.place: part for part in of.places} for name, of in beside.items() if of is not None}
    contrast = result.account_contrasts.get(read_out)
    header = ["place", "phi (nats)", "share", "interaction"]
    header += [f"share, {name}" for name in others] + (["minus control (nats)"] if contrast else [])
    rows = [
        (
            part.place + (" (the same)" if part.identical else ""),
            *_part_cells(part),
            *(_share_in(parts.get(part.place)) for parts in others.values()),
            *((estimate(contrast.places[part.place]) if part.place in contrast.places else DASH,) if contrast else ()),
        )
        for part in account.places
    ]
    totals = [_share_of_blocks(of) for name, of in beside.items() if name in others]
    rows.append(
        (
            "all",
            estimate(account.total),
            DASH if account.reason else "100%",
            "",
            *(DASH if of is None or of.reason else "100%" for name, of in beside.items() if name in others),
            *((estimate(contrast.total),) if contrast else ()),
        )
    )
    low, high = result.scores.terminal_window
    rows.append(
        (
            f"blocks {low}-{high} of blocks' sum",
            "",
            _percentage(account.blocks_terminal_share),
            "",
            *totals,
            *(("",) if contrast else ()),
        )
    )
    return Table(
        _capital(_title(read_out)) + _over(account),
        tuple(header),
        tuple(rows),
        _account_note(result, account),
        narrow=(0, 2, 1),
        weight=(*(abs(part.phi.value or 0.0) for part in account.places), math.inf, math.inf),
    )


def _part_cells(part: PlacePart) -> tuple[str, str, str]:
    if part.identical and part.phi.value == 0.0:
        return "0", "0%" if part.share.value is not None else DASH, "0"
    return estimate(part.phi), _percentage(part.share), number(part.interaction, 2)


def _share_in(part: PlacePart | None) -> str:
    return DASH if part is None else _percentage(part.share)


def _share_of_blocks(account: Account | None) -> str:
    return DASH if account is None else _percentage(account.blocks_terminal_share)


def _percentage(found: Estimate) -> str:
    # An interval of one number says nothing.
    return share(found.value, None if found.ci is None or found.ci[0] == found.ci[1] else found.ci)


def _over(account: Account) -> str:
    unit = "pairs" if account.read_out == "margin" else "prompts"
    dropped = f", {account.dropped} left out" if account.dropped else ""
    return f" over {account.prompts} {unit}{dropped}"


def _account_note(result: Comparison, account: Account) -> str:
    why = f"No shares: {account.reason.replace('_', ' ')}. " if account.reason else ""
    flat = (
        ""
        if account.localization is None
        else (
            f"Flat would give blocks {result.scores.terminal_window[0]}-{result.scores.terminal_window[1]} "
            f"{share(account.localization.terminal_share_null)} of the blocks' sum. "
        )
    )
    floor = (
        "" if account.floor is None else f"Placed from {number(account.floor, 2)} nats, ten times what rounding does. "
    )
    remarks = " ".join(remark[:1].upper() + remark[1:].removesuffix(".") + "." for remark in account.remarks)
    return (
        f"{why}phi: what a place carries of the total when it is exchanged, mean of both orders of exchange; the parts "
        "add up. interaction: half of what the two orders differ by. * stands after correction over places; intervals "
        f"cover prompts, not training seeds or other prompts. {flat}{floor}{remarks}"
    ).strip()


def contrast_table(result: Comparison) -> Table:
    """Totals of candidate, control, and their difference, for every read-out."""
    rows = []
    for name, contrast in result.account_contrasts.items():
        mine, theirs = result.accounts.get(name), result.control_accounts.get(name)
        rows.append(
            (
                _title(name),
                DASH if mine is None else estimate(mine.total),
                DASH if theirs is None else estimate(theirs.total),
                estimate(contrast.total),
                str(contrast.prompts),
            )
        )
    return Table(
        "Against the control",
        ("nats", "candidate", "control", "candidate minus control", "prompts"),
        tuple(rows),
        "Paired over prompts, 95% intervals.",
    )


def settings_table(result: Comparison) -> Table:
    """Keys on which configuration, generation configuration and template differ."""
    rows = [
        (one.part, one.key, one.reference or DASH, one.candidate or DASH, "yes" if one.computes else "no")
        for one in result.settings
    ]
    note = ""
    frame = result.frame
    if frame is not None and frame.residual is not None:
        note = (
            f"One rotation and scale of the reference's last residual leaves {share(frame.residual)} of the "
            f"candidate's over, at a distance of outputs of {number(frame.gap)} rad: the bases "
            f"{'differ' if frame.changed else 'are taken as one'}."
        )
    return Table(
        "Settings that differ", ("part", "key", "reference", "candidate", "shapes what is computed"), tuple(rows), note
    )


def localization_table(result: Comparison) -> Table:
    # Here, so that asking which formats there are needs no numpy.
    from spinal.analysis.locators import LOCATORS as labels

    rows = []
    for name, place in result.localization.items():
        label = labels[name].label if name in labels else name.replace("_", " ")
        if place.center is None:
            rows.append((label, DASH, DASH, DASH, DASH, (place.reason or "").replace("_", " ")))
            continue
        rows.append(
            (
                label,
                f"{number(place.center, 3)} {interval(place.ci.get('center'), 3)}".strip(),
                _span(place.window50),
                _span(place.window80),
                str(place.peak),
                _percentage(Estimate(value=place.terminal_share, ci=place.ci.get("terminal_share"))),
            )
        )
    flat = share(next(iter(result.localization.values())).terminal_share_null)
    return Table(
        "Profiles over blocks",
        (
            "profile",
            "centre (depth)",
            "50% in blocks",
            "80% in blocks",
            "peak",
            f"share in the last third (flat: {flat})",
        ),
        tuple(rows),
        "Disagreement between profiles is shown, not averaged away. Block swap is the one that names injected changes; "
        "weights also move where the function does not (permuted neurons, folded gains). A window may span blocks that "
        "are the same on both sides: the sentences split it.",
        narrow=(0, 1, 3, 5),
    )


def _span(window: tuple[int, int] | None) -> str:
    return DASH if window is None else f"{window[0]}-{window[1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
