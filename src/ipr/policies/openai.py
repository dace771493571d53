"""A model behind any OpenAI-compatible chat endpoint as a policy: a hosted one, vLLM's server, `ipr serve`.

Decided here: a turn is one request with the whole conversation, many at the same time; waiting after a
429 or 5xx is the client library's (it honours Retry-After up to two minutes). What goes wrong with one conversation
ends like it would with a local model (a context that is full, an answer without words); what is wrong with the server,
the name or the key is one IprError. The key is read from OPENAI_API_KEY and kept nowhere else.
Left out: token ids (a server returns text), so nothing that such a policy played can be trained on token by token.
"""

from __future__ import annotations

import difflib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import openai
from openai.types.chat import ChatCompletion

from ipr.config import EndpointConfig
from ipr.types import Completion, IprError, Message, Sampling, Turn

_TOO_LONG = re.compile(
    r"context (length|window|size)|(prompt|input)\b.* too long|token count\b.* exceeds"
    r"|`inputs` (tokens|must)|too many tokens"  # TGI's and Cohere's
    r"|max_tokens must be at least 1, got 0",  # vLLM's, where the conversation takes exactly the whole context
    re.I,
)
"""How servers say that a conversation does not fit; where they give a code, it is looked at first."""
_CODES = {"context_length_exceeded", "exceed_context_size_error"}
_NO_WORDS = "..."
"""Stands for an empty answer in the history: several servers refuse an empty message."""


@dataclass(slots=True)
class Usage:
    """What was asked and answered, as the server counts it."""

    requests: int = 0
    retries: int = 0
    """Of requests that were answered in the end."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens, those that the server had already read; often cheaper, priced here like the others."""
    completion_tokens: int = 0

    def cost(self, settings: EndpointConfig) -> float | None:
        """Dollars; None where a price is unknown."""
        if settings.price_in is None or settings.price_out is None:
            return None
        return (self.prompt_tokens * settings.price_in + self.completion_tokens * settings.price_out) / 1e6


class Server:
    """An OpenAI-compatible server at `url`, as far as /v1; what it answers with instead of an answer, as IprErrors.

    `option` is what the user names it by, `hint` what may help where it refuses a request; a `key` is that of a server
    that this process has started: it replaces that of the environment, whose proxies are not asked, too.
    """

    def __init__(self, url: str, settings: EndpointConfig, option: str, hint: str, key: str | None = None):
        self.url = base_url(url, option)
        self._timeout, self._option, self._hint = settings.timeout, option, hint
        self._key = key or os.environ.get("OPENAI_API_KEY", "").strip()  # a file of Windows ends its line in CR
        if not (self._key.isascii() and self._key.isprintable()):
            raise IprError("OPENAI_API_KEY holds a character that no key has; set it anew")
        # A server of one's own wants no key, the client library wants one.
        self.client = openai.OpenAI(
            base_url=self.url,
            api_key=self._key or "none",
            timeout=settings.timeout,
            max_retries=settings.retries,
            http_client=openai.DefaultHttpxClient(trust_env=not key, event_hooks={"response": [_unwrap]}),
        )

    def refused(self, error: openai.OpenAIError) -> IprError:
        said = self.said(error)
        if isinstance(error, openai.APITimeoutError):
            return IprError(f"{self.url} did not answer within {self._timeout:g} s; raise endpoint.timeout")
        if isinstance(error, openai.APIConnectionError):
            return IprError(f"cannot reach {self.url} ({said}); start the server, or correct {self._option}")
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return IprError(f"{self.url} refuses the key ({said}); set OPENAI_API_KEY")
        if isinstance(error, openai.RateLimitError):
            return IprError(f"{self.url}: {said}; lower endpoint.requests_per_minute, and give the command again later")
        if isinstance(error, openai.InternalServerError):
            return IprError(f"{self.url}: {said}; give the command again when the server is well")
        return IprError(f"{self.url} refuses the request ({said}); {self._hint}")

    def said(self, error: openai.OpenAIError) -> str:
        """The error in one line, without the key, which some servers repeat."""
        text = str(error)
        if isinstance(error, openai.APIStatusError):
            text = f"{error.status_code} {_words(error)}"
        elif error.__cause__ is not None:
            text = str(error.__cause__)
        if self._key:
            text = text.replace(self._key, "<key>")
        return " ".join(text.split())[:300]


def as_they_come(
    call: Callable[[Any], Any], waiting: deque[Any], most: int, name: Callable[[Any], str]
) -> Iterator[tuple[Any, Any]]:
    """(one, call(one)) of what waits, at most so many at the same time, each as it comes.

    One that raises IprError is called again, as all the others would be lost for it; the second time ends it, with its
    `name`. Whoever iterates may add to what waits. Its threads are daemons, which a pool's are not: where it is ended
    by an error or by hand, nobody waits for answers that may take minutes, and their retries.
    """
    answered: SimpleQueue[tuple[Any, Any, BaseException | None]] = SimpleQueue()

    def answer(one: Any) -> None:
        try:
            answered.put((one, call(one), None))
        except BaseException as error:
            answered.put((one, None, error))

    under_way = 0
    again: set[int] = set()
    while waiting or under_way:
        while waiting and under_way < most:
            threading.Thread(target=answer, args=(waiting.popleft(),), daemon=True).start()
            under_way += 1
        one, found, error = answered.get()
        under_way -= 1
        if isinstance(error, IprError):
            if id(one) in again:
                raise IprError(f"{error} (asked twice: {name(one)})") from None
            again.add(id(one))
            waiting.appendleft(one)
        elif error is not None:
            raise error
        else:
            again.discard(id(one))
            yield one, found


class EndpointPolicy:
    """`model` at `url`, as far as /v1. `usage` goes on counting from what is given. Safe to close and make anew."""

    def __init__(self, url: str, model: str, settings: EndpointConfig, usage: Usage | None = None):
        hint = "fields are changed by e.g. endpoint.parameters.temperature=null"
        self._server = Server(url, settings, "--endpoint", hint)
        self.name, self.url = model, self._server.url
        self.usage = usage or Usage()
        self._settings = settings
        self._client = self._server.client
        self._lock = threading.Lock()
        self._free_at = 0.0
        """When the next request may go, where their rate is limited."""
        self._cut: dict[int, int] = {}
        """Tokens written -> with those read, of answers that were cut off before the limit that was asked for."""

    def generate(self, turns: Sequence[Turn], sampling: Sampling) -> list[Completion]:
        """The next turn of every conversation, `concurrency` requests at a time; raises IprError."""
        numbered = as_they_come(
            lambda i: self._answer(turns[i], sampling),
            deque(range(len(turns))),
            self._settings.concurrency,
            lambda i: _named(turns[i]),
        )
        return [completion for _, completion in sorted(numbered, key=lambda pair: pair[0])]

    def stream(self, waiting: deque[Turn], sampling: Sampling) -> Iterator[tuple[Turn, Completion]]:
        """See `ipr.types.Streaming`; raises IprError."""
        return as_they_come(lambda turn: self._answer(turn, sampling), waiting, self._settings.concurrency, _named)

    def close_session(self, session: Hashable) -> None:
        pass

    def check(self, sampling: Sampling, conversation: Sequence[Message]) -> None:
        """Ask for the last turn of a usual conversation the way it is asked for later.

        Raises IprError for what would make all of them fail.
        """
        quick = self._client.with_options(max_retries=1, timeout=min(20.0, self._settings.timeout))
        try:
            known = [model.id for model in quick.models.list()]
        except openai.APITimeoutError:
            known = []  # it may have to wake up: the question has all the time and tries
        except openai.APIConnectionError as error:
            raise self._server.refused(error) from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            known = []  # not every server lists its models
        try:
            # It may end with the agent's last turn, which is what is asked for.
            said = conversation[:-1] if conversation[-1].role == "assistant" else conversation
            answer = self._ask(Turn(tuple(said)), sampling)
        except openai.NotFoundError as error:
            near = difflib.get_close_matches(self.name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known[:8]) or 'none listed'}"
            raise IprError(f"{self.url} has no model '{self.name}' ({self._server.said(error)}); {hint}") from None
        except openai.APIStatusError as error:
            if _too_long(error):
                raise IprError(
                    f"a usual episode is longer than the context of {self.name} ({self._server.said(error)});"
                    " use --shots 0, or a model with a longer context"
                ) from None
            raise self._server.refused(error) from None
        except openai.OpenAIError as error:
            raise self._server.refused(error) from None
        _choice(answer, self.url)

    def _answer(self, turn: Turn, sampling: Sampling) -> Completion:
        try:
            answer = self._ask(turn, sampling)
        except openai.APIStatusError as error:
            if _too_long(error):
                return Completion("", (), "overflow")
            if error.code == "content_filter":
                return Completion("", (), "stop")
            raise self._server.refused(error) from None
        except openai.OpenAIError as error:
            raise self._server.refused(error) from None
        choice = _choice(answer, self.url)
        text = _text(_get(choice, "message", "content")).strip()
        if _get(choice, "finish_reason") != "length":
            return Completion(text, (), "stop")
        asked = self._request(turn, sampling)
        limit = asked.get("max_completion_tokens", asked.get("max_tokens"))
        counts = ("prompt_tokens", "completion_tokens", "total_tokens")
        read, said, total = (_get(answer, "usage", name) or 0 for name in counts)
        # Some servers count what was thought in the total alone.
        written = max(said, total - read if read else 0)
        # Cut off before the limit that was asked for: the context was full.
        if limit is None or not (read or said) or written >= limit:
            return Completion(text, (), "length")
        self._check_cut(written, read + written, limit)
        return Completion(text, (), "overflow")

    def _check_cut(self, written: int, total: int, limit: int) -> None:
        """Raise IprError where answers end after as many tokens in unlike conversations, which no full context does."""
        with self._lock:
            before = self._cut.setdefault(written, total)
        if written and abs(before - total) > 1:
            raise IprError(
                f"{self.url} cut answers off after {written} of the {limit} tokens asked for, with {before} and {total}"
                " tokens in all: a limit of its own, no full context; start it with --generation-config vllm (if it is"
                " vLLM) and no limit of its own, or lower rollout.max_new_tokens; then take another --out"
            )

    def _ask(self, turn: Turn, sampling: Sampling) -> ChatCompletion:
        self._wait()
        raw = self._client.chat.completions.with_raw_response.create(**self._request(turn, sampling))
        try:
            answer = raw.parse()
        except ValueError:
            answer = None
        if not isinstance(answer, ChatCompletion):
            raise IprError(f"{self.url} answers with something else than a chat completion; correct --endpoint")
        usage = _get(answer, "usage")
        with self._lock:
            self.usage.requests += 1
            self.usage.retries += raw.retries_taken
            self.usage.prompt_tokens += _get(usage, "prompt_tokens") or 0
            self.usage.completion_tokens += _get(usage, "completion_tokens") or 0
            self.usage.cached_tokens += _get(usage, "prompt_tokens_details", "cached_tokens") or 0
        return answer

    def _request(self, turn: Turn, sampling: Sampling) -> dict[str, Any]:
        fields: dict[str, Any] = {"temperature": sampling.temperature, "max_tokens": sampling.max_new_tokens}
        if sampling.temperature > 0:
            fields["seed"] = turn.seed
        fields |= self._settings.parameters
        known = ("temperature", "max_tokens", "max_completion_tokens", "seed")
        extra = {key: value for key, value in fields.items() if key not in known and value is not None}
        return {
            "model": self.name,
            "messages": [{"role": m.role, "content": m.content or _NO_WORDS} for m in turn.conversation],
            **{key: fields[key] for key in known if fields.get(key) is not None},
            **({"extra_body": extra} if extra else {}),
        }

    def _wait(self) -> None:
        """Until the rate allows another request."""
        if self._settings.requests_per_minute is None:
            return
        with self._lock:
            at = max(time.monotonic(), self._free_at)
            self._free_at = at + 60 / self._settings.requests_per_minute
        time.sleep(max(0.0, at - time.monotonic()))


def base_url(url: str, option: str = "--endpoint") -> str:
    """The endpoint as far as /v1. Raises IprError for what is none, and for one that holds a secret."""
    shown = url.rpartition("@")[2]  # without what may be a password
    none = IprError(f"{option} {shown!r} is no URL such as http://127.0.0.1:8000/v1")
    try:
        parts = urlsplit(url)
        named = (parts.hostname or "").encode("idna") and parts.port != 0
    except ValueError:  # of the port, of brackets, of a name
        raise none from None
    if not named or parts.scheme not in ("http", "https") or not url.isprintable():
        raise none
    if parts.username or parts.password or parts.query:
        raise IprError(f"{option} holds a name, a password or a query; the key belongs into OPENAI_API_KEY")
    path = parts.path.rstrip("/").removesuffix("/chat/completions")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}"


def _named(turn: Turn) -> str:
    return f"turn {len(turn.conversation) // 2 + 1} of episode {turn.session}"


def _choice(answer: ChatCompletion, url: str) -> Any:
    choices = _get(answer, "choices")
    if not choices:
        raise IprError(f"{url} answers without a choice; it does not speak the protocol of chat completions")
    return choices[0]


def _get(thing: Any, *names: str) -> Any:
    """What stands there; None where a server has left any of it out, whatever the protocol says."""
    for name in names:
        thing = getattr(thing, name, None)
    return thing


def _unwrap(response: Any) -> None:
    """Give an error that came as an answer (status 200) the status it names: then it is handled like any other.

    Routers send them so, in the answer's place or in that of its choice; 400 where it names none.
    """
    if response.status_code != 200:
        return
    response.read()
    try:
        body = response.json()
    except ValueError:
        return
    if error := _wrapped(body):
        code = str(error.get("code"))
        response.status_code = int(code) if re.fullmatch("[45][0-9][0-9]", code) else 400


def _wrapped(body: Any) -> dict[str, Any] | None:
    """The error that a body holds in an answer's place, or in that of its first choice."""
    choices = body.get("choices") if isinstance(body, dict) else None
    holder = choices[0] if choices and isinstance(choices, list) else body
    error = holder.get("error") if isinstance(holder, dict) else None
    return error if isinstance(error, dict) else None


def _words(error: openai.APIStatusError) -> str:
    """What a refusal says, wherever its body has it: as a message, a bare error (vLLM, TGI) or a detail (FastAPI)."""
    body: Any = _wrapped(error.body) or error.body
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail") or body
    if isinstance(body, str) and body.lstrip().startswith("<"):
        return "and a web page, as a proxy or another kind of server sends it"
    return str(body or error.response.reason_phrase)


def _text(content: Any) -> str:
    """What an answer says: a text, or a list of parts of which those of text count; half a character becomes U+FFFD."""
    if isinstance(content, list):
        said = (part if isinstance(part, str) else part.get("text") for part in content)
        content = "".join(text for text in said if isinstance(text, str))
    return str(content or "").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _too_long(error: openai.APIStatusError) -> bool:
    if error.status_code not in (400, 413, 422) or error.code == "rate_limit_exceeded":
        return False
    return error.status_code == 413 or bool({error.code, error.type} & _CODES) or bool(_TOO_LONG.search(_words(error)))
