"""The command `attune` against a scripted gateway, in this process."""

import json
from dataclasses import dataclass
from typing import Any

import pytest
from scripted_records import KEY

from scripts.attune.main import main


@dataclass
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:  # noqa: ANN401 - JSON
        return json.loads(self.out)


@dataclass
class GatewayCommand:
    """The command against a scripted gateway."""

    url: str
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str, connected: bool = True) -> Ran:
        connection = ["--url", self.url, "--key", KEY] if connected else []
        with pytest.raises(SystemExit) as exit:
            main([*arguments, *connection])
        out, err = self.capsys.readouterr()
        code = exit.value.code
        assert code is None or isinstance(code, int)
        return Ran(code or 0, out, err)
