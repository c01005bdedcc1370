"""Token files, and what a token may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from skerry.errors import ConfigError
from skerry.fabric.tokens import Identity, Keyring, Token

SECRET = "0123456789abcdef"


def test_a_file_with_the_secret_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"\n  {SECRET} \n")
    token = Token.read(file)
    assert token == Token(SECRET.encode()) == Keyring.read(file).find("run")
    assert token.identity == Identity(name="run", roles=frozenset({"learner", "observer", "operator"}), learner=-1)
    assert "0123456789" not in f"{token!r} {token}"
    file.write_text("too short\n")
    with pytest.raises(ConfigError, match=r"shorter than 16 characters; .*openssl rand") as caught:
        Token.read(file)
    assert "too short" not in str(caught.value) and str(file) in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Token.read(tmp_path / "missing")


def test_a_file_with_named_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"skerry-token anna learner=3,observer {SECRET}A\n\nskerry-token eye observer {SECRET}E\n"
                    f"skerry-token two standby,plane,aggregator,learner {SECRET}T\n")  # fmt: skip
    keyring = Keyring.read(file)
    assert keyring.find("anna") == Token(f"{SECRET}A".encode(), Identity(
        name="anna", roles=frozenset({"learner", "observer"}), learner=3))  # fmt: skip
    assert keyring.find("eye").identity.roles == {"observer"}
    assert keyring.find("two").identity == Identity(name="two", roles=frozenset({"standby", "plane", "aggregator", "learner"}))
    with pytest.raises(ConfigError, match="holds 3 tokens; give a file with one of its lines alone"):
        Token.read(file)
    file.write_text(file.read_text().splitlines()[0])
    assert Token.read(file) == keyring.find("anna")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"anna learner {SECRET} more", "a line that is no token; write skerry-token NAME ROLES SECRET"),
        (f"anna {SECRET}", "a line that is no token"),
        (f"anna chief {SECRET}", "'chief', which is no role; choose from learner, "),
        (f"anna bulk {SECRET}", "'bulk', which is no role"),
        (f"anna observer=3 {SECRET}", "'observer=3', which is no role"),
        (f"anna learner=x {SECRET}", "'learner=x', which is no role"),
        (f"anna learner=-1 {SECRET}", "'learner=-1', which is no role"),
        (f"{'a' * 65} learner {SECRET}", "name of a token has 65 characters; give 1 to 64"),
        ("anna learner short", "shorter than 16"),
    ],
)
def test_a_line_that_cannot_be_is_named_without_its_secret(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"skerry-token good learner {SECRET}\nskerry-token {line}\n")
    with pytest.raises(ConfigError, match=words) as caught:
        Keyring.read(file)
    assert SECRET not in str(caught.value) and str(file) in str(caught.value)


def test_names_are_unique_and_strangers_have_a_secret_of_their_own() -> None:
    token = Token(SECRET.encode())
    with pytest.raises(ConfigError, match="same name"):
        Keyring(token, Token(b"another secret of it"))
    stranger = Keyring(token).find("nobody we know")
    assert stranger.identity.roles == frozenset() and stranger.secret not in (token.secret, Keyring(token).find("x").secret)


@pytest.mark.parametrize(
    ("roles", "only", "allowed"),
    [({"learner"}, -1, {-1, 0, 3, 4}), ({"learner"}, 3, {3}), ({"observer"}, -1, set()), ({"aggregator"}, 3, set())],
)
def test_the_learners_that_a_token_may_be(roles: set[str], only: int, allowed: set[int]) -> None:
    identity = Identity(name="x", roles=frozenset(roles), learner=only)  # type: ignore[arg-type]
    assert {learner for learner in (-1, 0, 3, 4) if identity.allows_learner(learner)} == allowed
