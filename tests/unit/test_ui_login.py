import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from ui.login import Login, is_loopback


@given(name=st.text(), password=st.text())
def test_the_key_opens_the_pages_under_any_name_and_nothing_else_does(
    name: str, password: str
) -> None:
    login = Login(SecretStr("attune-ädmin"))
    assert login(name, "attune-ädmin")
    assert login(name, password) == (password == "attune-ädmin")


@given(password=st.text())
def test_nobody_enters_pages_without_a_key(password: str) -> None:
    assert not Login(SecretStr(""))("admin", password)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_this_machine_alone(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "attune.example.org", ""])
def test_what_others_can_reach_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)
