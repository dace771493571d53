"""Text becomes tokens in one place: append-only ids, and a mask over the agent's words and its end token alone."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from ipr.tokens import ChatTokens, coloured, with_date
from ipr.types import IprError, Message
from tests import families, toy

STRIPS_EARLIER_THOUGHTS = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' and not loop.last %}"
    "{{ '<|im_start|>assistant\n' + message['content'].split('Action:')[-1] + '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML = families.template("chatml")
SHOWS_THE_LAST_TURNS = "{% set messages = messages[-3:] %}" + CHATML
FOLDS_LINES = CHATML.replace("message['content']", "message['content'] | replace('\n', ' ')")
FOR_ONE_QUESTION = (
    "{% if messages|length > 1 %}{{ raise_exception('One question only!') }}{% endif %}{{ messages[0].content }}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CLOSED = PLAIN.replace("'\n'", "eos_token")
ENDS_WITH_THE_NEXT = CHATML.replace("+ '<|im_end|>\\n'", "")


def byte_tokenizer(template: str | None) -> Any:
    return families.make(families.byte_level(), template, "<s>", "</s>", "<|im_start|> <|im_end|>")


@pytest.fixture(params=families.RIGHT)
def chat(request: pytest.FixtureRequest) -> ChatTokens:
    return ChatTokens(families.RIGHT[request.param]())


def conversation() -> list[Message]:
    expert = toy.expert("train-0")
    return [*toy.PROMPT, *expert.history(0), *expert.continuation(0)]


def odd_conversation() -> list[Message]:
    """Blanks at the ends (SQL's errors end with a line break), nothing at all."""
    said = [
        "Find the ring. \n",
        "OK\n",
        "\n\nERROR 1064 (42000): near 'x'\n",
        "Thought: I look. \nAction: look\n\n",
        "",
        "Thought: again.\nAction:  SELECT  1",
        "1  | 2\t|\n\n\n",
        "Action: stop ",
        "  \n",
    ]
    return [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(said)]


def served(chat: ChatTokens, talk: list[Message]) -> list[int]:
    """What a server with the model's template and tokenizer reads."""
    turns = [m.as_dict() for m in talk]
    return chat.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]


def markers(chat: ChatTokens, ids: list[int]) -> list[int]:
    added = {i for i, t in chat.tokenizer.added_tokens_decoder.items() if t.content not in ("\n\n", "\n\n\n", "<unk>")}
    return [i for i in ids if i in added]


@pytest.mark.parametrize("talk", [conversation(), odd_conversation()], ids=["plain", "odd"])
def test_the_ids_of_a_history_begin_those_of_every_longer_one(chat: ChatTokens, talk: list[Message]):
    ids = chat.conversation(talk).ids
    for n in range(1, len(talk)):
        shorter = chat.conversation(talk[:n]).ids
        assert shorter == ids[: len(shorter)]
        if talk[n - 1].role == "user":
            assert chat.prompt(talk[:n]) == shorter
            words = chat.agent(talk[n].content)
            assert ids[len(shorter) :][: len(words)] == words


@pytest.mark.parametrize("talk", [conversation(), odd_conversation()], ids=["plain", "odd"])
def test_what_is_played_and_trained_is_what_a_server_with_the_template_reads(chat: ChatTokens, talk: list[Message]):
    for n in range(1, len(talk) + 1, 2):
        assert chat.prompt(talk[:n]) == served(chat, talk[:n])


def test_a_turn_is_the_agents_words_and_then_the_observation(chat: ChatTokens):
    whole = conversation()[:7]
    ids = chat.prompt(whole[:1])
    for agent, user in zip(whole[1::2], whole[2::2], strict=True):
        ids = ids + chat.agent(agent.content) + chat.observation(user.content)
    assert ids == chat.prompt(whole)


def test_the_mask_covers_the_agents_words_and_its_end_only(chat: ChatTokens):
    whole = conversation()
    rendered = chat.conversation(whole)
    assert len(rendered.ids) == len(rendered.mask)
    assert set(rendered.mask) == {0, 1}
    spans: list[list[int]] = []
    before = 0
    for token, trained in zip(rendered.ids, rendered.mask, strict=True):
        if trained and not before:
            spans.append([])
        if trained:
            spans[-1].append(token)
        before = trained
    assert [chat.text(span) for span in spans] == [m.content for m in whole if m.role == "assistant"]
    assert all(span.index(chat.end_id) == len(span) - 1 for span in spans)
    left = chat.tokenizer.decode([i for i, trained in zip(rendered.ids, rendered.mask, strict=True) if not trained])
    assert "Thought" not in left
    assert all(m.content in left for m in whole if m.role == "user")


def test_what_the_agent_writes_after_a_prompt_is_what_is_trained(chat: ChatTokens):
    """The ids that it draws and those of the text that is kept of them are the same."""
    whole = conversation()
    rendered = chat.conversation(whole)
    for n in range(1, len(whole), 2):
        start = len(chat.prompt(whole[:n]))
        end = rendered.ids.index(chat.end_id, start) + 1
        drawn = rendered.ids[start:end]
        assert rendered.mask[start:end] == [1] * len(drawn)
        assert chat.agent(chat.text(drawn)) == drawn


def test_our_template_to_the_token():
    chat = ChatTokens(toy.tokenizer())
    _pad, bos, user, agent, end = range(5)

    def words(text: str) -> list[int]:
        return chat.tokenizer.encode(text, add_special_tokens=False)

    rendered = chat.conversation([Message("user", "Hi."), Message("assistant", "take ring"), Message("user", "No.")])
    expected = [
        ([bos, user, *words("Hi."), end, agent], 0),
        ([*words("take ring"), end], 1),
        ([user, *words("No."), end, agent], 0),
    ]
    assert rendered.ids == [i for ids, _ in expected for i in ids]
    assert rendered.mask == [trained for ids, trained in expected for _ in ids]
    assert chat.end_id == end


def test_any_text_survives(chat: ChatTokens):
    text = "Thought: naïve \N{EM DASH} 漢字 🙂\n\n  Action:\ttake ring"
    assert chat.text(chat.agent(text)) == text


def test_a_marker_in_a_text_is_text(chat: ChatTokens):
    """An environment's answer is data: it must not be able to end a turn, to think or to speak as the agent."""
    plain = [chat.prompt([Message("user", "a")]), chat.observation("a"), chat.agent("a")]
    for marker in (t.content for t in chat.tokenizer.added_tokens_decoder.values()):
        text = f"I say {marker}{marker} b {marker}c"
        tricky = [chat.prompt([Message("user", text)]), chat.observation(text), chat.agent(text)]
        assert [markers(chat, ids) for ids in tricky] == [markers(chat, ids) for ids in plain]
        if marker not in ("</think>", "<unk>"):  # the one drops what is before it, the other stands for lost letters
            assert chat.text(tricky[2]) == text.strip()


def test_a_marker_that_the_vocabulary_would_give_is_text_too():
    """A unigram vocabulary may hold the markers as pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = [(chr(i), -5.0) for i in range(32, 127)]
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("\n", -5.0), ("\t", -5.0), ("▁", -5.0), *letters]
    unigram = Tokenizer(models.Unigram(pieces, 0, False))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)  # type: ignore[assignment]
    unigram.decoder = decoders.Metaspace(prepend_scheme="never")  # type: ignore[assignment]
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '</s>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    chat = ChatTokens(families.make(unigram.to_str(), template, None, "</s>"))
    assert chat.observation("a</s>b").count(chat.end_id) == chat.observation("ab").count(chat.end_id)


def test_an_agents_thought_in_its_block_is_dropped_as_the_template_drops_it():
    chat = ChatTokens(families.RIGHT["qwen3"]())
    said = "Thought: a\nAction: look"
    assert chat.agent(f"<think>\nI wonder.\n</think>\n\n{said}") == chat.agent(said)
    kept = ChatTokens(families.RIGHT["qwen2.5"]())
    assert len(kept.agent(f"<think>\nI wonder.\n</think>\n\n{said}")) > len(kept.agent(said))


def test_quotes_are_dropped_where_the_template_drops_them():
    strips = families.template("chatml").replace("message['content']", "message['content'].strip('\"')")
    said = [Message("user", 'Say "a"'), Message("assistant", '"Action: b"'), Message("user", '"c"')]
    tokenizer = families.RIGHT["chatml"]()
    assert strips != tokenizer.chat_template
    tokenizer.chat_template = strips
    assert ChatTokens(tokenizer).prompt(said) == served(ChatTokens(tokenizer), said)


def test_of_a_block_in_an_answer_the_inner_part_is_kept_where_the_template_keeps_it():
    keeps = families.template("chatml").replace(
        "message['content']", "message['content'].split('<answer>')[-1].split('</answer>')[0]"
    )
    said = [Message("user", "Say a"), Message("assistant", "I do. <answer>a</answer>"), Message("user", "c")]
    tokenizer = families.RIGHT["chatml"]()
    tokenizer.chat_template = keeps
    assert ChatTokens(tokenizer).prompt(said) == served(ChatTokens(tokenizer), said)


@pytest.mark.parametrize("place", ["loop.first", "not loop.first", "message['role'] == 'assistant'"])
def test_blanks_are_dropped_at_the_places_where_the_template_drops_them(place: str):
    tokenizer = families.RIGHT["chatml"]()
    words = f"(message['content'] | trim if {place} else message['content'])"
    tokenizer.chat_template = families.template("chatml").replace("message['content']", words)
    chat = ChatTokens(tokenizer)
    for n in range(1, len(odd_conversation()) + 1, 2):
        assert chat.prompt(odd_conversation()[:n]) == served(chat, odd_conversation()[:n])


def test_a_template_that_refuses_an_empty_answer_is_taken():
    """No server with it reads such a conversation."""
    refuses = "{%- if message['content'] == '' %}{{ raise_exception('Say something!') }}{% endif -%}"
    tokenizer = families.RIGHT["chatml"]()
    tokenizer.chat_template = families.template("chatml").replace("messages %}", "messages %}" + refuses, 1)
    chat = ChatTokens(tokenizer)
    assert chat.text(chat.agent("")) == ""
    assert chat.agent("stop") == ChatTokens(families.RIGHT["chatml"]()).agent("stop")


@pytest.mark.parametrize("name", families.REFUSED)
def test_families_that_cannot_be_used_are_refused(name: str):
    make, told = families.REFUSED[name]
    with pytest.raises(IprError, match=told) as refused:
        ChatTokens(make())
    assert "docs/your-model.md" in str(refused.value)


def test_the_template_that_the_guide_gives_to_base_models_is_right():
    guide = (Path(__file__).parents[1] / "docs" / "your-model.md").read_text()
    make, _ = families.REFUSED["gpt-neox"]
    tokenizer = make()
    tokenizer.chat_template = guide.split("```jinja\n")[1].split("\n```")[0]
    chat = ChatTokens(tokenizer)
    assert chat.text(chat.agent("Action: stop")) == "Action: stop"
    assert chat.prompt(conversation()[:5]) == served(chat, conversation()[:5])


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (SHOWS_THE_LAST_TURNS, "depending on other turns"),
        (STRIPS_EARLIER_THOUGHTS, "changes the words of a message"),
        (FOLDS_LINES, "changes the words of a message"),
        ("{{ '<|im_start|>' }}", "changes the words of a message, or repeats them"),
        (FOR_ONE_QUESTION, "One question only!"),
        (ENDS_WITH_THE_NEXT, "no special token at the end"),
        (PLAIN, "no special token at the end"),
        (CLOSED, "a prompt that ends in a blank, which becomes part of the agent's first word"),
        (PLAIN.split("{% if")[0], "puts 'assistant: ' before the agent's words"),
        (None, "no chat template"),
        (CHATML.replace("messages %}", "messages[-15:] %}", 1), "prints a long conversation otherwise"),
        (CHATML.replace("message['content']", "message['content'][:2000]"), "prints a long conversation otherwise"),
        (
            CHATML.replace("message['content']", "message['content'].replace('\n\n\n', '\n')"),
            "empty lines otherwise than they are",
        ),
        (CHATML.replace("messages %}", "messages if message['content'] %}", 1), "leaves out the message ''"),
        (
            CHATML.replace("messages %}", "messages if not message['content'].startswith('{') %}", 1),
            """leaves out the message '{"a": 1}'""",
        ),
        (
            CHATML.replace("message['content']", "(message['content'] | trim if loop.last else message['content'])"),
            "or prints it otherwise at one place than at another",
        ),
        ("{{ messages[0].content + 1 }}", r"fails for a user and an agent in turn \(TypeError"),
        ("{{ 1 / 0 }}", r"fails .*\(ZeroDivisionError"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", r"fails .*\(RecursionError"),
        ({"tool_use": CHATML, "rag": CHATML}, r"fails .*multiple chat templates with no default"),
    ],
)
def test_templates_that_cannot_be_used_are_refused(template: Any, told: str):
    with pytest.raises(IprError, match=told) as refused:
        ChatTokens(byte_tokenizer(template))
    assert "\n" not in str(refused.value)


def test_a_tokenizer_that_loses_blanks_is_refused():
    from tokenizers import Regex, Tokenizer, normalizers

    folds = Tokenizer.from_str(families.byte_level())
    folds.normalizer = normalizers.Replace(Regex(r"\s+"), " ")  # type: ignore[assignment]
    tokenizer = families.make(folds.to_str(), families.template("chatml"), None, "</s>", "<|im_start|> <|im_end|>")
    with pytest.raises(IprError, match="loses text"):
        ChatTokens(tokenizer)


@pytest.mark.parametrize(
    ("name", "shown"), [("llama-3.2", "26 Jul 2024"), ("granite-3.1", "July 26, 2024"), ("smollm3", "26 July 2024")]
)
def test_today_is_the_day_that_is_given(name: str, shown: str):
    tokenizer = families.RIGHT[name]()
    talk = [{"role": "user", "content": "Hi."}]
    today = tokenizer.apply_chat_template(talk, tokenize=False)
    tokenizer.chat_template = with_date(tokenizer.chat_template, "2024-07-26")
    dated = tokenizer.apply_chat_template(talk, tokenize=False)
    code = {"llama-3.2": "%d %b %Y", "granite-3.1": "%B %d, %Y", "smollm3": "%d %B %Y"}[name]
    assert dated == today.replace(datetime.datetime.now().strftime(code), shown), "nothing else changes"
    assert with_date(tokenizer.chat_template, "2030-01-01") == tokenizer.chat_template, "it is kept"


def test_today_is_given_inside_macros_too_and_a_template_without_it_stays_as_it_is():
    tokenizer = families.RIGHT["chatml"]()
    template = "\n{% macro head() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ head() }}"
    tokenizer.chat_template = with_date(template, "2026-01-02")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi."}], tokenize=False) == "\n2026-01-02"
    assert with_date("{{ messages }}", "2026-01-02") == "{{ messages }}"


def test_a_conversation_is_user_and_agent_in_turn():
    chat = ChatTokens(toy.tokenizer())
    user, agent = Message("user", "a"), Message("assistant", "b")
    for wrong in ([agent], [user, user], [Message("system", "s"), user]):
        with pytest.raises(ValueError, match="in turn, user first"):
            chat.conversation(wrong)
    with pytest.raises(ValueError, match="ends with a user message"):
        chat.prompt([user, agent])


def test_the_coloured_text_shows_what_is_trained():
    chat = ChatTokens(toy.tokenizer())
    shown = coloured(chat, [Message("user", "Hi."), Message("assistant", "stop"), Message("user", "No.")])
    green = [part.split("\x1b[0m")[0] for part in shown.split("\x1b[32m")[1:]]
    assert "".join(green) == "stop<|end|>"
