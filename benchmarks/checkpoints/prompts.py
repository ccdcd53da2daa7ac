"""The prompts on which known checkpoints are audited: English from the package, and other languages beside it."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from benchmarks.checkpoints.pairs import Pair, shorter_answers
from spinal.prompts.sets import PromptSet

RUSSIAN = (
    ("Какая сегодня погода?", " Сегодня солнечно и тепло, дождя не будет до самого вечера."),
    ("Как сварить борщ?", " Нарежьте свёклу и капусту, добавьте картофель и варите один час."),
    ("Кто написал «Войну и мир»?", " Этот роман написал Лев Николаевич Толстой."),
    ("Сколько дней в неделе?", " В неделе семь дней: пять рабочих и два выходных."),
    ("Как доехать до вокзала?", " Садитесь на автобус номер три и выходите на последней остановке."),
    ("Посоветуй хорошую книгу.", " Прочитайте рассказы Чехова, они короткие и очень смешные."),
    ("Что такое фотосинтез?", " Это превращение света, воды и воздуха в пищу для растения."),
    ("Почему небо голубое?", " Воздух рассеивает синий свет сильнее, чем красный."),
    ("Как научиться плавать?", " Начните с мелкой воды и сначала научитесь правильно дышать."),
    ("Какой город столица Франции?", " Столица Франции называется Париж."),
    ("Помоги мне выбрать подарок маме.", " Подарите ей цветы и тёплый шарф, она будет рада."),
    ("Как чистить зубы?", " Чистите зубы утром и вечером, по две минуты каждый раз."),
    ("Где живут пингвины?", " Пингвины живут в южном полушарии, многие из них в Антарктиде."),
    ("Что делать, если болит голова?", " Выпейте воды, отдохните в тишине и проветрите комнату."),
    ("Сколько будет два плюс три?", " Два плюс три будет пять."),
    ("Как посадить дерево?", " Выкопайте яму, поставьте саженец, засыпьте землёй и полейте."),
)
GERMAN = (
    ("Wie wird das Wetter morgen?", " Morgen scheint die Sonne, und am Abend wird es etwas kühler."),
    ("Wie backe ich ein einfaches Brot?", " Mische Mehl, Wasser, Hefe und Salz und backe es eine Stunde."),
    ("Wer hat den Faust geschrieben?", " Den Faust hat Johann Wolfgang von Goethe geschrieben."),
    ("Wie viele Monate hat ein Jahr?", " Ein Jahr hat zwölf Monate, manche sind kürzer als andere."),
    ("Wo ist der nächste Bahnhof?", " Gehen Sie geradeaus bis zur Brücke und dann nach links."),
    ("Was hilft gegen Schnupfen?", " Viel trinken, viel schlafen und ab und zu an die frische Luft gehen."),
    ("Welche Stadt ist die Hauptstadt von Österreich?", " Die Hauptstadt von Österreich ist Wien."),
    ("Wie pflanze ich Tomaten?", " Setze sie im Mai in die Erde und gieße sie jeden Tag ein wenig."),
)
CODE = (
    ("# a function that adds two numbers\n", "def add(a, b):\n    return a + b\n"),
    ("# the largest of a list\n", "def largest(values):\n    return max(values)\n"),
    ("# print the numbers from 1 to 10\n", "for n in range(1, 11):\n    print(n)\n"),
    ("-- all users older than 30\n", "SELECT name FROM users WHERE age > 30;\n"),
    ("// is a number even?\n", "function even(n) {\n  return n % 2 === 0;\n}\n"),
    ("# read a file line by line\n", 'with open("notes.txt") as lines:\n    for line in lines:\n        print(line)\n'),
    ("/* the sum of an array */\n", "int sum = 0;\nfor (int i = 0; i < n; i++) sum += a[i];\n"),
    ("# count the words of a text\n", "def words(text):\n    return len(text.split())\n"),
)
ENGLISH = 48


def foreign_texts() -> list[str]:
    """Texts of the category that ``language-lost`` destroys."""
    return [_turn(asked) + answer for asked, answer in RUSSIAN]


def mixed(held_out: Sequence[Pair], tokenizer: PreTrainedTokenizerBase, *, english: int = ENGLISH) -> PromptSet:
    """English pairs (preferred: the shorter answer) first, then Russian, German and code, each with its category."""
    pairs = [
        (pair, found[0])
        for pair in held_out
        if (found := shorter_answers([pair], tokenizer, most_tokens=10_000, most_answer=96))
    ][:english]
    rows: list[tuple[str, str, str | None, str]] = [
        (pair.prompt, *_by_length(pair, ids.preferred, tokenizer), "english") for pair, ids in pairs
    ]
    for category, texts in (("russian", RUSSIAN), ("german", GERMAN), ("code", CODE)):
        rows += [(asked if category == "code" else _turn(asked), answer, None, category) for asked, answer in texts]
    prompts, preferred, other, categories = zip(*rows, strict=True)
    return PromptSet(prompts, preferred, "mixed", rejected=other, categories=categories)


def english_only(prompts: PromptSet) -> PromptSet:
    """The English part of :func:`mixed`."""
    count = prompts.categories.count("english")
    return PromptSet(
        prompts.prompts[:count],
        prompts.continuations[:count],
        "english",
        rejected=prompts.rejected[:count],
        categories=prompts.categories[:count],
    )


def _by_length(pair: Pair, preferred: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The shorter answer first, by its tokens."""
    first = len(tokenizer(pair.preferred, add_special_tokens=False)["input_ids"])
    ends = 0 if tokenizer.eos_token_id is None else 1
    return (pair.preferred, pair.other) if first + ends == len(preferred) else (pair.other, pair.preferred)


def _turn(asked: str) -> str:
    return f"\n\nHuman: {asked}\n\nAssistant:"
