from io import StringIO

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from scripts.attune.words import coloured, printable, word_table
from ui.records import Personalization, PersonalWord

WORDS = (
    PersonalWord(text="Ah", start=0, end=2, pir=5.5, personal=True),
    PersonalWord(text="start", start=3, end=8, pir=0.1, personal=False),
    PersonalWord(text="tea", start=9, end=12, pir=1.5, personal=True),
)
SCORED = Personalization(user="maeve", words=WORDS)


def test_words_are_styled_by_their_pir_and_the_text_is_kept() -> None:
    text = coloured("Ah start tea", SCORED)
    assert text.plain == "Ah start tea"
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert set(styles) == {"Ah", "tea"}
    assert styles["Ah"] != styles["tea"]


def test_the_table_has_the_personal_words_strongest_first() -> None:
    out = Console(file=StringIO(), width=40)
    out.print(word_table(SCORED))
    assert isinstance(out.file, StringIO)
    rows = out.file.getvalue().split()
    assert rows == ["Word", "PIR", "Ah", "5.50", "tea", "1.50"]


@settings(deadline=None)
@given(st.text(max_size=60))
def test_printable_text_has_no_control_character_but_line_breaks_and_tabs(text: str) -> None:
    assert not [
        c for c in printable(text) if (ord(c) < 32 or 127 <= ord(c) < 160) and c not in "\n\t"
    ]


@settings(deadline=None)
@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), max_size=60))
def test_printable_text_keeps_letters_digits_and_signs(text: str) -> None:
    assert printable(text) == text
