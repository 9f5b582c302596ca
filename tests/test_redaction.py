"""What is taken out of foreign words: known secrets in every form a server may send back, and what looks like one."""

from __future__ import annotations

import base64
import html
import json
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest

from gymnast_core import redaction
from gymnast_core.redaction import holds_secret, redact, remember_secret
from tests.machine import slower

KEY = "sk-proj/Zq81+mXvT77&b<Lw0c=xY9"
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "capitals": str.upper,
    "address": lambda key: quote(key, safe=""),
    "address, lower": lambda key: quote(key, safe="").lower(),
    "address, twice": lambda key: quote(quote(key, safe=""), safe=""),
    "path": quote,
    "HTML": html.escape,
    "JSON of PHP": lambda key: json.dumps(key).replace("/", "\\/")[1:-1],
    "JSON of Go": lambda key: key.replace("<", "\\u003c").replace("&", "\\u0026"),
    "base64": lambda key: base64.b64encode(key.encode()).decode(),
    "base64 for addresses": lambda key: base64.urlsafe_b64encode(key.encode()).decode(),
    "basic, user": lambda key: base64.b64encode(b"user:" + key.encode()).decode(),
    "basic, no user": lambda key: base64.b64encode(b":" + key.encode()).decode(),
    "basic, long user": lambda key: base64.b64encode(b"ab" + key.encode() + b":x").decode(),
    "hexadecimal": lambda key: key.encode().hex(),
    "two lines": lambda key: key[:12] + "\n" + key[12:],
    "bytes": lambda key: repr(key.encode()),
}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_remembered", set())


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_known_secret_is_hidden_in_every_form_that_a_server_may_send_back(form: Callable[[str], str]) -> None:
    remember_secret(KEY)
    written = form(KEY)
    shown = redact(f"before {written} after")
    assert shown.startswith("before ") and shown.endswith(" after") and "[secret]" in shown
    for begin in range(len(written) - 11):
        assert written[begin : begin + 12] not in shown


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("https://hooks.slack.com/services/T02AB/B04GH/x9Yk2LmNoPqRsTuV", "x9Yk2LmNoPqRsTuV"),
        ("https://discord.com/api/webhooks/1109876543210/AbCdEfGhIjKlMnOp", "AbCdEfGhIjKlMnOp"),
        ("https://api.telegram.org/bot123456789:AAEhBOweik6ad9r_QX/sendMessage", "AAEhBOweik6ad9r_QX"),
        ("https://cdn.hf.co/x?X-Amz-Date=2&X-Amz-Signature=5b3f9d1c2e4a6b8d&y=1", "5b3f9d1c2e4a6b8d"),
        ("https://cdn.hf.co/x?X-Amz-Security-Token=IQoJb3JpZ2luX2VjEJ", "IQoJb3JpZ2luX2VjEJ"),
        ("http://user:pa:ss@w0rd@host/v1", "w0rd"),
        ("OPENAI_API_KEY=abcd1234efgh", "abcd1234efgh"),
        ("HF_TOKEN: abcdef12345", "abcdef12345"),
        ('{"token": "abcdef12345"}', "abcdef12345"),
        ("x-auth-token: abcdef123", "abcdef123"),
        ("Ocp-Apim-Subscription-Key: 0123456789abcdef", "0123456789abcdef"),
        ("Set-Cookie: sid=abcdef1234; Path=/", "abcdef1234"),
        ("Incorrect API key provided: abcd1234efgh. You can find", "abcd1234efgh"),
        ("[(b'Authorization', b'Bearer abcdefghij')]", "abcdefghij"),
        ("('authorization', 'Bearer abcdefghij')", "abcdefghij"),
        ("Authorization: Bearer  two", "two"),
        ("xoxb-123456789012-1234567890123-AbCdEfGhIjKl", "AbCdEfGhIjKl"),
        ("glpat-aB3dE5gH7jK9mN1pQ3sT", "aB3dE5gH7jK9"),
        ("github_pat_11ABCDEFG0abcdefghijkl_mnop", "abcdefghijkl"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\n-----END OPENSSH PRIVATE KEY-----", "b3BlbnNzaC1rZXk"),
    ],
)
def test_what_has_the_form_of_a_secret_is_hidden_also_where_nobody_knew_of_it(text: str, secret: str) -> None:
    assert secret in text and secret not in redact(text) and "[secret]" in redact(text) and holds_secret(text)
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "you sent sk-...abcd",
        "Incorrect API key provided: sk-proj-****9Yk2...",
        "the token True has a log-probability",
        '{"token": "True", "logprob": -0.1}',
        "max_tokens: 400, prompt_tokens=1000",
        "bearer token expired",
        "API key: missing",
        "found 'http://127.0.0.1:8000/v1'",
        "an e-mail to user@example.org",
        "cookies are off",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert redact(text) == text and not holds_secret(text)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GYMNAST_CALL_SLACK", "https://chat.lab/hooks/x9Yk2LmNoPqRsTuV"),
        ("LAB_WEBHOOK_URL", "https://chat.lab/x9Yk2LmNoPqRsTuV"),
        ("GITHUB_PAT", "x9Yk2LmNoPqRsTuV"),
        ("OPENAI_CUSTOM_HEADERS", "X-Lab: yes\nX-Gate: x9Yk2LmNoPqRsTuV"),
        ("HTTPS_PROXY", "http://me:x9Yk2LmNoPqRsTuV@proxy:80"),
    ],
)
def test_the_environment_s_secrets_are_known(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert "x9Yk2LmNoPqRsTuV" not in redact("it said x9Yk2LmNoPqRsTuV")


def test_hiding_takes_time_in_proportion_to_the_text() -> None:
    def seconds(unit: str, times: int) -> float:
        began = time.process_time()
        redact(unit * times)
        return time.process_time() - began

    for unit in ("token=", "api key: a1", "://a", "&x-", "authorization: [ ", "-----BEGIN PRIVATE KEY-----", "a" * 50):
        short, long = seconds(unit, 1_000), seconds(unit, 10_000)
        assert long < 40 * short + 0.25 * slower(), unit
