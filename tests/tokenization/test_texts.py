"""The passages that chapters share."""

from engine.tokens import passages


def test_the_tales_have_their_lengths_and_are_plain_prose():
    assert 600 <= len(passages.passage().split()) <= 800
    assert 1400 <= len(passages.sample().split()) <= 1800
    for tale in (passages.passage(), passages.sample()):
        assert tale.isascii()
        assert tale.endswith(".\n")


def test_there_are_eight_control_prompts():
    prompts = passages.control_prompts()
    assert len(set(prompts)) == 8
    assert all(prompt == prompt.strip() for prompt in prompts)


def test_sentences_cover_scripts_code_digits_and_emoji():
    by_name = {sentence.name: sentence.text for sentence in passages.sentences()}
    assert {"English", "Python", "Digits", "Emoji"} < set(by_name)
    assert len(by_name) >= 11
    compile(by_name["Python"], "sentence", "exec")
    scripts = {
        "Russian": "\u0400",
        "Arabic": "\u0600",
        "Hindi": "\u0900",
        "Chinese": "\u4e00",
        "Japanese": "\u3040",
    }
    for name, start in scripts.items():
        assert any(ord(start) <= ord(char) < ord(start) + 0x52FF for char in by_name[name])
