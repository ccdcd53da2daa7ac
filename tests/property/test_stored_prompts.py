"""A prompt set that is sent as JSON lines is the same set where it arrives, whatever its texts are."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from spinal.prompts.formats import Source
from spinal.prompts.formats.jsonl import JSONL
from spinal.prompts.sets import Message, Prompt, PromptSet
from spinal.prompts.stored import name_of_file, to_lines

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
CHAT = st.lists(st.builds(Message, st.sampled_from(["user", "assistant", "system"]), st.text()), min_size=1).map(tuple)


def _behind(prompt: Prompt, answer: str | None) -> str | None:
    return prompt + answer if isinstance(prompt, str) and answer is not None else answer


@st.composite
def prompt_sets(draw: st.DrawFn) -> PromptSet:
    prompts = draw(st.lists(TEXT | CHAT, min_size=1, max_size=4, unique=True))
    answers = st.none() | TEXT
    continuations = [draw(answers) for _ in prompts]
    # A rejected answer may begin with its prompt, and differs from the preferred one.
    rejected = [_behind(prompt, draw(answers)) for prompt in prompts]
    pairs = [
        other if mine is not None and other is not None and mine.strip() != other.strip() else None
        for mine, other in zip(continuations, rejected, strict=True)
    ]
    category = st.none() | st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=9)
    return PromptSet(
        tuple(prompts),
        tuple(continuations),
        rejected=tuple(pairs),
        refusals=tuple(tuple(draw(st.lists(TEXT, max_size=2, unique=True))) for _ in prompts),
        categories=tuple(draw(category) for _ in prompts),
    )


@given(prompt_sets())
def test_lines_hold_the_whole_set(prompts: PromptSet) -> None:
    read = JSONL.read(Source("x", to_lines(prompts))).prompt_set(name=None, origin="x")
    assert replace(read, remarks=()) == prompts
    assert read.digest == prompts.digest


@given(st.text())
def test_a_name_made_of_a_file_name_is_a_name_or_none(file: str) -> None:
    name = name_of_file(file)
    assert name is None or (name[0].isalnum() and name.isascii() and len(name) <= 128)
