"""The tokenizer that a checkpoint's ``tokenizer.json`` describes: that file, and never one that stands in for it.

``AutoTokenizer`` rebuilds some classes from a part of the file, and reads another file where ``tokenizer_config.json``
names one. What was checked and hashed has to be what tokenises, so the file itself is read; where ``AutoTokenizer``
would give other ids, a remark says so.
"""

import json
import random
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from spinal.checkpoints.checkpoint import Checkpoint
from spinal.checkpoints.files import CONFIG, TOKENIZER_FILES
from spinal.checkpoints.held import private_folder
from spinal.checkpoints.tokenizer import TOKENIZER_CONFIG, read_tokenizer, read_tokenizer_config
from spinal.engine.failures import callers_fault
from spinal.errors import PromptSetInvalid, TokenizerInvalid
from spinal.prompts.sets import Conversation

ACTING = frozenset(
    {
        "extra_special_tokens",
        "additional_special_tokens",
        "added_tokens_decoder",
        "split_special_tokens",
        "chat_template",
        "fix_mistral_regex",
    }
)
"""Members of tokenizer_config.json, besides the named tokens, that change ids. The others name files, code or classes,
or act on decoding."""
ELSEWHERE = frozenset({"fast_tokenizer_files", "auto_map"})
"""Members that send ``AutoTokenizer`` to other files, or to code."""
SAME_DAY = (
    "{%- macro strftime_now(format) -%}"
    '{{- {"%Y-%m-%d": "2024-07-26", "%B %d, %Y": "July 26, 2024"}.get(format, "26 Jul 2024") -}}'
    "{%- endmacro -%}"
)
"""Stands in for the clock of chat templates: the same prompts are the same ids on every day."""


DRAWING = re.compile(r"\|\s*random\b|\blipsum\b")
"""What templates of Jinja have of chance."""


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to token ids and back, without padding, truncation or chance."""

    source: str
    """The checkpoint's reference, as errors name it."""
    wrapped: Any
    """transformers' wrapper around the tokenizer of ``tokenizer.json``."""
    vocabulary: int
    """Largest id + 1. Ids may have gaps: their number says less."""
    remarks: tuple[str, ...]
    auto: Any
    """What ``AutoTokenizer`` makes of the same files; None where it makes the same, or nothing."""

    def encode(self, texts: Sequence[str], *, special: bool) -> list[list[int]]:
        """Ids of each text, with the tokens that the tokenizer adds where ``special``; raises TokenizerInvalid."""
        with _faults(self.source, "fails on the prompts"):
            found = self.wrapped.backend_tokenizer.encode_batch(list(texts), add_special_tokens=special)
        return [list(one.ids) for one in found]

    def token(self, index: int) -> str:
        """The text of a token, or of its id where it has none."""
        return str(self.wrapped.backend_tokenizer.id_to_token(index) or index)

    def openings(self) -> frozenset[int]:
        """Ids that open a text: the declared BOS, and the one that the tokenizer puts first by itself."""
        (bare,), (full,) = self.encode(["a"], special=False), self.encode(["a"], special=True)
        added = full[:1] if full[:1] != bare[:1] else []
        declared = self.wrapped.bos_token_id
        return frozenset([*added, *([] if declared is None else [int(declared)])])

    def end(self) -> int | None:
        """The id of the declared end of text."""
        declared = self.wrapped.eos_token_id
        return None if declared is None else int(declared)

    def render(self, conversation: Conversation, where: str) -> str:
        """The conversation through the checkpoint's chat template, up to where the assistant speaks; the template
        writes the BOS itself. Raises PromptSetInvalid."""
        template = self._template()
        if template is None:
            raise PromptSetInvalid(
                f"{where} is a chat, and {self.source} has no chat template",
                hint="write the prompts out as text, or save the tokenizer with its chat template",
            )
        messages = [{"role": message.role, "content": message.content} for message in conversation]
        with callers_fault(lambda why: self._refusal(where, why)), _same_draws():
            text: str = self.wrapped.apply_chat_template(
                messages, chat_template=SAME_DAY + template, tokenize=False, add_generation_prompt=True
            )
        return text

    def _refusal(self, where: str, why: str) -> PromptSetInvalid:
        return PromptSetInvalid(
            f"{where}: the chat template of {self.source} refuses it ({why})",
            hint="templates may want other roles, or roles that alternate",
        )

    def reads_the_clock(self) -> bool:
        """Whether the chat template asks for today's date."""
        return "strftime_now" in (self._template() or "")

    def draws(self) -> bool:
        """Whether the chat template asks for chance."""
        return DRAWING.search(self._template() or "") is not None

    def differs_from_auto(self, texts: Sequence[str], *, special: bool) -> int:
        """How many of the texts ``AutoTokenizer`` would turn into other ids."""
        if self.auto is None:
            return 0
        try:
            with _faults(self.source, "fails under AutoTokenizer"):
                theirs = self.auto(list(texts), add_special_tokens=special, padding=False, truncation=False)[
                    "input_ids"
                ]
        except TokenizerInvalid:
            # It would give no ids at all.
            return len(texts)
        ours = self.encode(texts, special=special)
        return sum(list(mine) != list(other) for mine, other in zip(ours, theirs, strict=True))

    def _template(self) -> str | None:
        template = self.wrapped.chat_template
        if isinstance(template, dict):
            template = template.get("default")
        return template if isinstance(template, str) else None


@contextmanager
def _same_draws() -> Iterator[None]:
    """Chat templates may draw at random: inside this context they draw the same on every day."""
    before = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(before)


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """The tokenizer in ``tokenizer.json`` of ``checkpoint`` (of the base of an adapter), with the special tokens and
    the chat template that lie beside it. Reads no other file. Raises TokenizerInvalid."""
    whole, source = checkpoint.whole, checkpoint.source
    written, config = read_tokenizer(whole), read_tokenizer_config(whole)
    with private_folder() as place, _faults(source, "cannot be loaded"):
        _lay_out(whole, place)
        _write_config(place, {name: value for name, value in config.items() if _acts(name, value)})
        wrapped = PreTrainedTokenizerFast.from_pretrained(place, local_files_only=True)
        backend = wrapped.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        remarks = _remarks(written, config)
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None
        ids = backend.get_vocab(with_added_tokens=True).values()
        if not ids:
            raise TokenizerInvalid(f"{source}: tokenizer.json holds no token", hint="save the tokenizer again")
        _write_config(place, {name: value for name, value in config.items() if name not in ELSEWHERE})
        return Tokenizer(source, wrapped, max(ids) + 1, remarks, _auto(source, place))


def _acts(name: str, value: Any) -> bool:
    return name in ACTING or (name.endswith("_token") and isinstance(value, str | dict))


def _lay_out(checkpoint: Checkpoint, place: Path) -> None:
    """Links to what a tokenizer is read from, alone in a folder: a library finds nothing else there. Its settings are
    written apart."""
    for name in (CONFIG, *TOKENIZER_FILES):
        if name != TOKENIZER_CONFIG and (checkpoint.path / name).is_file():
            (place / name).symlink_to((checkpoint.path / name).absolute())


def _write_config(place: Path, config: dict[str, Any]) -> None:
    (place / TOKENIZER_CONFIG).write_text(json.dumps(config), encoding="utf-8")


def _remarks(written: dict[str, Any], config: dict[str, Any]) -> tuple[str, ...]:
    found = []
    if config.get("fast_tokenizer_files"):
        found.append(
            "tokenizer_config.json names other tokenizer files (fast_tokenizer_files); they are not read, "
            "tokenizer.json is"
        )
    if written["model"].get("dropout"):
        found.append("tokenizer.json drops merges by chance (dropout); it is read without that")
    return tuple(found)


def _auto(source: str, place: Path) -> Any:
    try:
        with _faults(source, "cannot be loaded by AutoTokenizer"):
            made = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
    except TokenizerInvalid:
        # The tokenizer at hand does not depend on it.
        return None
    return None if type(made) is PreTrainedTokenizerFast else made


def auto_remark(tokenizer: Tokenizer, differing: int, count: int) -> str:
    """That ``differing`` of ``count`` prompts would be other ids under ``AutoTokenizer``."""
    return (
        f"{differing} of {count} prompts have other token ids under AutoTokenizer of transformers "
        f"{transformers.__version__}, which makes a {type(tokenizer.auto).__name__} of its own: tokenizer.json as it "
        "stands was used"
    )


def _faults(source: str, what: str) -> AbstractContextManager[None]:
    return callers_fault(
        lambda why: TokenizerInvalid(
            f"{source}: tokenizer {what} ({why})", hint="save the fast tokenizer with the model"
        )
    )
