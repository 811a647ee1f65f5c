"""Where the UI listens and which gateway it talks to."""

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class UiSettings(BaseSettings):
    """The settings of the UI, read from the environment (prefix `ATTUNE_`)."""

    model_config = SettingsConfigDict(env_prefix="ATTUNE_", frozen=True)

    ui_host: str = Field(
        default="127.0.0.1",
        description="Address that the UI binds to; it asks for the key unless this is loopback",
    )
    ui_port: int = Field(default=7860, ge=1, le=65535, description="Port of the UI")
    gateway_url: str = Field(
        default="http://127.0.0.1:8000", description="Base address of the gateway"
    )
    key: SecretStr = Field(default=SecretStr(""), description="Admin key of the gateway")
    ui_max_tokens: int = Field(default=512, ge=1, description="Longest reply in tokens")
    ui_temperature: float = Field(
        default=0.4, ge=0, le=2, description="Sampling temperature of replies"
    )
    ui_poll_s: float = Field(
        default=1.0, gt=0, description="Seconds between looks at a running refresh"
    )
