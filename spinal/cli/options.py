"""Options that several commands have, with their help."""

from pathlib import Path
from typing import Annotated

import typer

from spinal.policy.shipped import DEFAULT_POLICY
from spinal.profile import MeasurementProfile
from spinal.prompts.builtin import DEFAULT_SET

DEFAULTS = {knob: str(value) for knob, value in MeasurementProfile().model_dump().items()}
"""What a knob is when none is given, for help texts."""
SET_OR_THE_TRACES = f"{DEFAULT_SET}, or the set that a trace was measured on"
Prompts = Annotated[
    str,
    typer.Option(
        "--prompts",
        help="Text (one prompt a line), JSON lines or a JSON list (prompts, chats, hh-rlhf pairs), CSV with a header, "
        "Parquet (gzip accepted), or a built-in set.",
    ),
]
ComparePrompts = Annotated[
    str | None,
    typer.Option("--prompts", help="As for trace.", show_default=SET_OR_THE_TRACES),
]
AsJson = Annotated[bool, typer.Option("--json", help="The document in JSON on stdout; errors as objects on stderr.")]
PolicyName = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="The rules of the verdict: a file (YAML or JSON), or the name of one that ships.",
        show_default=DEFAULT_POLICY,
    ),
]
JudgedBy = Annotated[
    str | None,
    typer.Option(
        "--policy",
        help="Judge a comparison again under these rules: a file (YAML or JSON), or the name of one that ships.",
        show_default="the verdict that it carries",
    ),
]
FailOn = Annotated[
    str, typer.Option("--fail-on", help="The mildest outcome that exits with 1: fail or warn.", metavar="fail|warn")
]
FailOnStored = Annotated[
    str | None,
    typer.Option(
        "--fail-on",
        help="Exit by the verdict: with 1 from this outcome on, fail or warn.",
        metavar="fail|warn",
        show_default="fail where a verdict is made again, else exit 0",
    ),
]
Former = Annotated[
    Path | None,
    typer.Option(help="A comparison in JSON: what rules on former. values are read against."),
]
Brief = Annotated[bool, typer.Option("--brief", help="The verdict, its reason and where the change sits; no tables.")]
Outputs = Annotated[
    list[Path] | None,
    typer.Option(
        "-o",
        "--output",
        metavar="[FORMAT=]PATH",
        help="Also write .json, .html, .md, .xml (JUnit), .sarif, .prom (metrics), or FORMAT=PATH; may be repeated.",
    ),
]
GitHub = Annotated[
    bool, typer.Option("--github", help="Append to the step summary of GitHub Actions, and print annotations.")
]
CancelOnInterrupt = Annotated[
    bool, typer.Option("--cancel-on-interrupt", help="Cancel the audit when this command is interrupted.")
]
Device = Annotated[str, typer.Option(help="torch device, for example cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of tensor operations.")]
MaxTokens = Annotated[
    int | None, typer.Option(help="Tokens kept of each prompt, from its end.", show_default=DEFAULTS["max_tokens"])
]
LensPositions = Annotated[
    str | None,
    typer.Option(help="Positions per prompt read by the lens, or 'full'.", show_default=DEFAULTS["lens_positions"]),
]
Dtype = Annotated[str | None, typer.Option(help="float32 or checkpoint.", show_default=DEFAULTS["dtype"])]
BatchSize = Annotated[int | None, typer.Option(help="Prompts per forward pass.", show_default=DEFAULTS["batch_size"])]
SwapPrompts = Annotated[
    int | None, typer.Option(help="Prompts used by block swap.", show_default=DEFAULTS["swap_prompts"])
]
StitchPrompts = Annotated[
    int | None,
    typer.Option(
        help="Prompts over which the accounts of what carries the change are drawn up; 0 leaves them out.",
        show_default=DEFAULTS["stitch_prompts"],
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        help='A profile by its name, for example spinal/1, or knobs as JSON, for example {"max_tokens": 256}.',
        show_default=DEFAULTS["name"],
    ),
]
NoiseDraws = Annotated[
    int | None,
    typer.Option(
        help="Draws of the matched-noise control, each as costly as a trace.", show_default=DEFAULTS["noise_draws"]
    ),
]
Stream = Annotated[
    bool, typer.Option("--stream", help="Read the blocks from disk one at a time: for weights larger than memory.")
]
Seed = Annotated[int | None, typer.Option(help="Seed of the bootstrap.", show_default=DEFAULTS["seed"])]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache", help="Neither look for traces measured and models fetched before, nor keep those of now."
    ),
]
# No paths, which would lose a slash of s3://.
Base = Annotated[
    str | None,
    typer.Option(metavar="DIR|REF", help="Where the base of an adapter lies, whatever its configuration names."),
]
Tokenizer = Annotated[
    str | None, typer.Option(metavar="DIR|REF", help="Folder or reference whose tokenizer reads the prompts.")
]
Sources = Annotated[
    Path | None,
    typer.Option(
        "--sources",
        envvar="SPINAL_MODEL_SOURCES_FILE",
        help="Which hubs, registries and buckets may be used, and with what credentials (docs/sources.md).",
        show_default="the public hub, without credentials",
    ),
]
