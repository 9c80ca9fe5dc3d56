"""The sections `export` and `tracking`: what of a round goes to other tools, and where to.

Neither changes what a round holds. By default nothing is written, and nothing leaves this machine.
"""

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from lance_assets.dotted_names import find_dotted
from lance_assets.extras import require_extra
from lance_assets.settings.values import FromEnvironment, Settings
from resources.tracking.contract import TRACKERS

Format = Literal["parquet", "jsonl", "sharegpt", "alpaca"]
"""How rows are written: TRL's conversational form as Parquet or JSON lines, ShareGPT, or Alpaca."""
Source = Literal["seed", "eft", "generated"]
"""What an SFT row comes from."""


class ExportSettings(Settings):
    """Each round's training sets as other tools read them, with a card."""

    to: FromEnvironment = Field(
        description="The folder, absolute or relative to the experiment's; each round has a folder of its own in it."
    )
    formats: tuple[Format, ...] = Field(
        ("parquet", "jsonl", "sharegpt", "alpaca"),
        min_length=1,
        description="How rows are written. `load_dataset` opens parquet; DPO pairs are in parquet and jsonl alone.",
    )
    sources: tuple[Source, ...] = Field(
        ("seed", "eft", "generated"), min_length=1, description="Which SFT rows are written, by what they come from."
    )
    license: str | None = Field(
        None, min_length=1, description="What the card states of the data, as the hub names it."
    )


class TrackingSettings(Settings):
    """Where the numbers of finished rounds are written beside the UI; by default nowhere.

    No setting holds a key: each library finds its own (WANDB_API_KEY, HF_TOKEN, MLFLOW_TRACKING_TOKEN).
    """

    to: tuple[str, ...] = Field(
        (), description="Trackers: trackio, wandb, mlflow, or a function of your own as module:NAME. Empty: none."
    )
    project: str = Field("lance", pattern=r"^[\w-]{1,100}$", description="What the trackers call the project.")
    online: bool = Field(
        False, description="Whether anything may leave this machine. False: all is written to the data root."
    )
    server: FromEnvironment | None = Field(
        None,
        description="Where it is sent, with online: an MLflow tracking server, a W&B host, or a Space of the hub for "
        "trackio. None: the library's own.",
    )
    timeout_seconds: float = Field(
        300.0, gt=0, description="Seconds after which a tracker is ended; the round goes on without it."
    )

    @field_validator("to")
    @classmethod
    def _knows_the_trackers(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name in TRACKERS:
                require_extra(TRACKERS[name][1], extra=name, needed_by=f"tracking.to: {name}")
            elif ":" not in name:
                raise ValueError(
                    f"there is no tracker {name!r}; name one of {', '.join(TRACKERS)}, or your own as module:NAME"
                )
            elif not callable(find_dotted(name)):
                raise ValueError(
                    f"{name} is no function; it takes a TrackingJob and returns where the round can be seen"
                )
        return names

    @model_validator(mode="after")
    def _sends_only_online(self) -> Self:
        if self.server is None:
            if self.online and "mlflow" in self.to:
                raise ValueError("tracking.online with mlflow needs server, such as https://mlflow.my-lab.org")
            return self
        if not self.online:
            raise ValueError(
                f"tracking.server is {self.server}, and online is false; set online: true, or remove server"
            )
        if len(self.to) > 1:
            raise ValueError(f"tracking.server is of one tracker, and to names {', '.join(self.to)}; name one of them")
        address = urlsplit(self.server)
        if address.password or "token" in address.query.lower():
            raise ValueError(
                "tracking.server must hold no key: give it as a variable of the environment, such as WANDB_API_KEY, "
                "TRACKIO_WRITE_TOKEN or MLFLOW_TRACKING_TOKEN"
            )
        return self
